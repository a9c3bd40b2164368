"""Opening a run while its training replaces the model: what a command shows is of one model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from bad_input import hakg
from small_demo import small_demo, small_settings

from hakg_dgl import make_trainer
from hakg_dgl.training import run_folder

DEMO = small_demo()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set ``D``, and one run on it before its refit (``before``) and after it (``after``)."""
    folder = tmp_path_factory.mktemp("runs")
    DEMO.save(folder / "D")
    for name, refit in (("before", False), ("after", True)):
        settings = small_settings(epochs=2, refit=refit)
        make_trainer(DEMO, settings, run=folder / name, data_path=folder / "D").fit()
    return folder


def replaced_after_an_opening(run: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the model of another run in the place of this one's as soon as the file has been opened."""
    original = run_folder.safe_open

    def open_and_replace(file: Path, **options: Any) -> Any:
        handle = original(file, **options)
        fresh = run / "fresh"
        shutil.copy(other / "model.safetensors", fresh)
        fresh.replace(run / "model.safetensors")
        return handle

    monkeypatch.setattr(run_folder, "safe_open", open_and_replace)


@pytest.mark.parametrize(
    "args",
    [
        ("recommend", "--json"),
        ("evaluate", "--json", "-", "--no-groups"),
        ("explain", "--user", DEMO.users["original_id"][3], "--item", DEMO.items["original_id"][5], "--json", "-"),
    ],
    ids=lambda args: args[0],
)
def test_a_command_shows_one_model_though_another_takes_its_place(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    expected, other = (hakg(args[0], place / name, *args[1:], "--device", "cpu") for name in ("before", "after"))
    assert expected.exit_code == other.exit_code == 0, expected.output + other.output
    shutil.copytree(place / "before", tmp_path / "race")
    replaced_after_an_opening(tmp_path / "race", place / "after", monkeypatch)
    found = hakg(args[0], tmp_path / "race", *args[1:], "--device", "cpu")
    assert found.exit_code == 0, found.output
    assert found.stdout.replace(str(tmp_path / "race"), str(place / "before")) == expected.stdout
    assert expected.stdout.replace("before", "after") != other.stdout


def test_compare_refuses_a_model_that_has_seen_the_split_since_it_looked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = ("compare", tmp_path / "race", "--split", "valid", "--resamples", 100, "--device", "cpu")
    shutil.copytree(place / "before", tmp_path / "race")
    assert hakg(*compare).exit_code == 0
    replaced_after_an_opening(tmp_path / "race", place / "after", monkeypatch)
    refused = hakg(*compare)
    assert refused.exit_code == 2
    assert "was trained on the validation split too" in refused.stderr
