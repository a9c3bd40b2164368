"""Why the model gives a user and an item their score: past items, facts, users, and the paths between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.shared_items import SharedItems
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.models.explanation import Component, Terms
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.models.registry import models_that

_SHARELESS = 1e-9
"""Scores below this in size have no shares."""
_ALSO_OF = 2
"""Items that are named to say what an entity is."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A score, taken apart. Rows of tables are sorted by their contribution, the largest first.

    Attributes
    ----------
    user, item
        Numbers in the data set.
    score
        As the model ranks, the inner product of its ranking vectors.
    rank, n_ranked
        Place of the item among the items that the user is not known to have in any split (and the item itself), as in a
        recommendation list, and their number.
    components
        ``component``, ``contribution``: the named parts of the score. They add up to it.
    past_items
        ``item``, ``gate`` (mean weight of its collaborative embedding), ``knowledge``, ``collaborative`` and, where a
        component has another way, a column of that name, ``contribution`` (their sum). With ``user_own`` they add up to
        the score.
    user_own
        What the user's own parameters contribute.
    facts
        ``relation`` (R and above: inverses), ``entity``, ``contribution`` and its parts ``from_entity``,
        ``from_relation``, ``from_item``: the item's edges in the knowledge graph.
    users
        ``user``, ``contribution``: the users who have the item.
    other_terms
        ``via``, ``relation``, ``node``, ``contribution``: what components have on the item's side beside these.
    item_own
        Component -> what the item's own parameters contribute. With ``facts``, ``users`` and ``other_terms`` they add
        up to the score.
    paths
        ``via``, ``past_item``, ``relation``, ``node``, ``item_relation``, ``through_node``, ``contribution``: entities
        (or, with ``via`` ``user``, users) that a past item and the item share; the columns are those of
        :attr:`~hakg_dgl.models.explanation.Terms.paths`. Part of the contributions above, not in addition to them.
    path_totals
        ``entity`` or ``user`` -> number and summed contribution of all paths, those beyond the table too.
    dataset
        Names everything.
    shared
        Which items have an entity: what it is, where the data set has no name for it.
    """

    user: int
    item: int
    score: float
    rank: int
    n_ranked: int
    components: pd.DataFrame
    past_items: pd.DataFrame
    user_own: float
    facts: pd.DataFrame
    users: pd.DataFrame
    other_terms: pd.DataFrame
    item_own: dict[str, float]
    paths: pd.DataFrame
    path_totals: dict[str, tuple[int, float]]
    dataset: Dataset
    shared: SharedItems

    @property
    def rounding(self) -> dict[str, float]:
        """Score less the sum of the components, of the user's side and of the item's side.

        It is what rounding in the model's precision leaves: about 1e-6 in float32, 1e-13 in float64, more with
        ``precision = "bf16"``.
        """
        amounts = {"past_items": self.past_items, "facts": self.facts, "users": self.users, "other": self.other_terms}
        sums = {name: float(frame["contribution"].sum()) for name, frame in amounts.items()}
        item_side = sums["facts"] + sums["users"] + sums["other"] + sum(self.item_own.values())
        return {
            "components": self.score - float(self.components["contribution"].sum()),
            "user_side": self.score - sums["past_items"] - self.user_own,
            "item_side": self.score - item_side,
        }

    def share(self, contribution: float) -> float | None:
        """Share of the score; None where the score is zero."""
        return contribution / self.score if abs(self.score) > _SHARELESS else None

    def to_dict(self, top: int = 10) -> dict[str, Any]:
        """JSON values with original ids and names; of each table the first ``rows`` and the sum of the ``others``.

        Every row has ``contribution`` and ``share``; entities have the names of a few other items with them
        (``also_of``).
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
            "user_own": self._row({"contribution": self.user_own}),
            "item_own": [self._row({"component": k, "contribution": v}) for k, v in self.item_own.items()],
            "gate": {
                "collaborative_weight": float(self.past_items["gate"].mean()) if len(self.past_items) else None,
                "knowledge": self._row({"contribution": knowledge}),
                "collaborative": self._row({"contribution": collaborative}),
            },
            **{name: self._cut(frame, top) for name, frame in labelled.items()},
            "other_terms": [self._row(row) for row in self.other_terms.to_dict("records")],
            "paths": {kind: self._paths(kind, top) for kind in self.path_totals},
            "rounding": self.rounding,
        }

    def _row(self, row: dict[Any, Any]) -> dict[str, Any]:
        return {**row, "share": self.share(row["contribution"])}

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
        """Name of a relation, and whether the edge is its inverse, so that the fact is (entity, relation, item)."""
        inverse = relation >= self.dataset.n_relations
        return {
            "relation": self.dataset.relations["name"].iloc[relation % self.dataset.n_relations],
            "inverse": bool(inverse),
        }

    def _also_of(self, entity: int, *items: int) -> dict[str, Any]:
        """How many items but these have an entity, and the names of those most seen."""
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
        """The strongest paths of a kind, what they add up to, and what all of the kind do."""
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


class Explainer:
    """Explains scores of one model; propagates once.

    Parameters
    ----------
    model
        A trained model that can be explained.
    dataset
        The data set it was trained on.
    components
        What the score is the sum of; by default the components of the model's own
        :meth:`~hakg_dgl.models.recommender.Recommender.breakdown`.

    Attributes
    ----------
    shared
        Which items have an entity.

    Raises
    ------
    ConfigError
        If the model does not take its scores apart.
    DataError
        If model and data set do not have the same numbers of users, items and entities.
    """

    def __init__(self, model: Recommender, dataset: Dataset, components: Sequence[Component] | None = None) -> None:
        require_explained(type(model))
        of_graph = (model.graph.n_users, model.graph.n_items, model.graph.n_entities)
        of_data = (dataset.n_users, dataset.n_items, dataset.n_entities)
        if of_graph != of_data:
            raise DataError(
                f"the model has {of_graph} users, items and entities, the data set {of_data}",
                remedy="Give the data set that the model was trained on.",
            )
        self.dataset = dataset
        self.breakdown = model.breakdown()
        self.components = list(self.breakdown.components if components is None else components)
        users, items = model.ranking_vectors()
        self._vectors = users.cpu(), items.cpu()
        self._known = dataset.pairs()
        self.shared = SharedItems(dataset)

    @torch.no_grad()
    def __call__(self, user: int, item: int) -> Explanation:
        """The explanation of one score.

        Parameters
        ----------
        user, item
            Numbers in the data set.

        Raises
        ------
        DataError
            If there is no such user or item.
        """
        for what, number, size in (("user", user, self.dataset.n_users), ("item", item, self.dataset.n_items)):
            if not 0 <= number < size:
                raise DataError(f"there is no {what} {number}", remedy=f"Numbers are 0 to {size - 1}.")
        terms = {component.name: component.terms(user, item) for component in self.components}
        from_user = _combined({name: term.from_user for name, term in terms.items()})
        from_item = _combined({name: term.from_item for name, term in terms.items()})
        own = from_item[from_item["via"] == "own"]
        score, rank, n_ranked = self._rank(user, item)
        return Explanation(
            user=user,
            item=item,
            score=score,
            rank=rank,
            n_ranked=n_ranked,
            components=pd.DataFrame(
                {"component": list(terms), "contribution": [term.value for term in terms.values()]}
            ),
            past_items=self._past_items(user, from_user[from_user["via"] != "own"]),
            user_own=float(from_user.loc[from_user["via"] == "own", "contribution"].sum()),
            facts=_facts(from_item[from_item["via"] == "fact"]),
            users=_sorted(
                from_item[from_item["via"] == "user"].rename(columns={"node": "user"})[["user", "contribution"]]
            ),
            other_terms=_sorted(
                from_item.loc[
                    ~from_item["via"].isin(["own", "fact", "user"]), ["via", "relation", "node", "contribution"]
                ]
            ),
            item_own={
                str(name): float(value) for name, value in own.groupby("component")["contribution"].sum().items()
            },
            paths=_sorted(pd.concat([term.paths for term in terms.values()], ignore_index=True)),
            path_totals=_path_totals(terms),
            dataset=self.dataset,
            shared=self.shared,
        )

    def _rank(self, user: int, item: int) -> tuple[float, int, int]:
        """Score, rank and number of ranked items; what the user is known to have is not ranked."""
        users, items = self._vectors
        scores = items @ users[user]
        ranked = torch.ones(len(scores), dtype=torch.bool)
        ranked[torch.from_numpy(self._known[self._known[:, 0] == user, 1])] = False
        ranked[item] = True
        return float(scores[item]), int((scores[ranked] > scores[item]).sum()) + 1, int(ranked.sum())

    def _past_items(self, user: int, from_user: pd.DataFrame) -> pd.DataFrame:
        """A row for each past item, a column for each way."""
        items = self.breakdown.past_items(user)
        ways = from_user.pivot_table(index="item", columns="via", values="contribution", aggfunc="sum", fill_value=0.0)
        ways = ways.reindex(columns=list(dict.fromkeys(["knowledge", "collaborative", *ways.columns])), fill_value=0.0)
        ways = ways.reindex(items.numpy(), fill_value=0.0)
        table = pd.DataFrame({"item": items.numpy(), "gate": self.breakdown.mean_gate(items).numpy()})
        return _sorted(
            pd.concat([table, ways.reset_index(drop=True)], axis=1).assign(contribution=ways.sum(axis=1).to_numpy())
        )


def explain(model: Recommender, dataset: Dataset, user: int, item: int) -> Explanation:
    """Why the model gives this user and item their score; for more than one, make an :class:`Explainer`.

    Parameters and errors are those of :class:`Explainer` and of calling it.
    """
    return Explainer(model, dataset)(user, item)


def require_explained(model: type[Recommender]) -> None:
    """Raise ConfigError if a model does not take its scores apart."""
    if not (issubclass(model, Recommender) and model.abilities.explains):
        name, able = getattr(model, "name", model.__name__), ", ".join(models_that("explains"))
        raise ConfigError(f"model {name!r} does not take its scores apart; the models that do: {able}")


def introduced(kind: str, name: str) -> str:
    """``User 196``, but a name that begins with the word, ``User 7 (user_7)``, as it is."""
    return name if name.casefold().startswith(kind.casefold()) else f"{kind} {name}"


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("contribution", ascending=False, kind="stable", ignore_index=True)


def _combined(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frame.assign(component=name) for name, frame in frames.items()], ignore_index=True)


def _facts(rows: pd.DataFrame) -> pd.DataFrame:
    parts = ["from_entity", "from_relation", "from_item"]
    columns = ["relation", "node", "contribution", *parts]
    return _sorted(rows.reindex(columns=columns).rename(columns={"node": "entity"}))


def _path_totals(terms: dict[str, Terms]) -> dict[str, tuple[int, float]]:
    return {kind: total for term in terms.values() for kind, total in term.path_totals.items()}


def _labels(table: pd.DataFrame, numbers: pd.Series[int], what: str) -> pd.DataFrame:
    rows = table.iloc[numbers.to_numpy(dtype=np.int64)]
    return pd.DataFrame({f"{what}_id": rows["original_id"].to_numpy(), f"{what}_name": rows["name"].to_numpy()})


def _join(labels: pd.DataFrame, frame: pd.DataFrame, *numbers: str) -> pd.DataFrame:
    """Labels instead of the columns of numbers."""
    return pd.concat([labels, frame.drop(columns=list(numbers))], axis=1)
