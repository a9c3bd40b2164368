"""Time and memory of reading a shop's tables: made-up orders and a catalogue, read by ``hakg preprocess tables``.

    python benchmarks/tables.py --json tables.json

The command runs in a process of its own, from files in the operating system's cache to the data set on the disk.
``read and preprocess`` is its time without Python's start and imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measure import describe_machine, duration, gigabytes, machine_facts, markdown, peak_memory, write_results

SECONDS, BYTES = 15.0, 2e9
"""Targets for the default sizes."""


def write_tables(folder: Path, interactions: int, items: int, seed: int = 2020) -> None:
    """``orders.csv`` and ``products.csv``, whose ten attributes are of every kind that columns are read as."""
    draw = np.random.default_rng(seed)
    orders = pd.DataFrame(
        {
            "user": draw.integers(interactions // 20, size=interactions),
            "item": (items * draw.random(interactions) ** 2).astype(np.int64),
            "timestamp": draw.integers(1_600_000_000, 1_700_000_000, size=interactions),
        }
    )
    orders.to_csv(folder / "orders.csv", index=False)

    def words(word: str, distinct: int) -> pd.Series[str]:
        return word + pd.Series(draw.integers(distinct, size=items)).astype(str)

    products = pd.DataFrame({"item": np.arange(items), "title": "Product " + pd.Series(np.arange(items)).astype(str)})
    products["brand"], products["maker"] = words("brand ", 2000), words("maker ", 500)
    products["colour"], products["size"] = words("colour ", 30), words("size ", 8)
    products["category"] = words("hall ", 20) + " > " + words("aisle ", 30) + " > " + words("shelf ", 5)
    products["tags"] = words("tag ", 300) + "|" + words("tag ", 300) + "|" + words("tag ", 300)
    products["price"] = np.round(draw.gamma(2.0, 20.0, size=items), 2)
    products["weight"] = draw.integers(10, 5000, size=items)
    products["since"] = pd.Series(pd.Timestamp("2015-01-01") + pd.to_timedelta(draw.integers(3650, size=items), "D"))
    products["description"] = words("Text ", 10**9) + " of a product that is like no other"
    products.to_csv(folder / "products.csv", index=False)


def read_in_subprocess(folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of the command, and the sizes of what it made."""
    program = [sys.executable, __file__, "--inside", str(folder)]
    began = time.perf_counter()
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, busy, peak, triples = done.stdout.split()[-4:]
    return {
        "seconds": float(seconds),
        "processor_seconds": float(busy),
        "whole_seconds": whole,
        "peak_bytes": int(peak),
        "triples": int(triples),
    }


def _inside(folder: Path) -> None:
    from hakg_dgl import cli, load_dataset

    files = [
        "--interactions",
        folder / "orders.csv",
        "--items",
        folder / "products.csv",
        "--timestamp-col",
        "timestamp",
    ]
    began, busy = time.perf_counter(), time.process_time()
    cli.main([*map(str, ["preprocess", "tables", *files, "--out", folder / "data"])], standalone_mode=False)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak = peak_memory(torch.device("cpu"))
    print(seconds, busy, peak, len(load_dataset(folder / "data").triples))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="where to write the numbers; a bare name goes to benchmarks/results")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.inside is not None:
        _inside(arguments.inside)
        return
    device = torch.device("cpu")
    print(f"{describe_machine(machine_facts(device))}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        write_tables(Path(name), arguments.interactions, arguments.items)
        found = read_in_subprocess(Path(name))
    what = f"{arguments.interactions:,} interactions, {arguments.items:,} items of 10 attributes"
    header = [
        "tables",
        "triples",
        "read and preprocess",
        "of it on the processor",
        "with Python's start",
        "peak memory",
    ]
    row = [what, f"{found['triples']:,}", duration(found["seconds"]), duration(found["processor_seconds"]),
           duration(found["whole_seconds"]),
           gigabytes(found["peak_bytes"])]  # fmt: skip
    print(markdown(header, [row]))
    if (arguments.interactions, arguments.items) == (1_000_000, 100_000):
        met = found["seconds"] < SECONDS and found["peak_bytes"] < BYTES
        print(f"\nTarget: under {duration(SECONDS)} and {gigabytes(BYTES)}: {'met' if met else 'missed'}.")
    if arguments.json is not None:
        write_results(arguments.json, found, device)


if __name__ == "__main__":
    main()
