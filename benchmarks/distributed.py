"""Steps of several processes: bytes exchanged, memory of each process and time, by number and kind of parts.

    python benchmarks/distributed.py --json distributed.json
    python benchmarks/distributed.py --model lightgcn --processes 2 4 --methods hash

A graph of Last-FM's size is generated, cut into parts, and trained on by processes of this machine, over gloo on the
loopback interface. From the bytes, counted where they are sent, follows a model of the time on real networks. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import describe_machine, duration, gigabytes, machine_facts, markdown, peak_memory, write_results
from partition import FINDERS

from hakg_dgl.data.cards import load_card
from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.distributed.group import joined
from hakg_dgl.distributed.launch import Launched
from hakg_dgl.distributed.loading import load_own
from hakg_dgl.distributed.trainer import DistributedTrainer
from hakg_dgl.models.settings import Settings

NETWORKS = {
    "10 Gbit/s": (10e9 / 8, 50e-6),
    "100 Gbit/s": (100e9 / 8, 10e-6),
    "NVLink 4 (450 GB/s each way)": (450e9, 5e-6),
}
"""Bytes a second that a process sends, and seconds that a message takes to be on its way: vendors' figures."""


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What is trained: without closed-form terms, which one process solves for before the first step."""
    fixed: dict[str, Any] = {"protocol": "published", "device": "cpu"}
    if arguments.model == "hakg":
        fixed |= {"linear_weight": [0.0], "facts_weight": [0.0]}
    return Settings.resolve(overrides=[f"kind={arguments.model}", *arguments.overrides]).replace(fixed)


def resident(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def work(arguments: argparse.Namespace) -> None:
    """One of the processes: some steps, and what they took, as JSON in a file."""
    torch.set_num_threads(1)
    with joined():
        imported = resident("VmRSS")
        dataset, owners = load_own(arguments.data, arguments.parts)
        trainer = DistributedTrainer(dataset, settings_of(arguments), owners=owners)
        del dataset
        trainer._open(False)
        trainee, ranks = trainer.shared.shared, trainer.ranks
        ready = resident("VmRSS")
        (each,) = trainee.passes
        step = trainee.step(each)
        found: list[dict[str, Any]] = []
        for batch in itertools.islice(each.batches, arguments.steps + 1):
            before, began = asdict(ranks.traffic), time.perf_counter()
            step.gradients(*batch)
            step.update()
            took = time.perf_counter() - began
            after = asdict(ranks.traffic)
            found.append({"seconds": took} | {name: after[name] - before[name] for name in after})
        own = list(trainee.model.parameters())
        states = [v for o in trainee.optimizers.values() for s in o.state.values() for v in s.values()]
        stepped = peak_memory(torch.device("cpu"))
        if arguments.evaluate:
            trainer.shared.measure(1)
        about = {
            "imported_bytes": imported,
            "ready_bytes": ready,
            "peak_bytes": stepped,
            "evaluated_bytes": peak_memory(torch.device("cpu")),
            "parameter_bytes": sum(p.numel() * p.element_size() for p in own),
            "optimizer_bytes": sum(v.numel() * v.element_size() for v in states),
            "steps": found[1:],
        }
        (arguments.out / f"{ranks.rank}.json").write_text(json.dumps(about))


def measure(data: Path, n: int, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Cut the data set and train on it with ``n`` processes for some steps."""
    with tempfile.TemporaryDirectory() as name:
        out, parts = Path(name), Path(name) / "parts"
        edges = SavedEdges(data)
        costs = write_parts(edges, FINDERS[method](edges, n), parts, method=method)
        line = [sys.executable, str(Path(__file__).resolve()), "--worker", "--data", str(data), "--parts", str(parts)]
        line += ["--out", str(out), "--steps", str(arguments.steps), "--model", arguments.model]
        line += ["--set", *arguments.overrides, *(["--evaluate"] if arguments.evaluate else [])]
        launched = Launched(line, n, {**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            rank, code = launched.wait()
            if code:
                raise SystemExit(f"process {rank} of {n} ended with {code}\n{launched.last_words(rank)}")
        finally:
            launched.close()
        found = [json.loads((out / f"{rank}.json").read_text()) for rank in range(n)]
    return {"processes": n, "method": method, "cut": costs["cut"], **summary(found), "ranks": found}


def summary(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the processes took together: bytes of all, the slowest step's median, and the largest of the others."""
    steps = [[rank["steps"][k] for rank in ranks] for k in range(len(ranks[0]["steps"]))]
    last = steps[-1]
    others = ranks[1:] or ranks
    return {
        "sent_bytes": sum(rank["sent"] for rank in last),
        "most_sent_bytes": max(rank["sent"] for rank in last),
        "reduced_bytes": last[0]["reduced"],
        "messages": last[0]["exchanges"] + last[0]["reductions"],
        "seconds": statistics.median(max(rank["seconds"] for rank in step) for step in steps),
        "first_peak_bytes": ranks[0]["peak_bytes"],
        "peak_bytes": max(rank["peak_bytes"] for rank in others),
        "imported_bytes": max(rank["imported_bytes"] for rank in others),
        "first_evaluated_bytes": ranks[0]["evaluated_bytes"],
        "evaluated_bytes": max(rank["evaluated_bytes"] for rank in others),
        "table_bytes": max(rank["parameter_bytes"] + rank["optimizer_bytes"] for rank in ranks),
    }


def network_seconds(row: dict[str, Any], bandwidth: float, latency: float) -> float:
    """Seconds that the exchange of a step takes on a network, beside the computation.

    The process that sends most is waited for. An exchange between N processes waits for N - 1 messages; a sum over a
    ring is 2 (N - 1) messages of a part of the tensor each.
    """
    n = row["processes"]
    ring = 2 * (n - 1) / n * row["reduced_bytes"]
    return float((row["most_sent_bytes"] + ring) / bandwidth + row["messages"] * 2 * (n - 1) * latency)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    header = [
        "processes",
        "parts by",
        "edges cut",
        "MB exchanged a step",
        "of one process, at most",
        "MB summed a step",
    ]
    header += ["tables and Adam, at most", "peak memory of the first", "of the others, at most", "time a step"]
    header += ["after an evaluation, the first", "the others, at most"]
    lines = [
        [
            str(row["processes"]),
            row["method"],
            f"{row['cut']:.1%}",
            f"{row['sent_bytes'] / 1e6:,.0f}",
            f"{row['most_sent_bytes'] / 1e6:,.0f}",
            f"{row['reduced_bytes'] / 1e6:,.1f}",
            f"{row['table_bytes'] / 1e6:,.0f} MB",
            gigabytes(row["first_peak_bytes"]),
            "-" if row["processes"] == 1 else gigabytes(row["peak_bytes"]),
            duration(row["seconds"]),
            gigabytes(row["first_evaluated_bytes"]),
            "-" if row["processes"] == 1 else gigabytes(row["evaluated_bytes"]),
        ]
        for row in rows
    ]
    return markdown(header, lines)


def networks(rows: Sequence[dict[str, Any]]) -> str:
    """What the exchange of a step would take on networks, as Markdown."""
    header = ["processes", "parts by", *NETWORKS]
    lines = [
        [
            str(row["processes"]),
            row["method"],
            *(duration(network_seconds(row, *network)) for network in NETWORKS.values()),
        ]
        for row in rows
        if row["processes"] > 1
    ]
    return markdown(header, lines)


class Spread:
    """How many rows parts by hash send each other, in expectation, from the degrees of nodes.

    A row is wanted by a part if one of its edges ends there: of N parts, (N - 1) (1 - (1 - 1/N)^d) others want the row
    of a node with d edges. Users' rows go to items, items' to users, entities' along facts in both directions.

    Parameters
    ----------
    edges
        The data set.
    """

    def __init__(self, edges: SavedEdges) -> None:
        self.degrees = {
            "user": np.zeros(edges.n_users, np.int64),
            "item": np.zeros(edges.n_items, np.int64),
            "entity": np.zeros(edges.n_entities, np.int64),
        }
        self.n_edges = 0
        for name, first, second in edges.ends():
            kinds = ("user", "item") if name == "interactions" else ("entity", "entity")
            for kind, ids in zip(kinds, (first, second), strict=True):
                self.degrees[kind] += np.bincount(ids, minlength=len(self.degrees[kind]))

    def rows(self, n: int) -> float:
        """Rows that n parts send in all before a layer."""
        return float(sum(((n - 1) * (1 - (1 - 1 / n) ** d)).sum() for d in self.degrees.values()))


def order_bytes(settings: Settings) -> int:
    """Bytes an interaction that the order of the pairs takes where an epoch begins: measured, for 2 * 10^7 pairs."""
    return 8 if settings.training.positives_per_user == 1 else 74


def projection(
    one: dict[str, Any], spread: Spread, scale: float, like: str, settings: Settings
) -> tuple[str, list[dict[str, Any]]]:
    """What more interactions would need if degrees stay, by number of parts by hash; as Markdown, and as values."""
    counts, dim, layers = load_card(like).counts, settings.model.dim, getattr(settings.model, "layers", 1)
    measured = (counts["train"] + counts["test"]) * scale
    nodes = counts["users"] + counts["items"] + counts["entities"]  # an item has a row of each kind
    working, found = one["first_peak_bytes"] - one["imported_bytes"], list[dict[str, Any]]()
    for interactions, sizes in ((10**8, (1, 8, 64)), (10**9, (8, 64, 512))):
        more = interactions / measured
        for n in sizes:
            sent = spread.rows(n) * more / n * dim * 4 * 2 * layers
            everywhere = order_bytes(settings) * interactions + 64 * nodes * scale * more
            found.append(
                {
                    "interactions": interactions,
                    "processes": n,
                    "shared_bytes": working * more / n,
                    "halo_bytes": sent,
                    "everywhere_bytes": everywhere,
                    "sent_bytes": sent,
                    "seconds": {name: sent / bandwidth for name, (bandwidth, _) in NETWORKS.items()},
                }
            )
    header = ["interactions", "processes", "a process's share", "its halo", "held by each", "sent by each a step"]
    header += list(NETWORKS)
    lines = [
        [f"{row['interactions']:,}", str(row["processes"])]
        + [gigabytes(row[key]) for key in ("shared_bytes", "halo_bytes", "everywhere_bytes", "sent_bytes")]
        + [duration(value) for value in row["seconds"].values()]
        for row in found
    ]
    return markdown(header, lines), found


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", default="last-fm", help="which sizes to generate")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--model", default="hakg", choices=["hakg", "lightgcn", "bpr-mf"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--methods", nargs="+", choices=list(FINDERS), default=list(FINDERS))
    parser.add_argument("--steps", type=int, default=3, help="that are measured, after one that is not")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--evaluate", action="store_true", help="rank all items for all users, too")
    parser.add_argument("--json", type=Path)
    for name in ("--data", "--parts", "--out"):  # of a worker
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.worker:
        work(arguments)
        return
    device, rows = torch.device("cpu"), list[dict[str, Any]]()
    print(f"{describe_machine(machine_facts(device))}; load {os.getloadavg()[0]:.1f}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        preprocess(generate_like(arguments.like, arguments.scale), PreprocessOptions(valid=0.0)).save(data)
        spread = Spread(SavedEdges(data))
        for n in arguments.processes:
            for method in arguments.methods if n > 1 else ["range"]:
                rows.append(measure(data, n, method, arguments))
                print(table(rows[-1:]), flush=True)
    settings = settings_of(arguments)
    print("\n" + table(rows) + "\n\n" + networks(rows) + "\n")
    projected: list[dict[str, Any]] = []
    if rows[0]["processes"] == 1:
        text, projected = projection(rows[0], spread, arguments.scale, arguments.like, settings)
        print(text)
    row_bytes = settings.model.dim * 4 * 2 * getattr(settings.model, "layers", 1)
    for row in rows:
        if row["method"] == "hash":
            ratio = row["sent_bytes"] / (spread.rows(row["processes"]) * row_bytes)
            print(f"\n{row['processes']} parts by hash sent {ratio:.2f} times what the degrees let expect.")
    if arguments.json:
        values = {"rows": rows, "projected": projected, "settings": settings.to_dict(), "load": os.getloadavg()[0]}
        values["network_seconds"] = [
            {"processes": row["processes"], "method": row["method"]}
            | {name: network_seconds(row, *network) for name, network in NETWORKS.items()}
            for row in rows
        ]
        write_results(arguments.json, values, device)


if __name__ == "__main__":
    main()
