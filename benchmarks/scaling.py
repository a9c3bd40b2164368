"""How the cost of a training step grows with the graph: random graphs of 0.1 to 10 times Last-FM's size.

    python benchmarks/scaling.py --json scaling.json

Users, items, entities, interactions and triples grow together, so degrees stay; the batch stays too. Each size runs in
a process of its own and is left out, with a line that says so, where it would not fit in memory. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import describe_machine, duration, free_memory, gigabytes, machine_facts, markdown, write_results
from training_step import add_options, in_subprocess, options

from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.training.circumstances import choose_device

SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
FIRST_GUESS = 4e9
"""Bytes that a step at Last-FM's own size may take, the data set included: used before anything is measured."""
MUST, AIM = 12.0, 10.0
"""What a step may cost where the graph is ten times as large."""


def estimate(scale: float, done: Sequence[dict[str, Any]]) -> float:
    """Bytes that a step at this scale takes: on the line through the last two sizes measured, or in proportion.

    What the process had taken before it read the first graph is not in proportion to anything.
    """
    if not done:
        return FIRST_GUESS * max(scale, 0.1)
    last = done[-1]
    slope = float((last["peak_bytes"] - last.get("before_bytes", 0)) / last["scale"])
    if len(done) > 1:
        slope = float((last["peak_bytes"] - done[-2]["peak_bytes"]) / (last["scale"] - done[-2]["scale"]))
    return float(last["peak_bytes"]) + max(FIRST_GUESS / 4, slope) * (scale - float(last["scale"]))


def measure_scale(scale: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Generate a graph, measure a step on it in another process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        preprocess(generate_like(arguments.like, scale), PreprocessOptions(valid=0.0)).save(folder)
        found = in_subprocess(folder, options(arguments, arguments.preset))
    return {"scale": scale} | found.get("package", found.get("died", {"skipped": "nothing was printed"}))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ["times Last-FM", "edges", "step", "per million edges", "peak memory", "bytes per edge"]
    lines = []
    for row in rows:
        if "skipped" in row:
            lines.append([f"{row['scale']:g}", *["-"] * 4, row["skipped"]])
            continue
        edges = row["n_edges"]
        cost = [duration(row["seconds"]), duration(row["seconds"] / edges * 1e6)]
        lines.append(
            [f"{row['scale']:g}", f"{edges:,}", *cost, gigabytes(row["peak_bytes"]), f"{row['peak_bytes'] / edges:.0f}"]
        )
    return markdown(header, lines)


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each two sizes, one ten times the other: how much more a step costs."""
    at = {row["scale"]: row for row in rows if "skipped" not in row}
    pairs = [(small, large) for small in at for large in at if abs(large / small - 10.0) < 1e-9]
    return [
        {"from": small, "to": large} | {key: at[large][key] / at[small][key] for key in ("seconds", "peak_bytes")}
        for small, large in pairs
    ]


def verdict(ratio: float) -> str:
    """Which target a ratio of costs meets."""
    return "aim met" if ratio <= AIM else "must met" if ratio <= MUST else "missed"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", nargs="+", type=float, default=list(SCALES))
    parser.add_argument("--like", default="last-fm", help="name of a dataset card, whose sizes are taken")
    parser.add_argument("--preset", default="last-fm")
    parser.add_argument("--json", type=Path, help="where to write the numbers; a bare name goes to benchmarks/results")
    add_options(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    print(f"{describe_machine(machine_facts(device))}\n", flush=True)
    rows: list[dict[str, Any]] = []
    for scale in sorted(arguments.scales):
        needed = estimate(scale, [row for row in rows if "skipped" not in row])
        free = free_memory(torch.device("cpu"))
        if needed > free:
            reason = f"left out: needs about {gigabytes(needed)}, {gigabytes(free)} are free"
            rows.append({"scale": scale, "skipped": reason})
        else:
            rows.append(measure_scale(scale, arguments))
    print(table(rows) + "\n")
    ratios = growth(rows)
    for ratio in ratios:
        print(
            f"- From {ratio['from']:g} to {ratio['to']:g} times: a step takes {ratio['seconds']:.1f}x the time "
            f"(at most {MUST:g}x, aim {AIM:g}x: {verdict(ratio['seconds'])}) "
            f"and {ratio['peak_bytes']:.1f}x the memory."
        )
    if arguments.json is not None:
        write_results(arguments.json, {"rows": rows, "growth": ratios}, device)


if __name__ == "__main__":
    main()
