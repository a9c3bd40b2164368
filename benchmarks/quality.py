"""Recall@20 and NDCG@20 over seeds, for the settings given: the numbers of docs/quality.

    python benchmarks/quality.py DATA [DATA ...] --preset released --protocol published --seeds 2020 2021 2022 \
        --vary formulation=released formulation=paper --out benchmarks/results/quality.json

DATA are folders written by ``hakg preprocess``. Every line of the output is one run; the summary gives means over
seeds. ``--vary`` repeats the runs for each setting (join several with commas). ``to 99%`` is the wall time, evaluations
included, until NDCG@20 on the split that selects is within 1% of the run's best.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from hakg_dgl.data.dataset import load_dataset
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.trainer import Trainer


def run(
    data: str, preset: str, overrides: list[str], *, blind: bool = False, reach: float | None = None
) -> dict[str, Any]:
    settings = Settings.resolve(preset=preset, overrides=overrides)
    curve: list[dict[str, float]] = []

    def note(progress: Any) -> None:
        if progress.metrics:
            curve.append({"epoch": progress.epoch, "seconds": progress.seconds, **progress.metrics})

    dataset = load_dataset(data)
    if blind:
        table = dataset.interactions
        dataset = dataclasses.replace(dataset, interactions=table[table["split"] != "test"])
    result = Trainer(dataset, settings, on_progress=note).fit()
    chosen, test = result["metrics"]["valid"], result["metrics"]["test"] or {}
    best = max(point["ndcg@20"] for point in curve)
    near = next(i for i, point in enumerate(curve) if point["ndcg@20"] >= 0.99 * best)
    reached = next((i for i, point in enumerate(curve) if reach is not None and point["ndcg@20"] >= reach), None)
    return {
        "seconds_to_reach": None if reached is None else round(sum(p["seconds"] for p in curve[: reached + 1]), 2),
        "seconds_to_99%": round(sum(point["seconds"] for point in curve[: near + 1]), 2),
        "recall@20": test.get("recall@20"),
        "ndcg@20": test.get("ndcg@20"),
        "valid_recall@20": None if chosen is None else chosen["recall@20"],
        "valid_ndcg@20": None if chosen is None else chosen["ndcg@20"],
        "best_recall@20": max(point["recall@20"] for point in curve),
        "best_ndcg@20": max(point["ndcg@20"] for point in curve),
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs_run"],
        "seconds": result["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--protocol", default="validation", choices=["validation", "published"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[2020, 2021, 2022])
    parser.add_argument("--vary", nargs="+", default=[""])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    parser.add_argument("--blind", action="store_true", help="leave the test split out; the summary is of validation")
    parser.add_argument("--reach", type=float, help="also say when NDCG@20 on the split that selects reaches this")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for data in arguments.data:
        for variant in arguments.vary:
            for seed in arguments.seeds:
                settings = [*arguments.overrides, *filter(None, variant.split(","))]
                settings += [f"protocol={arguments.protocol}", f"seed={seed}"]
                outcome = run(data, arguments.preset, settings, blind=arguments.blind, reach=arguments.reach)
                rows.append({"data": Path(data).name, "variant": variant, "seed": seed, **outcome})
                print(json.dumps(rows[-1]), flush=True)
    print(f"\n{'data':<14}{'settings':<40}{'Recall@20':>10}{'NDCG@20':>10}{'epoch':>7}{'seconds':>9}{'to 99%':>8}")
    for key in dict.fromkeys((row["data"], row["variant"]) for row in rows):
        group = [row for row in rows if (row["data"], row["variant"]) == key]
        prefix = "valid_" if arguments.blind else ""
        columns = (f"{prefix}recall@20", f"{prefix}ndcg@20", "best_epoch", "seconds", "seconds_to_99%")
        means = [statistics.mean(row[name] for row in group) for name in columns]
        print(
            f"{key[0]:<14}{key[1]:<40}{means[0]:>10.4f}{means[1]:>10.4f}{means[2]:>7.0f}{means[3]:>9.1f}{means[4]:>8.1f}"
        )
    if arguments.out is not None:
        words = [Path(word).name if word in (*arguments.data, str(arguments.out)) else word for word in sys.argv[1:]]
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
        about = {"command": " ".join(["python benchmarks/quality.py", *words]), "machine": machine, "runs": rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
