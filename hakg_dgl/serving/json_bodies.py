"""JSON of requests: bounded in depth, without NaN, and no key twice."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from hakg_dgl.serving.refusals import Refusal

_TEXT_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
"""A text need not end, so that no part of a body is looked at twice: hostile ones would take hours otherwise."""


def read_json(body: bytes, *, depth: int) -> Any:
    """The value of a body.

    Parameters
    ----------
    body
        UTF-8.
    depth
        The largest number of lists and objects within each other; more is refused before anything is parsed.

    Raises
    ------
    Refusal
        400: if the body is not JSON, is too deep, holds NaN or an infinity, or an object has a key twice.
    """
    _refuse_depth(body, depth)
    try:
        return json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object
        )
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 at byte {error.start}", "Send JSON in UTF-8.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}", 'Send an object such as {"users": []}.') from error
    except ValueError as error:  # a whole number of thousands of digits
        raise Refusal(400, f"the body holds a number that cannot be read: {error}", "Send smaller numbers.") from error


def _refuse_depth(body: bytes, most: int) -> None:
    """Refuse brackets deeper than ``most``; those within texts do not count. Stops at the first that is too deep."""
    depth = 0
    for found in _TEXT_OR_BRACKET.finditer(body):
        if found[0][:1] != b'"':
            depth += 1 if found[0] in b"[{" else -1
        if depth > most:
            raise Refusal(400, f"the body has more than {most} lists and objects within each other", "Send a flat one.")


def _refuse_constant(name: str) -> Any:
    raise Refusal(400, f"the body holds {name}, which is not JSON", "Send finite numbers, or leave the value out.")


def _finite(text: str) -> float:
    """A number with a point or an exponent, such as 1e999, which is none that can be written."""
    value = float(text)
    if math.isinf(value):
        raise Refusal(400, f"the body holds {text[:80]}, which is too large", "Send finite numbers.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise Refusal(400, f"an object has the key {twice[:80]!r} twice", "Give each key once.")
    return found
