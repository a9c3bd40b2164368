"""What an ablation found: ``report.json`` and ``report.csv`` for programs, ``report.md`` and ``report.tex`` to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.atomic_files import write_json, write_text
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.comparison import Comparison, compare
from hakg_dgl.ranking.comparison_text import to_latex, to_markdown
from hakg_dgl.ranking.evaluation import Evaluation, Evaluator
from hakg_dgl.studies.ablation_figures import write_figures
from hakg_dgl.studies.runs import METRICS, user_metrics
from hakg_dgl.studies.study import PlannedRun, Standing
from hakg_dgl.studies.variants import FULL, TABLES, shown_in, variants_of
from hakg_dgl.training.run_folder import RunFolder

TITLES = {"ablation": "The model without its parts", "depth": "Number of layers"}


def summary(
    standing: Standing,
    settings: Settings,
    dataset: Dataset,
    resamples: int,
) -> dict[str, Any]:
    """What the finished runs show so far.

    Parameters
    ----------
    standing
        Where the runs of the study stand; the finished ones are compared.
    settings, dataset
        The settings of the full model, and what it was trained on.
    resamples
        The number of resamples of the bootstrap.

    Returns
    -------
    dict
        ``data``, ``settings``, ``metrics``, ``notes``, ``runs``, ``failed``, and ``tables``: ``ablation`` and
        ``depth``, each a :class:`~hakg_dgl.Comparison`, or absent while the full model or every other has no finished
        run.
    """
    measured: dict[str, dict[str, Evaluation]] = {}
    evaluator = Evaluator(dataset, "test", (20,), per_user=True)
    for run in standing.finished:
        measured.setdefault(run.name, {})[f"seed {run.seed}"] = _evaluation(run, dataset, evaluator)
    notes = [*_notes(standing, settings), *(f"{run.title} failed." for run, _ in standing.failed)]
    tables: dict[str, Comparison] = {}
    for table in TABLES:
        rows = shown_in(table, settings)
        groups = {label: measured[name] for label, name in rows.items() if name in measured}
        full = next((label for label, name in rows.items() if name == FULL and label in groups), None)
        if full is not None and len(groups) > 1:
            tables[table] = compare(groups, METRICS, against=full, resamples=resamples)
    return {
        "data": {"name": dataset.name, "digest": dataset.digest},
        "settings": settings.to_dict(),
        "metrics": list(METRICS),
        "notes": notes,
        "runs": [_about(run) for run in standing.finished],
        "failed": [{"variant": run.name, "seed": run.seed, "reason": reason} for run, reason in standing.failed],
        "tables": tables,
    }


def write_report(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write the report of :func:`summary` and its figures to a folder; returns the content of ``report.json``."""
    tables: dict[str, Comparison] = found["tables"]
    try:
        write_figures(folder, tables, found["settings"]["model"]["layers"])
    except MissingDependencyError as error:
        found["notes"].append(f"No figures: {error}")
    plain = found | {"tables": {name: table.to_dict() for name, table in tables.items()}}
    report: dict[str, Any] = json.loads(json.dumps(plain, allow_nan=False))
    write_json(folder / "report.json", report)
    write_text(folder / "report.csv", _rows(tables).to_csv(index=False, lineterminator="\n"))
    write_text(folder / "report.md", _markdown(found))
    comments = [f"% {note}" for note in found["notes"]]
    written = [f"% {TITLES[name]}\n{to_latex(table)}" for name, table in tables.items()]
    write_text(folder / "report.tex", "\n".join([*comments, *written]) + "\n")
    return report


def _evaluation(run: PlannedRun, dataset: Dataset, evaluator: Evaluator) -> Evaluation:
    """The table of users of a run, as :func:`~hakg_dgl.compare` takes it."""
    table = user_metrics(run, dataset)
    return Evaluation(
        split=evaluator.split,
        mask=evaluator.mask,
        ks=evaluator.ks,
        n_users=len(table),
        n_relevant=int(table["n_relevant"].sum()),
        n_candidates=evaluator.n_candidates,
        n_masked_relevant=evaluator.n_masked_relevant,
        metrics={metric: float(table[metric].mean()) for metric in METRICS},
        per_user=table,
    )


def _notes(standing: Standing, settings: Settings) -> list[str]:
    planned, finished = standing.planned, standing.finished
    by = settings.training.select_by
    again = ", then trained again on train and validation for as many epochs" if settings.training.refit else ""
    notes = [
        f"Every run was selected on the validation split by {by}{again}. "
        "The test split was measured once a run, at its end."
    ]
    if len(finished) < len(planned):
        notes.append(f"{len(finished)} of {len(planned)} runs are finished: groups may have different seeds.")
    if len({run.seed for run in planned}) < 2:
        notes.append("One seed: what chance in training does is not seen.")
    if not any(run.name == FULL for run in finished):
        notes.append("The full model has no finished run, so there is nothing to compare with.")
    return notes


def _about(run: PlannedRun) -> dict[str, Any]:
    result = RunFolder(run.folder).result
    keys = ("best_epoch", "epochs_run", "stopped", "seconds", "device", "metrics")
    overrides = next(dict(variant.overrides) for variant in variants_of(run.settings) if variant.name == run.name)
    return {
        "variant": run.name,
        "label": run.label,
        "overrides": overrides,
        "seed": run.seed,
        "folder": f"runs/{run.name}/{run.folder.name}",
        **{key: result[key] for key in keys},
    }


def _rows(tables: Mapping[str, Comparison]) -> pd.DataFrame:
    """A row for each table, group and metric, unrounded; with differences where the model is not the full one."""
    columns = ["table", "group", "metric", "runs", "mean", "sd", "low", "high", "difference", "difference_low",
               "difference_high", "p_bootstrap", "p_bootstrap_holm", "p_test", "p_test_holm", "wins", "ties",
               "losses"]  # fmt: skip
    rows = []
    for name, table in tables.items():
        apart = {(found.group, found.metric): found for found in table.differences}
        for group in table.groups:
            for metric, estimate in group.metrics.items():
                row = {"table": name, "group": group.label, "metric": metric, "runs": len(group.runs), **vars(estimate)}
                if (found := apart.get((group.label, metric))) is not None:
                    own = {key: value for key, value in vars(found).items() if key not in ("group", "metric")}
                    low, high, mean = own.pop("low"), own.pop("high"), own.pop("mean")
                    row |= {"difference": mean, "difference_low": low, "difference_high": high, **own}
                rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def _markdown(found: Mapping[str, Any]) -> str:
    parts = [f"# Ablation study on {found['data']['name']}", *found["notes"]]
    for name, table in found["tables"].items():
        parts += [f"## {TITLES[name]}", to_markdown(table).rstrip()]
    if found["runs"]:
        lines = ["| model | changes | seed | best epoch | seconds | valid NDCG@20 |", "|---|---|---:|---:|---:|---:|"]
        lines += [_run_line(run) for run in found["runs"]]
        parts += ["## Runs", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _run_line(run: Mapping[str, Any]) -> str:
    changes = " ".join(f"`{key}={str(value).lower()}`" for key, value in run["overrides"].items())
    valid = run["metrics"]["valid"]["ndcg@20"]
    return f"| {run['label']} | {changes} | {run['seed']} | {run['best_epoch']} | {run['seconds']:,.1f} | {valid:.4f} |"
