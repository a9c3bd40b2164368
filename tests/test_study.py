"""What every study has: its folder and what it refuses, who works in it, its report, and the runs that it plans."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_demo import small_demo, small_settings

from hakg_dgl.errors import CheckpointError, ConfigError, FormatVersionError, IntegrityError
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.ablation import AblationStudy
from hakg_dgl.studies.study import STUDY_FORMAT_VERSION, PlannedRun, Standing, StudyFolder, StudyKind
from hakg_dgl.studies.tuning import Study
from hakg_dgl.training.run_folder import RunFolder

DEMO = small_demo()
SETTINGS = small_settings()
KIND = StudyKind("audit", "audit", "an audit", "choose another folder", "runs")


def folder(path: Path, **changes: Any) -> StudyFolder:
    return StudyFolder(path, changes.get("dataset", DEMO), changes.get("kind", KIND))


def parse(about: dict[str, Any], settings: Settings) -> list[int]:
    return [int(share) for share in about["shares"]]


@pytest.fixture
def begun(tmp_path: Path) -> StudyFolder:
    """A study that was begun."""
    made = folder(tmp_path / "deep" / "study")
    assert not made.exists
    made.make()
    made.write(SETTINGS, "some/data", {"shares": [25, 50]})
    return made


# --- what the study is about --------------------------------------------------------------------------------------


def test_what_is_written_is_read(begun: StudyFolder) -> None:
    assert begun.exists
    assert folder(begun.path).read(parse) == (SETTINGS, Path("some/data").resolve(), [25, 50])
    begun.make()
    begun.write(SETTINGS, None, {"shares": []})
    assert begun.read(parse) == (SETTINGS, None, [])
    assert json.loads(begun.about_file.read_text()) == {
        "format_version": STUDY_FORMAT_VERSION,
        "study": "audit",
        "data": {"name": DEMO.name, "digest": DEMO.digest, "path": None},
        "settings": SETTINGS.to_dict(),
        "shares": [],
    }


def damages(about: dict[str, Any]) -> Iterator[str]:
    yield from ("", "{", "[]", "3", "null", '"text"', "[" * 100_000, "\x00")
    for key in about:
        yield json.dumps({name: value for name, value in about.items() if name != key})
        if key != "study":
            yield json.dumps(about | {key: None})
    yield json.dumps(about | {"settings": {"model": {"dim": 0}}})
    for version in ("1", 0, True, 1.5):
        yield json.dumps(about | {"format_version": version})
    for wrong in ({"path": 7}, {"name": None}, {"digest": 3}):
        yield json.dumps(about | {"data": about["data"] | wrong})
    yield json.dumps(about | {"shares": ["x"]})


def test_a_damaged_file_is_an_error_that_names_it(begun: StudyFolder) -> None:
    about = json.loads(begun.about_file.read_text())
    for text in damages(about):
        begun.about_file.write_text(text)
        with pytest.raises(CheckpointError, match=r"study\.json: is damaged, or of no audit") as caught:
            begun.read(parse)
        assert str(caught.value).endswith("Restore it, or choose another folder.")
    begun.about_file.unlink()
    begun.about_file.mkdir()
    with pytest.raises(CheckpointError, match=r"study\.json: is damaged"):
        begun.read(parse)


def test_a_newer_format_is_refused_whatever_else_is_there(begun: StudyFolder) -> None:
    begun.about_file.write_text(json.dumps({"format_version": STUDY_FORMAT_VERSION + 1}))
    with pytest.raises(FormatVersionError, match="study format 2, this version reads up to 1") as caught:
        begun.read(parse)
    assert "Install a newer hakg_dgl, or choose another folder." in str(caught.value)


def test_another_kind_of_study_is_refused(begun: StudyFolder) -> None:
    other = StudyKind("benchmark", "benchmark", "a benchmark", "measure into another folder", "runs")
    with pytest.raises(CheckpointError) as caught:
        folder(begun.path, kind=other).read(parse)
    assert str(caught.value) == (
        f"{begun.about_file}: the study is one by 'hakg audit', not by 'hakg benchmark'\n"
        "Give that command, or measure into another folder."
    )


def test_another_data_set_is_refused(begun: StudyFolder) -> None:
    with pytest.raises(IntegrityError, match=f"the study is on data set 'demo' .digest {DEMO.digest[:12]}") as caught:
        folder(begun.path, dataset=small_demo(seed=3)).read(parse)
    assert "Give the data set it was begun on, or choose another folder." in str(caught.value)


def test_changes_are_refused_with_what_differs(begun: StudyFolder) -> None:
    begun.refuse_changes("other settings", [])
    with pytest.raises(ConfigError) as caught:
        begun.refuse_changes("other settings", ["lr (was 0.1, now 0.2)", "the space"])
    assert str(caught.value) == (
        f"{begun.path}: the study has other settings: lr (was 0.1, now 0.2); the space\n"
        "Continue it without them, or choose another folder."
    )


def test_tune_and_ablate_refuse_each_other_s_folders(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")
    Study(tmp_path / "tune", DEMO, SETTINGS)
    AblationStudy(tmp_path / "ablate", DEMO, SETTINGS)
    with pytest.raises(CheckpointError, match="the study is one by 'hakg ablate', not by 'hakg tune'"):
        Study(tmp_path / "ablate", DEMO)
    with pytest.raises(CheckpointError, match="the study is one by 'hakg tune', not by 'hakg ablate'"):
        AblationStudy(tmp_path / "tune", DEMO)
    abouts = [json.loads((tmp_path / name / "study.json").read_text()) for name in ("tune", "ablate")]
    shared = [{key: about[key] for key in ("format_version", "data", "settings")} for about in abouts]
    assert shared[0] == shared[1]


# --- the folder ---------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    for place in (tmp_path / "notes.txt", tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(place))}: holds something else than an audit; "):
            folder(place).make()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_kill_at_the_very_beginning_leaves_is_no_obstacle(tmp_path: Path) -> None:
    made = folder(tmp_path)
    with made.in_turn():
        (tmp_path / ".study.json.0123abcd.tmp").write_text("{")
    made.make()
    made.write(SETTINGS, None, {"shares": []})
    assert folder(tmp_path).exists


def test_a_folder_that_cannot_be_made_or_written_is_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file/study: cannot be made: Not a directory"):
        folder(tmp_path / "file" / "study").make()
    made = folder(tmp_path / "study")
    made.about_file.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"study\.json: cannot be written: Is a directory"):
        made.write(SETTINGS, None, {})


HOLDER = """
import sys
from pathlib import Path
from hakg_dgl.locks import sole_holder
with sole_holder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_works_on_a_study_and_a_kill_lets_go(begun: StudyFolder) -> None:
    line = [sys.executable, "-c", HOLDER, str(begun.path / "study.lock")]
    place = Path(__file__).resolve().parents[1]
    with subprocess.Popen(line, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(CheckpointError, match=f"study: process {holder.pid} on .* works on this study; wait")
        with refused, begun.sole_worker():
            pass
        holder.kill()
    refused = pytest.raises(CheckpointError, match=f"process {os.getpid()} on ")
    with begun.sole_worker(), refused, folder(begun.path).sole_worker():
        pass
    assert not (begun.path / "study.lock").exists()


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_report_is_written_after_the_work_also_if_that_ends_early(begun: StudyFolder) -> None:
    done: list[str] = []

    def work(error: BaseException | None = None) -> None:
        done.append("work")
        if error is not None:
            raise error

    def report() -> int:
        done.append("report")
        return len(done)

    assert begun.work_and_report(work, report) == 2
    with pytest.raises(KeyboardInterrupt):
        begun.work_and_report(lambda: work(KeyboardInterrupt()), report)
    with pytest.raises(ConfigError, match="wrong"):
        begun.work_and_report(lambda: work(ConfigError("wrong")), report)
    assert done == ["work", "report"] * 3


def test_a_report_that_cannot_be_written_says_what_is_safe(begun: StudyFolder) -> None:
    def report() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError) as caught:
        begun.work_and_report(lambda: None, report)
    assert str(caught.value) == (
        f"{begun.path}: the report cannot be written: No space left on device; the runs are safe"
    )


# --- planned runs -------------------------------------------------------------------------------------------------


def test_where_planned_runs_stand(tmp_path: Path) -> None:
    runs = [
        PlannedRun("no-gate", "without the gate", seed, tmp_path / str(seed), SETTINGS.replace({"seed": seed}))
        for seed in (1, 2, 3)
    ]
    assert runs[1].title == "without the gate, seed 2"
    assert Standing.of(runs, {}) == Standing(tuple(runs), (), ())
    runs[0].folder.mkdir()
    RunFolder(runs[0].folder).write_result({})
    assert [run.finished for run in runs] == [True, False, False]
    standing = Standing.of(iter(runs), {runs[2].folder: "too little memory", tmp_path / "other": "of another study"})
    assert standing == Standing(tuple(runs), (runs[0],), ((runs[2], "too little memory"),))
