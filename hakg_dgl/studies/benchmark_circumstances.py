"""What a benchmark was made on and what it cost: data sets, split, machine, versions, hours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.studies.study import PlannedRun
from hakg_dgl.training.run_folder import RunFolder

PROTOCOL = (
    "Every item is ranked for every user who has one in the test split, but for the user's items of train and "
    "validation. Relevance is binary; NDCG@20 divides by the best list of min(20, relevant items), Recall@20 by all "
    "relevant items."
)


def about_data(dataset: Dataset) -> dict[str, Any]:
    """``counts`` (of users, items, ..., and users of the test split), ``density``, ``split``, and its ``options``."""
    sizes = {split: len(dataset.pairs(split)) for split in ("train", "valid", "test")}
    counts = {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": len(dataset.interactions),
        **sizes,
        "test users": len(np.unique(dataset.pairs("test")[:, 0])),
        "entities": dataset.n_entities,
        "relations": dataset.n_relations,
        "triples": len(dataset.triples),
    }
    options = {key: dataset.options[key] for key in ("valid", "test", "seed") if key in dataset.options}
    return {
        "counts": counts,
        "density": counts["interactions"] / max(1, dataset.n_users * dataset.n_items),
        "split": dataset.split_strategy,
        "split_options": options,
    }


def cost_of(tuning: Mapping[str, Any] | None, done: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds of ``tuning`` and ``training`` (all finished runs) of a model."""
    return {
        "tuning": 0.0 if tuning is None else float(tuning["seconds"]),
        "training": float(sum(RunFolder(run.folder).result["seconds"] for run in done)),
    }


def whole_cost(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The sums of :func:`cost_of` over rows of rankings, and ``hours`` of both."""
    rows = list(rows)
    both = {name: float(sum(row["cost"][name] for row in rows)) for name in ("tuning", "training")}
    return {**both, "hours": sum(both.values()) / 3600.0}


def machines_of(runs: Iterable[PlannedRun]) -> list[dict[str, Any]]:
    """Where finished runs were trained.

    Returns
    -------
    list of dict
        For each machine ``cpu``, ``cores``, ``memory_bytes``, ``device``, ``threads``, ``versions`` and the number of
        ``runs``; what runs of an earlier version did not note is None.
    """
    found: list[dict[str, Any]] = []
    for result in (RunFolder(run.folder).result for run in runs):
        noted = dict(result.get("machine") or {})
        one = {key: noted.get(key) for key in ("cpu", "cores", "memory_bytes")} | {
            "device": result["device"], "threads": result.get("threads"), "versions": dict(result["versions"]),
        }  # fmt: skip
        same = next((each for each in found if {**each, "runs": None} == {**one, "runs": None}), None)
        if same is None:
            found.append({**one, "runs": 1})
        else:
            same["runs"] += 1
    return found


def data_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each data set; the digest is cut short."""
    return [
        {"data": data["name"]}
        | {name: f"{count:,}" for name, count in data["about"]["counts"].items()}
        | {
            "density": f"{100 * data['about']['density']:.2g}%",
            "split": _split(data["about"]),
            "digest": data["digest"][:12],
        }
        for data in found["datasets"]
    ]


def cost_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each model that cost time, and one of the sums, in hours of a process."""
    rows = [row for row in data["ranking"] if sum(row["cost"].values())]
    lines = [{"model": row["model"], **_hours(row["cost"])} for row in rows]
    return [*lines, {"model": "all", **_hours(whole_cost(rows))}] if len(lines) > 1 else lines


def machine_lines(found: Mapping[str, Any]) -> list[str]:
    """Sentences on what the study cost and where it ran."""
    cost = found["cost"]
    lines = [
        f"The study took {_long(cost['hours'])}, added up over processes: {_long(cost['tuning'] / 3600)} to search "
        f"settings and {_long(cost['training'] / 3600)} to train with the best. What was lost by failures and "
        "interruptions is not counted."
    ]
    for machine in found["machines"]:
        cpu = machine["cpu"] or "a processor that was not noted"
        size = [f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"] if machine["cores"] else []
        size += [f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory"] if machine["memory_bytes"] else []
        threads = machine["threads"]
        of = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'} a run"
        versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items() if value[:3] != "not")
        many = "run" if machine["runs"] == 1 else "runs"
        where = f"{machine['runs']} {many} on {', '.join([cpu, *size])}; device {machine['device']}{of}"
        lines.append(f"{where}; {versions}.")
    return lines


def _split(about: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name} {value:g}" for name, value in about["split_options"].items() if value is not None)
    return str(about["split"]) + (f" ({options})" if options and about["split"] != "given" else "")


def _hours(cost: Mapping[str, float]) -> dict[str, str]:
    parts = {"tuning": cost["tuning"], "training": cost["training"], "together": cost["tuning"] + cost["training"]}
    return {f"{name} (hours)": f"{seconds / 3600:.3f}" for name, seconds in parts.items()}


def _long(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"
