"""Random graphs of the sizes of a data set, for measurements of speed and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.cards import load_card
from hakg_dgl.data.readers.raw import SPLITS, RawData
from hakg_dgl.errors import ConfigError
from hakg_dgl.randomness import numpy_generator

Int64 = npt.NDArray[np.int64]


def generate_like(like: str | Mapping[str, int], scale: float = 1.0, seed: int = 2020) -> RawData:
    """Generate a random graph with the sizes of a data set: for measurements of speed, there is nothing to learn in it.

    Degrees of users, items and attributes follow power laws. Every user and every item has a training interaction,
    every entity and every relation a triple; pairs and triples are distinct, and the counts are met exactly.

    Parameters
    ----------
    like
        Name of a card with counts, or the counts: ``users``, ``items``, ``entities`` (items included), ``relations``,
        ``triples``, and ``train`` with ``test``, or ``interactions`` (of which a fifth becomes the test split).
    scale
        Factor on all counts but relations, so that degrees stay.
    seed
        The same seed gives the same graph.

    Returns
    -------
    RawData
        Ids are row numbers, with a split.

    Raises
    ------
    ConfigError
        If counts are missing, or no such graph exists (more than half of all pairs, say).
    """
    name = like if isinstance(like, str) else "random"
    sizes = _scaled_counts(name, load_card(like).counts if isinstance(like, str) else like, scale)
    generator = numpy_generator(seed, "paper-sized graph")
    train, test = _random_pairs(sizes, generator)
    keys = np.concatenate([train, test])
    codes = np.repeat(np.array([0, 2], dtype=np.int8), [len(train), len(test)])
    return RawData(
        name=f"{name}-random",
        interactions=pd.DataFrame(
            {
                "user": keys // sizes["items"],
                "item": keys % sizes["items"],
                "split": pd.Categorical.from_codes(codes, pd.Index(SPLITS)),
            }
        ),
        triples=_random_triples(sizes, generator),
        report={"generated_with_seed": seed},
        ids_are_indices=True,
        counts={kind: sizes[kind] for kind in ("users", "items", "entities", "relations")},
    )


def _scaled_counts(name: str, counts: Mapping[str, int], scale: float) -> dict[str, int]:
    needed = ["users", "items", "entities", "relations", "triples"]
    missing = [what for what in needed if what not in counts]
    if missing or not ("interactions" in counts or {"train", "test"} <= set(counts)):
        raise ConfigError(f"{name}: the counts lack {', '.join(missing) or 'train and test, or interactions'}")
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"scale = {scale!r} is not allowed; it is a positive number")
    test = counts.get("test", round(counts.get("interactions", 0) / 5))
    train = counts.get("train", counts.get("interactions", 0) - test)
    sizes = {what: counts[what] for what in needed} | {"train": train, "test": test}
    sizes = {what: value if what == "relations" else round(value * scale) for what, value in sizes.items()}
    attributes = sizes["entities"] - sizes["items"]
    limits = {
        "users": (1, None),
        "items": (1, None),
        "entities": (sizes["items"] + 1, None),
        "relations": (1, None),
        "train": (sizes["users"] + sizes["items"], None),
        "test": (1, max(sizes["users"] * sizes["items"] // 2 - sizes["train"], 0)),
        "triples": (sizes["entities"] + sizes["relations"], sizes["items"] * attributes * sizes["relations"] // 2),
    }
    for what, (least, most) in limits.items():
        if sizes[what] < least or (most is not None and sizes[what] > most):
            allowed = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(
                f"{name} at scale {scale:g}: {what} = {sizes[what]} is not possible; it must be {allowed}"
            )
    return sizes


def _random_pairs(sizes: Mapping[str, int], generator: np.random.Generator) -> tuple[Int64, Int64]:
    """Keys ``user * items + item`` of the training and the test part."""
    n, m = sizes["users"], sizes["items"]
    users, items = _Ranks(n, 0.4, generator), _Ranks(m, 0.6, generator)
    everyone = np.arange(n) * m + items.draw(n)
    everything = users.draw(m) * m + np.arange(m)
    base = _distinct(np.concatenate([everyone, everything]))
    rest = _fill_up(
        base,
        sizes["train"] + sizes["test"],
        lambda count, flat: users.draw(count, flat) * m + items.draw(count, flat),
        generator,
    )
    return np.concatenate([base, rest[sizes["test"] :]]), rest[: sizes["test"]]


def _random_triples(sizes: Mapping[str, int], generator: np.random.Generator) -> pd.DataFrame:
    """Triples of items with attributes, and a quarter between attributes."""
    m, n, n_relations = sizes["items"], sizes["entities"], sizes["relations"]
    items, attributes, relations = (
        _Ranks(m, 0.3, generator),
        _Ranks(n - m, 0.7, generator),
        _Ranks(n_relations, 0.7, generator),
    )

    def draw(count: int, flat: float) -> Int64:
        tail = m + attributes.draw(count, flat)
        other = m + attributes.draw(count, flat)
        between = (generator.random(count) < 0.25) & (other != tail)
        head = np.where(between, other, items.draw(count, flat))
        return (head * n_relations + relations.draw(count, flat)) * n + tail

    described = (np.arange(m) * n_relations + relations.draw(m)) * n + m + attributes.draw(m)
    used = (items.draw(n - m) * n_relations + relations.draw(n - m)) * n + np.arange(m, n)
    each = (items.draw(n_relations) * n_relations + np.arange(n_relations)) * n + m + attributes.draw(n_relations)
    base = _distinct(np.concatenate([described, used, each]))
    keys = np.concatenate([base, _fill_up(base, sizes["triples"], draw, generator)])
    rest, tail = np.divmod(keys, n)
    head, relation = np.divmod(rest, n_relations)
    return pd.DataFrame({"head": head, "relation": relation, "tail": tail})


class _Ranks:
    """Draws from 0..n-1 with weight (rank + 1) ** -exponent, ranks being dealt out at random; exponent below 1."""

    def __init__(self, n: int, exponent: float, generator: np.random.Generator) -> None:
        self.n, self.exponent, self.generator = n, exponent, generator
        self.of_rank = generator.permutation(n)

    def draw(self, count: int, flat: float = 1.0) -> Int64:
        """``count`` draws, int64; ``flat`` below 1 scales the exponent down."""
        # inverse of the cumulative (rank / n) ** (1 - exponent)
        rank = self.n * self.generator.random(count) ** (1 / (1 - self.exponent * flat))
        return self.of_rank[np.minimum(rank.astype(np.int64), self.n - 1)]


def _fill_up(base: Int64, total: int, draw: Callable[[int, float], Int64], generator: np.random.Generator) -> Int64:
    """Draw ``total - len(base)`` distinct keys that are not in ``base`` (sorted), in random order."""
    rest = np.empty(0, dtype=np.int64)
    flat = 1.0
    while (lack := total - len(base) - len(rest)) > 0:
        fresh = _distinct(np.concatenate([rest, draw(lack + lack // 4 + 64, flat)]))
        at = np.minimum(np.searchsorted(base, fresh), len(base) - 1)
        rest = fresh[base[at] != fresh]
        flat *= 0.7  # where the popular pairs are exhausted, look at the others
    return generator.permutation(rest)[: total - len(base)]


def _distinct(keys: Int64) -> Int64:
    """Sorted, each once (sorting beats hashing here)."""
    keys = np.sort(keys)
    first: npt.NDArray[np.bool_] = np.diff(keys, prepend=-1) != 0
    return keys[first]
