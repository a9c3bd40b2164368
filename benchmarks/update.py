"""What an update is worth: quality and processor time of ``hakg update`` beside training from scratch.

``--cut each-user``: each user's latest fifth of the log is new, and so are the users who came last. ``--cut time``: the
latest fifth of the whole log is new. Both trainings are evaluated on the same test split, the latest fifth of what is
new. The earlier run is trained once and stays in ``--work``, if that is given.

Usage: python benchmarks/update.py --interactions log.csv --items items.csv (columns user, item, timestamp; item, ...)
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from hakg_dgl import PreprocessOptions, Settings, grow, make_trainer, make_updater, preprocess, read_tables
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.update import update_settings

NEW, LAST_USERS = 0.2, 0.05


def main() -> None:
    """Train on the earlier log, then, for each seed, update and train from scratch; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", required=True)
    parser.add_argument("--items", required=True)
    parser.add_argument("--cut", choices=["each-user", "time"], default="each-user")
    parser.add_argument("--seed", type=int, action="append", dest="seeds", help="of update and scratch; repeatable")
    parser.add_argument("--work", type=Path, help="folder of the earlier run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    given = parser.parse_args()
    raw = read_tables(given.interactions, items=given.items, timestamp_col="timestamp")
    log = raw.interactions.sort_values("timestamp", kind="stable")
    earlier = _latest_of_all_left_out(log) if given.cut == "time" else _latest_of_each_left_out(log)
    catalogue = raw.catalogue[raw.catalogue.isin(earlier["item"])]
    dataset = preprocess(
        dataclasses.replace(raw, interactions=earlier, catalogue=catalogue), PreprocessOptions(split="temporal")
    )
    settings = Settings.resolve(overrides=["device=cpu", *given.assignments])
    with tempfile.TemporaryDirectory() as place:
        run = (given.work or Path(place)) / "run"
        if not RunFolder(run).exists():
            make_trainer(dataset, settings, run=run).fit()
        growth = grow(dataset, raw)
        test = growth.dataset.interactions.query("split == 'test'")
        print(f"{len(growth.dataset.interactions) - len(dataset.interactions):,} new interactions; "
              f"{len(test):,} of {test['user'].nunique():,} users are the test split")  # fmt: skip
        for seed in given.seeds or [settings.run.seed]:
            update = make_updater(run, dataset, growth, update_settings(run, {"seed": seed}))
            _timed(f"update  seed {seed}", update.fit)
            _timed(f"scratch seed {seed}", make_trainer(growth.dataset, settings.replace({"seed": seed})).fit)
    print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _latest_of_each_left_out(log: pd.DataFrame) -> pd.DataFrame:
    users = log.groupby("user")["timestamp"]
    early = log.groupby("user").cumcount() < (1.0 - NEW) * users.transform("size")
    return log[early & (users.transform("min") <= users.min().quantile(1.0 - LAST_USERS))]


def _latest_of_all_left_out(log: pd.DataFrame) -> pd.DataFrame:
    return log[: int((1.0 - NEW) * len(log))]


def _timed(name: str, fit: Callable[[], dict[str, Any]]) -> None:
    began = time.process_time()
    result = fit()
    test, seconds = result["metrics"]["test"], time.process_time() - began
    print(
        f"{name}  recall@20 {test['recall@20']:.4f}  ndcg@20 {test['ndcg@20']:.4f}  {seconds:.1f} s of processor, "
        f"best of {result['epochs_run']} epochs: {result['best_epoch']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
