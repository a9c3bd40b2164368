"""What the cut into parts costs, by method and number of parts, and how long it takes to find owners and write parts.

    python benchmarks/partition.py --json partition.json
    python benchmarks/partition.py --data ml-100k --parts 2 4

Without ``--data`` a graph of Last-FM's size is generated, which has skewed degrees but no communities: METIS finds less
there than in real data. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import describe_machine, duration, machine_facts, markdown, write_results

from hakg_dgl.data.dataset import load_dataset
from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.owners import Owners, hash_owners, range_owners
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.graph.metis import metis_owners

FINDERS: dict[str, Callable[[SavedEdges, int], Owners]] = {
    "metis": metis_owners,
    "hash": hash_owners,
    "range": range_owners,
}


def measure(edges: SavedEdges, method: str, n_parts: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Find owners by a method, write the parts, and tell what the cut costs."""
    began = time.perf_counter()
    owners = FINDERS[method](edges, n_parts)
    found = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "parts"
        costs = write_parts(edges, owners, out, method=method, d=arguments.d, layers=arguments.layers)
        written = time.perf_counter()
        largest = max(sum(file.stat().st_size for file in part.iterdir()) for part in out.glob("part-*"))
    return {
        "method": method,
        **costs,
        "largest_part_bytes": largest,
        "find_seconds": found - began,
        "write_seconds": written - found,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    header = [
        "parts",
        "method",
        "rows a layer",
        "of one part, at most",
        "MB a step",
        "edges cut",
        "largest / mean edges",
    ]
    header += ["largest part on disk", "find owners", "write parts"]
    cells = [
        [
            str(row["parts"]),
            row["method"],
            f"{row['rows_a_layer']:,}",
            f"{row['largest_halo']:,}",
            f"{row['bytes_a_step'] / 1e6:,.0f}",
            f"{row['cut']:.1%}",
            f"{row['balance']:.2f}",
            f"{row['largest_part_bytes'] / 1e6:,.1f} MB",
            duration(row["find_seconds"]),
            duration(row["write_seconds"]),
        ]
        for row in rows
    ]
    return markdown(header, cells)


def main(given: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set, or a folder in the KGAT layout")
    parser.add_argument("--like", default="last-fm", help="which sizes to generate")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", choices=list(FINDERS), default=list(FINDERS))
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    device = torch.device("cpu")
    print(f"{describe_machine(machine_facts(device))}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        if arguments.data is None:
            preprocess(generate_like(arguments.like, arguments.scale), PreprocessOptions(valid=0.0)).save(folder)
        else:
            is_ready = (arguments.data / "dataset.json").is_file()
            dataset = load_dataset(arguments.data) if is_ready else preprocess(read_kgat(arguments.data))
            dataset.save(folder)
        edges = SavedEdges(folder)
        rows = [measure(edges, method, n, arguments) for n in arguments.parts for method in arguments.methods]
    print(table(rows))
    if arguments.json:
        write_results(arguments.json, {"rows": rows, "d": arguments.d, "layers": arguments.layers}, device)


if __name__ == "__main__":
    main()
