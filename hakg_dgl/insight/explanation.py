"""A score taken apart: the tables of an explanation, and the same as JSON values with names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.shared_items import SharedItems

_SHARELESS = 5.0
"""Scores have no shares if a single row contributes more than this many times their size: the rows cancel out."""
_ALSO_OF = 2
"""Number of items that are named to say what an entity is."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A score taken apart. Rows of tables are sorted by their contribution, and the largest comes first.

    Attributes
    ----------
    user, item
        Numbers in the data set.
    score
        The score by which the model ranks.
    rank, n_ranked
        Place of the item among the items that the user is not known to have in any split (and the item itself), as in a
        recommendation list, and the number of these items.
    components
        ``component``, ``contribution``: the named parts of the score. They add up to it.
    past_items
        ``item``, ``gate`` (mean weight of its collaborative embedding, NaN without a gate), ``knowledge``,
        ``collaborative`` and, where a component has another way, a column of that name, ``contribution`` (their sum).
        With ``user_facts`` and ``user_own`` they add up to the score.
    user_facts
        The user's facts and links: ``via`` (``fact`` or ``link``), ``relation`` (its name), ``inverse`` (whether the
        user is the object), ``node`` (an entity or another user), ``contribution``.
    user_own
        The contribution of the user's own parameters.
    facts
        The item's edges in the knowledge graph: ``relation`` (R and above: inverses), ``entity``, ``contribution`` and,
        for HAKG, its parts ``from_entity``, ``from_relation``, ``from_item``.
    users
        The users who have the item: ``user``, ``contribution``.
    other_terms
        Further terms on the item's side: ``component``, ``via``, ``relation``, ``node``, ``contribution``.
    item_own
        Component -> contribution of the item's own parameters. With ``facts``, ``users`` and ``other_terms`` they add
        up to the score.
    paths
        Entities (or, with ``via`` ``user``, users) that a past item and the item share. The columns are those of
        :attr:`~hakg_dgl.models.explanation.Terms.paths`: ``via``, ``past_item``, ``relation``, ``node``,
        ``item_relation``, ``through_node``, ``contribution``. Paths are part of the contributions above.
    path_totals
        ``entity`` or ``user`` -> number and summed contribution of all paths, including those that the table lacks.
    dataset
        The data set, for names.
    shared
        The items that have an entity; they say what it is if the data set has no name for it.
    without_facts
        Why no fact is a term of any score of the model, a sentence; None where facts can be.
    """

    user: int
    item: int
    score: float
    rank: int
    n_ranked: int
    components: pd.DataFrame
    past_items: pd.DataFrame
    user_facts: pd.DataFrame
    user_own: float
    facts: pd.DataFrame
    users: pd.DataFrame
    other_terms: pd.DataFrame
    item_own: dict[str, float]
    paths: pd.DataFrame
    path_totals: dict[str, tuple[int, float]]
    dataset: Dataset
    shared: SharedItems
    without_facts: str | None = None

    @property
    def rounding(self) -> dict[str, float]:
        """The score minus the sum of the components, of the user's side and of the item's side.

        The differences are due to rounding in the model's precision. They are about 1e-6 in float32, 1e-13 in float64,
        and larger with ``precision = "bf16"``.
        """
        tables = ("past_items", "user_facts", "facts", "users", "other_terms")
        sums = {name: float(getattr(self, name)["contribution"].sum()) for name in tables}
        item_side = sums["facts"] + sums["users"] + sums["other_terms"] + sum(self.item_own.values())
        return {
            "components": self.score - float(self.components["contribution"].sum()),
            "user_side": self.score - sums["past_items"] - sums["user_facts"] - self.user_own,
            "item_side": self.score - item_side,
        }

    @cached_property
    def has_shares(self) -> bool:
        """Whether shares of the score say something: it is neither zero nor small beside what adds up to it."""
        tables = (self.components, self.past_items, self.user_facts, self.facts, self.users, self.other_terms)
        largest = max((float(table["contribution"].abs().max()) for table in tables if len(table)), default=0.0)
        largest = max(largest, abs(self.user_own), *map(abs, self.item_own.values()), 0.0)
        return self.score != 0 and largest <= _SHARELESS * abs(self.score)

    def share(self, contribution: float) -> float | None:
        """The share of a contribution in the score; None without :attr:`has_shares`."""
        return contribution / self.score if self.has_shares else None

    def to_dict(self, top: int = 10) -> dict[str, Any]:
        """JSON values with original ids and names; each table has its first ``rows`` and the sum of the ``others``.

        Every row has ``contribution`` and ``share``; what a model does not tell is None. Entities have the names of a
        few other items with them (``also_of``).
        """
        facts, users = self.facts, self.users
        labelled = {
            "past_items": _join(_labels(self.dataset.items, self.past_items["item"], "item"), self.past_items, "item"),
            "facts": _join(self._fact_labels(facts.head(top)), facts, "relation", "entity"),
            "users": _join(_labels(self.dataset.users, users["user"], "user"), users, "user"),
        }
        knowledge, collaborative = (float(self.past_items[via].sum()) for via in ("knowledge", "collaborative"))
        return {
            "user": self._label("users", self.user),
            "item": self._label("items", self.item),
            "score": self.score,
            "rank": self.rank,
            "ranked_items": self.n_ranked,
            "components": [self._row(row) for row in self.components.to_dict("records")],
            "user_facts": self._user_facts(top),
            "user_own": self._row({"contribution": self.user_own}),
            "item_own": [self._row({"component": k, "contribution": v}) for k, v in self.item_own.items()],
            "gate": {
                "collaborative_weight": _told(float(self.past_items["gate"].mean())) if len(self.past_items) else None,
                "knowledge": self._row({"contribution": knowledge}),
                "collaborative": self._row({"contribution": collaborative}),
            },
            **{name: self._cut(frame, top) for name, frame in labelled.items()},
            "without_facts": self.without_facts,
            "facts_of_users": self._facts_of_users(),
            "other_terms": [self._row(row) for row in self.other_terms.to_dict("records")],
            "paths": {kind: self._paths(kind, top) for kind in self.path_totals},
            "rounding": self.rounding,
        }

    def _user_facts(self, top: int) -> dict[str, Any]:
        """The strongest facts and links of the user, the sum of the others, and the sum of all."""
        labels = [
            self._label("users", node) if via == "link" else self._entity_label(node)
            for via, node in zip(self.user_facts["via"].head(top), self.user_facts["node"].head(top), strict=True)
        ]
        named = pd.DataFrame(labels, columns=["id", "name"])
        cut = self._cut(_join(named, self.user_facts, "node"), top)
        every = {"count": len(self.user_facts), "contribution": float(self.user_facts["contribution"].sum())}
        return {**cut, "all": self._row(every)}

    def _facts_of_users(self) -> dict[str, Any]:
        """The number and the sum of the facts that users have about the item; they are among the other terms."""
        rows = self.other_terms[self.other_terms["via"] == "user fact"]
        return self._row({"count": len(rows), "contribution": float(rows["contribution"].sum())})

    def _row(self, row: dict[Any, Any]) -> dict[str, Any]:
        return {**{name: _told(value) for name, value in row.items()}, "share": self.share(row["contribution"])}

    def _cut(self, frame: pd.DataFrame, top: int) -> dict[str, Any]:
        rest = frame.iloc[top:]
        ways = [name for name in frame if name in self.past_items and name not in ("item", "gate")]
        others = {"count": len(rest), **{way: float(rest[way].sum()) for way in ways}}
        return {"rows": [self._row(row) for row in frame.head(top).to_dict("records")], "others": self._row(others)}

    def _label(self, table: str, number: int) -> dict[str, str]:
        row = getattr(self.dataset, table).iloc[number]
        return {"id": row["original_id"], "name": row["name"]}

    def _entity_label(self, number: int) -> dict[str, str]:
        return self._label("items" if number < self.dataset.n_items else "entities", number)

    def _relation_label(self, relation: int) -> dict[str, Any]:
        """The name of a relation, and whether the edge is its inverse, so that the fact is (entity, relation, item)."""
        inverse = relation >= self.dataset.n_relations
        return {
            "relation": self.dataset.relations["name"].iloc[relation % self.dataset.n_relations],
            "inverse": bool(inverse),
        }

    def _also_of(self, entity: int, *items: int) -> dict[str, Any]:
        """The number of other items that have an entity, and the names of the most seen."""
        found = self.shared.items(entity, (self.item, *items))
        return {"items": len(found), "names": self.dataset.items["name"].iloc[found[:_ALSO_OF]].tolist()}

    def _fact_labels(self, facts: pd.DataFrame) -> pd.DataFrame:
        rows = [
            {
                **self._relation_label(relation),
                **{f"entity_{k}": v for k, v in self._entity_label(entity).items()},
                "also_of": self._also_of(entity),
            }
            for relation, entity in zip(facts["relation"], facts["entity"], strict=True)
        ]
        return pd.DataFrame(rows, columns=["relation", "inverse", "entity_id", "entity_name", "also_of"])

    def _paths(self, kind: str, top: int) -> dict[str, Any]:
        """The strongest paths of a kind, their sum, and the sum of all paths of the kind."""
        shown, (count, total) = self.paths[self.paths["via"] == kind].head(top), self.path_totals[kind]
        return {
            "rows": [self._path(row) for row in shown.to_dict("records")],
            "shown": self._row({"count": len(shown), "contribution": float(shown["contribution"].sum())}),
            "all": self._row({"count": count, "contribution": total}),
        }

    def _path(self, row: dict[Any, Any]) -> dict[str, Any]:
        path: dict[str, Any] = {"past_item": self._label("items", row["past_item"])}
        if row["via"] == "entity":
            path |= {
                "past_fact": self._relation_label(row["relation"]),
                "entity": self._entity_label(row["node"]),
                "also_of": self._also_of(row["node"], row["past_item"]),
                "item_fact": self._relation_label(row["item_relation"]),
            }
        else:
            path["user"] = self._label("users", row["node"])
        return self._row({**path, "through_node": row["through_node"], "contribution": row["contribution"]})


def _told(value: Any) -> Any:
    """A value for JSON, which has no NaN: None for a number that a model does not tell."""
    return None if isinstance(value, float) and math.isnan(value) else value


def introduced(kind: str, name: str) -> str:
    """A name after its kind, ``User 196``; a name that begins with the kind, ``User 7 (user_7)``, stays as it is."""
    return name if name.casefold().startswith(kind.casefold()) else f"{kind} {name}"


def _labels(table: pd.DataFrame, numbers: pd.Series[int], what: str) -> pd.DataFrame:
    rows = table.iloc[numbers.to_numpy(dtype=np.int64)]
    return pd.DataFrame({f"{what}_id": rows["original_id"].to_numpy(), f"{what}_name": rows["name"].to_numpy()})


def _join(labels: pd.DataFrame, frame: pd.DataFrame, *numbers: str) -> pd.DataFrame:
    """The table with labels in place of the columns of numbers."""
    return pd.concat([labels, frame.drop(columns=list(numbers))], axis=1)
