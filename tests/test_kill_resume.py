"""The campaign of kills of ``benchmarks/kill_resume.py``, in small: what it finds, and that it would find faults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import kill_resume

from hakg_dgl.training.run_folder import RunFolder

KILLS = 10


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> kill_resume.Campaign:
    folder = tmp_path_factory.mktemp("kills")
    campaign = kill_resume.Campaign(kill_resume.demo(folder / "data"), folder, "hakg", kill_resume.SMALL, seed=7)
    campaign.kill(KILLS, each=5)
    return campaign


def test_runs_killed_at_random_moments_end_as_if_nothing_had_happened(campaign: kill_resume.Campaign) -> None:
    assert campaign.wrong == []
    assert sum(campaign.phases.values()) == KILLS
    assert campaign.runs >= 2
    assert len(campaign.phases) >= 3, "all kills came in the same phases: this tests little"


def test_a_run_that_ends_otherwise_is_found(campaign: kill_resume.Campaign) -> None:
    run, folder = campaign.folder / "hakg-1", RunFolder(campaign.folder / "hakg-1")
    assert kill_resume.differences(run, campaign.expected) == []
    tensors, about = folder.load_tensors(folder.model_file)
    tensors["user"][3, 1] = torch.nextafter(tensors["user"][3, 1], torch.tensor(9.0))
    folder.save_tensors(folder.model_file, tensors, about)
    folder.write_result(folder.result | {"best_epoch": 99})
    folder.truncate_metrics(2)
    (run / ".state.safetensors.1234abcd.tmp").touch()
    assert kill_resume.differences(run, campaign.expected) == [
        "metrics.jsonl", "best_epoch of result.json", "weights", "left: .state.safetensors.1234abcd.tmp",
    ]  # fmt: skip


@pytest.mark.slow
def test_one_of_two_processes_is_killed_and_the_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    told: list[str] = []
    data, small = kill_resume.demo(tmp_path / "data"), ["epochs=2", "dim=8", "eval_every=1", "batch_size=160"]
    campaign = kill_resume.Campaign(data, tmp_path, "bpr-mf", small, 1, 2, lambda _, text: told.append(text))
    campaign.kill(1, each=1)
    assert campaign.wrong == []
    assert campaign.victims.total() == 1
    assert campaign.longest < 60
    assert [text.rpartition(": ")[0] for text in told][-1] == f"bpr-mf, bpr-mf-{campaign.runs} ended"
