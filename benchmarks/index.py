"""What an index of items is worth: time of a list and recall, beside scoring all items.

    python benchmarks/index.py --items 1000000          # vectors that are made up, in clusters, of norms that differ
    python benchmarks/index.py --run RUN                # those of a trained run, its users asking

Times are of single lists of 20 on one thread, the user's own items left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hakg_dgl import load_dataset
from hakg_dgl.ranking.index import ItemIndex, indexed_topk
from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer, UserItems, masked_topk
from hakg_dgl.training.loading import load_scorer
from hakg_dgl.training.run_folder import RunFolder

USERS, SEEN, ASKED, K = 10_000, 50, 200, 20


def main() -> None:
    """Make the index, ask for lists both ways, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--run", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scorer, seen = made_up(given.items, given.dim) if given.run is None else of_run(given.run)
    began = time.process_time()
    index = ItemIndex(scorer)  # type: ignore[arg-type]
    about = {**index.about(), "processor seconds": round(time.process_time() - began, 1)}
    print(f"{scorer.n_items:,} items; index: {', '.join(f'{name} {value}' for name, value in about.items())}")
    users = [int(user) for user in np.random.default_rng(5).integers(scorer.n_users, size=ASKED)]
    exact, exact_ms = timed(lambda user: masked_topk(scorer, [user], K, seen), users)
    found, found_ms = timed(lambda user: indexed_topk(index, scorer, [user], K, seen), users)  # type: ignore[arg-type]
    recall = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(exact, found, strict=True)])
    print(f"lists of {K}: exact {exact_ms:.2f} ms, index {found_ms:.2f} ms of processor; recall {recall:.4f}")
    print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def made_up(n_items: int, dim: int) -> tuple[Scorer, UserItems]:
    """Items around one centre for every hundred of them, users around the same centres."""
    draw = torch.Generator().manual_seed(0)
    n_centres = max(1, n_items // 100)
    centres = torch.randn(n_centres, dim, generator=draw)
    near = [
        centres[torch.randint(n_centres, (n,), generator=draw)] + 0.5 * torch.randn(n, dim, generator=draw)
        for n in (n_items, USERS)
    ]
    items = near[0] * (0.5 + torch.rand(n_items, 1, generator=draw))
    own = torch.randint(n_items, (USERS * SEEN,), generator=draw)
    return EmbeddingScorer(near[1], items), (torch.arange(USERS + 1) * SEEN, own)


def of_run(run: Path) -> tuple[Scorer, UserItems]:
    """The scorer of a run, and what its users have."""
    path = RunFolder(run).data_path
    if path is None:
        raise SystemExit(f"{run}: does not say where its data set is")
    dataset = load_dataset(path)
    return load_scorer(run, dataset), dataset.positives()


def timed(ask: Callable[[int], Any], users: list[int]) -> tuple[list[np.ndarray[Any, Any]], float]:
    """The items of each user's list, and the milliseconds of processor time of a list."""
    ask(users[0])
    began = time.process_time()
    lists = [ask(user)[0][0].numpy() for user in users]
    return lists, 1000 * (time.process_time() - began) / len(users)


if __name__ == "__main__":
    main()
