"""Progress where stderr is not a terminal: a line an epoch, a line every half minute, nothing with ``--quiet``."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from bad_input import SMALL, hakg

pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
from hakg_dgl.cli import progress, progress_lines
from hakg_dgl.cli.progress_lines import Lines


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines every twentieth of a second."""
    monkeypatch.setattr(progress_lines, "SECONDS_BETWEEN_LINES", 0.05)


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr, each without the minutes and seconds that end it."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(re.search(r"\b\d\d:\d\d$", line) for line in lines)
    return [re.sub(r"[:,] \d\d:\d\d$", "", line) for line in lines]


def wait_for_a_line(capsys: pytest.CaptureFixture[str]) -> list[str]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if lines := written(capsys):
            return lines
        time.sleep(0.02)
    raise AssertionError("no line was written")


def test_a_stage_that_takes_long_is_seen_at_work(fast: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stages(3) as begin:
        begin("reading")
        begin("filtering")
        time.sleep(0.01)
        assert set(wait_for_a_line(capsys)) == {"[2/3] filtering"}


def test_a_quick_stage_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stages(1) as begin:
        begin("reading")
    assert written(capsys) == []


def test_counts_have_their_unit_and_total(fast: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(total=2_000, unit="user") as shown:
        shown.update(1_200)
        shown.set_postfix({"best": "0.1"})
        assert wait_for_a_line(capsys)[-1] == "1,200 of 2,000 users, best 0.1"
        shown.update(800)
        time.sleep(0.1)
        written(capsys)
        time.sleep(0.2)
        assert written(capsys) == []  # nothing more to wait for
    with progress.downloads() as report:
        report("train.txt", 3 << 19, None)
        assert wait_for_a_line(capsys)[-1] == "train.txt: 1.5 MiB"
        report("train.txt", 4 << 19, 5 << 20)
        time.sleep(0.06)
        assert wait_for_a_line(capsys)[-1] == "train.txt: 2.0 of 5.0 MiB"
    time.sleep(0.1)
    written(capsys)
    time.sleep(0.1)
    assert written(capsys) == []


def test_iteration_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(["a", "b"], unit="run") as lines:
        seen = []
        for name in lines:
            seen.append((name, lines.n))
        lines.write()
    lines.write()
    assert seen == [("a", 0), ("b", 1)]
    assert written(capsys) == ["2 of 2 runs"]


def test_training_writes_a_line_an_epoch(trained: Path, tmp_path: Path) -> None:
    settings = ("--epochs", 3, *SMALL[2:-4], "--set", "refit=true", "--device", "cpu")
    loud = hakg("train", trained / "D", "--out", tmp_path / "loud", *settings)
    assert loud.exit_code == 0, loud.output
    number = r"\d\.\d{4}"
    lines = loud.stderr.splitlines()
    searched = [line for line in lines if line.startswith("epoch ")]
    pattern = rf"epoch (\d)/3: \d+ of \d+ steps, loss {number}, ndcg@20 {number}, best {number} \(epoch \d\), \d\d:\d\d"
    assert [re.fullmatch(pattern, line)[1] for line in searched] == ["1", "2", "3"]  # type: ignore[index]
    assert [line.split()[1] for line in lines[3:]] == [f"{n}/{len(lines) - 3}:" for n in range(1, len(lines) - 2)]
    assert all(line.startswith("refit ") for line in lines[3:])
    quiet = hakg("train", trained / "D", "--out", tmp_path / "quiet", *settings, "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert quiet.stdout.splitlines()[:3] == loud.stdout.splitlines()[:3]


def test_the_choices_of_a_closed_form_are_lines_without_a_loss(trained: Path, tmp_path: Path) -> None:
    result = hakg("train", trained / "D", "--out", tmp_path / "R", "--model", "item-knn")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("epoch 1/")
    assert "loss" not in result.stderr
