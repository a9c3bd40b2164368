"""Lists of a few users for the report, and why the first item of each is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.figures.explanation import draw
from hakg_dgl.figures.markup import NumberText, table
from hakg_dgl.figures.style import inline_svg
from hakg_dgl.figures.subject import Subject
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.insight.explanation import Explanation, introduced
from hakg_dgl.ranking.lists import recommend

_TOP = 5


def example_lists(subject: Subject, count: int) -> dict[str, Any]:
    """Lists of users between the least and the most active.

    Parameters
    ----------
    subject
        The run.
    count
        The number of users to show.

    Returns
    -------
    dict
        ``users``, each with ``heading``, ``list`` (a table) and ``why`` (None without an explanation); ``explained``,
        whether the model takes its scores apart; ``why_none``, the text to show if there are no users.
    """
    dataset = subject.dataset
    users = _example_users(dataset.pairs("train")[:, 0], dataset.n_users, count)
    explainer = Explainer(subject.model, dataset) if subject.model.abilities.explains else None
    shown = []
    if len(users):
        lists = recommend(subject.scorer, users, _TOP, seen=dataset.positives())
        degree = np.bincount(dataset.pairs("train")[:, 0], minlength=dataset.n_users)
        for user in users.tolist():
            name = introduced("User", _label(dataset.users.iloc[user]))
            heading = f"{name}: {degree[user]:,} training interactions"
            shown.append({"heading": heading, **_example(dataset, lists[lists["user"] == user], explainer)})
    why_none = "No user has a training interaction." if count else "No examples were asked for."
    return {"users": shown, "explained": explainer is not None, "why_none": why_none}


def _example(dataset: Dataset, mine: pd.DataFrame, explainer: Explainer | None) -> dict[str, Any]:
    """A user's list, and why its first item is there."""
    rows = [
        {"rank": int(rank), "item": _label(dataset.items.iloc[item]), "score": NumberText(f"{score:.4f}")}
        for rank, item, score in zip(mine["rank"], mine["item"], mine["score"], strict=True)
    ]
    if explainer is None or mine.empty:
        return {"list": table(rows), "why": None}
    user, first = int(mine["user"].iloc[0]), int(mine["item"].iloc[0])
    return {"list": table(rows), "why": _explained(explainer(user, first), f"example-{user}")}


def _example_users(users: NDArray[Any], n_users: int, count: int) -> NDArray[Any]:
    degree = np.bincount(users, minlength=n_users)
    active = np.argsort(degree, kind="stable")[(degree == 0).sum() :]
    if not len(active):
        return active
    return active[np.unique(np.round(np.linspace(0.1, 0.9, count) * (len(active) - 1)).astype(np.int64))]


def _label(row: Any) -> str:
    name, original = row["name"], row["original_id"]
    return str(original if name == original else f"{name} ({original})")


def _explained(explanation: Explanation, name: str) -> dict[str, Any]:
    """``about`` (text), the tables ``components``, ``past`` and ``facts``, and the picture as ``svg``."""
    about = explanation.to_dict(_TOP)
    facts = [
        {
            "strongest facts of the item": ("← " if row["inverse"] else "") + row["relation"],
            "entity": _label({"name": row["entity_name"], "original_id": row["entity_id"]}),
            "also of": "; ".join(row["also_of"]["names"]) or None,
            **_amount(row),
        }
        for row in about["facts"]["rows"]
    ]
    return {
        "about": f"Why {about['item']['name']}: where its score of {explanation.score:.4f} comes from",
        "components": table({"part of the score": row["component"], **_amount(row)} for row in about["components"]),
        "past": table(_past_items(about)),
        "facts": table(facts),
        "svg": Markup(inline_svg(draw(explanation, items=_TOP, paths=_TOP), name)),
    }


def _past_items(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    past = [
        {"past item": _label({"name": row["item_name"], "original_id": row["item_id"]}), **_amount(row)}
        for row in about["past_items"]["rows"]
    ]
    rest = about["past_items"]["others"]
    if rest["count"]:
        past.append({"past item": f"{rest['count']:,} others", **_amount(rest)})
    facts = about["user_facts"]["all"]
    if facts["count"]:
        past.append({"past item": "the user's facts and links", **_amount(facts)})
    return [*past, {"past item": "the user's own parameters", **_amount(about["user_own"])}]


def _amount(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row["share"]
    return {"contribution": row["contribution"], "share": NumberText("–" if share is None else f"{share:.1%}")}
