"""Recall@20 and NDCG@20 of HAKG's baselines on the same data, splits and masks: the table of docs/baselines.

    python benchmarks/baselines.py DATA [DATA ...] --out baselines.json

DATA are folders written by ``hakg preprocess``. Every model is trained as ``hakg train --model NAME`` would, under each
protocol: ``validation`` with a refit (selected on validation, trained once more on train and validation, test looked at
once) and ``published`` (selected on test). Models that draw by chance are trained once a seed. Seconds are of the whole
training, the search and the evaluations included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from measure import describe_machine, machine_facts, markdown, write_results

from hakg_dgl import Settings, load_dataset, make_trainer
from hakg_dgl.baselines.training import PairwiseTrainer
from hakg_dgl.config import Kind
from hakg_dgl.data.dataset import Dataset

BASELINES = [kind for kind in get_args(Kind) if kind != "hakg"]
PROTOCOLS: dict[str, list[str]] = {"validation": ["refit=true"], "published": []}


def run(dataset: Dataset, kind: str, protocol: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    given = [f"kind={kind}", f"protocol={protocol}", f"seed={seed}", *PROTOCOLS[protocol], *overrides]
    settings = Settings.resolve(overrides=given)
    result = make_trainer(dataset, settings).fit()
    valid, test = result["metrics"]["valid"] or {}, result["metrics"]["test"]
    return {
        "model": kind,
        "protocol": protocol,
        "seed": seed,
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


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each data set, model and protocol, over the seeds."""
    lines = []
    for key in dict.fromkeys((row["data"], row["model"], row["protocol"]) for row in rows):
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
    parser.add_argument("--models", nargs="+", default=BASELINES, choices=get_args(Kind))
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=list(PROTOCOLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2020, 2021, 2022])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="also write the numbers (a bare name: into benchmarks/results)")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for data in arguments.data:
        dataset = load_dataset(data)
        for kind in arguments.models:
            drawn = kind in (*PairwiseTrainer.kinds, "hakg")
            for protocol in arguments.protocols:
                for seed in arguments.seeds if drawn else arguments.seeds[:1]:
                    outcome = run(dataset, kind, protocol, seed, arguments.overrides)
                    rows.append({"data": dataset.name, **outcome})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    device = torch.device("cpu")
    print(f"{table(rows)}\n\n{describe_machine(machine_facts(device))}")
    if arguments.out is not None:
        write_results(arguments.out, {"runs": rows}, device)


if __name__ == "__main__":
    main()
