"""Seconds of an epoch of the models that RecBole has too, beside RecBole's, on one machine in one run.

    python benchmarks/models.py DATA --recbole PYTHON
    python benchmarks/models.py DATA --models kgin kgat

DATA is a folder written by ``hakg preprocess``. PYTHON is an interpreter that has RecBole
(``pip install recbole`` in an environment of its own, with the older packages that it needs); without it only the
seconds here are printed. Both have the sizes of RecBole's defaults: 64 dimensions, batches of 4,096, its numbers of
layers, one negative a positive. Each model's epochs are measured in processes of its own, here and there in turn.

Prints Markdown; ``--json NAME`` also writes the numbers to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import pandas as pd
import torch
from measure import duration, markdown

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.loop import Epoch, run_epoch
from hakg_dgl.training.trainer import Trainer

SIZES = {"dim": 64, "batch_size": 4096}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bpr-mf": ("BPR", {}),
    "lightgcn": ("LightGCN", {"layers": 2}),
    "cfkg": ("CFKG", {"negatives": 1, "ranking_loss": "logistic"}),
    "cke": ("CKE", {"relation_dim": 64, "ranking_loss": "bpr"}),
    "kgin": ("KGIN", {"layers": 2, "ranking_loss": "bpr", "message_dropout": 0.0}),
    "kgat": ("KGAT", {"layer_widths": (64,), "relation_dim": 64, "ranking_loss": "bpr"}),
    "kgnn-ls": ("KGNNLS", {"layers": 1, "sample_size": 4, "ranking_loss": "cross-entropy"}),
}
"""RecBole's name of each model, and the settings that make it as RecBole's default is."""


def our_epochs(dataset: Dataset, kind: str, epochs: int) -> list[float]:
    """Seconds of each epoch after the first."""
    values: dict[str, Any] = SIZES | MODELS[kind][1] | {"device": "cpu", "protocol": "published"}
    trainer = Trainer(dataset, Settings(kind).replace(values))
    times = []
    for number in range(1, epochs + 2):
        began = time.perf_counter()
        run_epoch(trainer.session, Epoch(number, epochs + 1, 0.001, began))
        times.append(time.perf_counter() - began)
    return times[1:]


def write_atomic_files(dataset: Dataset, folder: Path) -> None:
    """The training interactions, the triples and the links of items to entities, as RecBole reads them."""
    (folder / "data").mkdir()
    tables = {
        "inter": pd.DataFrame(dataset.pairs("train"), columns=["user_id:token", "item_id:token"]),
        "kg": dataset.triples[["head", "relation", "tail"]].set_axis(
            ["head_id:token", "relation_id:token", "tail_id:token"], axis=1
        ),
        "link": pd.DataFrame({"item_id:token": range(dataset.n_items), "entity_id:token": range(dataset.n_items)}),
    }
    for name, table in tables.items():
        table.to_csv(folder / "data" / f"data.{name}", sep="\t", index=False)


def in_process(command: Sequence[str]) -> dict[str, Any]:
    """The last line of JSON that a command prints, or why there is none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": words[-1]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def compare(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row of numbers for each model."""
    rows = []
    here = [sys.executable, str(Path(__file__).resolve()), str(arguments.data), "--threads", str(arguments.threads)]
    for kind in arguments.models:
        name = MODELS[kind][0]
        ours: list[float] = []
        theirs: list[float] = []
        row: dict[str, Any] = {"model": kind, "recbole_model": name}
        for _ in range(arguments.rounds):
            found = in_process([*here, "--epochs", str(arguments.epochs), "--only-here", kind])
            ours += found.get("seconds", [])
            row |= {"failed": found["failed"]} if "failed" in found else {}
            if arguments.recbole:
                there = [arguments.recbole, str(Path(__file__).with_name("recbole_epochs.py")), str(folder), name]
                found = in_process([*there, str(arguments.epochs), str(arguments.threads)])
                theirs += found.get("seconds", [])
                row |= {"recbole_failed": found["failed"]} if "failed" in found else {"recbole": found["version"]}
        row |= {"seconds": statistics.median(ours)} if ours else {}
        row |= {"recbole_seconds": statistics.median(theirs)} if theirs else {}
        rows.append(row)
        print(f"{kind}: {row}", file=sys.stderr)
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    ours, theirs = row.get("seconds"), row.get("recbole_seconds")
    return [
        row["model"],
        duration(ours) if ours else row.get("failed", ""),
        duration(theirs) if theirs else row.get("recbole_failed", "not measured"),
        f"{ours / theirs:.2f}" if ours and theirs else "",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--recbole", metavar="PYTHON", help="an interpreter that has RecBole")
    parser.add_argument("--epochs", type=int, default=2, help="measured after the first")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each model, here and there in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="NAME")
    parser.add_argument("--only-here", choices=list(MODELS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.data)
    if arguments.only_here:
        print(json.dumps({"seconds": our_epochs(dataset, arguments.only_here, arguments.epochs)}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.recbole:
            write_atomic_files(dataset, folder)
        rows = compare(arguments, folder)
    facts = measure.machine_facts(torch.device("cpu"))
    print(measure.describe_machine(facts))
    print()
    print(markdown(["model", "here", "RecBole", "here / RecBole"], [cells(row) for row in rows]))
    if arguments.json:
        about = {"command": sys.argv, "machine": facts, "data": dataset.name, "rows": rows}
        measure.write_results(Path(f"{arguments.json}.json"), about, torch.device("cpu"))


if __name__ == "__main__":
    main()
