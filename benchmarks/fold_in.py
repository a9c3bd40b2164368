"""How near the lists of new users are to those of trained users with the same history: for docs/recommending.md.

    python benchmarks/fold_in.py RUN [RUN ...]

Each RUN was written by ``hakg train``. All of its users are folded in by the items that the model was trained on, as
users it does not know, and their lists of 20 items are compared with those that training gave them. Items that the
users were trained on are left out of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from hakg_dgl import RunFolder, evaluate, load_dataset
from hakg_dgl.errors import DataError
from hakg_dgl.ranking.topk import masked_topk
from hakg_dgl.training.loading import load_trained

K = 20


def overlap(run: Path) -> dict[str, Any]:
    """Mean share of a list of 20 that both have, its tenth percentile, and NDCG@20 on the test split of either."""
    folder = RunFolder(run)
    if folder.data_path is None:
        raise DataError("the run does not say where its data set is", path=run)
    dataset = load_dataset(folder.data_path)
    trained = load_trained(run, dataset)
    lists = dataset.positives(*trained.splits)
    scorers = {"trained": trained.model.scorer(), "folded in": trained.model.fold_in().scorer(*lists)}
    users = np.flatnonzero(np.diff(lists[0]))
    tops = [masked_topk(scorer, users, K, lists)[0].cpu().numpy() for scorer in scorers.values()]
    shares = np.array([len({*one} & {*other}) / K for one, other in zip(*tops, strict=True)])
    return {
        "run": str(run),
        "model": trained.model.name,
        "users": len(users),
        "overlap@20": float(shares.mean()),
        "least tenth": float(np.quantile(shares, 0.1)),
        **{
            f"ndcg@20 {name}": evaluate(scorer, dataset, split="test", ks=(K,)).metrics["ndcg@20"]
            for name, scorer in scorers.items()
        },
    }


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for run in parser.parse_args().runs:
        found = overlap(run)
        print(
            ", ".join(
                f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}" for key, value in found.items()
            )
        )


if __name__ == "__main__":
    main()
