"""What an entity is, told by the items that have it: public knowledge graphs often hold ids and no names."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset


def short_relation(name: str) -> str:
    """The last part of a relation's name: ``genre`` of ``film.film.genre``, ``director`` of an address ending so."""
    return re.split(r"[./#:]", name.rstrip("./#:"))[-1] or name


def unnamed_entities(dataset: Dataset) -> NDArray[np.bool_]:
    """Which entities are known by their id alone and are no item, ``[n_entities]``; an id of words is a name."""
    ids = dataset.entities["original_id"].astype(str)
    same = (dataset.entities["name"] == ids).to_numpy(dtype=bool, copy=True)
    same[: dataset.n_items] = False
    same[same] = ~ids[same].map(reads_as_words).to_numpy(dtype=bool)
    return same


def reads_as_words(text: str) -> bool:
    """Whether text consists of words, as ``science fiction`` does and ``m.02822``, ``Q5`` or an address do not."""
    return re.fullmatch(r"[^\W\d_]{2,}(?:[ _&',-]+[^\W\d_]+)*", text) is not None


class SharedItems:
    """The items that have a fact with each entity, whichever end of the triple they are; those most seen first.

    Parameters
    ----------
    dataset
        For triples, names, and the training interactions that order the items.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        head, relation, tail = (dataset.triples[column].to_numpy() for column in ("head", "relation", "tail"))
        ends = {"entity": [tail, head], "item": [head, tail], "relation": [relation, relation]}
        facts = pd.DataFrame({name: np.concatenate(parts) for name, parts in ends.items()})
        facts["inverse"] = np.repeat([False, True], len(head))
        facts = facts[facts["item"] < dataset.n_items]
        seen = np.bincount(dataset.pairs("train")[:, 1], minlength=dataset.n_items)
        pairs = facts[["entity", "item"]].drop_duplicates()
        entity, item = pairs["entity"].to_numpy(np.int64), pairs["item"].to_numpy(np.int64)
        self._items = item[np.lexsort((item, -seen[item], entity))]
        self._start = np.concatenate([[0], np.cumsum(np.bincount(entity, minlength=dataset.n_entities))])
        # The relation that links most items; of equals that from the item, as in (film, genre, drama).
        links = facts.groupby(["entity", "inverse", "relation"]).size().rename("n").reset_index()
        links = links.sort_values(["entity", "n", "inverse", "relation"], ascending=[True, False, True, True])
        self._relation = links.drop_duplicates("entity").set_index("entity")["relation"]

    def items(self, entity: int, without: Collection[int] = ()) -> NDArray[np.int64]:
        """Its items, int64 ``[n]``, but for those of ``without``."""
        found = self._items[self._start[entity] : self._start[entity + 1]]
        return found[~np.isin(found, list(without))]

    def listed(self, entity: int, without: Collection[int] = (), *, most: int = 2) -> str:
        """Names of its items: ``Star Wars; Fargo; 610 more``; empty if there are none."""
        found = self.items(entity, without)
        names = self.dataset.items["name"].iloc[found[:most]].tolist()
        return "; ".join([*names, *([f"{len(found) - most:,} more"] if len(found) > most else [])])

    def described(self, entity: int, *, most: int = 2) -> str:
        """What links the entity to its items: ``genre: Star Wars; Fargo; …``; empty if these have no names either."""
        found, items = self.items(entity), self.dataset.items
        named = found[(items["name"] != items["original_id"]).to_numpy()[found]]
        if not len(named):
            return ""
        relation = short_relation(self.dataset.relations["name"].iloc[self._relation[entity]])
        more = ["…"] if len(found) > most else []
        return f"{relation}: {'; '.join([*items['name'].iloc[named[:most]], *more])}"
