"""Which trial a worker takes next: as many as wanted, those of ended workers again, each with draws of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_demo import small_demo

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.claims import HOPELESS, TRIES, Claims
from hakg_dgl.studies.journal import Journal, open_journal
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.study import StudyFolder
from hakg_dgl.studies.trials import Trials
from hakg_dgl.studies.tuning import KIND
from hakg_dgl.studies.workers import Worker

optuna = pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")

SPACE = SearchSpace.from_dict({"lr": {"low": 1e-3, "high": 0.1, "log": True}, "layers": {"low": 1, "high": 8}})
DEMO = small_demo()


def claims_in(path: Path, seed: int = Settings().run.seed) -> tuple[Claims, Journal]:
    """The claims of a study, as a process that opens its folder has them."""
    path.mkdir(exist_ok=True)
    journal = open_journal(path / "journal.jsonl")
    return Claims(
        StudyFolder(path, DEMO, KIND), journal, Trials(journal), SPACE, Settings.resolve(overrides={"seed": seed})
    ), journal


def drawn(journal: Journal) -> list[dict[str, Any]]:
    """The settings of all trials that were not repeated, by their first place."""
    trials = journal.study.get_trials(deepcopy=False)
    return [trial.params for trial in trials if "retry_of" not in trial.user_attrs]


def test_as_many_trials_are_given_out_as_are_wanted(tmp_path: Path) -> None:
    claims, journal = claims_in(tmp_path)
    with Worker(tmp_path / "workers") as worker:
        trials = [claims.claim(worker, 3) for _ in range(3)]
        assert [trial.number for trial in trials if trial is not None] == [0, 1, 2]
        assert claims.claim(worker, 3) is None
        more = claims.claim(worker, None)
        assert more is not None
        assert more.user_attrs["worker"] == worker.id
        assert set(more.params) == set(SPACE.dimensions)
    assert len({tuple(params.values()) for params in drawn(journal)}) == 4


def test_a_trial_that_was_given_back_comes_first_and_changes_no_later_one(tmp_path: Path) -> None:
    claims, whole = claims_in(tmp_path / "whole")
    with Worker(tmp_path / "workers") as worker:
        for _ in range(4):
            assert claims.claim(worker, 4)
        claims, journal = claims_in(tmp_path / "interrupted")
        first, second = claims.claim(worker, 4), claims.claim(worker, 4)
        assert first is not None
        assert second is not None
        claims.give_back(second.number)
        again = claims.claim(worker, 4)
        assert again is not None
        assert again.params == second.params
        assert again.user_attrs["retry_of"] == second.number
        claims.give_back(again.number)
        claims, journal = claims_in(tmp_path / "interrupted")  # another process goes on
        given = [claims.claim(worker, 4) for _ in range(4)]
    assert [trial is None for trial in given] == [False, False, False, True]
    assert drawn(journal) == drawn(whole)


def test_another_seed_draws_other_trials(tmp_path: Path) -> None:
    with Worker(tmp_path / "workers") as worker:
        for seed in (1, 2):
            claims, _ = claims_in(tmp_path / f"seed-{seed}", seed)
            assert [claims.claim(worker, 2) is None for _ in range(2)] == [False, False]
    one, other = (drawn(open_journal(tmp_path / f"seed-{seed}" / "journal.jsonl")) for seed in (1, 2))
    assert one[0] == other[0] == {"lr": Settings().training.lr, "layers": Settings().model.layers}
    assert one[1] != other[1]


def test_trials_of_dead_workers_are_made_again_a_few_times(tmp_path: Path) -> None:
    claims, journal = claims_in(tmp_path)
    for times in range(TRIES):
        with Worker(tmp_path / "workers") as dead:
            trial = claims.claim(dead, 1)
        assert trial is not None
        assert trial.number == times
    with Worker(tmp_path / "workers") as living:
        assert claims.give_back_lost(living) == 0
        assert claims.claim(living, 1) is None
        running = claims.claim(living, 2)
        assert running is not None
        assert claims.give_back_lost(living) == 0, "its worker lives"
    assert [trial.state.name for trial in journal.study.trials] == ["FAIL"] * TRIES + ["RUNNING"]


def test_a_search_of_failures_gives_up(tmp_path: Path) -> None:
    claims, journal = claims_in(tmp_path)
    with Worker(tmp_path / "workers") as worker:
        for number in range(HOPELESS):
            trial = claims.claim(worker, None)
            assert trial is not None
            trial.set_user_attr("reason", f"reason {number}")
            journal.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        with pytest.raises(
            ConfigError, match=f"all of the first 10 trials failed, the last with\nreason {HOPELESS - 1}"
        ):
            claims.claim(worker, None)
