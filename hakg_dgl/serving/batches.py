"""Users of a batch: known ones, known ones with newer items, and new ones by their items and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.parameters import checked_number, checked_text, refuse_unknown
from hakg_dgl.serving.refusals import Refusal


@dataclass(frozen=True)
class AskingUser:
    """A user of a batch.

    Attributes
    ----------
    id
        Original id of a user of the data set, None for a new one.
    items
        Items that the user has, by id or name; of a known user those that are newer than the data set.
    attributes
        Relation of users -> values.
    """

    id: str | None = None
    items: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def folded(self) -> bool:
        """Whether the list is computed from what is said here, rather than the trained one."""
        return self.id is None or bool(self.items or self.attributes)


@dataclass(frozen=True)
class Batch:
    """Several lists that are asked for at once; attributes as in ``POST /recommend``."""

    users: tuple[AskingUser, ...]
    k: int
    where: tuple[str, ...]
    include_seen: bool


def read_batch(value: Any, bounds: Bounds) -> Batch:
    """A batch from the JSON value of a body; Refusal (400) that names the place of what is wrong."""
    body = _object(value, "the body", ("users", "k", "where", "include_seen"))
    users = _list(body.get("users"), "users", bounds.users)
    if not users:
        raise Refusal(400, "users is empty", 'Name at least one: {"users": [{"id": "..."}]}.')
    k = checked_number(body.get("k", 20), body.get("k"), "k", bounds.list_length)
    if k * len(users) > bounds.listed_items:
        raise Refusal(
            400,
            f"{len(users)} lists of {k} items are asked for",
            f"At most {bounds.listed_items:,} items go into one answer: send smaller batches.",
        )
    seen = body.get("include_seen", False)
    if not isinstance(seen, bool):
        raise Refusal(400, f"include_seen is {str(seen)[:80]!r}", "Write true or false.")
    where = _texts(body.get("where", []), "where", bounds.conditions, bounds)
    return Batch(tuple(_user(user, f"users[{n}]", bounds) for n, user in enumerate(users)), k, where, seen)


def _user(value: Any, place: str, bounds: Bounds) -> AskingUser:
    user = _object(value, place, ("id", "items", "attributes"))
    if not user:
        raise Refusal(400, f"{place} is empty", "Give an id, items, attributes, or several of them.")
    known = checked_text(user["id"], f"{place}.id", bounds) if "id" in user else None
    items = _texts(user.get("items", []), f"{place}.items", bounds.given_items, bounds)
    attributes = _object(user.get("attributes", {}), f"{place}.attributes")
    if len(attributes) > bounds.given_items:
        raise Refusal(400, f"{place}.attributes has {len(attributes):,} keys", f"At most {bounds.given_items} go.")
    values = {
        checked_text(name, f"a key of {place}.attributes", bounds): _texts(
            [texts] if isinstance(texts, str) else texts,
            f"{place}.attributes[{name[:80]!r}]",
            bounds.given_items,
            bounds,
        )
        for name, texts in attributes.items()
    }
    return AskingUser(known, items, values)


def _object(value: Any, what: str, known: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(400, f"{what} is not an object", "Write it in braces: {...}.")
    if known is not None:
        refuse_unknown(value, known, f"key of {what}")
    return value


def _list(value: Any, what: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise Refusal(400, f"{what} is not a list", "Write it in brackets: [...].")
    if len(value) > most:
        raise Refusal(400, f"{what} has {len(value):,} entries", f"At most {most:,} go into one request.")
    return value


def _texts(value: Any, what: str, most: int, bounds: Bounds) -> tuple[str, ...]:
    listed = _list(value, what, most)
    return tuple(checked_text(text, f"{what}[{number}]", bounds) for number, text in enumerate(listed))
