"""What an audit found: ``report.json`` for programs, ``report.md`` to read, and a figure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl.atomic_files import write_json, write_text
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import MissingDependencyError
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.comparison import Comparison, Estimate, compare
from hakg_dgl.studies.audit_figures import write_figure
from hakg_dgl.studies.audit_segments import ALL, SEGMENTS, evaluation_of, segment_metrics
from hakg_dgl.studies.audit_verdict import p_text, shown_metric, verdict
from hakg_dgl.studies.audited_facts import LABELS, SHUFFLED, TRUE, KnownVariants, variant_of
from hakg_dgl.studies.runs import METRICS
from hakg_dgl.studies.study import PlannedRun, Standing
from hakg_dgl.studies.utilisation import Utilisation, utilisation
from hakg_dgl.training.run_folder import RunFolder

UNKNOWN = "Nothing is known yet: too few runs are finished."


@dataclass(frozen=True)
class SegmentFound:
    """What is found of a segment of users and items."""

    sentence: str
    comparison: Comparison
    utilisation: list[Utilisation]


def summary(
    standing: Standing, settings: Settings, dataset: Dataset, variants: KnownVariants, resamples: int
) -> dict[str, Any]:
    """What the finished runs show so far.

    Parameters
    ----------
    standing
        Where the runs of the study stand. Compared are the seeds with which every kind of facts is finished that is
        finished with any.
    settings, dataset, variants
        The settings of the model, the data set with the true facts, and its variants.
    resamples
        The number of resamples of the bootstrap.

    Returns
    -------
    dict
        ``verdict``, ``data``, ``settings``, ``metrics``, ``notes``, ``facts``, ``segments`` (name ->
        :class:`SegmentFound`), ``runs`` and ``failed``.
    """
    by_facts, seeds = _comparable(standing, variants)
    shares = {name: sum(variants(name, seed).share for seed in seeds) / len(seeds) for name in by_facts if seeds}
    segments = _segments(by_facts, seeds, shares, dataset, resamples)
    return {
        "verdict": segments[ALL].sentence if ALL in segments else UNKNOWN,
        "data": {"name": dataset.name, "digest": dataset.digest, "triples": len(dataset.triples)},
        "settings": settings.to_dict(),
        "metrics": list(METRICS),
        "seeds": seeds,
        "notes": [*_notes(standing, settings, seeds, shares), *(f"{run.title} failed." for run, _ in standing.failed)],
        "facts": [{"name": name, "label": LABELS[name], "share_true": share} for name, share in shares.items()],
        "segments": segments,
        "runs": [_about(run) for run in standing.finished],
        "failed": [{"facts": run.name, "seed": run.seed, "reason": reason} for run, reason in standing.failed],
    }


def write_report(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write the report of :func:`summary` and its figure to a folder; returns the content of ``report.json``."""
    segments: dict[str, SegmentFound] = found["segments"]
    shares = {facts["label"]: facts["share_true"] for facts in found["facts"]}
    try:
        write_figure(folder, {SEGMENTS[name]: each.comparison for name, each in segments.items()}, shares)
    except MissingDependencyError as error:
        found["notes"].append(f"No figure: {error}")
    plain = {name: {"label": SEGMENTS[name], **dataclasses.asdict(each)} for name, each in segments.items()}
    report: dict[str, Any] = json.loads(json.dumps(found | {"segments": plain}, allow_nan=False))
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", _markdown(found))
    return report


def _comparable(standing: Standing, variants: KnownVariants) -> tuple[dict[str, dict[int, PlannedRun]], list[int]]:
    """The finished runs by facts and seed, and the seeds with which all of these facts are finished."""
    finished = {(run.name, run.seed): run for run in standing.finished}
    seeds = sorted({run.seed for run in standing.planned})
    by_facts: dict[str, dict[int, PlannedRun]] = {}
    for name in LABELS:
        runs = {seed: finished.get((variants.stands_for(name, seed), seed)) for seed in seeds}
        there = {seed: run for seed, run in runs.items() if run is not None}
        if there:
            by_facts[name] = there
    return by_facts, [seed for seed in seeds if all(seed in runs for runs in by_facts.values())] if by_facts else []


def _segments(
    by_facts: Mapping[str, Mapping[int, PlannedRun]], seeds: Sequence[int], shares: Mapping[str, float],
    dataset: Dataset, resamples: int,
) -> dict[str, SegmentFound]:  # fmt: skip
    """What is found of each segment that at least two users are in; nothing without the true facts and others."""
    if not seeds or TRUE not in by_facts or len(by_facts) < 2:
        return {}
    tables = {
        (name, seed): segment_metrics(by_facts[name][seed], variant_of(dataset, by_facts[name][seed].name, seed))
        for name in by_facts
        for seed in seeds
    }
    by_label = {LABELS[name]: share for name, share in shares.items()}
    found: dict[str, SegmentFound] = {}
    for segment in SEGMENTS:
        parts = {key: table[table["segment"] == segment] for key, table in tables.items()}
        if min(map(len, parts.values())) < 2:
            continue
        table = _compared(parts, dataset, resamples)
        found[segment] = SegmentFound(verdict(table), table, utilisation(table, by_label))
    return found


def _compared(parts: Mapping[tuple[str, int], pd.DataFrame], dataset: Dataset, resamples: int) -> Comparison:
    groups: dict[str, dict[str, Any]] = {}
    for (name, seed), table in parts.items():
        groups.setdefault(LABELS[name], {})[f"seed {seed}"] = evaluation_of(table, dataset)
    return compare(groups, METRICS, against=LABELS[TRUE], resamples=resamples)


def _notes(standing: Standing, settings: Settings, seeds: Sequence[int], shares: Mapping[str, float]) -> list[str]:
    planned, finished = standing.planned, standing.finished
    by = settings.training.select_by
    again = ", then trained again on train and validation" if settings.values().get("refit") else ""
    notes = [
        f"Every run of {settings.kind} was selected on the validation split by {by}{again}. "
        "The test split was measured once a run, at its end."
    ]
    if len(finished) < len(planned):
        compared = f"{len(seeds)} seed is" if len(seeds) == 1 else f"{len(seeds)} seeds are"
        notes.append(f"{len(finished)} of {len(planned)} runs are finished; {compared} compared.")
    if len({run.seed for run in planned}) < 2:
        notes.append("One seed: what chance in training does is not seen.")
    kept = shares.get(SHUFFLED, 0.0)
    if kept > 0.5:
        notes.append(f"Shuffling leaves {kept:.0%} of the facts true: most relations have few tails.")
    return notes


def _about(run: PlannedRun) -> dict[str, Any]:
    result = RunFolder(run.folder).result
    keys = ("best_epoch", "epochs_run", "stopped", "seconds", "device", "metrics")
    own = {key: result[key] for key in keys}
    return {"facts": run.name, "seed": run.seed, "folder": f"runs/{run.name}/{run.folder.name}", **own}


def _markdown(found: Mapping[str, Any]) -> str:
    segments: dict[str, SegmentFound] = found["segments"]
    parts = [f"# What the facts of {found['data']['name']} are worth to {found['settings']['model']['kind']}"]
    parts += [f"**{found['verdict']}**"]
    others = [f"- **{SEGMENTS[name].capitalize()}.** {each.sentence}" for name, each in segments.items() if name != ALL]
    parts += ["\n".join(others)] if others else []
    parts += found["notes"]
    shares = {facts["label"]: facts["share_true"] for facts in found["facts"]}
    for name, each in segments.items():
        parts += [f"## {SEGMENTS[name].capitalize()}", _heading(each.comparison), _table(each, shares)]
    if found["runs"]:
        lines = ["| facts | seed | best epoch | seconds | valid NDCG@20 |", "|---|---:|---:|---:|---:|"]
        parts += ["## Runs", "\n".join([*lines, *map(_run_line, found["runs"])])]
    return "\n\n".join(parts) + "\n"


def _heading(table: Comparison) -> str:
    return (
        f"{table.n_users:,} users. Mean ± standard deviation over seeds; the change from the true facts by user, with "
        f"its {table.level:.0%} interval over users ({table.resamples:,} resamples) and the p value of the paired "
        f"t-test, corrected for {len(table.differences)} comparisons (Holm)."
    )


def _table(each: SegmentFound, shares: Mapping[str, float]) -> str:
    lines = ["| facts | of them true | metric | mean | change | interval | p | KGER |"]
    lines.append("|---|---:|---|---:|---:|---:|---:|---:|")
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows_of(each, shares))])


def rows_of(each: SegmentFound, shares: Mapping[str, float]) -> Iterator[list[str]]:
    """The cells of a segment's table, a row for each kind of facts and metric."""
    apart = {(found.group, found.metric): found for found in each.comparison.differences}
    used = {(found.facts, found.metric): found for found in each.utilisation}
    for group in each.comparison.groups:
        for metric, estimate in group.metrics.items():
            first = [group.label, f"{shares[group.label]:.0%}", shown_metric(metric), _mean(estimate)]
            difference, use = apart.get((group.label, metric)), used.get((group.label, metric))
            if difference is None:
                yield [*first, "", "", "", ""]
            elif use is None:
                interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
                yield [
                    *first,
                    f"{difference.mean:+.4f}",
                    interval,
                    p_text(difference.p_test_holm).removeprefix("p ").removeprefix("= "),
                    "",
                ]
            else:
                interval = f"{use.low:+.1%} to {use.high:+.1%}"
                yield [
                    *first,
                    f"{use.change:+.1%}",
                    interval,
                    p_text(difference.p_test_holm).removeprefix("p ").removeprefix("= "),
                    f"{use.kger:+.3f}",
                ]


def _mean(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f}" + ("" if estimate.sd is None else f" ± {estimate.sd:.4f}")


def _run_line(run: Mapping[str, Any]) -> str:
    valid = run["metrics"]["valid"]["ndcg@20"]
    label = LABELS[run["facts"]]
    return f"| {label} | {run['seed']} | {run['best_epoch']} | {run['seconds']:,.1f} | {valid:.4f} |"
