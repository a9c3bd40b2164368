"""What a search found: ``report.json`` for programs, ``report.md`` for people, ``best.toml`` for ``hakg train``."""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hakg_dgl.atomic_files import write_json, write_text
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.models.recommender import ClosedFormRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.claims import GIVEN
from hakg_dgl.studies.journal import CUT_LINES
from hakg_dgl.studies.search_space import SearchSpace

if TYPE_CHECKING:
    import optuna

IMPORTANCE_FROM = 10
"""Completed trials below which no importance is estimated."""
SEEDS = (1, 2, 3)
"""The seeds with which the best settings are to be trained."""
_STATES = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def summary(
    study: optuna.Study,
    path: Path,
    settings: Settings,
    space: SearchSpace,
    dataset: Dataset,
    data_path: Path | None,
    wanted: int | None,
) -> dict[str, Any]:
    """The content of ``report.json``, plain values.

    Parameters
    ----------
    study, space
        The trials, and what was searched.
    path, data_path
        Where the study and the data set lie, for the commands that the report names.
    settings, dataset
        What was the same in all trials.
    wanted
        How many trials there shall be, None for no limit.

    Returns
    -------
    dict
        ``metric``, ``data``, ``settings``, ``search``, ``wanted``, ``counts`` of trials by state, ``best`` (trial,
        value, epoch, metrics, settings; None before a trial is completed), ``commands`` to train the best,
        ``importance``, ``trials`` (all, by number; ``given``: with the settings as they were given),
        ``slices`` and ``parallel`` (for plots), and ``notes``.
    """
    frozen = study.get_trials(deepcopy=False)
    again = {trial.user_attrs["retry_of"]: trial.number for trial in frozen if "retry_of" in trial.user_attrs}
    trials = [_trial(trial, space, settings, again.get(trial.number)) for trial in frozen]
    states = [trial["state"] for trial in trials]
    best = _best(trials)
    return {
        "metric": settings.training.select_by,
        "split": "valid",
        "data": {"name": dataset.name, "digest": dataset.digest},
        "settings": settings.to_dict(),
        "search": space.to_dict(),
        "wanted": wanted,
        "counts": {state: states.count(state) for state in dict.fromkeys([*_STATES.values(), "repeated"])},
        "best": best,
        "commands": _commands(path, data_path, settings) if best else [],
        "importance": _importance(study),
        "trials": trials,
        "slices": _slices(trials, space),
        "parallel": _parallel(trials, space, settings.training.select_by),
        "notes": _notes(study, trials, settings),
    }


def write_report(path: Path, report: dict[str, Any], settings: Settings) -> None:
    """Write ``report.json``, ``report.md`` and, if a trial was completed, ``best.toml``.

    Raises
    ------
    OSError
        If the folder cannot be written; earlier files are then as they were.
    """
    if report["best"]:
        write_text(path / "best.toml", settings.replace(report["best"]["settings"]).to_toml())
    write_json(path / "report.json", report)
    write_text(path / "report.md", as_markdown(report))


def ranked(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The completed trials of a report, the best first."""
    completed = (trial for trial in report["trials"] if trial["state"] == "completed")
    return sorted(completed, key=lambda trial: (-trial["value"], trial["number"]))


def as_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    metric, best = report["metric"], report["best"]
    counts = ", ".join(f"{count} {state}" for state, count in report["counts"].items() if count) or "none"
    parts = [
        f"# Search on {_cell(report['data']['name'])}",
        f"By {metric} on the validation split; the test split was not looked at. Trials: {counts}.",
        *(f"- {note}" for note in report["notes"]),
    ]
    if best:
        settings = _table(["setting", "best"], best["settings"].items())
        commands = "\n".join(report["commands"])
        parts += [
            f"## Best\n\nTrial {best['number']}: {metric} {best['value']:.4f} in epoch {best['epoch']}.\n\n{settings}",
            "`best.toml` holds all settings. Its validation metric is the best of many, so it flatters; train it again "
            f"for the test metrics:\n\n```\n{commands}\n```",
        ]
    keys = list(report["search"])
    rows = [
        [
            _name(trial),
            trial["value"],
            trial["epoch"],
            trial["epochs"],
            trial["seconds"],
        ]
        + [trial["settings"].get(key) for key in keys]
        for trial in ranked(report)
    ]
    if rows:
        parts.append("## Completed trials\n\n" + _table(["trial", metric, "best epoch", "epochs", "s", *keys], rows))
    importance = report["importance"]
    parts.append("## Importance\n\n" + importance["remark"])
    if importance["values"]:
        parts.append(_table(["setting", "importance"], importance["values"].items()))
    failed = [[trial["number"], trial["reason"]] for trial in report["trials"] if trial["state"] == "failed"]
    if failed:
        parts.append("## Failed trials\n\n" + _table(["trial", "reason"], failed))
    searched = [[key, values] for key, values in report["search"].items()]
    parts.append("## Searched\n\n" + _table(["setting", "values"], searched))
    return "\n\n".join(parts) + "\n"


def _name(trial: dict[str, Any]) -> str:
    return f"{trial['number']}, as given" if trial["given"] else str(trial["number"])


def _trial(
    trial: optuna.trial.FrozenTrial, space: SearchSpace, settings: Settings, again: int | None
) -> dict[str, Any]:
    curve = sorted((epoch, value) for epoch, value in trial.intermediate_values.items() if math.isfinite(value))
    epoch, value = max(curve, key=lambda point: (point[1], -point[0]), default=(None, None))
    if trial.state.name == "COMPLETE":
        value = trial.value  # with what the best model chose when training was over
    seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
    state = "repeated" if again is not None else _STATES[trial.state.name]
    reason = trial.user_attrs.get("reason")
    if reason is None and state == "failed":
        reason = "its worker was killed each time it was begun; the settings may need too much memory"
    if state == "repeated":
        reason = f"interrupted; made again as trial {again}"
    given = GIVEN in trial.user_attrs
    values = space.values_of(settings) if given else space.decode(trial.params)
    decoded = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    return {
        "number": trial.number,
        "given": given,
        "state": state,
        "value": value,
        "epoch": epoch,
        "epochs": curve[-1][0] if curve else None,
        "seconds": seconds,
        "settings": decoded,
        "metrics": trial.user_attrs.get("metrics"),
        "reason": reason,
        "curve": [list(point) for point in curve],
    }


def _commands(path: Path, data_path: Path | None, settings: Settings) -> list[str]:
    """Commands that train the best: three seeds, or one training of a closed-form model, which draws nothing."""
    data = "DATA" if data_path is None else shlex.quote(str(data_path))
    config = shlex.quote(str(path / "best.toml"))

    def command(name: str, *options: str) -> str:
        out = shlex.quote(f"{path}-{name}")
        return " ".join(["hakg train", data, "--out", out, "--config", config, *options])

    if issubclass(settings.model_class, ClosedFormRecommender):
        return [command("best")]
    return [command(f"seed-{seed}", "--seed", str(seed)) for seed in SEEDS]


def _best(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    first = ranked({"trials": trials})[:1]
    return {key: first[0][key] for key in ("number", "value", "epoch", "metrics", "settings")} if first else None


def _importance(study: optuna.Study) -> dict[str, Any]:
    """PED-ANOVA over the completed trials: it needs no package beside Optuna, so it is the same everywhere."""
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    values: dict[str, float] = {}
    if len(complete) < IMPORTANCE_FROM:
        remark = f"Left out: {len(complete)} completed trials are too few to estimate it, {IMPORTANCE_FROM} are not."
        return {"method": "PED-ANOVA", "values": values, "remark": remark}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
            values = {key: round(float(value), 6) for key, value in found.items() if math.isfinite(value)}
            remark = (
                f"How much each setting decides whether a trial is among the best, over {len(complete)} completed "
                "trials (PED-ANOVA); the shares add up to 1. Pruned trials are left out."
            )
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            remark = f"Left out: it cannot be estimated from these trials ({error})."
    return {"method": "PED-ANOVA", "values": values, "remark": remark}


def _usable(trials: list[dict[str, Any]], space: SearchSpace) -> list[dict[str, Any]]:
    """Those with a value and a place on all axes, which settings as given need not have."""
    valued = (trial for trial in trials if trial["state"] in ("completed", "pruned") and trial["value"] is not None)
    return [trial for trial in valued if not trial["given"] or space.places(trial["settings"])]


def _slices(trials: list[dict[str, Any]], space: SearchSpace) -> dict[str, list[list[Any]]]:
    """Setting -> [its value, the metric, trial, whether pruned] of each trial that has a value."""
    return {
        key: [[t["settings"][key], t["value"], t["number"], t["state"] == "pruned"] for t in _usable(trials, space)]
        for key in space.dimensions
    }


def _parallel(trials: list[dict[str, Any]], space: SearchSpace, metric: str) -> dict[str, Any]:
    """The axes, and a line over them for each trial that has a value."""
    axes = [{"name": key, "log": getattr(dimension, "log", False)} for key, dimension in space.dimensions.items()]
    lines = [
        [*(trial["settings"][key] for key in space.dimensions), trial["value"]] for trial in _usable(trials, space)
    ]
    return {"axes": [*axes, {"name": metric, "log": False}], "lines": lines}


def _notes(study: optuna.Study, trials: list[dict[str, Any]], settings: Settings) -> list[str]:
    """What was repaired, and where the best value lies at the end of what was tried."""
    notes = []
    if cut := study.user_attrs.get(CUT_LINES):
        notes.append(f"{cut} unfinished lines at the end of the journal, left by a kill, were cut off.")
    best = _best(trials)
    if best and best["epoch"] == settings.replace(best["settings"]).values().get("epochs"):
        notes.append("The best trial was best in its last epoch: with more epochs it may become better.")
    return notes


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
