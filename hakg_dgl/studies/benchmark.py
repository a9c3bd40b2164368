"""The benchmark: models tuned with the same budget on each data set, trained with several seeds, and ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.studies.benchmark_plan import (
    ALL,
    Budget,
    Contender,
    Part,
    chosen_names,
    contenders,
    folder_name,
    require_data,
)
from hakg_dgl.studies.benchmark_report import summary, write_report
from hakg_dgl.studies.benchmark_work import measured_file, train, tune, where_file
from hakg_dgl.studies.journal import require_optuna
from hakg_dgl.studies.pool import Ended, run_calls
from hakg_dgl.studies.study import PlannedRun, StudyFolder, StudyKind
from hakg_dgl.studies.threads import threads_each

KIND = StudyKind("benchmark", "benchmark", "a benchmark", "choose another folder", "runs")
SEEDS, TRIALS = 3, 20
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


@dataclass(frozen=True)
class _Fixed:
    """What ``study.json`` adds of a benchmark."""

    data: tuple[tuple[str, str, str | None], ...]
    models: tuple[str, ...]
    overrides: dict[str, Any]
    budget: Budget
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data = [{"name": name, "digest": digest, "path": path} for name, digest, path in self.data]
        budget = {"trials": self.budget.trials, "seconds": self.budget.seconds}
        return {"datasets": data, "models": list(self.models), "overrides": self.overrides,
                "budget": budget, "seeds": self.seeds}  # fmt: skip

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> _Fixed:
        """Inverse of :meth:`to_dict`; what is damaged raises ValueError, KeyError or TypeError."""
        data = tuple((str(row["name"]), str(row["digest"]), row["path"]) for row in about["datasets"])
        budget = Budget(about["budget"]["trials"], about["budget"]["seconds"])
        return cls(data, tuple(map(str, about["models"])), dict(about["overrides"]), budget, int(about["seeds"]))


class BenchmarkStudy:
    """Tunes models with the same budget on each data set, trains the best settings with several seeds, and ranks them.

    Settings and checkpoints are selected on the validation split; the test split is measured once a run, at its end.
    Every training has a process of its own, so a program that calls this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    path
        The folder; it is made if it is not there.
    datasets
        Data sets with different names, each with a validation and a test split.
    models
        Names of models, or ``all``. Default: those of the study, or all for a new one. They are added to those that
        the study has.
    overrides
        Settings, each for the models that read it; these are not searched. Default: those of the study, or none.
    trials, seconds
        The budget of the search for the settings of each model on each data set; 0 trials leave the settings as they
        are. Default: that of the study, or 20 trials for a new one.
    seeds
        With how many seeds the best settings are trained; models in closed form are trained once. Default: those of
        the study, or 3 for a new one. A study may get more.
    data_paths
        Where the data sets lie; the runs note it for later commands.

    Raises
    ------
    ConfigError
        If a model, a setting, a data set or the budget does not fit, or the study has others.
    MissingDependencyError
        If settings are to be searched and Optuna is not installed.
    IntegrityError
        If the study belongs to other data sets.
    CheckpointError
        If the folder is damaged, holds something else, or cannot be written.

    Examples
    --------
    >>> study = BenchmarkStudy("study", [load_dataset("data")], ["ease", "bpr-mf"], trials=10)  # doctest: +SKIP
    >>> report = study.run(workers=2)  # doctest: +SKIP
    >>> [row["model"] for row in report["datasets"][0]["ranking"]]  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        datasets: Sequence[Dataset],
        models: Iterable[str] | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        trials: int | None = None,
        seconds: float | None = None,
        seeds: int | None = None,
        data_paths: Sequence[str | Path] | None = None,
    ) -> None:
        require_data(datasets)
        _require_counts(trials, seconds, seeds)
        # One of them stands for all in what studies share; which one does not depend on their order.
        self.folder = StudyFolder(path, min(datasets, key=lambda dataset: dataset.name), KIND)
        self.path, self.datasets = self.folder.path, tuple(datasets)
        self._places: dict[str, Path] = {}
        if data_paths is not None:
            self._places = {dataset.name: Path(p) for dataset, p in zip(datasets, data_paths, strict=True)}
        budget = None if trials is None and seconds is None else Budget(trials, seconds)
        if self.folder.exists:
            fixed = self._continued(models, overrides, budget, seeds)
        else:
            names = chosen_names([ALL] if models is None else models)
            own = dict(overrides or {})
            fixed = _Fixed(self._data(), names, own, budget or Budget(TRIALS, None), SEEDS if seeds is None else seeds)
        self.budget, self.seeds, self.overrides = fixed.budget, fixed.seeds, fixed.overrides
        self.contenders: tuple[Contender, ...] = contenders(fixed.models, fixed.overrides)
        if self.tuned and any(contender.space is not None for contender in self.contenders):
            require_optuna()
        self.folder.make()
        self.folder.write(None, self._places.get(self.folder.dataset.name), fixed.to_dict())

    @property
    def tuned(self) -> bool:
        """Whether settings are searched at all."""
        return self.budget.trials != 0

    def parts(self, dataset: Dataset) -> list[Part]:
        """The models on a data set."""
        place, below = self._places.get(dataset.name), self.path / "data" / folder_name(dataset.name)
        return [Part(dataset, place, contender, below / contender.name) for contender in self.contenders]

    def run(
        self,
        *,
        workers: int = 1,
        threads: int | None = None,
        resamples: int = 10_000,
        on_progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Do what is not done yet, and write the report, also when interrupted.

        What was interrupted continues from where it stood. A model that fails is in the report with the reason, and is
        tried again by the next call.

        Parameters
        ----------
        workers
            The number of processes that train side by side.
        threads
            The threads of each worker; by default, those of this process are shared out.
        resamples
            The number of resamples of the bootstrap.
        on_progress
            Called when a tuning or a run is over, and twice a second.

        Returns
        -------
        dict
            The content of ``report.json``.

        Raises
        ------
        CheckpointError
            If another process works on the study, or the folder cannot be written.
        """
        if workers < 1 or (threads is not None and threads < 1):
            raise ConfigError(f"workers = {workers} and threads = {threads}: both must be at least 1")
        work = _Work(self, workers, threads_each(workers, threads), on_progress or (lambda progress: None))

        def report() -> dict[str, Any]:
            parts = [self.parts(dataset) for dataset in self.datasets]
            found = summary(parts, self.budget, self.seeds, self.overrides, work.failures, resamples)
            return write_report(self.path, found)

        with self.folder.sole_worker():
            return self.folder.work_and_report(work, report)

    def _data(self) -> tuple[tuple[str, str, str | None], ...]:
        places = {name: str(place.resolve()) for name, place in self._places.items()}
        return tuple((dataset.name, dataset.digest, places.get(dataset.name)) for dataset in self.datasets)

    def _continued(
        self, models: Iterable[str] | None, overrides: Mapping[str, Any] | None, budget: Budget | None,
        seeds: int | None,
    ) -> _Fixed:  # fmt: skip
        """What the study in the folder has, with the models and seeds that are added."""
        _, _, known = self.folder.read(lambda about, settings: _Fixed.from_dict(about))
        given = {(name, digest) for name, digest, _ in self._data()}
        has = {(name, digest) for name, digest, _ in known.data}
        different = [f"{name!r} ({'added' if (name, digest) in given else 'missing'})" for name, digest in given ^ has]
        self.folder.refuse_changes("other data sets", sorted(different))
        different = []
        if overrides is not None and dict(overrides) != known.overrides:
            keys = sorted({*overrides, *known.overrides})
            different = [key for key in keys if overrides.get(key) != known.overrides.get(key)]
        if budget is not None and budget != known.budget:
            different.append(f"the budget (was {known.budget}, now {budget})")
        self.folder.refuse_changes("others", different)
        order = [name for name, _, _ in known.data]
        self.datasets = tuple(sorted(self.datasets, key=lambda dataset: order.index(dataset.name)))
        noted = {name: Path(place) for name, _, place in known.data if place is not None}
        self._places = {**noted, **self._places}
        names = chosen_names([*known.models, *(models or ())])
        return _Fixed(self._data(), names, known.overrides, known.budget, max(known.seeds, seeds or 0))


class _Work:
    """The tunings and runs of a call, one data set after the other."""

    def __init__(self, study: BenchmarkStudy, workers: int, threads: int | None, report: OnProgress) -> None:
        self.study, self.workers, self.threads, self.report = study, workers, threads, report
        self.failures: dict[Path, str] = {}
        """The folder of a model or a run that failed, and why."""
        self.done = 0

    def __call__(self) -> None:
        """Do all of it."""
        for dataset in self.study.datasets:
            parts = [part for part in self.study.parts(dataset) if part.contender.settings is not None]
            self._tune([part for part in parts if self._to_tune(part)])
            self._train([(run, part) for part in parts for run in self._to_train(part)])

    def _to_tune(self, part: Part) -> bool:
        return self.study.tuned and part.contender.space is not None and part.best is None

    def _to_train(self, part: Part) -> list[PlannedRun]:
        runs = part.runs(self.study.seeds, tuned=self.study.tuned)
        return [run for run in runs if not (run.finished and measured_file(run).exists())]

    def _to_do(self) -> int:
        """How many tunings and runs are not over; those of a model that failed are over."""
        count = 0
        for dataset in self.study.datasets:
            for part in self.study.parts(dataset):
                if part.contender.settings is None or part.folder in self.failures:
                    continue
                todo = self._to_train(part)
                if self._to_tune(part):
                    count += 1 + (1 if part.contender.solved else self.study.seeds)
                count += sum(run.folder not in self.failures for run in todo)
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
            calls = [(part, self.study.budget, self.threads) for part in parts]
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


def _require_counts(trials: int | None, seconds: float | None, seeds: int | None) -> None:
    if trials is not None and trials < 0:
        raise ConfigError(f"trials = {trials}: it must be at least 0")
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"seconds = {seconds}: it must be above 0")
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds = {seeds}: it must be at least 1")
