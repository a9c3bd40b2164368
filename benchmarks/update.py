"""What an update is worth: quality and processor time of ``hakg update`` beside training from scratch.

Each user's latest fifth of the log is new, and so are the users who came last; both trainings are evaluated on the same
test split, the latest fifth of what is new.

Usage: python benchmarks/update.py --interactions log.csv --items items.csv (columns user, item, timestamp; item, ...)
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from hakg_dgl import PreprocessOptions, Settings, grow, make_trainer, make_updater, preprocess, read_tables

NEW, LAST_USERS = 0.2, 0.05


def main() -> None:
    """Train on the earlier log, update, train from scratch, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", required=True)
    parser.add_argument("--items", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    given = parser.parse_args()
    raw = read_tables(given.interactions, items=given.items, timestamp_col="timestamp")
    log = raw.interactions.sort_values("timestamp", kind="stable")
    users = log.groupby("user")["timestamp"]
    early = log.groupby("user").cumcount() < (1.0 - NEW) * users.transform("size")
    earlier = log[early & (users.transform("min") <= users.min().quantile(1.0 - LAST_USERS))]
    catalogue = raw.catalogue[raw.catalogue.isin(earlier["item"])]
    before = dataclasses.replace(raw, interactions=earlier, catalogue=catalogue)
    dataset = preprocess(before, PreprocessOptions(split="temporal"))
    settings = Settings.resolve(overrides=["device=cpu", *given.assignments])
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        make_trainer(dataset, settings, run=run).fit()
        began = time.process_time()
        growth = grow(dataset, raw)
        updated = make_updater(run, dataset, growth).fit()
        between = time.process_time()
        scratch = make_trainer(growth.dataset, settings).fit()
        ended = time.process_time()
    for name, result, seconds in (("update", updated, between - began), ("scratch", scratch, ended - between)):
        test = result["metrics"]["test"]
        print(
            f"{name:8} recall@20 {test['recall@20']:.4f}  ndcg@20 {test['ndcg@20']:.4f}  {seconds:.1f} s of processor"
        )


if __name__ == "__main__":
    main()
