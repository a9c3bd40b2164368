"""What is left to do of a benchmark, in processes: searches first, then runs; and what is told meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hakg_dgl.studies.benchmark_plan import Budget, Part
from hakg_dgl.studies.benchmark_work import measured_file, train, tune, where_file
from hakg_dgl.studies.pool import Ended, run_calls
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.studies.threads import threads_each

KILLS = 10
"""How often the process of a search is killed until the search is given up."""
_KILLED = "its process was killed; memory may have run out"


@dataclass(frozen=True)
class BenchmarkProgress:
    """Where a benchmark stands.

    Attributes
    ----------
    done, total
        The number of tunings and runs of this call that are over, and of all of them.
    running
        What is being done, a text for each process.
    """

    done: int
    total: int
    running: tuple[str, ...] = ()


OnProgress = Callable[[BenchmarkProgress], None]


class Steps:
    """The tunings and runs of a benchmark that are left, one data set after the other.

    Parameters
    ----------
    parts
        For each data set the models on it.
    budget, seeds
        Of the searches, and of the runs.
    workers, threads
        The number of processes, and the threads of each (by default those of this process are shared out).
    report
        Called when a tuning or a run is over, and twice a second.

    Attributes
    ----------
    failures
        The folder of each model or run that failed, and why.
    done
        The number of tunings and runs that are over.
    """

    def __init__(
        self, parts: Sequence[Sequence[Part]], budget: Budget, seeds: int, workers: int, threads: int | None,
        report: OnProgress,
    ) -> None:  # fmt: skip
        self.parts: Sequence[Sequence[Part]] = parts
        self.budget: Budget = budget
        self.seeds: int = seeds
        self.report: OnProgress = report
        self.workers: int = workers
        self.threads: int | None = threads_each(workers, threads)
        self.failures: dict[Path, str] = {}
        self.done = 0

    def __call__(self) -> None:
        """Do all of them."""
        for of_data in self.parts:
            parts = [part for part in of_data if part.contender.settings is not None]
            self._tune([part for part in parts if self._to_tune(part)])
            self._train([(run, part) for part in parts for run in self._to_train(part)])

    def _to_tune(self, part: Part) -> bool:
        return self.budget.tunes and part.contender.space is not None and part.best is None

    def _to_train(self, part: Part) -> list[PlannedRun]:
        runs = part.runs(self.seeds, tuned=self.budget.tunes)
        return [run for run in runs if not (run.finished and measured_file(run).exists())]

    def _to_do(self) -> int:
        """How many tunings and runs are not over; those of a model that failed are over."""
        count = 0
        for part in (part for of_data in self.parts for part in of_data):
            if part.contender.settings is None or part.folder in self.failures:
                continue
            if self._to_tune(part):
                count += 1 + (1 if part.contender.solved else self.seeds)
            count += sum(run.folder not in self.failures for run in self._to_train(part))
        return count

    def _tune(self, parts: list[Part]) -> None:
        """Tune models side by side; one whose process was killed in a trial goes on with the next try or trial."""

        def over(number: int, reason: str | None) -> None:
            folder = parts[number].folder
            kills[folder] += reason == _KILLED
            if reason == _KILLED and kills[folder] < KILLS:
                killed.append(parts[number])
            else:
                self._over(folder, reason)

        kills: Counter[Path] = Counter()
        while parts:
            killed: list[Part] = []
            calls = [(part, self.budget, self.threads) for part in parts]
            self._call(tune, calls, [(f"tuning {part.title}", part.tuning) for part in parts], over)
            parts = killed

    def _train(self, runs: list[tuple[PlannedRun, Part]]) -> None:
        """Train runs side by side, each in a new process, so that none counts the memory of another."""
        calls = [(run, part, self.workers, self.threads) for run, part in runs]
        titles = [(f"{run.title}, on {part.dataset.name}", run.folder) for run, part in runs]
        self._call(train, calls, titles, lambda number, reason: self._over(runs[number][0].folder, reason))

    def _call(
        self, work: Callable[..., str | None], calls: Sequence[tuple[Any, ...]], titles: Sequence[tuple[str, Path]],
        over: Callable[[int, str | None], None],
    ) -> None:  # fmt: skip
        waiting = list(range(len(calls)))

        def ended(call: Ended) -> None:
            if call.error is not None:
                raise call.error
            waiting.remove(call.number)
            over(call.number, _KILLED if call.killed else call.value)
            tell()

        def tell() -> None:
            running = tuple(_said(*titles[number]) for number in waiting[: self.workers])
            self.report(BenchmarkProgress(self.done, self.done + self._to_do(), running))

        tell()
        run_calls(work, calls, workers=self.workers, fresh=work is train, ended=ended, tick=tell)

    def _over(self, folder: Path, reason: str | None) -> None:
        self.done += 1
        if reason is not None:
            self.failures[folder] = reason


def _said(title: str, folder: Path) -> str:
    """What is being done in a folder, and how far it is."""
    try:
        return f"{title}, {where_file(folder).read_text(encoding='utf-8')}"
    except OSError:
        return title
