"""What a benchmark found: a ranking of the models on each data set, and the files that show it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hakg_dgl.atomic_files import write_json, write_text
from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.ranking.comparison import Comparison, compare
from hakg_dgl.ranking.evaluation import Evaluation, Evaluator
from hakg_dgl.studies.benchmark_circumstances import about_data, cost_of, machines_of, whole_cost
from hakg_dgl.studies.benchmark_figure import benchmark_figure
from hakg_dgl.studies.benchmark_page import as_html
from hakg_dgl.studies.benchmark_plan import Budget, Part
from hakg_dgl.studies.benchmark_references import keys, references
from hakg_dgl.studies.benchmark_text import as_latex, as_markdown
from hakg_dgl.studies.benchmark_work import measurement
from hakg_dgl.studies.drawing import save_figure
from hakg_dgl.studies.runs import user_metrics
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.training.run_folder import RunFolder

METRICS = ("ndcg@20", "recall@20")
"""What models are ranked by, and what is tested beside it."""
BEYOND = ("map@20", "auc", "diversity@20", "novelty@20", "coverage@20")
"""Shown beside the ranking, which they do not decide."""
FIGURE = "quality_over_time"
REFERENCES = "references.bib"


def summary(
    parts: Sequence[Sequence[Part]],
    budget: Budget,
    seeds: int,
    overrides: Mapping[str, Any],
    failures: Mapping[Path, str],
    resamples: int,
) -> dict[str, Any]:
    """What the finished runs show so far.

    Parameters
    ----------
    parts
        For each data set the models on it.
    budget, seeds, overrides
        What the benchmark was made with.
    failures
        The folder of each model or run that failed in this call, and why.
    resamples
        The number of resamples of the bootstrap.

    Returns
    -------
    dict
        ``budget``, ``seeds``, ``overrides``, ``metrics``, ``notes``, ``mean_ranks`` (over data sets, of the models that
        are ranked on all), ``cost`` (seconds of ``tuning`` and ``training`` of what is finished, and ``hours`` of
        both), ``machines`` (of :func:`~hakg_dgl.studies.benchmark_circumstances.machines_of`), and ``datasets``: for
        each its ``name``, ``digest``, ``about`` (its size and split), ``ranking`` (a row for each model, the best
        first, those without a finished run last and with a ``reason``) and ``comparison`` (a
        :class:`~hakg_dgl.Comparison`, None while fewer than two models have a finished run).
    """
    found = [_on_data(of_data, budget, seeds, failures, resamples) for of_data in parts]
    planned = [run for of_data in parts for part in of_data for run in part.runs(seeds, tuned=budget.tunes)]
    return {
        "budget": {"trials": budget.trials, "seconds": budget.seconds},
        "seeds": seeds,
        "overrides": {key: list(value) if isinstance(value, tuple) else value for key, value in overrides.items()},
        "metrics": list(METRICS),
        "notes": _notes(found, budget, seeds),
        "mean_ranks": _mean_ranks(found),
        "cost": whole_cost(row for data in found for row in data["ranking"]),
        "machines": machines_of(run for run in planned if run.finished),
        "datasets": found,
    }


def write_report(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write the report of :func:`summary`, its figure and the papers; returns the content of ``report.json``."""
    svg = None
    try:
        if any(row["rank"] for data in found["datasets"] for row in data["ranking"]):
            svg = save_figure(benchmark_figure(found["datasets"]), folder / FIGURE)
    except MissingDependencyError as error:
        found["notes"].append(f"There is no figure: {error}")
    data = [one | {"comparison": _plain(one["comparison"])} for one in found["datasets"]]
    report: dict[str, Any] = json.loads(json.dumps(found | {"datasets": data}, allow_nan=False))
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", as_markdown(found, None if svg is None else f"{FIGURE}.png"))
    write_text(folder / "report.tex", as_latex(found, None if svg is None else FIGURE))
    write_text(folder / REFERENCES, references(row["model"] for one in data for row in one["ranking"]))
    write_text(folder / "report.html", as_html(found, None if svg is None else svg.read_bytes()))
    return report


def _plain(comparison: Comparison | None) -> dict[str, Any] | None:
    return None if comparison is None else comparison.to_dict()


def _on_data(
    parts: Sequence[Part], budget: Budget, seeds: int, failures: Mapping[Path, str], resamples: int
) -> dict[str, Any]:
    """The ranking on one data set."""
    dataset, tuned = parts[0].dataset, budget.tunes
    evaluator = Evaluator(dataset, "test", (20,), per_user=True)
    runs = {part.contender.name: part.runs(seeds, tuned=tuned) for part in parts}
    finished = {name: [run for run in planned if run.finished] for name, planned in runs.items()}
    measured = {
        name: {f"seed {run.seed}": _evaluation(run, evaluator, parts[0]) for run in done}
        for name, done in sorted(finished.items())  # of equal models the first is the best, as in the ranking
        if done
    }
    comparison = compare(measured, METRICS, resamples=resamples) if len(measured) > 1 else None
    rows = [_row(part, runs[part.contender.name], finished[part.contender.name], tuned, failures) for part in parts]
    rows.sort(key=lambda row: row["model"])
    rows.sort(key=lambda row: -math.inf if row["metrics"] is None else row["metrics"][METRICS[0]], reverse=True)
    for place, row in enumerate(rows, 1):
        row["rank"] = None if row["metrics"] is None else place
        row["p"] = {} if comparison is None else _p_values(comparison, row["model"])
    about = about_data(dataset)
    return {"name": dataset.name, "digest": dataset.digest, "about": about, "ranking": rows, "comparison": comparison}


def _row(
    part: Part, planned: Sequence[PlannedRun], done: Sequence[PlannedRun], tuned: bool, failures: Mapping[Path, str]
) -> dict[str, Any]:
    """What is known of a model on a data set; ``rank`` and ``p`` are added later."""
    contender, best = part.contender, part.best if tuned and part.contender.space is not None else None
    reasons = [failures[run.folder] for run in planned if run.folder in failures]
    reason = contender.reason or failures.get(part.folder) or (reasons[0] if reasons else None)
    if reason is None and not (planned and len(done) == len(planned)):
        reason = "not finished"
    about = {
        "model": contender.name,
        "loss": contender.loss,
        "runs": [run.folder.name for run in done],
        "planned": len(planned),
        "reason": reason,
        "tuning": best,
        "cost": cost_of(best, done),
        "citations": keys(contender.name),
        "searched": None if contender.space is None or not tuned else contender.space.to_dict(),
        "settings": planned[0].settings.to_dict() if planned else None,
    }
    if not done:
        return about | dict.fromkeys((
            "metrics", "beyond", "tail", "cold", "seconds", "memory_bytes", "parameters", "stored", "devices",
            "side_by_side",
        ))  # fmt: skip
    return about | _measured(done, part)


def _measured(done: Sequence[PlannedRun], part: Part) -> dict[str, Any]:
    """Means over the finished runs of a model."""
    kept = [measurement(run, part.dataset) for run in done]
    results = [RunFolder(run.folder).result for run in done]
    memory = [result["peak_memory_bytes"] for result in results if result["peak_memory_bytes"] is not None]
    return {
        "metrics": {metric: fmean(each["metrics"][metric] for each in kept) for metric in METRICS},
        "beyond": {
            metric: fmean(each["metrics"][metric] for each in kept)
            for metric in BEYOND
            if all(metric in each["metrics"] for each in kept)  # runs of an earlier version lack them
        },
        "tail": _group_mean(kept, "item_popularity", "tail", "recall@20"),
        "cold": _group_mean(kept, "item_novelty", "cold", "recall@20"),
        "seconds": fmean(result["seconds"] for result in results),
        "memory_bytes": max(memory) if memory else None,
        "parameters": kept[0]["parameters"],
        "stored": kept[0]["stored"],
        "devices": sorted({result["device"] for result in results}),
        "side_by_side": max((each["workers"] or 1 for each in kept), default=1),
    }


def _group_mean(kept: Sequence[Mapping[str, Any]], grouping: str, group: str, metric: str) -> float | None:
    """A metric of a group of items, None where no user of the test split has such an item."""
    rows = [row for each in kept for row in each["groups"][grouping] if row["group"] == group]
    values = [row[metric] for row in rows if row[metric] is not None]
    return fmean(values) if values else None


def _p_values(comparison: Comparison, model: str) -> dict[str, float]:
    """Metric -> corrected p value of the difference from the best model; empty for that one itself."""
    return {found.metric: found.p_bootstrap_holm for found in comparison.differences if found.group == model}


def _evaluation(run: PlannedRun, evaluator: Evaluator, part: Part) -> Evaluation:
    """The table of users of a run, as :func:`~hakg_dgl.compare` takes it."""
    table = user_metrics(run, part.dataset)
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


def _mean_ranks(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ranks of each model that is ranked on all of several data sets, and their mean; the best first."""
    if len(found) < 2:
        return []
    ranks: dict[str, list[int]] = {row["model"]: [] for row in found[0]["ranking"]}
    for data in found:
        for row in data["ranking"]:
            if row["rank"] is not None:
                ranks[row["model"]].append(row["rank"])
    names = [data["name"] for data in found]
    rows = [
        {"model": model, "mean_rank": fmean(places), "ranks": dict(zip(names, places, strict=True))}
        for model, places in ranks.items()
        if len(places) == len(found)
    ]
    return sorted(rows, key=lambda row: (row["mean_rank"], row["model"]))


def _notes(found: Sequence[Mapping[str, Any]], budget: Budget, seeds: int) -> list[str]:
    """What every report has to say."""
    rows = [row for data in found for row in data["ranking"]]
    ranked = [row for row in rows if row["rank"] is not None]
    asked: list[tuple[str, Callable[[], bool]]] = [
        ("One seed: what chance in training does is not seen.", lambda: seeds < 2),
        (
            "The models were trained by different ranking losses, so a part of their differences is that of the "
            "losses. The column 'loss' has them; --set ranking_loss=softmax gives one loss to all models that read it.",
            lambda: len({row["loss"] for row in ranked} - {"closed form"}) > 1,
        ),
        (
            "Some runs were trained beside others on this machine, so their seconds are more than they would be alone.",
            lambda: any(row["side_by_side"] > 1 for row in ranked),
        ),
        (
            "The runs were trained on different devices, so their seconds and memory do not compare.",
            lambda: len({device for row in ranked for device in row["devices"]}) > 1,
        ),
    ]
    tuned = (
        "the settings that they were given"
        if budget.trials == 0
        else f"the best settings of {budget} on validation, the first with its defaults"
    )
    first = (
        f"Each model was trained with {tuned}. Settings and epochs were selected on the validation split; the test "
        "split was measured once a run, at its end."
    )
    lacking = [
        f"{row['model']} on {data['name']}: {len(row['runs'])} of {row['planned']} runs are finished."
        for data in found
        for row in data["ranking"]
        if row["rank"] is not None and len(row["runs"]) < row["planned"]
    ]
    return [first, *(text for text, holds in asked if holds()), *lacking]
