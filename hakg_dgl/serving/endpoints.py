"""The endpoints of the service: address, parameters and what each answers, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hakg_dgl.serving.parameters import Parameter
from hakg_dgl.serving.served_run import ServedRun

_USER = Parameter("user", "text", "the original id of a user", example="user_7")
_ITEM = Parameter("item", "text", "the original id of an item, or a name that it alone has", example="item_12")
_K = Parameter("k", "number", "the length of the list", default=20, most="list_length", example=5)
_WHERE = Parameter(
    "where", "texts", "list only items with this fact, relation=entity; may be repeated", most="conditions",
    example="made_by=maker_3",
)  # fmt: skip
_AT_MOST = Parameter(
    "at_most", "texts", "list at most so many items with the same value, relation=number; may be repeated",
    most="conditions", example="made_by=2",
)  # fmt: skip
_QUERY = Parameter("query", "text", "an id, or a part of a name", example="item 1")

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """An address that is answered from the run.

    Attributes
    ----------
    path
        The address.
    about
        A sentence about the answer.
    answer
        A function of the run and the parameters that gives JSON values.
    parameters
        Those it takes.
    fields
        The keys of the answer, each with a sentence.
    """

    path: str
    about: str
    answer: Callable[[ServedRun, Parameters], Any]
    parameters: tuple[Parameter, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)


_LIST = {
    "user": "id and name, null for a new user",
    "items": "rank, id, name and score of each item, best first",
    "notes": "remarks on this list",
}

ENDPOINTS = (
    Endpoint(
        "/recommend",
        "The best items of a user.",
        lambda run, given: run.recommend(
            given["user"], given["k"], given["where"], given["include_seen"], given["at_most"]
        ),
        (
            _USER, _K, _WHERE, _AT_MOST,
            Parameter("include_seen", "truth", "list items too that the user is known to have", default=False),
        ),
        _LIST,
    ),
    Endpoint(
        "/similar",
        "The items that are most like an item, by the cosine of the model's vectors.",
        lambda run, given: run.similar(given["item"], given["k"], given["where"], given["at_most"]),
        (_ITEM, _K, _WHERE, _AT_MOST),
        {
            "item": "id and name",
            "items": "rank, id, name and score of each item, most alike first",
            "notes": _LIST["notes"],
        },
    ),
    Endpoint(
        "/explain",
        "Where the score of a user and an item comes from, exactly; docs/explain.md defines every number.",
        lambda run, given: run.explain(given["user"], given["item"], given["top"]),
        (_USER, _ITEM, Parameter("top", "number", "the rows of each table", default=10, most="list_length")),
        {
            "user": "id and name", "item": "id and name", "score": "by which the model ranks",
            "rank": "of the item in the user's list", "components": "named parts that add up to the score",
            "past_items": "what each past item of the user adds", "facts": "what each fact of the item adds",
            "users": "what each user of the item adds", "paths": "what past items and the item share",
        },
    ),
    Endpoint(
        "/hierarchy",
        "Where an item lies in the hierarchy: what stands above it, and distances from the origin.",
        lambda run, given: run.place(given["item"]),
        (_ITEM,),
        {
            "item": "id and name",
            "distance": "of the item from the origin, null if the model has no positions",
            "paths": "from the item upwards: relation, id, name and distance of each step",
            "more": "whether there are further paths",
        },
    ),
    Endpoint(
        "/items",
        "Items by id or by a part of their name.",
        lambda run, given: {"items": [run.items.label(n) for n in run.items.search(given["query"], given["k"])]},
        (_QUERY, _K),
        {"items": "id and name of each"},
    ),
    Endpoint(
        "/users",
        "Users by id or by a part of their name.",
        lambda run, given: {"users": [run.users.label(n) for n in run.users.search(given["query"], given["k"])]},
        (_QUERY, _K),
        {"users": "id and name of each"},
    ),
    Endpoint(
        "/about",
        "What is served.",
        lambda run, given: run.about(),
        (),
        {"run": "its name", "model": "its kind", "data": "name and digest of the data set", "loaded": "when"},
    ),
)  # fmt: skip
