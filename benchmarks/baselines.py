"""Recall@20 and NDCG@20 of HAKG's baselines on the same data, splits and masks: the table of docs/baselines.

    python benchmarks/baselines.py DATA [DATA ...] --out baselines.json

DATA are folders written by ``hakg preprocess``. Every model is trained as ``hakg train --model NAME`` would, under each
protocol: ``validation`` with a refit (selected on validation, trained once more on train and validation, test looked at
once) and ``published`` (selected on test). Models that draw by chance are trained once a seed. Seconds are of the whole
training, the search and the evaluations included. The file is written after every run, and the same command goes on
from the runs in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, describe_machine, machine_facts, markdown, write_results

from hakg_dgl import Settings, load_dataset, make_trainer
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.models.registry import BUILT_IN, model_class

BASELINES = [kind for kind in BUILT_IN if kind != "hakg"]
PROTOCOLS: dict[str, list[str]] = {"validation": ["refit=true"], "published": []}


def run(dataset: Dataset, kind: str, protocol: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    given = [f"kind={kind}", f"protocol={protocol}", f"seed={seed}", *PROTOCOLS[protocol], *overrides]
    settings = Settings.resolve(overrides=given)
    result = make_trainer(dataset, settings).fit()
    valid, test = result["metrics"]["valid"] or {}, result["metrics"]["test"]
    return {
        "recall@20": test["recall@20"],
        "ndcg@20": test["ndcg@20"],
        "valid_ndcg@20": valid.get("ndcg@20"),
        "selected": result.get("selected") or {"epoch": result["best_epoch"]},
        "tried": result["epochs_run"],
        "seconds": result["seconds"],
    }


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


KEY = ("data", "model", "protocol", "seed")
"""What tells runs of one file apart."""


def earlier(out: Path | None, overrides: list[str]) -> list[dict[str, Any]]:
    """Runs in the file that this command would write."""
    file = None if out is None else RESULTS / out if out.parent == Path() else out
    if file is None or not file.exists():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["set"] != overrides:
        sys.exit(f"{file}: holds runs with --set {' '.join(found['set'])}; choose another file")
    return list(found["runs"])


def order(data: str, model: str, protocol: str) -> tuple[str, int, str]:
    """By data set, then as the models are listed, then by protocol."""
    return data, list(BUILT_IN).index(model), protocol


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each data set, model and protocol, over the seeds."""
    lines = []
    for key in sorted({(row["data"], row["model"], row["protocol"]) for row in rows}, key=lambda key: order(*key)):
        group = [row for row in rows if (row["data"], row["model"], row["protocol"]) == key]
        searched = [row["selected"] if row["tried"] > 1 else {} for row in group]
        chosen = [", ".join(f"{name} {value:g}" for name, value in selected.items()) for selected in searched]
        metrics = [spread([row[name] for row in group]) for name in ("recall@20", "ndcg@20")]
        seconds = f"{statistics.mean(row['seconds'] for row in group):.1f}"
        lines.append([*key, *metrics, "; ".join(dict.fromkeys(filter(None, chosen))), seconds])
    return markdown(["data", "model", "protocol", "Recall@20", "NDCG@20", "selected", "seconds"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=BASELINES, choices=list(BUILT_IN))
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=list(PROTOCOLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2020, 2021, 2022])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="also write the numbers (a bare name: into benchmarks/results)")
    arguments = parser.parse_args()
    device, rows = torch.device("cpu"), earlier(arguments.out, arguments.overrides)
    done = {tuple(row[key] for key in KEY) for row in rows}
    datasets = [load_dataset(data) for data in arguments.data]
    for seed, dataset, kind in itertools.product(arguments.seeds, datasets, arguments.models):
        if seed != arguments.seeds[0] and not issubclass(model_class(kind), GradientRecommender):
            continue
        for protocol in arguments.protocols:
            row = {"data": dataset.name, "model": kind, "protocol": protocol, "seed": seed}
            if tuple(row[key] for key in KEY) in done:
                continue
            rows.append(row | run(dataset, kind, protocol, seed, arguments.overrides))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if arguments.out is not None:
                write_results(arguments.out, {"set": arguments.overrides, "runs": rows}, device)
    print(f"{table(rows)}\n\n{describe_machine(machine_facts(device))}")


if __name__ == "__main__":
    main()
