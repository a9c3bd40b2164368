"""Bodies of requests: users that are known, newer or new, and items that the data set does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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


NewItemRow: TypeAlias = "tuple[tuple[str, str], ...]"
"""An item that the data set does not have: columns and texts, as a row of a catalogue; the id stands in ``item``."""


@dataclass(frozen=True)
class Batch:
    """Several lists that are asked for at once; attributes as in ``POST /recommend``."""

    users: tuple[AskingUser, ...]
    k: int
    where: tuple[str, ...] = ()
    include_seen: bool = False
    at_most: tuple[str, ...] = ()
    new_items: tuple[NewItemRow, ...] = ()


@dataclass(frozen=True)
class AskedItem:
    """The item of ``POST /similar``, which may be one of the new items."""

    item: str
    k: int
    where: tuple[str, ...] = ()
    at_most: tuple[str, ...] = ()
    new_items: tuple[NewItemRow, ...] = ()


def read_batch(value: Any, bounds: Bounds) -> Batch:
    """A batch from the JSON value of a body; Refusal (400) that names the place of what is wrong."""
    body = _object(value, "the body", ("users", "k", "where", "include_seen", "at_most", "new_items"))
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
    asked = tuple(_user(user, f"users[{n}]", bounds) for n, user in enumerate(users))
    return Batch(asked, k, include_seen=seen, **_filters(body, bounds))


def read_asked_item(value: Any, bounds: Bounds) -> AskedItem:
    """An item from the JSON value of a body; Refusal (400) that names the place of what is wrong."""
    body = _object(value, "the body", ("item", "k", "where", "at_most", "new_items"))
    if not body.get("item"):
        raise Refusal(400, "item is missing", 'Name one by id or name: {"item": "..."}.')
    item = checked_text(body["item"], "item", bounds)
    return AskedItem(
        item, checked_number(body.get("k", 20), body.get("k"), "k", bounds.list_length), **_filters(body, bounds)
    )


def _filters(body: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    """What both bodies have: conditions, limits and new items."""
    found: dict[str, Any] = {
        name: _texts(body.get(name, []), name, bounds.conditions, bounds) for name in ("where", "at_most")
    }
    rows = _list(body.get("new_items", []), "new_items", bounds.new_items)
    return {**found, "new_items": tuple(_row(row, f"new_items[{n}]", bounds) for n, row in enumerate(rows))}


def _row(value: Any, place: str, bounds: Bounds) -> NewItemRow:
    """A new item; several values of a column are put together as a table has them, with ``|``."""
    row = _object(value, place)
    if not isinstance(row.get("item"), str) or not row["item"].strip():
        raise Refusal(400, f"{place}.item is missing", 'Give each new item its id: {"item": "...", "brand": "..."}.')
    if len(row) > bounds.item_columns:
        raise Refusal(400, f"{place} has {len(row):,} keys", f"At most {bounds.item_columns} go.")
    found = []
    for name, given in row.items():
        column, what = checked_text(name, f"a key of {place}", bounds), f"{place}[{name[:80]!r}]"
        if given is None:
            continue
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            given = _written(given)
        texts = _texts([given] if isinstance(given, str) else given, what, bounds.given_items, bounds)
        found.append((column, "|".join(texts)))
    return tuple(found)


def _written(number: float) -> str:
    """A number as prices and years are written, and with as many digits as it takes."""
    if isinstance(number, int):
        return str(number)
    short = f"{number:.15g}"
    return short if float(short) == number else repr(number)


def _user(value: Any, place: str, bounds: Bounds) -> AskingUser:
    user = _object(value, place, ("id", "items", "attributes"))
    if not user:
        raise Refusal(400, f"{place} is empty", "Give an id, items, attributes, or several of them.")
    known = checked_text(user["id"], f"{place}.id", bounds, halves=True) if "id" in user else None  # it is not found
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
