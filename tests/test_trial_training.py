"""One trial: what is recorded when it ends well, fails, is pruned or interrupted, or was given to another worker."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dense import on_one_thread
from small_demo import small_demo, small_settings

from hakg_dgl.errors import ConfigError
from hakg_dgl.studies.journal import Journal, open_journal
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.trial_training import train_trial, without_test
from hakg_dgl.training import phases

optuna = pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")

DEMO = without_test(small_demo())
SETTINGS = small_settings(epochs=2, refit=True)
SPACE = SearchSpace.from_dict({"lr": [0.01, 0.02]}, SETTINGS)
one_thread = pytest.fixture(autouse=True)(on_one_thread)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(tmp_path / "journal.jsonl")


def train(journal: Journal, epochs: list[int], stop: BaseException | None = None) -> None:
    """One trial, which is stopped after its first evaluation by an exception."""

    def report(epoch: int) -> None:
        epochs.append(epoch)
        if stop is not None:
            raise stop

    trial = journal.study.ask()
    SPACE.suggest(trial)
    train_trial(trial, journal.study, SPACE, SETTINGS, DEMO, report)


def test_the_test_split_is_taken_out_and_nothing_else() -> None:
    whole = small_demo()
    assert len(whole.pairs("test"))
    assert set(DEMO.interactions["split"]) == {"train", "valid"}
    assert len(DEMO.interactions) == len(whole.interactions) - len(whole.pairs("test"))
    assert DEMO.n_items == whole.n_items


def test_the_best_value_and_its_metrics_are_recorded(journal: Journal) -> None:
    epochs: list[int] = []
    train(journal, epochs)
    (trial,) = journal.study.trials
    assert epochs == [1, 2], "there is no refit in a trial"
    assert list(trial.intermediate_values) == epochs
    assert trial.value == trial.user_attrs["metrics"]["ndcg@20"]
    assert trial.value >= max(trial.intermediate_values.values()), "the terms are chosen after the last epoch"


def test_settings_that_fail_are_recorded_and_a_mistake_is_raised_too(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(phases, "learning_rate", lambda *_: math.nan)
        train(journal, [])
    train(journal, [], ConfigError("no such relation"))
    with pytest.raises(ZeroDivisionError):
        train(journal, [], ZeroDivisionError("division by zero"))
    assert [trial.state.name for trial in journal.study.trials] == ["FAIL"] * 3
    reasons = [trial.user_attrs["reason"] for trial in journal.study.trials]
    assert reasons[0].startswith("NumericalError: the loss became nan in epoch 1")
    assert reasons[1:] == ["ConfigError: no such relation", "ZeroDivisionError: division by zero"]


def test_a_trial_that_falls_behind_is_pruned(journal: Journal) -> None:
    train(journal, [])
    journal.study.pruner = optuna.pruners.ThresholdPruner(lower=2.0)
    epochs: list[int] = []
    train(journal, epochs)
    assert [trial.state.name for trial in journal.study.trials] == ["COMPLETE", "PRUNED"]
    assert epochs == [1]


def test_an_interruption_records_nothing(journal: Journal) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(journal, [], KeyboardInterrupt())
    (trial,) = journal.study.trials
    assert (trial.state.name, trial.user_attrs) == ("RUNNING", {})


def test_a_trial_that_another_worker_ended_is_left_as_it_is(journal: Journal, tmp_path: Path) -> None:
    elsewhere = open_journal(tmp_path / "journal.jsonl")
    trial = journal.study.ask()
    SPACE.suggest(trial)

    def report(epoch: int) -> None:
        elsewhere.study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        train_trial(trial, journal.study, SPACE, SETTINGS, DEMO, report)
    assert [known.state.name for known in elsewhere.study.trials] == ["FAIL"]
