"""How well models rank items that came after training, by their facts alone: for docs/recommending.md.

    hakg preprocess demo --split cold-items --out DATA
    python benchmarks/new_items.py DATA [--models kgin,kgat,...] [--epochs 40]

The items of DATA whose interactions are all in the test split are taken out of it, with their facts. Each model is
trained on the rest, once, and is then given the items with their facts (``with_new_items``, as ``hakg recommend
--new-items`` does). Printed is how often a new item that a user chose comes before one that the user did not choose
(the mean over users; 0.5 by chance), and the share of the places in lists of 20 that new items have.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hakg_dgl import Dataset, Settings, load_dataset, make_trainer, model_class, model_names
from hakg_dgl.data.new_items import with_items
from hakg_dgl.errors import DataError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.ranking.topk import masked_topk
from hakg_dgl.training.loading import load_trained

K = 20


def divided(data: Dataset) -> tuple[Dataset, Dataset, NDArray[np.int64]]:
    """The data set without the new items of its test split, the same with them behind, and who chose which of them."""
    n, pairs = data.n_items, data.pairs("test")
    new = np.setdiff1d(pairs[:, 1], data.pairs("train", "valid")[:, 1])
    if not len(new):
        raise DataError("no item of the test split is new: preprocess with --split cold-items")
    order = np.concatenate([np.setdiff1d(np.arange(n), new), new, np.arange(n, data.n_entities)])
    place, first, more = np.argsort(order), n - len(new), len(new)
    triples = data.triples[["head", "relation", "tail"]].to_numpy(copy=True)
    triples[:, [0, 2]] = place[triples[:, [0, 2]]]
    is_new = (triples[:, [0, 2]] >= first) & (triples[:, [0, 2]] < n)
    triples[:, [0, 2]] -= more * (triples[:, [0, 2]] >= n)
    known = triples[~is_new.any(1)]
    facts = np.concatenate(
        [triples[is_new[:, 0] & ~is_new[:, 1]], triples[is_new[:, 1] & ~is_new[:, 0]][:, [2, 1, 0]]]
    ) - np.array([first, 0, 0])  # fmt: skip
    interactions = data.interactions.assign(item=place[data.interactions["item"]])
    items, entities = (frame.iloc[order[: len(frame)]].reset_index(drop=True) for frame in (data.items, data.entities))
    user_facts = data.user_facts.assign(entity=place[data.user_facts["entity"]])
    user_facts["entity"] -= more * (user_facts["entity"] >= n)
    part = dataclasses.replace(
        data,
        interactions=interactions[interactions["item"] < first].reset_index(drop=True),
        triples=pd.DataFrame(known, columns=["head", "relation", "tail"]),
        items=items[:first],
        entities=entities.drop(index=range(first, n)).reset_index(drop=True),
        user_facts=user_facts,
    )
    chosen = np.stack([pairs[:, 0], place[pairs[:, 1]]], 1)
    return part, with_items(part, items[first:].reset_index(drop=True), facts), chosen[chosen[:, 1] >= first]


def ranked(name: str, part: Dataset, whole: Dataset, chosen: NDArray[np.int64], epochs: int) -> str:
    """Train one model and judge it; a line to print."""
    start, settings = time.process_time(), Settings(name)
    few = {"epochs": epochs, "refit": False, "device": "cpu"}
    settings = settings.replace({key: value for key, value in few.items() if key in settings.by_section()})
    with TemporaryDirectory() as folder:
        make_trainer(part, settings, run=Path(folder) / "run").fit()
        trained = load_trained(Path(folder) / "run", part)
    scorer = trained.model.with_new_items(build_graph(whole, trained.splits)).scorer()
    of_new = scorer.scores(torch.arange(part.n_users))[:, part.n_items :].double()
    has = torch.zeros_like(of_new, dtype=torch.bool)
    has[torch.from_numpy(chosen[:, 0]), torch.from_numpy(chosen[:, 1] - part.n_items)] = True
    right = []
    for row, mine in zip(of_new, has, strict=True):
        if bool(mine.any()) and not bool(mine.all()):
            apart = row[mine][:, None] - row[~mine][None]
            right.append(float((apart.sign() + 1).mean()) / 2)
    top = masked_topk(scorer, np.arange(part.n_users), K, whole.positives(*trained.splits))[0]
    listed = float((top >= part.n_items).double().mean())
    error = np.std(right) / np.sqrt(len(right))
    seconds = time.process_time() - start
    return f"| `{name}` | {np.mean(right):.3f} ± {error:.3f} | {100 * listed:.1f}% | {seconds:.0f} s |"


def main() -> None:
    """Print a row a model."""
    able = [name for name in model_names() if model_class(name).abilities.new_items]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--models", default=",".join(able), help="by commas (default: all that can)")
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    part, whole, chosen = divided(load_dataset(options.data))
    print(f"{whole.n_items - part.n_items:,} new items beside {part.n_items:,}, {len(chosen):,} choices")
    print("| model | new items in the right order | their share of lists | processor time |\n|---|---|---|---|")
    for name in options.models.split(","):
        print(ranked(name, part, whole, chosen, options.epochs), flush=True)


if __name__ == "__main__":
    main()
