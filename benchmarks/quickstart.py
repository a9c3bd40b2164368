"""How long ``hakg quickstart`` takes: processor and clock time for a made-up shop with a given number of orders.

Customers prefer one kind of item and one brand, as in docs/shop.md; there are about eleven orders a customer.

Usage: python benchmarks/quickstart.py --orders 10000 [--model ease]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

KINDS = ("Home > Kitchen > Knives", "Home > Kitchen > Pans", "Home > Garden", "Toys > Puzzles", "Toys > Games")
BRANDS = 40


def main() -> None:
    """Make the tables, run the command on them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--model", default="hakg")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_tables(Path(place), given.orders, given.items)
        began = time.perf_counter()
        command = ["quickstart", "--interactions", "orders.csv", "--items", "catalog.csv", "--out", "shop"]
        subprocess.run(
            [sys.executable, "-m", "hakg_dgl.cli", *command, "--model", given.model, "--set", "device=cpu"],
            cwd=place, check=True,
        )  # fmt: skip
        clock = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor, load = used.ru_utime + used.ru_stime, os.getloadavg()[0]
    print(f"{given.orders:,} orders: {processor:.1f} s of processor time, {clock:.1f} s by the clock")
    print(f"load of the machine over the last minute: {load:.1f} on {os.cpu_count()} cores")


def write_tables(place: Path, n_orders: int, n_items: int) -> None:
    """Write ``orders.csv`` and ``catalog.csv`` into a folder."""
    draw = np.random.default_rng(3)
    kind, brand = draw.integers(len(KINDS), size=n_items), draw.integers(BRANDS, size=n_items)
    popularity = draw.gamma(1.0, 1.0, n_items)
    names = {"item": [f"sku-{n}" for n in range(n_items)], "name": [f"Item {n}" for n in range(n_items)]}
    told = {"category": [KINDS[n] for n in kind], "brand": [f"Brand {n}" for n in brand]}
    catalogue = pd.DataFrame({**names, **told, "price": draw.gamma(2.0, 10.0, n_items).round(2)})
    catalogue.to_csv(place / "catalog.csv", index=False)
    rows: list[tuple[str, str]] = []
    while len(rows) < n_orders:
        liked = 1 + 12.0 * (kind == draw.integers(len(KINDS))) + 6.0 * (brand == draw.integers(BRANDS))
        chances = popularity * liked / (popularity * liked).sum()
        chosen = draw.choice(n_items, size=int(draw.integers(5, 19)), replace=False, p=chances)
        user = f"customer-{len(rows)}"
        rows += [(user, f"sku-{item}") for item in chosen]
    pd.DataFrame(rows[:n_orders], columns=["user", "item"]).to_csv(place / "orders.csv", index=False)


if __name__ == "__main__":
    main()
