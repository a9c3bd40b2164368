"""The benchmark: models tuned with the same budget on each data set, trained with several seeds, and ranked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from hakg_dgl.studies.benchmark_steps import OnProgress, Steps
from hakg_dgl.studies.journal import require_optuna
from hakg_dgl.studies.study import StudyFolder, StudyKind

KIND = StudyKind("benchmark", "benchmark", "a benchmark", "choose another folder", "runs")
SEEDS, TRIALS = 3, 20


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
        Names of models, or ``all``; ``NAME:LOSS`` and ``all:LOSS`` for another ``ranking_loss`` than the default.
        Default: those of the study, or all for a new one. They are added to those that the study has.
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
        self.folder: StudyFolder = StudyFolder(path, min(datasets, key=lambda dataset: dataset.name), KIND)
        self.path: Path = self.folder.path
        self.datasets = tuple(datasets)
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
        self.budget: Budget = fixed.budget
        self.seeds: int = fixed.seeds
        self.overrides: dict[str, Any] = fixed.overrides
        self.contenders: tuple[Contender, ...] = contenders(fixed.models, fixed.overrides)
        if self.budget.tunes and any(contender.space is not None for contender in self.contenders):
            require_optuna()
        self.folder.make()
        self.folder.write(None, self._places.get(self.folder.dataset.name), fixed.to_dict())

    def parts(self, dataset: Dataset) -> list[Part]:
        """The models on a data set."""
        place, below = self._places.get(dataset.name), self.path / "data" / folder_name(dataset.name)
        return [Part(dataset, place, contender, below / folder_name(contender.name)) for contender in self.contenders]

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
        parts = [self.parts(dataset) for dataset in self.datasets]
        work = Steps(parts, self.budget, self.seeds, workers, threads, on_progress or (lambda progress: None))

        def report() -> dict[str, Any]:
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


def _require_counts(trials: int | None, seconds: float | None, seeds: int | None) -> None:
    if trials is not None and trials < 0:
        raise ConfigError(f"trials = {trials}: it must be at least 0")
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"seconds = {seconds}: it must be above 0")
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds = {seeds}: it must be at least 1")
