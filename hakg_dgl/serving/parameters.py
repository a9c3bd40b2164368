"""The parameters of requests: one table reads them and describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.refusals import Refusal

_HALF = re.compile("[\ud800-\udfff]")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """A parameter of an address.

    Attributes
    ----------
    name
        As it stands in the address.
    kind
        ``text``, ``number`` (a whole one of at least 1), ``truth`` or ``texts`` (may be repeated).
    about
        A sentence for the description of the service.
    default
        None: the parameter must be given (``texts`` may always be left out).
    most
        Name of the limit in :class:`~hakg_dgl.serving.bounds.Bounds` for a number, or for how many texts there may be.
    example
        For the description.
    """

    name: str
    kind: str
    about: str
    default: Any = None
    most: str | None = None
    example: Any = None

    @property
    def required(self) -> bool:
        """Whether a request without it is refused."""
        return self.default is None and self.kind != "texts"

    def schema(self, bounds: Bounds) -> dict[str, Any]:
        """Its JSON schema."""
        text: dict[str, Any] = {"type": "string", "maxLength": bounds.text_letters}
        schema: dict[str, Any] = {
            "text": text,
            "truth": {"type": "boolean"},
            "number": {"type": "integer", "minimum": 1},
            "texts": {"type": "array", "items": text},
        }[self.kind]
        if self.most is not None:
            schema["maximum" if self.kind == "number" else "maxItems"] = getattr(bounds, self.most)
        return schema if self.default is None else {**schema, "default": self.default}

    def read(self, values: Sequence[str], bounds: Bounds) -> Any:
        """Its value from what the address has, none, one or several texts; Refusal (400) if that is not allowed."""
        for value in values:
            checked_text(value, f"parameter {self.name!r}", bounds)
        if self.kind == "texts":
            most = getattr(bounds, self.most or "conditions")
            if len(values) > most:
                raise Refusal(400, f"parameter {self.name!r} is given {len(values)} times", f"At most {most} go.")
            return tuple(values)
        if len(values) > 1:
            raise Refusal(400, f"parameter {self.name!r} is given {len(values)} times", "Give it once.")
        if not values:
            if self.required:
                raise Refusal(400, f"parameter {self.name!r} is missing", f"Add {self.name}=...: {self.about}")
            return self.default
        return self._converted(values[0], bounds)

    def _converted(self, value: str, bounds: Bounds) -> Any:
        if self.kind == "number":
            digits = value if value.isascii() and value.isdecimal() and len(value) <= 9 else "0"
            return checked_number(int(digits), value, f"parameter {self.name!r}", getattr(bounds, str(self.most)))
        if self.kind == "truth":
            if value not in _TRUTH:
                raise Refusal(400, f"parameter {self.name!r} is {value[:80]!r}", "Write true or false.")
            return _TRUTH[value]
        if not value:
            raise Refusal(400, f"parameter {self.name!r} is empty", f"Write {self.name}=...: {self.about}")
        return value


def read_query(query: bytes, parameters: Sequence[Parameter], bounds: Bounds) -> dict[str, Any]:
    """The parameters of an address by name.

    Raises
    ------
    Refusal
        400: if one is unknown, missing, repeated, not UTF-8 or not allowed.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise Refusal(400, "the address is not UTF-8 in percent signs", "Encode every parameter as UTF-8.") from error
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    refuse_unknown(given, [parameter.name for parameter in parameters], "parameter")
    return {parameter.name: parameter.read(given.get(parameter.name, []), bounds) for parameter in parameters}


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raise Refusal (400) for the first name that is not known."""
    for name in given:
        if name not in known:
            there = f"There are {', '.join(known)}." if known else "There are none here."
            raise Refusal(400, f"there is no {what} {name[:80]!r}", there)


def checked_text(value: Any, what: str, bounds: Bounds, *, halves: bool = False) -> str:
    """A text that is not too long and that a table can hold; Refusal (400) otherwise.

    JSON may have halves of letters, such as ``\\ud800``, which no table holds; they are refused without ``halves``.
    """
    if not isinstance(value, str):
        raise Refusal(400, f"{what} is {_kind(value)}", "Send a text in quotes, also for a number.")
    if len(value) > bounds.text_letters:
        raise Refusal(400, f"{what} has {len(value):,} letters", f"At most {bounds.text_letters} are allowed.")
    half = None if halves or value.isascii() else _HALF.search(value)
    if half is not None:
        raise Refusal(400, f"{what} has half of a pair of letters, {half[0]!r}", "Send text that UTF-8 can write.")
    return value


def checked_number(value: Any, shown: Any, what: str, most: int) -> int:
    """A whole number of 1 to ``most``; Refusal (400) otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise Refusal(400, f"{what} is {str(shown)[:80]!r}", f"Write a whole number of 1 to {most:,}.")
    return value


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")
