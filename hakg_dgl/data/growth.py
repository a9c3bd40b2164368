"""A data set and a grown log -> a larger data set in which everything known keeps its number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.known_columns import read_as_before
from hakg_dgl.data.readers.raw import SPLITS, RawData
from hakg_dgl.data.relation_names import INTERACTION_NAMES, distinct_names
from hakg_dgl.data.splits import held_out, k_core, rating_threshold
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.randomness import numpy_generator

Int64 = npt.NDArray[np.int64]

GROWTH_SPLITS = ("random", "temporal", "temporal-global")
"""How the new interactions can be split."""
_PAIR = ["user", "item"]
_TRIPLE = ["head", "relation", "tail"]


@dataclass(frozen=True)
class GrowthOptions:
    """Settings of :func:`grow`.

    Attributes
    ----------
    added
        Whether the log holds only what came since; otherwise it holds everything, old interactions included.
    split
        Which new interactions are held out: the latest (``temporal``), the latest by cuts between two moments
        (``temporal-global``), or drawn (``random``). None is ``temporal-global`` where the data set was split so,
        ``temporal`` where there are timestamps, otherwise ``random``.
    valid, test
        Fractions of the new interactions; that for validation is not 0.
    seed
        Of the random choices.

    Raises
    ------
    ConfigError
        On creation, for a value that is not allowed.
    """

    added: bool = False
    split: str | None = None
    valid: float = 0.1
    test: float = 0.2
    seed: int = 2020

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in GROWTH_SPLITS:
            raise ConfigError(f"split = {self.split!r} is not allowed; choose one of {', '.join(GROWTH_SPLITS)}")
        for name in ("valid", "test"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigError(f"{name} = {value!r} is not allowed; it is a fraction, at least 0 and below 1")
        if not self.valid:
            raise ConfigError("valid = 0 is not allowed; the grown data set needs interactions to validate on")
        if self.valid + self.test >= 1:
            raise ConfigError(f"valid = {self.valid:g} and test = {self.test:g} leave no new interaction to train on")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed = {self.seed!r} is not allowed; it is an integer of at least 0")


@dataclass(frozen=True, eq=False)
class Growth:
    """A grown data set, and where the rows of the earlier one are in it.

    Users and items keep their numbers, and so do relations; new ones come after them. Entities that are not items
    come after all items, so their numbers move by the number of new items.

    Attributes
    ----------
    dataset
        The grown data set.
    entities
        The number in it of each earlier entity, int64 ``[n_entities before]``.
    """

    dataset: Dataset
    entities: Int64


def grow(old: Dataset, raw: RawData, options: GrowthOptions | None = None) -> Growth:
    """Add to a data set what a grown log and its tables hold beyond it.

    All earlier interactions are training interactions of the grown data set, since a model of the earlier one has been
    trained or selected by them; validation and test are parts of the new ones, and the first interaction of a new user
    always trains. The rating threshold and the k-core of the earlier data set hold for new interactions too. Facts are
    added; where a table has other values of a relation for a known item or user, they take the place of the earlier
    ones. Numbers of new items and users come into the bins that there are. With ``temporal-global``, new users whose
    interactions are all held out cannot be ranked: they are left out, and counted.

    Parameters
    ----------
    old
        The data set so far.
    raw
        The grown log, with the tables of items and users as they are now, or those of new ones alone.
    options
        How to split, and whether the log holds only new interactions.

    Raises
    ------
    DataError
        If earlier interactions are missing from the log or have other timestamps in it, it lacks timestamps or ratings
        that the data set was made by, nothing is new, too little is new to validate on, or a link between an item and
        its entity differs.
    """
    options = options or GrowthOptions()
    if raw.ids_are_indices:
        raise DataError("a folder of the KGAT layout has numbers in place of ids", remedy="Update from tables.")
    report = dict(raw.report)
    users, items = IdMap(pd.Index(old.users["original_id"]), old.users["name"]), _map_of(old.items)
    raw = read_as_before(old, raw, report)
    raw = replace(raw, triples=pd.concat([raw.triples, raw.attribute_order], ignore_index=True))
    log = _new_rows(old, raw, options, report)
    strategy, chosen = _strategy(old, log, options), log["item"]
    if strategy == "temporal-global":
        log = _cut_in_time(old, log, options, report)
    users = _extended(users, log["user"], raw.users)
    items = _extended(items, pd.concat([chosen, raw.catalogue]), raw.items)
    report |= {"new_users": len(users) - old.n_users, "new_items": len(items) - old.n_items}
    log = log.assign(user=users.indices(log["user"]), item=items.indices(log["item"]))
    if strategy != "temporal-global":
        log["split"] = _split(old, log, options, strategy)
    knowledge = _Knowledge(old, raw, items, report)
    user_tables = _user_tables(old, raw, users, knowledge.entities, report)
    before = old.interactions.assign(split="train")
    relations = {"relations": knowledge.relations, "user_relations": user_tables.pop("user_relations")}
    taken = list(INTERACTION_NAMES)
    for name, table in relations.items():
        new = distinct_names(table.names.tolist(), taken)
        taken += new
        relations[name] = IdMap(table.original_ids, pd.Series(new, dtype=object))
    columns = {
        name: list(found) for name, found in (("columns", raw.columns), ("user_columns", raw.user_columns)) if found
    }
    grown = Dataset(
        name=old.name,
        interactions=pd.concat([before, log], ignore_index=True)[list(before.columns)],
        triples=knowledge.triples,
        users=users.frame(),
        items=items.frame(),
        entities=knowledge.entities.frame(),
        **{name: table.frame() for name, table in relations.items()},
        **user_tables,
        options={**old.options, **columns, "split": strategy, "valid": options.valid, "test": options.test,
                 "seed": options.seed, "grown_from": old.digest},
        sources={**old.sources, **raw.sources},
        report=report,
        split_strategy=strategy,
    )  # fmt: skip
    return Growth(grown, knowledge.entities.indices(old.entities["original_id"]))


def _map_of(table: pd.DataFrame) -> IdMap:
    return IdMap(pd.Index(table["original_id"]), table["name"])


def _extended(known: IdMap, ids: pd.Series[Any], names: pd.DataFrame | None = None) -> IdMap:
    """The numbering, with ids that are new after the known ones, sorted; a known one keeps its name."""
    ids = ids.dropna().astype(str)
    new = IdMap.from_values(ids[~ids.isin(known.original_ids)], names)
    both = pd.concat([pd.Series(known.names.to_numpy(), dtype=object), pd.Series(new.names.to_numpy(), dtype=object)])
    return IdMap(pd.Index([*known.original_ids, *new.original_ids]), both.reset_index(drop=True))


# --- interactions -----------------------------------------------------------------------------------------------------


def _new_rows(old: Dataset, raw: RawData, options: GrowthOptions, report: dict[str, int]) -> pd.DataFrame:
    """The interactions beyond those of the data set, by original ids, each pair once."""
    log = raw.interactions.drop(columns="split", errors="ignore").assign(
        user=lambda frame: frame["user"].astype(str), item=lambda frame: frame["item"].astype(str)
    )
    timed = "timestamp" in old.interactions
    if timed and "timestamp" not in log:
        problem = "the data set of the run has timestamps, and the log has none"
        raise DataError(problem, remedy="Name their column (--timestamp-col).")
    threshold = old.options.get("rating_threshold")
    if threshold is not None:
        if "rating" not in log:
            problem = f"the data set of the run has only what was rated {threshold:g} or more, and the log no ratings"
            raise DataError(problem, remedy="Name their column (--rating-col).")
        kept = rating_threshold(log, threshold)
        report["below_rating_threshold_dropped"] = len(log) - len(kept)
        log = kept
    log = log[[*_PAIR, *(["timestamp"] if timed else [])]]
    ordered = log.sort_values("timestamp", kind="stable") if timed else log
    unique = ordered.drop_duplicates(_PAIR)
    report["repeated_interactions_dropped"] = len(log) - len(unique)
    before = old.interactions.assign(
        user=old.users["original_id"].to_numpy()[old.interactions["user"]],
        item=old.items["original_id"].to_numpy()[old.interactions["item"]],
    )
    both = before[[*_PAIR, *(["timestamp"] if timed else [])]].merge(
        unique, on=_PAIR, how="outer", suffixes=("_before", ""), indicator="where"
    )
    if options.added:
        report["interactions_known_already"] = int((both["where"] == "both").sum())
    else:
        _refuse_other_log(both, len(before), timed=timed)
    new = both.loc[both["where"] == "right_only", list(unique.columns)]
    new = _in_core(old, before, new, report)
    if not len(new):
        raise DataError(
            "the log has no interaction that the data set of the run lacks",
            remedy="There is nothing to update by; a log of other users or items needs the same ids as before.",
        )
    report["new_interactions"] = len(new)
    return new.reset_index(drop=True)


def _refuse_other_log(both: pd.DataFrame, n_before: int, *, timed: bool) -> None:
    """Raise DataError if earlier interactions are missing, or took place at another time."""
    missing = both[both["where"] == "left_only"]
    if len(missing):
        first = missing.iloc[0]
        raise DataError(
            f"the log shrank: {len(missing):,} of the {n_before:,} interactions of the run's data set are not in it, "
            f"such as user {first['user']!r} with item {first['item']!r}",
            remedy="Give the whole log, or add --added if the file holds only what is new.",
        )
    if timed:
        kept = both[both["where"] == "both"]
        moved = kept[kept["timestamp_before"] != kept["timestamp"]]
        if len(moved):
            first = moved.iloc[0]
            raise DataError(
                f"the log contradicts the run's data set: {len(moved):,} interactions have another timestamp, such as "
                f"user {first['user']!r} with item {first['item']!r}: {first['timestamp']:.15g}, was "
                f"{first['timestamp_before']:.15g}",
                remedy="Give the log that the data set was made from, grown; train anew on a corrected one.",
            )


def _in_core(old: Dataset, before: pd.DataFrame, new: pd.DataFrame, report: dict[str, int]) -> pd.DataFrame:
    """New interactions within the k-core that the data set was made with; earlier ones stay in any case."""
    least = [int(old.options.get(f"min_{kind}_interactions", 1)) for kind in ("user", "item")]
    if max(least) <= 1:
        return new
    whole = pd.concat([before[_PAIR], new[_PAIR]], ignore_index=True)
    kept = k_core(whole, *least).index
    inside = new[np.isin(np.arange(len(before), len(whole)), kept)]
    report["outside_k_core_dropped"] = len(new) - len(inside)
    return inside


def _strategy(old: Dataset, log: pd.DataFrame, options: GrowthOptions) -> str:
    """How new interactions are split; DataError if that needs timestamps and there are none."""
    timed = "timestamp" in log
    cut = "temporal-global" if old.split_strategy == "temporal-global" else "temporal"
    strategy = options.split or (cut if timed else "random")
    if strategy != "random" and not timed:
        problem = "a temporal split needs timestamps, and the data set of the run has none"
        raise DataError(problem, remedy="Split at random, or preprocess and train with timestamps.")
    return strategy


def _cut_in_time(old: Dataset, log: pd.DataFrame, options: GrowthOptions, report: dict[str, int]) -> pd.DataFrame:
    """New interactions, split by two cuts in time, without those of new users who have nothing before the first."""
    generator = numpy_generator(options.seed, "growth split")
    test = held_out(log, "temporal-global", options.test, generator)
    valid = np.zeros(len(log), dtype=bool)
    valid[~test] = held_out(log[~test], "temporal-global", options.valid / (1.0 - options.test), generator)
    split = np.where(test, SPLITS[2], np.where(valid, SPLITS[1], SPLITS[0])).astype(object)
    log = log.assign(split=split)
    trains = pd.concat([old.users["original_id"], log.loc[split == SPLITS[0], "user"]])
    known = log["user"].isin(trains)
    report["new_users_without_training_interactions_left_out"] = log.loc[~known, "user"].nunique()
    report["their_interactions_after_the_cut_left_out"] = int((~known).sum())
    if not (log.loc[known, "split"] == SPLITS[1]).any():
        raise DataError(
            f"of {len(log):,} new interactions none is left to validate on, between the two cuts in time",
            remedy="Raise --valid, split otherwise (--split temporal), or wait until there are more.",
        )
    return log[known].reset_index(drop=True)


def _split(old: Dataset, log: pd.DataFrame, options: GrowthOptions, strategy: str) -> npt.NDArray[np.object_]:
    """The split of each new interaction."""
    timed = "timestamp" in log
    generator = numpy_generator(options.seed, "growth split")
    order = np.argsort(log["timestamp"].to_numpy(), kind="stable") if timed else generator.permutation(len(log))
    user = log["user"].to_numpy()
    first = np.zeros(len(log), dtype=bool)
    first[order[np.unique(user[order], return_index=True)[1]]] = True
    free = order if strategy == "temporal" else generator.permutation(len(log))
    free = free[~(first & (user >= old.n_users))[free]]
    n_test, n_valid = (int(np.floor(len(log) * share + 0.5)) for share in (options.test, options.valid))
    if not n_valid:
        raise DataError(
            f"a share of {options.valid:g} of {len(log):,} new interactions leaves none to validate on",
            remedy="Raise --valid, or wait until there are more.",
        )
    if n_test + n_valid > len(free):
        n_test, n_valid = (int(len(free) * share) for share in (options.test, options.valid))
    if not n_valid:
        raise DataError(
            f"{len(log):,} new interactions leave none to validate on, since the first of a new user trains",
            remedy="Raise --valid, or wait until there are more.",
        )
    split = np.full(len(log), SPLITS[0], dtype=object)
    split[free[len(free) - n_test :]] = SPLITS[2]
    split[free[len(free) - n_test - n_valid : len(free) - n_test]] = SPLITS[1]
    return split


# --- facts ------------------------------------------------------------------------------------------------------------


class _Knowledge:
    """Entities, relations and triples of the grown data set.

    Attributes
    ----------
    entities, relations
        Their numbering.
    triples
        ``head``, ``relation``, ``tail`` in these numbers.
    """

    def __init__(self, old: Dataset, raw: RawData, items: IdMap, report: dict[str, int]) -> None:
        known = old.entities["original_id"]
        added = self._as_before(old, raw, items, report)
        own = [*known[: old.n_items], *self._own]
        ends = pd.concat([added["head"], added["tail"], raw.user_facts["entity"].astype(str)])
        rest = known[old.n_items :]
        rest = rest[~rest.isin(self._own)]
        others = ends[~ends.isin([*own, *rest])]
        new = IdMap.from_values(others).original_ids
        names = pd.DataFrame({"id": known, "name": old.entities["name"]})
        if raw.entities is not None:
            names = pd.concat([names, raw.entities[["id", "name"]]], ignore_index=True)
        of_items = pd.DataFrame({"id": self._own, "name": items.names.to_numpy()[old.n_items :]}, dtype=object)
        names = pd.concat([names, of_items], ignore_index=True).drop_duplicates("id")
        self.entities = IdMap.from_ids([*own, *rest, *new], names)
        self.relations = _extended(_map_of(old.relations), added["relation"], raw.relations)
        report["new_entities"] = len(self.entities) - old.n_entities - (len(items) - old.n_items)
        report["new_relations"] = len(self.relations) - old.n_relations
        triples = pd.DataFrame(
            {
                "head": self.entities.indices(added["head"]),
                "relation": self.relations.indices(added["relation"]),
                "tail": self.entities.indices(added["tail"]),
            }
        )
        place = self.entities.indices(known)
        before = old.triples.assign(head=place[old.triples["head"]], tail=place[old.triples["tail"]])
        self.triples = self._joined(old, before, triples, report)
        linked = self.triples.loc[self.triples["head"] >= old.n_items, "head"]
        report["new_items_without_facts"] = len(items) - old.n_items - linked[linked < len(items)].nunique()

    def _as_before(self, old: Dataset, raw: RawData, items: IdMap, report: dict[str, int]) -> pd.DataFrame:
        """The triples of the tables, with entities called as in the data set; sets the entities of new items."""
        known = old.entities["original_id"]
        linked = pd.Series(raw.item_entity["entity"].astype(str).to_numpy(), index=raw.item_entity["item"].astype(str))
        of_known = linked[linked.index.isin(old.items["original_id"])]
        was = pd.Series(known[: old.n_items].to_numpy(), index=old.items["original_id"]).reindex(of_known.index)
        differs = of_known.to_numpy() != was.to_numpy()
        wrong = differs & of_known.isin(known).to_numpy()
        if wrong.any():
            item = of_known.index[wrong][0]
            raise DataError(
                f"item {item!r} is entity {was[item]!r} in the run's data set, and {of_known[item]!r} by these tables",
                remedy="Give the links between items and entities as before (--links).",
            )
        called = dict(zip(of_known[differs], was[differs], strict=True))
        taken = {*known, *raw.triples["tail"].astype(str), *linked}
        holders = dict(zip(known[: old.n_items], old.items["original_id"], strict=True))
        new = items.original_ids[old.n_items :]
        self._own = []
        for item in new:
            entity = linked.get(item)
            if entity is None:
                entity = item
                while entity in taken:
                    entity = f"item:{entity}"
                taken.add(entity)
            elif entity in holders:
                whose = holders[entity]
                raise DataError(
                    f"the new item {item!r} is linked to entity {entity!r}, which is item {whose!r} already",
                    remedy="An entity is one item at most: correct the links.",
                )
            holders[entity] = item
            self._own.append(entity)
        triples = raw.triples[_TRIPLE].astype(str)
        triples = (
            triples.assign(**{end: triples[end].replace(called) for end in ("head", "tail")}) if called else triples
        )
        return triples.drop_duplicates()

    @staticmethod
    def _joined(old: Dataset, before: pd.DataFrame, added: pd.DataFrame, report: dict[str, int]) -> pd.DataFrame:
        """Earlier and added triples; what is added of a relation of a known item replaces what was known of it."""
        marked = before.merge(added[_TRIPLE].assign(again=True), on=_TRIPLE, how="left")
        told = before.merge(
            added[["head", "relation"]].drop_duplicates().assign(told=True), "left", ["head", "relation"]
        )
        replaced = told["told"].notna() & marked["again"].isna() & (before["head"] < old.n_items).to_numpy()
        report["facts_of_known_items_replaced"] = int(replaced.sum())
        kept = before[~replaced.to_numpy()]
        joined = pd.concat([kept, added], ignore_index=True).drop_duplicates(_TRIPLE)
        report["new_triples"] = len(joined) - len(kept)
        return joined


def _user_tables(old: Dataset, raw: RawData, users: IdMap, entities: IdMap, report: dict[str, int]) -> dict[str, Any]:
    """Facts and links of users: earlier and added ones, and the numbering of their relations."""
    facts, links = raw.user_facts, raw.user_links
    named = pd.concat([facts["relation"], links["relation"]]).astype(str)
    relations = _extended(_map_of(old.user_relations), named)
    known = facts["user"].astype(str).isin(users.original_ids)
    report["user_facts_of_users_without_interactions_dropped"] = int((~known).sum())
    facts = pd.DataFrame(
        {
            "user": users.indices(facts.loc[known, "user"].astype(str)),
            "relation": relations.indices(facts.loc[known, "relation"].astype(str)),
            "entity": entities.indices(facts.loc[known, "entity"].astype(str)),
        }
    )
    known = links["user"].astype(str).isin(users.original_ids) & links["other"].astype(str).isin(users.original_ids)
    known &= links["user"].astype(str) != links["other"].astype(str)
    report["user_links_with_users_without_interactions_dropped"] = int((~known).sum())
    links = pd.DataFrame(
        {
            "user": users.indices(links.loc[known, "user"].astype(str)),
            "relation": relations.indices(links.loc[known, "relation"].astype(str)),
            "other": users.indices(links.loc[known, "other"].astype(str)),
        }
    )
    place = entities.indices(old.entities["original_id"])
    before = old.user_facts.assign(entity=place[old.user_facts["entity"]])
    fact, told = list(facts.columns), ["user", "relation"]
    again = pd.MultiIndex.from_frame(before[fact]).isin(pd.MultiIndex.from_frame(facts))
    replaced = pd.MultiIndex.from_frame(before[told]).isin(pd.MultiIndex.from_frame(facts[told])) & ~again
    report["facts_of_known_users_replaced"] = int(replaced.sum())
    return {
        "user_facts": pd.concat([before[~replaced], facts], ignore_index=True).drop_duplicates(),
        "user_links": pd.concat([old.user_links, links], ignore_index=True).drop_duplicates(),
        "user_relations": relations,
    }
