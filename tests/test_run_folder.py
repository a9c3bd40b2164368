"""The RUN folder: what is written is read back, and what is damaged is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_demo import small_demo, small_settings, with_interactions

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import CheckpointError, FormatVersionError, IntegrityError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.loading import load_model
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainer import Trainer

EPOCHS = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for one another are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


@pytest.fixture(scope="module")
def other(demo: Dataset) -> Dataset:
    """The same data set without its first interaction."""
    return with_interactions(demo, demo.interactions.iloc[1:])


@pytest.fixture(scope="module")
def trained(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, dict[str, Any]]:
    trainer = Trainer(demo, small_settings(epochs=EPOCHS), run=tmp_path_factory.mktemp("trained") / "run")
    return trainer, trainer.fit()


@pytest.fixture
def run(trained: tuple[Trainer, dict[str, Any]], tmp_path: Path) -> RunFolder:
    """A copy of a finished run, to damage."""
    return RunFolder(shutil.copytree(trained[0].folder.path, tmp_path / "run"))


# --- what is written is read back -------------------------------------------------------------------------------------


def test_a_finished_run_holds_what_is_promised(run: RunFolder, demo: Dataset, trained: tuple[Trainer, Any]) -> None:
    assert {file.name for file in run.path.iterdir()} == {
        "config.toml", "run.json", "metrics.jsonl", "result.json", "model.safetensors", "state.safetensors",
    }  # fmt: skip
    assert len({stat.S_IMODE(file.stat().st_mode) for file in run.path.iterdir()}) == 1
    assert run.exists()
    assert run.settings == small_settings(epochs=EPOCHS)
    assert run.data_digest == demo.digest
    assert run.data_path is None
    assert run.result == trained[1]
    assert [line["epoch"] for line in run.metrics] == list(range(1, EPOCHS + 1))


def test_settings_of_every_kind_are_read_back(tmp_path: Path, demo: Dataset) -> None:
    settings = Settings.resolve(
        overrides={"lr": 1e-7 / 3, "hierarchical_relations": ['a "b"', "ü\n"], "gate": False, "seed": 2**63 - 1}
    )
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create(settings, demo, tmp_path / "data" / ".." / "data")
    assert folder.settings == settings
    assert folder.data_path == (tmp_path / "data").resolve()
    folder.describe(settings.replace({"epochs": 7}), demo, None)
    assert folder.settings.training.epochs == 7
    assert folder.data_path == (tmp_path / "data").resolve()


def test_settings_missing_in_a_file_are_the_defaults(tmp_path: Path, demo: Dataset) -> None:
    folder = RunFolder(tmp_path / "run")
    settings = Settings.resolve(overrides={"dim": 7})
    folder.create(settings, demo, None)
    lines = folder.config_file.read_text().splitlines()
    missing = ("degree_exponent", "gate_l2", "angle_pairs", "cuda_graphs")
    folder.config_file.write_text("\n".join(line for line in lines if not line.startswith(missing)))
    assert folder.settings == settings


def test_a_folder_around_a_run_names_the_run(tmp_path: Path, demo: Dataset) -> None:
    RunFolder(tmp_path / "shop" / "run").create(small_settings(epochs=1), demo, None)
    with pytest.raises(CheckpointError, match=r"shop: has no run.json, so it is not a run; .*shop.run is one"):
        _ = RunFolder(tmp_path / "shop").about


def test_creating_removes_what_an_earlier_run_left_and_nothing_else(run: RunFolder, demo: Dataset) -> None:
    left = [".state.safetensors.1234abcd.tmp", ".tmpAbC123", "tensorboard/events"]
    kept = ["notes.txt", ".tmp", "evaluation.json"]
    (run.path / "tensorboard").mkdir()
    for name in left + kept:
        (run.path / name).write_text("x")
    run.create(small_settings(), demo, None)
    assert {file.name for file in run.path.iterdir()} == {"config.toml", "run.json", *kept}
    assert run.metrics == []


def test_tensors_and_metadata_are_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tensors = {
        "a": torch.tensor([[0.1, -0.0], [1e-40, float("inf")]]),
        "b": torch.arange(6, dtype=torch.float64).view(2, 3).T,
        "c": torch.tensor(3, dtype=torch.uint8),
        "d": torch.zeros(0, 4),
    }
    folder.save_tensors(folder.model_file, tensors, {"text": "ü", "number": 0.1 + 0.2, "none": None})
    loaded, about = folder.load_tensors(folder.model_file)
    assert about == {"text": "ü", "number": 0.1 + 0.2, "none": None}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_a_file_replaced_after_loading_does_not_change_what_was_loaded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_tensors(folder.model_file, {"a": torch.ones(1000)}, {})
    loaded = folder.load_tensors(folder.model_file)[0]["a"]
    folder.model_file.write_bytes(b"\0" * folder.model_file.stat().st_size)
    assert bool((loaded == 1).all())


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_a_file_is_opened_once_so_that_values_are_of_the_version_of_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    written = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.tensor([True, False])}
    folder.save_tensors(folder.model_file, written, {"n": 1})

    def opened_again(*arguments: object) -> None:
        raise AssertionError(f"PyTorch opens the file, too: {arguments}")

    monkeypatch.setattr(torch.UntypedStorage, "from_file", opened_again)
    read, about = folder.load_tensors(folder.model_file)
    assert about["n"] == 1
    assert set(read) == set(written)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in written.items())


@given(cut=st.integers(0, 400))
def test_metrics_cut_off_anywhere_are_the_lines_before(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    lines = [{"epoch": n, "seconds": 0.1 * n, "loss": 1 / n, "split": "ü"} for n in range(1, 6)]
    for line in lines:
        folder.append_metrics(line)
    whole = folder.metrics_file.read_bytes()
    folder.metrics_file.write_bytes(whole[:cut])
    n_whole = whole[:cut].count(b"\n")
    assert folder.metrics == lines[:n_whole]
    folder.truncate_metrics(5)
    folder.append_metrics({"epoch": 6})
    assert folder.metrics == [*lines[:n_whole], {"epoch": 6}]


def test_lines_of_later_epochs_are_dropped_and_the_others_stay_as_they_were(run: RunFolder) -> None:
    before = run.metrics_file.read_text().splitlines()
    run.truncate_metrics(2)
    assert run.metrics_file.read_text().splitlines() == before[:2]


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"loss": 1}', '{"epoch": "1"}', "\x00"])
def test_damaged_metrics_are_named(run: RunFolder, line: str) -> None:
    with run.metrics_file.open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: is damaged"):
        _ = run.metrics


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file = Path("/dev/full")
    with pytest.raises(CheckpointError, match=r"/dev/full: cannot be written: No space left .*intact\nFree space"):
        folder.append_metrics({"epoch": 1})


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).metrics == []


# --- loading a model --------------------------------------------------------------------------------------------------


def test_the_loaded_model_ranks_as_the_trained_one_did(trained: tuple[Trainer, dict[str, Any]], demo: Dataset) -> None:
    trainer, result = trained
    model = load_model(trainer.folder.path, demo)
    assert not model.training
    for mine, theirs in zip(model.ranking_vectors(), trainer.model.ranking_vectors(), strict=True):
        assert torch.equal(mine, theirs)
    assert evaluate(EmbeddingScorer(*model.ranking_vectors()), demo).metrics == result["metrics"]["test"]


def test_a_model_of_another_data_set_is_refused(run: RunFolder, other: Dataset) -> None:
    with pytest.raises(IntegrityError, match=r"digest.*\n.*train again") as caught:
        load_model(run.path, other)
    assert str(run.path) in str(caught.value)


def test_a_change_of_settings_that_the_model_was_trained_with_is_refused(run: RunFolder, demo: Dataset) -> None:
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("curvature = 1.0", "curvature = 0.5").replace("gate = true", "gate=false"))
    with pytest.raises(CheckpointError, match=r"config\.toml: was changed .*curvature \(was 1\.0, now 0\.5\), gate"):
        load_model(run.path, demo)
    free = small_settings(kernels="torch", kg_edge_dropout=0.1, negatives=3, epochs=9)
    run.config_file.write_text(free.to_toml())
    load_model(run.path, demo)


def test_a_model_of_other_shapes_is_refused(run: RunFolder, demo: Dataset) -> None:
    tensors, about = run.load_tensors(run.model_file)
    run.save_tensors(run.model_file, tensors | {"user": tensors["user"][:5]}, about)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: does not fit .*config\.toml"):
        load_model(run.path, demo)


# --- damage -----------------------------------------------------------------------------------------------------------


def halve(file: Path) -> None:
    content = file.read_bytes()
    place = content.index(b"lr = ") + 4 if file.suffix == ".toml" else len(content) // 2  # TOML is cut within a line
    file.write_bytes(content[:place])


def garble(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 4)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def not_ours(file: Path) -> None:
    if file.suffix == ".safetensors":
        save_file(load_file(file), file)
    else:
        file.write_text("[[1]]" if file.suffix == ".json" else "[other]\nkey = 1\n")


DAMAGES: list[Callable[[Path], None]] = [halve, garble, empty, remove, not_ours]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("model.safetensors", "config.toml", "run.json")
        for damage in DAMAGES
        if (name, damage) != ("config.toml", empty)  # which is a valid one, with all settings as they are by default
    ],
)
def test_a_damaged_run_is_not_loaded(run: RunFolder, demo: Dataset, name: str, damage: Callable[[Path], None]) -> None:
    damage(run.path / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(run.path, demo)


def test_an_emptied_config_is_noticed_by_the_settings_of_the_model(run: RunFolder, demo: Dataset) -> None:
    empty(run.config_file)
    with pytest.raises(CheckpointError, match=r"config\.toml.*dim \(was 8, now 128\)"):
        load_model(run.path, demo)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_named(run: RunFolder, damage: Callable[[Path], None]) -> None:
    damage(run.result_file)
    with pytest.raises(CheckpointError, match=r"result\.json"):
        _ = run.result


@pytest.mark.parametrize(
    "about", ["{}", '{"format_version": "1"}', '{"format_version": 1, "data": {"name": "x"}}', "null"]
)
def test_a_description_without_its_keys_is_damaged(run: RunFolder, about: str) -> None:
    run.about_file.write_text(about)
    for read in (lambda: run.data_path, lambda: run.data_digest):
        with pytest.raises(CheckpointError, match=r"run\.json: is damaged"):
            read()


def test_a_run_of_a_newer_version_is_refused(run: RunFolder, demo: Dataset) -> None:
    run.about_file.write_text(json.dumps({**run.about, "format_version": 2}))
    with pytest.raises(FormatVersionError, match=r"run\.json: run format 2, .* up to 1\nInstall a newer"):
        load_model(run.path, demo)


def test_settings_of_a_newer_version_are_named(run: RunFolder, demo: Dataset) -> None:
    tensors, about = run.load_tensors(run.model_file)
    about["settings"]["model"]["hypercube"] = True
    run.save_tensors(run.model_file, tensors, about)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*hypercube"):
        load_model(run.path, demo)


def test_no_run_at_all(tmp_path: Path, demo: Dataset) -> None:
    assert not RunFolder(tmp_path / "missing").exists()
    with pytest.raises(CheckpointError, match=r"missing: has no run\.json.*hakg train"):
        load_model(tmp_path / "missing", demo)


def test_a_run_that_has_no_model_yet(tmp_path: Path, demo: Dataset) -> None:
    RunFolder(tmp_path).create(small_settings(), demo, None)
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_model(tmp_path, demo)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, demo: Dataset) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"file.*: cannot be written: "):
            RunFolder(path).create(small_settings(), demo, None)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_model_in_float64_stays_so(tmp_path: Path, demo: Dataset) -> None:
    settings = small_settings(epochs=1, dtype="float64")
    trainer = Trainer(demo, settings, run=tmp_path / "run")
    trainer.fit()
    model = load_model(tmp_path / "run", demo)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert torch.equal(model.user, trainer.model.user)
    assert dataclasses.asdict(model.settings) == dataclasses.asdict(settings.model)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ('{"epoch": 2, "loss": "a"}', "'loss' is 'a', not a number"),
        ('{"epoch": 2, "loss": null}', "'loss' is None"),
        ('{"epoch": 2, "loss": true}', "'loss' is True"),
        ('{"epoch": 2, "loss": NaN}', "'loss' is nan"),
        ('{"epoch": 2, "loss": 1' + "0" * 400 + "}", "'loss' is 1000"),
        ('{"epoch": 2, "ndcg@20": [0.5]}', r"'ndcg@20' is \[0.5\]"),
        ('{"epoch": 2, "split": 3}', "'split' is 3, not the name of a split"),
        ('{"epoch": true}', "is not a JSON object with an epoch"),
        ('{"epoch": 2', "delimiter"),
    ],
)
def test_odd_values_among_the_metrics_are_named_by_their_line(tmp_path: Path, entry: str, names: str) -> None:
    run = RunFolder(tmp_path)
    run.metrics_file.write_text('{"epoch": 1, "loss": 0.5, "split": "valid", "ndcg@20": 0}\n' + entry + "\n")
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl: is damaged.*line 2.*{names}"):
        _ = run.metrics
