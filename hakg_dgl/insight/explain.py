"""Explains why a model gives a user and an item their score: past items, facts, users, and paths between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.id_files import NewUsers
from hakg_dgl.data.shared_items import SharedItems
from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.insight.explanation import Explanation
from hakg_dgl.models.explanation import FACT_OR_LINK, Breakdown, Component, Terms
from hakg_dgl.models.recommender import Recommender
from hakg_dgl.models.registry import models_that
from hakg_dgl.models.score_sums import LinearBreakdown
from hakg_dgl.ranking.fold_in import folded_users
from hakg_dgl.ranking.topk import Scorer


class Explainer:
    """Explains scores of one model; propagates once.

    Parameters
    ----------
    model
        A trained model that can be explained.
    dataset
        The data set it was trained on.
    components
        The components that the score is the sum of; by default those of the model's own
        :meth:`~hakg_dgl.models.recommender.Recommender.breakdown`.
    new
        Users of files, numbered after those of the data set; their scores are those of the fold-in.

    Attributes
    ----------
    shared
        The items that have each entity.

    Raises
    ------
    ConfigError
        If the model does not take its scores apart.
    DataError
        If model and data set do not have the same numbers of users, items and entities.
    """

    def __init__(
        self,
        model: Recommender,
        dataset: Dataset,
        components: Sequence[Component] | None = None,
        *,
        new: NewUsers | None = None,
    ) -> None:
        require_explained(type(model))
        of_graph = (model.graph.n_users, model.graph.n_items, model.graph.n_entities)
        of_data = (dataset.n_users, dataset.n_items, dataset.n_entities)
        if of_graph != of_data:
            raise DataError(
                f"the model has {of_graph} users, items and entities, the data set {of_data}",
                remedy="Give the data set that the model was trained on.",
            )
        folded = None if new is None else folded_users(new)
        self.dataset: Dataset = dataset if new is None else _with_users(dataset, new)
        self.breakdown: Breakdown = model.breakdown() if folded is None else model.breakdown(folded)
        self.components: list[Component] = list(self.breakdown.components if components is None else components)
        self._without_facts = _why_without_facts(model, self.breakdown)
        self._trained = model.scorer()
        self._added: Scorer | None = None
        self._known = dataset.pairs()
        if new is not None and folded is not None:
            self._added = model.fold_in().scorer(*folded)
            owner = dataset.n_users + np.repeat(np.arange(len(new)), np.diff(new.indptr))
            self._known = np.concatenate([self._known, np.stack([owner, new.items], axis=1)])
        self.shared: SharedItems = SharedItems(dataset)

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
            past_items=self._past_items(user, from_user[~from_user["via"].isin(["own", *FACT_OR_LINK.values()])]),
            user_facts=_user_facts(from_user[from_user["via"].isin(FACT_OR_LINK.values())]),
            user_own=float(from_user.loc[from_user["via"] == "own", "contribution"].sum()),
            facts=_facts(from_item[from_item["via"] == "fact"]),
            users=_sorted(
                from_item[from_item["via"] == "user"].rename(columns={"node": "user"})[["user", "contribution"]]
            ),
            other_terms=_sorted(
                from_item.loc[
                    ~from_item["via"].isin(["own", "fact", "user"]),
                    ["component", "via", "relation", "node", "contribution"],
                ]
            ),
            item_own={
                str(name): float(value) for name, value in own.groupby("component")["contribution"].sum().items()
            },
            paths=_sorted(pd.concat([term.paths for term in terms.values()], ignore_index=True)),
            path_totals=_path_totals(terms),
            dataset=self.dataset,
            shared=self.shared,
            without_facts=self._without_facts,
        )

    def _rank(self, user: int, item: int) -> tuple[float, int, int]:
        """Score, rank and number of ranked items; items that the user is known to have are not ranked."""
        place = user - self._trained.n_users
        scorer, number = (self._trained, user) if place < 0 or self._added is None else (self._added, place)
        scores = torch.as_tensor(scorer.scores(torch.tensor([number])))[0].cpu()
        ranked = torch.ones(len(scores), dtype=torch.bool)
        ranked[torch.from_numpy(self._known[self._known[:, 0] == user, 1])] = False
        ranked[item] = True
        return float(scores[item]), int((scores[ranked] > scores[item]).sum()) + 1, int(ranked.sum())

    def _past_items(self, user: int, from_user: pd.DataFrame) -> pd.DataFrame:
        """The table of past items, with a column for each way."""
        items = self.breakdown.past_items(user)
        ways = from_user.pivot_table(index="item", columns="via", values="contribution", aggfunc="sum", fill_value=0.0)
        ways = ways.reindex(columns=list(dict.fromkeys(["knowledge", "collaborative", *ways.columns])), fill_value=0.0)
        ways = ways.reindex(items.numpy(), fill_value=0.0)
        table = pd.DataFrame({"item": items.numpy(), "gate": self.breakdown.mean_gate(items).numpy()})
        return _sorted(
            pd.concat([table, ways.reset_index(drop=True)], axis=1).assign(contribution=ways.sum(axis=1).to_numpy())
        )


def explain(model: Recommender, dataset: Dataset, user: int, item: int, *, new: NewUsers | None = None) -> Explanation:
    """Explain one score; for more than one, make an :class:`Explainer`.

    Parameters and errors are those of :class:`Explainer` and of its call. With ``new``, ``user`` may be
    ``dataset.n_users + u`` for user u of the files.
    """
    return Explainer(model, dataset, new=new)(user, item)


def _with_users(dataset: Dataset, new: NewUsers) -> Dataset:
    """The data set with the names of further users, whose interactions it does not have."""
    names = dataset.users.set_index("original_id")["name"].reindex(new.ids)
    added = pd.DataFrame({"original_id": new.ids, "name": names.where(names.notna(), names.index).to_numpy()})
    return replace(dataset, users=pd.concat([dataset.users, added], ignore_index=True))


def require_explained(model: type[Recommender]) -> None:
    """Raise ConfigError if a model does not take its scores apart."""
    if not (issubclass(model, Recommender) and model.abilities.explains):
        name, able = getattr(model, "name", model.__name__), ", ".join(models_that("explains"))
        raise ConfigError(f"model {name!r} does not take its scores apart; the models that do: {able}")


def _why_without_facts(model: Recommender, breakdown: Breakdown) -> str | None:
    """Why the score of a model has no terms of facts; None if it can have some."""
    if not model.abilities.facts:
        return f"Model '{model.name}' reads no facts."
    if isinstance(breakdown, LinearBreakdown):
        return f"The facts are in the weights between items of model '{model.name}', and no terms of their own."
    return None


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("contribution", ascending=False, kind="stable", ignore_index=True)


def _combined(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frame.assign(component=name) for name, frame in frames.items()], ignore_index=True)


def _user_facts(rows: pd.DataFrame) -> pd.DataFrame:
    """Facts and links with the sums of their terms over all components."""
    keys = ["via", "relation", "inverse", "node"]
    table = rows.reindex(columns=[*keys, "contribution"]).astype({"inverse": bool, "node": int})
    return _sorted(table.groupby(keys, sort=False, as_index=False)[["contribution"]].sum())


def _facts(rows: pd.DataFrame) -> pd.DataFrame:
    parts = [name for name in ("from_entity", "from_relation", "from_item") if name in rows]
    columns = ["relation", "node", "contribution", *parts]
    return _sorted(rows.reindex(columns=columns).rename(columns={"node": "entity"}))


def _path_totals(terms: dict[str, Terms]) -> dict[str, tuple[int, float]]:
    return {kind: total for term in terms.values() for kind, total in term.path_totals.items()}
