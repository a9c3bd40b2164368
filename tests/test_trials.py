"""The counts of a search's trials against a count by hand, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hakg_dgl.studies.journal import Journal, open_journal
from hakg_dgl.studies.trials import Trials

optuna = pytest.importorskip("optuna", reason="python -m pip install -e .[tune]")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(tmp_path / "journal.jsonl")


def finish(journal: Journal, value: float | None = None, **attributes: Any) -> int:
    """A trial that is over: completed with a value, failed without one."""
    trial = journal.study.ask()
    for key, text in attributes.items():
        trial.set_user_attr(key, text)
    state = optuna.trial.TrialState.FAIL if value is None else None
    return journal.study.tell(trial, value, state=state).number


def repeat(journal: Journal, number: int) -> None:
    journal.study.tell(number, state=optuna.trial.TrialState.FAIL)
    journal.study.enqueue_trial({}, user_attrs={"retry_of": number})


def test_trials_are_counted_as_they_come_and_end(journal: Journal) -> None:
    trials = Trials(journal)
    assert (trials.update().counted, trials.done, trials.best, trials.waiting) == (0, 0, None, None)
    finish(journal, 0.25)
    finish(journal, 0.5)
    finish(journal, 0.5)
    finish(journal, None, reason="too large")
    lost, other = journal.study.ask(), journal.study.ask()
    trials.update()
    assert (trials.counted, trials.done, trials.best) == (6, 4, (1, 0.5))
    assert [trial.number for trial in trials.running] == [lost.number, other.number]
    assert (trials.reasons, trials.any_result) == (["too large"], True)
    repeat(journal, lost.number)
    journal.study.tell(other, 0.75)
    trials.update()
    assert (trials.counted, trials.done, trials.best) == (6, 5, (5, 0.75))
    assert trials.repetitions == [6]
    assert trials.waiting is not None
    assert trials.waiting.number == 6
    assert journal.study.ask().number == 6
    assert [trial.number for trial in trials.update().running] == [6]
    assert trials.waiting is None


def test_trials_of_another_process_are_seen(journal: Journal, tmp_path: Path) -> None:
    trials = Trials(journal).update()
    elsewhere = open_journal(tmp_path / "journal.jsonl")
    trial = elsewhere.study.ask()
    assert [known.number for known in trials.update().running] == [trial.number]
    elsewhere.study.tell(trial, 1.0)
    assert (trials.update().best, trials.running) == ((0, 1.0), [])


def test_of_equal_trials_the_first_is_the_best_whichever_ends_first(journal: Journal) -> None:
    first, second = journal.study.ask(), journal.study.ask()
    trials = Trials(journal)
    journal.study.tell(second, 0.5)
    assert trials.update().best == (1, 0.5)
    journal.study.tell(first, 0.5)
    assert trials.update().best == (0, 0.5)


def test_reading_again_costs_the_same_after_ten_and_after_two_hundred_trials(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    storage = type(journal.storage)
    get_trial = storage.get_trial

    def counted(self: Any, trial_id: int) -> Any:
        read.append(trial_id)
        return get_trial(self, trial_id)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("all trials are read")

    trials = Trials(journal)
    for total in (10, 200):
        while trials.update().counted < total - 1:
            finish(journal, 0.5)
        running = journal.study.ask()
        trials.update()
        with monkeypatch.context() as patch:
            patch.setattr(storage, "get_trial", counted)
            patch.setattr(storage, "get_all_trials", refused)
            read.clear()
            trials.update()
            assert len(read) == 1  # the one that runs
        journal.study.tell(running, 0.25)
