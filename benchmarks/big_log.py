"""Time and memory that `hakg preprocess` takes for a log of many interactions, which is generated first.

    python benchmarks/big_log.py --interactions 50000000 --json big_log.json

The log is written in a stream, as CSV or Parquet, with a time a row, some repeated pairs and ids of text; three facts
an item stand in a table of their own. The command then runs in a process of its own. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from measure import describe_machine, duration, gigabytes, machine_facts, markdown, peak_memory, write_results

ROWS = 2**20
"""Rows that are generated at once."""
MOST = 6e9
"""Bytes that 50 million interactions may take."""


def blocks(n: int, n_users: int, n_items: int) -> Iterator[pa.Table]:
    """Tables of users, items and times, ``n`` rows in all; some users and items occur far more often than others."""
    generator = np.random.default_rng(2020)
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        users = (generator.random(rows) ** 2 * n_users).astype(np.int64)
        items = (generator.random(rows) ** 3 * n_items).astype(np.int64)
        times = generator.integers(1_500_000_000, 1_700_000_000, rows)
        yield pa.table({"user": named("u", users), "item": named("item-", items), "time": pa.array(times)})


def named(prefix: str, numbers: Any) -> Any:
    """Numbers as ids of text."""
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "")


def write_log(path: Path, arguments: argparse.Namespace) -> None:
    """Write the log, a block at a time."""
    schema = pa.schema({"user": pa.string(), "item": pa.string(), "time": pa.int64()})
    csv = path.suffix == ".csv"
    with (pa_csv.CSVWriter if csv else pq.ParquetWriter)(path, schema) as writer:
        for block in blocks(arguments.interactions, arguments.users, arguments.items):
            writer.write_table(block)


def write_facts(path: Path, n_items: int) -> None:
    """Write three facts an item."""
    items, generator = np.repeat(np.arange(n_items), 3), np.random.default_rng(1)
    relation = pa.array(np.tile(np.array(["genre", "maker", "year"]), n_items))
    tail = named("entity-", generator.integers(0, max(1, n_items // 10), len(items)))
    pq.write_table(pa.table({"head": named("item-", items), "relation": relation, "tail": tail}), path)


def preprocess_here(command: list[str]) -> None:
    """Run `hakg` in this process; prints seconds and bytes as JSON."""
    main = import_module("hakg_dgl.cli").main
    began = time.perf_counter()
    main(command, standalone_mode=False)
    cpu = torch.device("cpu")
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak_memory(cpu)}))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Generate the log, and preprocess it in another process."""
    log, facts, out = folder / f"log.{arguments.format}", folder / "facts.parquet", folder / "data"
    began = time.perf_counter()
    write_log(log, arguments)
    write_facts(facts, arguments.items)
    generated = time.perf_counter() - began
    command = ["preprocess", "tables", "--interactions", log, "--triples", facts, "--timestamp-col", "time"]
    command += ["--split", arguments.split, "--out", out]
    program = [sys.executable, __file__, "--here", *map(str, command)]
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    about = json.loads((out / "dataset.json").read_text())
    return {
        "interactions": arguments.interactions,
        "format": arguments.format,
        "split": arguments.split,
        "log_bytes": log.stat().st_size,
        "generate_seconds": generated,
        "data_bytes": sum(file.stat().st_size for file in out.iterdir()),
        "counts": about["counts"],
        "repeats": about["report"]["repeated_interactions_dropped"],
        "digest": about["digest"],
        **found,
    }


def table(row: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    header = ["interactions", "log", "split", "time", "peak memory", "bytes an interaction", "data set"]
    cells = [
        f"{row['interactions']:,}",
        f"{row['format']}, {gigabytes(row['log_bytes'])}",
        row["split"],
        duration(row["seconds"]),
        gigabytes(row["peak_bytes"]),
        f"{row['peak_bytes'] / row['interactions']:.0f}",
        gigabytes(row["data_bytes"]),
    ]
    return markdown(header, [cells])


def main(given: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    if given is None and sys.argv[1:2] == ["--here"]:
        preprocess_here(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=50_000_000)
    parser.add_argument("--users", type=int, help="default: one for 50 interactions")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--split", default="random")
    parser.add_argument("--folder", type=Path, help="where the log and the data set are written for the time being")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    arguments.users = arguments.users or max(1, arguments.interactions // 50)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        row = measure(arguments, Path(name))
    device = torch.device("cpu")
    print(f"{describe_machine(machine_facts(device))}\n\n{table(row)}")
    if arguments.interactions >= 50_000_000:
        print(f"\nWithin {gigabytes(MOST)}: {'yes' if row['peak_bytes'] <= MOST else 'no'}")
    if arguments.json:
        write_results(arguments.json, row, device)


if __name__ == "__main__":
    main()
