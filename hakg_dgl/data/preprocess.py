"""Raw data -> :class:`~hakg_dgl.data.dataset.Dataset`: filter, number, split. Every repair is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from hakg_dgl.data.cleaning import Cleaning, cleaned
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.graph_check import check_graph
from hakg_dgl.data.id_maps import IdMap
from hakg_dgl.data.raw_check import checked
from hakg_dgl.data.readers.raw import SPLITS, RawData
from hakg_dgl.data.relation_names import INTERACTION_NAMES, distinct_names
from hakg_dgl.data.splits import STRATEGIES, carve_validation, held_out, k_core, rating_threshold, repeated_pairs
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.randomness import numpy_generator

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PreprocessOptions:
    """Settings of :func:`preprocess`.

    Attributes
    ----------
    min_user_interactions, min_item_interactions
        k-core: users and items with fewer interactions are dropped, repeatedly; 1 keeps all.
    rating_threshold
        Only interactions rated this or more are positives; None takes every interaction as one (implicit feedback).
    split
        ``random``, ``temporal``, ``temporal-global``, ``leave-one-out``, ``cold-items`` or ``given``; None is ``given``
        where the source has a split, otherwise ``random``.
    valid
        Fraction of each user's training interactions that become the validation split; 0 for none. Not used where
        the given split has a validation part. With ``cold-items``, the fraction of the items left for training, and
        with ``temporal-global``, of all training interactions.
    test
        Fraction of each user's interactions that become the test split; used by ``random`` and ``temporal``. With
        ``cold-items``, the fraction of the items whose interactions all do, and with ``temporal-global``, of all
        interactions.
    seed
        Of the random choices.
    drop_unlinked
        Drop interactions with items about which the knowledge graph says nothing.
    min_entity_triples, min_relation_triples, max_entity_triples, max_hops
        Clean the knowledge graph; see :class:`~hakg_dgl.data.cleaning.Cleaning`.

    Raises
    ------
    ConfigError
        On creation, for a value that is not allowed.
    """

    min_user_interactions: int = 1
    min_item_interactions: int = 1
    rating_threshold: float | None = None
    split: str | None = None
    valid: float = 0.1
    test: float = 0.2
    seed: int = 2020
    drop_unlinked: bool = False
    min_entity_triples: int = 1
    min_relation_triples: int = 1
    max_entity_triples: int | None = None
    max_hops: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_user_interactions", "min_item_interactions", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} = {value!r} is not allowed; it is an integer of at least {least}")
        for name in ("valid", "test"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigError(f"{name} = {value!r} is not allowed; it is a fraction, at least 0 and below 1")
        if self.split is not None and self.split not in STRATEGIES:
            raise ConfigError(f"split = {self.split!r} is not allowed; choose one of {', '.join(STRATEGIES)}")
        if self.rating_threshold is not None and not math.isfinite(self.rating_threshold):
            raise ConfigError(f"rating_threshold = {self.rating_threshold!r} is not allowed; it is a finite number")
        self.cleaning()

    def cleaning(self) -> Cleaning:
        """The settings that clean the knowledge graph."""
        return Cleaning(self.min_entity_triples, self.min_relation_triples, self.max_entity_triples, self.max_hops)


def preprocess(raw: RawData, options: PreprocessOptions | None = None) -> Dataset:
    """Filter, number and split raw data.

    In this order: rating threshold, unlinked items, repeated pairs, k-core, cleaning of the graph, facts and links of
    users, numbering, test split, validation split. Of a repeated pair the earliest is kept (with a given split, the one
    in the earliest of train, valid, test). Facts and links of users who have no interaction left are dropped, and so
    are links of a user to itself.

    With ``temporal-global``, users whose interactions are all later than the training split cannot be ranked: they are
    left out, and counted with their interactions. Items that only they have chosen stay items.

    Where ``raw.ids_are_indices`` nothing is renumbered: users and items that lose all interactions keep their number.
    Otherwise users are those with an interaction left, and items those and the ones of the catalogue, numbered by
    sorted id; an item takes the number of its entity, and one without entity (or whose entity occurs in no triple)
    becomes an entity without triples.

    Raises
    ------
    DataError
        If the options ask for what the source lacks (ratings, timestamps, a given split), or leave nothing; the message
        names the filter.
    """
    options = options or PreprocessOptions()
    raw = checked(raw)
    report = dict(raw.report)
    strategy = options.split or ("given" if "split" in raw.interactions else "random")
    if strategy == "given" and "split" not in raw.interactions:
        raise DataError(
            "the source has no split to keep",
            remedy="Choose random, temporal, temporal-global, leave-one-out or cold-items.",
        )
    if strategy != "given":
        raw_interactions = raw.interactions.drop(columns="split", errors="ignore")
    else:
        raw_interactions = raw.interactions.assign(split=pd.Categorical(raw.interactions["split"], list(SPLITS)))
    interactions = _filtered(raw, raw_interactions, options, report)
    del raw_interactions
    if not raw.ids_are_indices:
        raw = replace(raw, interactions=interactions)  # what was dropped is not needed, and may be large
    report |= check_graph(raw, interactions, threshold=options.rating_threshold)
    if strategy == "temporal-global":
        raw, interactions = _cut_in_time(raw, interactions, options, report)
    raw = cleaned(raw, interactions, options.cleaning(), report)
    raw = _with_rows_of_users(raw, interactions, report)
    if len(raw.attribute_order):
        raw = replace(raw, triples=pd.concat([raw.triples, raw.attribute_order], ignore_index=True))
    numbered = _number_rows(raw, interactions) if raw.ids_are_indices else _number_ids(raw, interactions, report)
    interactions = numbered.interactions
    if strategy != "temporal-global":
        interactions = _with_split(interactions, strategy, options)
    test = (interactions["split"] == "test").to_numpy()
    for kind in ("user", "item"):
        others = "items" if kind == "user" else "users"
        numbers = interactions[kind].to_numpy()
        unseen = np.zeros(len(numbered.maps[f"{kind}s"]), dtype=bool)
        unseen[numbers[test]] = True
        unseen[numbers[~test]] = False
        report[f"test_{kind}s_without_training_{others}"] = int(unseen.sum())
    maps = _with_distinct_names(numbered.maps, report)
    return Dataset(
        name=raw.name,
        interactions=interactions,
        triples=_without_repeats(numbered.triples, report),
        **{name: table.frame() for name, table in maps.items()},
        user_facts=numbered.user_facts,
        user_links=numbered.user_links,
        test_overlap=_overlap(raw.test_overlap, interactions, strategy),
        options={
            **_told(options),
            "split": strategy,
            **({"columns": list(raw.columns)} if raw.columns else {}),
            **({"user_columns": list(raw.user_columns)} if raw.user_columns else {}),
            **({"notes": list(raw.notes)} if raw.notes else {}),
        },
        sources=dict(raw.sources),
        report=report,
        split_strategy=strategy,
    )


def _overlap(pairs: pd.DataFrame, interactions: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """The pairs of the source's test part that are known before it, if its split is kept; ids are row numbers."""
    known = interactions.loc[interactions["split"] != "test", ["user", "item"]]
    return pairs.merge(known, on=["user", "item"]) if strategy == "given" and len(pairs) else pairs.head(0)


def _told(options: PreprocessOptions) -> dict[str, object]:
    """Options as the data set keeps them; those of cleaning only where they do something."""
    idle = {name for name, value in asdict(Cleaning()).items() if getattr(options, name) == value}
    return {name: value for name, value in asdict(options).items() if name not in idle}


def _filtered(
    raw: RawData, interactions: pd.DataFrame, options: PreprocessOptions, report: dict[str, int]
) -> pd.DataFrame:
    """Apply the filters one after the other, counting what each drops."""
    interactions = _counted(interactions, "interactions", "no interactions", report, key=None)
    if options.rating_threshold is not None:
        kept = rating_threshold(interactions, options.rating_threshold)
        what = f"no interaction is rated {options.rating_threshold:g} or more"
        interactions = _counted(kept, "rating_threshold", what, report, "below_rating_threshold", interactions)
    if options.drop_unlinked:
        kept = interactions[interactions["item"].isin(_linked_items(raw)).to_numpy()]
        what = "no item of the interactions occurs in the knowledge graph"
        interactions = _counted(kept, "drop_unlinked", what, report, "interactions_with_unlinked_items", interactions)
    kept = interactions[~repeated_pairs(interactions)].reset_index(drop=True)
    interactions = _counted(kept, "", "", report, "repeated_interactions", interactions)
    least = options.min_user_interactions, options.min_item_interactions
    if max(least) > 1:
        kept = k_core(interactions, *least)
        what = f"nothing is left with {least[0]} interactions a user and {least[1]} an item"
        name = "min_user_interactions and min_item_interactions"
        interactions = _counted(kept, name, what, report, "outside_k_core", interactions)
    return interactions.reset_index(drop=True)


def _counted(
    kept: pd.DataFrame,
    setting: str,
    problem: str,
    report: dict[str, int],
    key: str | None,
    before: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """``kept``, after noting how much was dropped; an error that names the setting if nothing is left."""
    if before is not None:
        report[f"{key}_dropped"] = len(before) - len(kept)
    if not len(kept):
        raise DataError(f"{setting}: {problem}", remedy="Relax this setting, or check the source.")
    return kept


def _cut_in_time(
    raw: RawData, interactions: pd.DataFrame, options: PreprocessOptions, report: dict[str, int]
) -> tuple[RawData, pd.DataFrame]:
    """Split by two cuts in time, and leave out users who have nothing before the first; their items stay."""
    split = _with_split(interactions, "temporal-global", options)
    known = split["user"].isin(split.loc[split["split"] == "train", "user"])
    left_out = split[~known]
    report["users_without_training_interactions_left_out"] = left_out["user"].nunique()
    report["their_interactions_after_the_cut_left_out"] = len(left_out)
    items = left_out["item"].drop_duplicates()
    items = items[~items.isin(split.loc[known, "item"])]
    if len(items) and not raw.ids_are_indices:
        report["items_that_only_they_have_chosen"] = len(items)
        raw = replace(raw, catalogue=pd.concat([raw.catalogue, items.astype(object)], ignore_index=True))
    return raw, split[known].reset_index(drop=True)


def _linked_items(raw: RawData) -> pd.Series[str]:
    """Ids of the items that occur in a triple, as ``raw.interactions`` has them."""
    named: pd.Series[str] = pd.concat([raw.triples["head"], raw.triples["tail"]]).drop_duplicates()
    if raw.ids_are_indices:
        return named
    linked: pd.Series[str] = raw.item_entity.loc[raw.item_entity["entity"].isin(named), "item"]
    return linked


def _with_rows_of_users(raw: RawData, interactions: pd.DataFrame, report: dict[str, int]) -> RawData:
    """Facts and links of the users who are left, each row once and no user linked to itself; counts what is dropped."""
    users = interactions["user"].drop_duplicates()
    if len(raw.people):
        report["users_of_the_table_without_interactions_left_out"] = int((~raw.people.isin(users)).sum())
        report["users_without_a_row_in_the_table"] = int((~users.isin(raw.people)).sum())
    facts, links = raw.user_facts, raw.user_links
    if len(links):
        oneself = links["user"] == links["other"]
        report["user_links_to_oneself_dropped"] = int(oneself.sum())
        links = links[~oneself]
        known = links["user"].isin(users) & links["other"].isin(users)
        report["user_links_with_users_without_interactions_dropped"] = int((~known).sum())
        links = links[known].drop_duplicates(["user", "relation", "other"])
        report["user_link_repeats_dropped"] = int(known.sum()) - len(links)
    if len(facts):
        known = facts["user"].isin(users)
        report["user_facts_of_users_without_interactions_dropped"] = int((~known).sum())
        facts = facts[known].drop_duplicates(["user", "relation", "entity"])
        report["user_fact_repeats_dropped"] = int(known.sum()) - len(facts)
    return replace(raw, user_facts=facts.reset_index(drop=True), user_links=links.reset_index(drop=True))


@dataclass(frozen=True, eq=False)
class _Numbered:
    """Tables in numbers, and the numberings by the name of their table in a data set."""

    maps: Mapping[str, IdMap]
    interactions: pd.DataFrame
    triples: pd.DataFrame
    user_facts: pd.DataFrame
    user_links: pd.DataFrame


def _number_rows(raw: RawData, interactions: pd.DataFrame) -> _Numbered:
    """The KGAT layout: sizes from the largest ids of the source (before filters), numbers unchanged."""

    def size(kind: str, *columns: pd.Series[int]) -> int:
        return max([raw.counts.get(kind, 0), *(int(column.max()) + 1 for column in columns if len(column))])

    n_items = size("items", raw.interactions["item"])
    n_entities = max(n_items, size("entities", raw.triples["head"], raw.triples["tail"], raw.user_facts["entity"]))
    maps = {
        "users": IdMap.from_indices(size("users", raw.interactions["user"]), raw.users),
        "items": IdMap.from_indices(n_items, raw.items),
        "entities": IdMap.from_indices(n_entities, raw.entities),
        "relations": IdMap.from_indices(size("relations", raw.triples["relation"]), raw.relations, unnamed="relation_"),
    }
    maps["entities"] = _named_as_items(maps["entities"], maps["items"])
    maps["user_relations"], of_facts, of_links = _user_relations(raw)
    facts, links = raw.user_facts.assign(relation=of_facts), raw.user_links.assign(relation=of_links)
    return _Numbered(maps, interactions, raw.triples, facts, links)


def _user_relations(raw: RawData) -> tuple[IdMap, Int64, Int64]:
    """Relations of users' facts, then those of their links: the numbering, and the number of each row of either."""
    of_facts = IdMap.from_values(raw.user_facts["relation"])
    of_links = IdMap.from_values(raw.user_links["relation"])
    ids = [*of_facts.original_ids, *of_links.original_ids]
    links = of_links.indices(raw.user_links["relation"]) + len(of_facts)
    return IdMap.from_ids(ids), of_facts.indices(raw.user_facts["relation"]), links


def _number_ids(raw: RawData, interactions: pd.DataFrame, report: dict[str, int]) -> _Numbered:
    """Other layouts: sorted ids, items first among the entities."""
    users = IdMap.from_values(interactions["user"], raw.users)
    chosen = interactions["item"].drop_duplicates().astype(object)
    items = IdMap.from_values(pd.concat([chosen, raw.catalogue]), raw.items)
    if len(raw.catalogue):
        after_the_cut = report.get("items_that_only_they_have_chosen", 0)
        report["catalogue_items_without_interactions"] = len(items) - len(chosen) - after_the_cut
    linked = pd.Series(raw.item_entity["entity"].to_numpy(), index=raw.item_entity["item"].astype(str), dtype=object)
    own = linked.reindex(items.original_ids).reset_index(drop=True)
    named = pd.concat([raw.triples["head"], raw.triples["tail"]]).drop_duplicates().astype(str)
    report["items_without_entity"] = int(own.isna().sum())
    report["items_without_triples"] = int((~own.isin(named)).sum())
    of_users = raw.user_facts["entity"].drop_duplicates().astype(str)
    others = pd.concat([named, of_users[~of_users.isin(named)]])
    others = others[~others.isin(own)]
    # an item without entity needs an entity id that no entity has
    prefix = "item:"
    while others.str.startswith(prefix).any() or own.astype(str).str.startswith(prefix).any():
        prefix = "_" + prefix
    own = own.where(own.notna(), prefix + pd.Series(items.original_ids.to_numpy(), dtype=object)).astype(str)
    rest = IdMap.from_values(others).original_ids
    entities = _named_as_items(IdMap.from_ids([*own, *rest], raw.entities), items)
    relations = IdMap.from_values(raw.triples["relation"], raw.relations)
    numbered = interactions.assign(
        user=users.indices(interactions["user"]).astype(np.int32),
        item=items.indices(interactions["item"]).astype(np.int32),
    )
    triples = pd.DataFrame(
        {
            "head": entities.indices(raw.triples["head"]),
            "relation": relations.indices(raw.triples["relation"]),
            "tail": entities.indices(raw.triples["tail"]),
        }
    )
    user_relations, of_facts, of_links = _user_relations(raw)
    facts = pd.DataFrame(
        {
            "user": users.indices(raw.user_facts["user"]),
            "relation": of_facts,
            "entity": entities.indices(raw.user_facts["entity"]),
        }
    )
    links = pd.DataFrame(
        {
            "user": users.indices(raw.user_links["user"]),
            "relation": of_links,
            "other": users.indices(raw.user_links["other"]),
        }
    )
    maps = {"users": users, "items": items, "entities": entities, "relations": relations}
    return _Numbered(maps | {"user_relations": user_relations}, numbered, triples, facts, links)


def _named_as_items(entities: IdMap, items: IdMap) -> IdMap:
    """Give the entities that are items the item's name, where the item has one and the entity none."""
    names = items.names.reindex(range(len(entities))).reset_index(drop=True)
    own = pd.Series(items.original_ids).reindex(range(len(entities)))
    unnamed = entities.names == pd.Series(entities.original_ids)
    return IdMap(entities.original_ids, entities.names.mask(unnamed & names.notna() & (names != own), names))


def _with_distinct_names(maps: Mapping[str, IdMap], report: dict[str, int]) -> dict[str, IdMap]:
    """Give relations, and then relations of users, names that are distinct from all others: they name edge types."""
    changed = dict(maps)
    taken = list(INTERACTION_NAMES)
    for table in ("relations", "user_relations"):
        old = maps[table].names.tolist()
        new = distinct_names(old, taken)
        count = sum(one != other for one, other in zip(old, new, strict=True))
        if table == "relations" or count:
            report[f"{table[:-1]}_names_made_distinct"] = count
        taken += new
        changed[table] = IdMap(maps[table].original_ids, pd.Series(new, dtype=object))
    return changed


def _without_repeats(triples: pd.DataFrame, report: dict[str, int]) -> pd.DataFrame:
    unique = triples.drop_duplicates(["head", "relation", "tail"])
    report["triple_repeats_dropped"] = report.get("triple_repeats_dropped", 0) + len(triples) - len(unique)
    return unique


def _with_split(interactions: pd.DataFrame, strategy: str, options: PreprocessOptions) -> pd.DataFrame:
    """Add the column ``split``; test and validation draw from separate streams of the seed."""
    train, valid, test = range(3)
    if strategy == "given":
        split = interactions["split"].cat.codes.to_numpy(copy=True)
    else:
        chosen = held_out(interactions, strategy, options.test, numpy_generator(options.seed, "test split"))
        split = np.where(chosen, test, train).astype(np.int8)
    if not (split == valid).any():
        rows = np.flatnonzero(split == train)
        generator = numpy_generator(options.seed, "validation split")
        columns = ["user"] if strategy in ("random", "given") else ["user", "item", "timestamp"]
        left = pd.DataFrame({name: interactions[name].array[rows] for name in columns if name in interactions})
        split[rows[carve_validation(left, options.valid, generator, strategy=strategy)]] = valid
    if not (split == train).any():
        raise DataError("no training interaction is left", remedy="The given split needs rows that say 'train'.")
    return interactions.assign(split=pd.Categorical.from_codes(split, pd.Index(SPLITS)))
