"""Cleaning of a knowledge graph: rare entities and relations, hubs, and facts far from any item. All is counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.errors import ConfigError, DataError


@dataclass(frozen=True)
class Cleaning:
    """Which facts stay; the defaults keep all.

    Attributes
    ----------
    min_entity_triples
        Entities in fewer triples are dropped with these; items never are.
    min_relation_triples
        Relations with fewer triples are dropped.
    max_entity_triples
        Hubs, entities in more triples than this, are dropped with them; items never are.
    max_hops
        Facts that start further than this many steps from every item are dropped: 1 keeps facts of items alone, 2 also
        facts of what those lead to.

    Raises
    ------
    ConfigError
        On creation, for a value that is not allowed.
    """

    min_entity_triples: int = 1
    min_relation_triples: int = 1
    max_entity_triples: int | None = None
    max_hops: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None and name.startswith("max"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} = {value!r} is not allowed; it is an integer of at least 1")


def cleaned(raw: RawData, interactions: pd.DataFrame, options: Cleaning, report: dict[str, int]) -> RawData:
    """The raw data with the facts that stay.

    Hubs go first, since distances lead through them, then facts that are too far. Rare entities and relations are
    dropped again and again until none is left, as in a k-core. Where ids are row numbers, entities and relations keep
    their numbers, though they have no triples.

    Raises
    ------
    DataError
        If no triple is left.
    """
    if options == Cleaning() or not len(raw.triples):
        return raw
    head, tail, items = _codes(raw, interactions)
    relation, relations = pd.factorize(raw.triples["relation"])
    n_entities = 1 + int(max(head.max(), tail.max()))
    is_item = np.zeros(n_entities, dtype=bool)
    is_item[items] = True
    kept = np.arange(len(head))

    def degrees() -> np.ndarray:
        at_head = np.bincount(head[kept], minlength=n_entities)
        own = head[kept] == tail[kept]  # a loop is one triple of its entity
        total: np.ndarray = at_head + np.bincount(tail[kept][~own], minlength=n_entities)
        return total

    def without(entities: np.ndarray) -> np.ndarray:
        left: np.ndarray = kept[~(entities[head[kept]] | entities[tail[kept]])]
        return left

    if options.max_entity_triples is not None:
        hubs = (degrees() > options.max_entity_triples) & ~is_item
        before, kept = len(kept), without(hubs)
        report["hub_entities_dropped"] = int(hubs.sum())
        report["triples_of_hubs_dropped"] = before - len(kept)
    if options.max_hops is not None:
        near = _within(head[kept], tail[kept], is_item, options.max_hops - 1)
        close = near[head[kept]] | near[tail[kept]]
        report["triples_too_far_from_items_dropped"] = int((~close).sum())
        kept = kept[close]
    if options.min_entity_triples > 1 or options.min_relation_triples > 1:
        present = degrees() > 0
        found, before = np.bincount(relation[kept], minlength=len(relations)) > 0, len(kept)
        while len(kept):
            enough = np.bincount(relation[kept], minlength=len(relations)) >= options.min_relation_triples
            fewer = kept[enough[relation[kept]]]
            changed, kept = len(fewer) < len(kept), fewer
            rare = (degrees() < options.min_entity_triples) & ~is_item
            fewer = without(rare)
            changed, kept = changed or len(fewer) < len(kept), fewer
            if not changed:
                break
        left = np.bincount(relation[kept], minlength=len(relations)) > 0
        report["rare_entities_dropped"] = int((present & ~(degrees() > 0) & ~is_item).sum())
        report["rare_relations_dropped"] = int((found & ~left).sum())
        report["triples_of_rare_entities_and_relations_dropped"] = before - len(kept)
    if not len(kept):
        changed_settings = [name for name, value in asdict(options).items() if value != getattr(Cleaning(), name)]
        raise DataError(f"{', '.join(changed_settings)}: no fact is left", remedy="Relax these settings.")
    return replace(raw, triples=raw.triples.iloc[kept].reset_index(drop=True), counts=_sizes(raw))


def _codes(raw: RawData, interactions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heads, tails and items as numbers from 0; items without a triple are left out."""
    if raw.ids_are_indices:
        own = pd.Series(np.arange(1 + int(raw.interactions["item"].max())))
    else:
        known = pd.concat([interactions["item"].drop_duplicates().astype(object), raw.catalogue])
        linked = raw.item_entity
        own = linked.loc[linked["item"].isin(set(known)), "entity"]
    head, tail = raw.triples["head"], raw.triples["tail"]
    codes, values = pd.factorize(pd.concat([head, tail], ignore_index=True))
    items = pd.Index(values).get_indexer(pd.Index(own.unique()))
    return codes[: len(head)], codes[len(head) :], items[items >= 0]


def _within(head: np.ndarray, tail: np.ndarray, start: np.ndarray, steps: int) -> np.ndarray:
    """Which entities are reached from ``start`` in so many steps along triples, either way."""
    reached = start.copy()
    for _ in range(steps):
        grown = reached.copy()
        grown[tail[reached[head]]] = True
        grown[head[reached[tail]]] = True
        if (grown == reached).all():
            break
        reached = grown
    return reached


def _sizes(raw: RawData) -> dict[str, int]:
    """Least sizes, so that numbers stay what they are where ids are row numbers."""
    if not raw.ids_are_indices:
        return dict(raw.counts)
    entities = 1 + int(max(raw.triples["head"].max(), raw.triples["tail"].max()))
    relations = 1 + int(raw.triples["relation"].max())
    return {
        **raw.counts,
        "entities": max(entities, raw.counts.get("entities", 0)),
        "relations": max(relations, raw.counts.get("relations", 0)),
    }
