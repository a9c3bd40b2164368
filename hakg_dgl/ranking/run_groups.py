"""Groups of runs that differ by chance alone, and the names of these groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hakg_dgl.errors import ConfigError, IntegrityError

Identity: TypeAlias = "tuple[tuple[str, str], ...]"

SAME_GROUP_WHATEVER = ("seed", "device", "tensorboard", "kernels", "cuda_graphs")
"""Settings in which the runs of a group may differ: chance, and where and how the same numbers are computed."""


@dataclass(frozen=True)
class RunCard:
    """What grouping has to know of a run."""

    name: str
    """The folder of the run."""
    settings: Mapping[str, Mapping[str, Any]]
    """The settings that the model reads, as ``Settings.to_dict`` returns them."""
    data: Mapping[str, str]
    """``name`` and ``digest`` of the data set."""
    notes: tuple[str, ...] = ()
    """Remarks that every report on the run has to show."""
    label: str | None = None
    """The group that the run is put in; with None it is put in the group of the runs with equal settings."""

    @property
    def flat_settings(self) -> dict[str, Any]:
        """Settings by key, without sections; keys are unique over the sections."""
        return {key: value for section in self.settings.values() for key, value in section.items()}


def group_runs(runs: Sequence[RunCard], *, mixed_protocols: bool = False) -> tuple[dict[str, list[RunCard]], list[str]]:
    """Put runs that differ by chance alone together, and name each group by the settings in which it differs.

    Parameters
    ----------
    runs
        At least one run; all runs are of one data set.
    mixed_protocols
        Whether runs selected on validation may stand beside runs selected on test.

    Returns
    -------
    groups : dict
        Label -> runs of the group, in the order in which the groups first occur.
    notes : list of str
        Remarks that every report on the groups has to show.

    Raises
    ------
    ConfigError
        If there is no run, one is given twice, protocols are mixed, some runs alone keep the overlap of train and
        test, or two groups have one label.
    IntegrityError
        If the runs belong to different data sets.
    """
    if not runs:
        raise ConfigError("there is no run to compare; name at least one")
    _refuse_repeated(runs)
    _refuse_other_data(runs)
    _refuse_mixed_overlap(runs)
    labels = _automatic_labels([run for run in runs if run.label is None])
    groups: dict[str, list[RunCard]] = {}
    for run in runs:
        groups.setdefault(run.label or labels[_identity(run)], []).append(run)
    for label, members in groups.items():
        if len({run.label for run in members}) > 1:
            raise ConfigError(f"the label {label!r} names two groups; choose another for the one named with --label")
    return groups, [*_protocol_notes(runs, mixed_protocols), *_run_notes(runs), *_group_notes(groups)]


def _identity(run: RunCard) -> Identity:
    """The settings in which the runs of a group agree, as texts."""
    return tuple((k, _shown(v)) for k, v in run.flat_settings.items() if k not in SAME_GROUP_WHATEVER)


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _automatic_labels(runs: Sequence[RunCard]) -> dict[Identity, str]:
    """A name for each group: the model if models differ, and the settings in which groups of one model differ."""
    settings = {_identity(run): dict(_identity(run)) for run in runs}
    models = {identity: values["kind"] for identity, values in settings.items()}
    labels = {}
    for identity, values in settings.items():
        same_model = [other for key, other in settings.items() if models[key] == models[identity]]
        differing = [key for key in values if key != "kind" and len({other.get(key) for other in same_model}) > 1]
        parts = [f"{key}={values[key]}" for key in differing]
        alone = len(set(models.values())) > 1 or not parts
        labels[identity] = ", ".join([models[identity], *parts] if alone else parts)
    return labels


def _refuse_repeated(runs: Sequence[RunCard]) -> None:
    seen: dict[Path, RunCard] = {}
    for run in runs:
        place = Path(run.name).resolve()
        if place in seen:
            raise ConfigError(f"{run.name}: the run is given twice; name it once")
        seen[place] = run


def _refuse_other_data(runs: Sequence[RunCard]) -> None:
    first = runs[0]
    for run in runs:
        if run.data["digest"] != first.data["digest"]:
            raise IntegrityError(
                f"the run was trained on data set {run.data['name']!r} (digest {run.data['digest'][:12]}), "
                f"{first.name} on {first.data['name']!r} (digest {first.data['digest'][:12]})",
                path=run.name,
                remedy="Compare runs of one data set. Another split or another filter makes another data set.",
            )


def _refuse_mixed_overlap(runs: Sequence[RunCard]) -> None:
    keeping = [run.name for run in runs if run.flat_settings.get("keep_overlap")]
    if keeping and len(keeping) < len(runs):
        raise ConfigError(
            f"{listed(keeping)} keep test pairs that are also in train (keep_overlap), and the other runs do not, "
            "which makes their numbers incomparable\nCompare runs of one kind."
        )


def _protocol_notes(runs: Sequence[RunCard], mixed: bool) -> list[str]:
    by_protocol: dict[str, list[str]] = {}
    for run in runs:
        by_protocol.setdefault(str(run.flat_settings.get("protocol")), []).append(run.name)
    if len(by_protocol) < 2:
        return []
    which = "; ".join(f"{protocol!r}: {listed(names)}" for protocol, names in by_protocol.items())
    if not mixed:
        raise ConfigError(
            f"the runs have different protocols ({which}): those of 'published' were selected on the test split, which "
            "favours them\nCompare runs of one protocol, or add --mixed-protocols; every output then says so."
        )
    return [f"Mixed protocols ({which}): those of 'published' were selected on the test split, which favours them."]


def _run_notes(runs: Sequence[RunCard]) -> list[str]:
    """Each note of the runs once, with the names of the runs that have it unless all have it."""
    about: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
            about.setdefault(note, []).append(run.name)
    return [note if len(names) == len(runs) else f"{listed(names)}: {note}" for note, names in about.items()]


def _group_notes(groups: Mapping[str, Sequence[RunCard]]) -> list[str]:
    notes = []
    for label, runs in groups.items():
        seeds = [run.flat_settings.get("seed") for run in runs]
        settings = [dict(_identity(run)) for run in runs]
        mixed = [key for key in settings[0] if len({values.get(key) for values in settings}) > 1]
        if mixed:
            notes.append(f"Group {label!r} has runs that differ in {listed(mixed)}: its sd is not due to chance alone.")
        elif len(set(seeds)) < len(seeds):
            notes.append(f"Group {label!r} has several runs with one seed: its sd is too small.")
    return notes


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
