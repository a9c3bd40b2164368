"""What one request, one connection and all of them together may ask of the service."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from hakg_dgl.errors import ConfigError

Indexed: TypeAlias = Literal["auto", "always", "never"]
"""When an index of items takes the place of scoring all of them; see :mod:`hakg_dgl.serving.indexing`."""


@dataclass(frozen=True)
class Bounds:
    """The limits of the service; whatever is beyond one is refused with its name.

    Raises
    ------
    ConfigError
        If a limit is not a positive number.
    """

    body_bytes: int = 1 << 20
    """Size of a request's body."""
    head_bytes: int = 16 << 10
    """Size of a request's line and headers together."""
    text_letters: int = 512
    """Length of an id, a name or a condition."""
    json_depth: int = 8
    """Number of lists and objects within each other in a body."""
    list_length: int = 1000
    """Length of a list, the parameter ``k``."""
    users: int = 100
    """Number of users in a batch."""
    listed_items: int = 100_000
    """Number of items in all lists of a batch together."""
    given_items: int = 1000
    """Number of items that a new user is described by."""
    conditions: int = 8
    """Number of conditions ``where``, and of limits ``at_most``."""
    new_items: int = 100
    """Number of items of a request that the data set does not have."""
    item_columns: int = 50
    """Number of columns of such an item."""
    threads: int = 2
    """Number of requests that are computed at once."""
    at_work: int = 64
    """Number of requests that are computed or wait for it; the next one is answered by 503."""
    work_seconds: float = 10.0
    """Seconds until a request is given up."""
    client_seconds: float = 10.0
    """Seconds a client has to send a request's head, to send its body, and to take an answer that is waiting."""
    idle_seconds: float = 30.0
    """Seconds a connection may stay open between two requests."""
    connections: int = 512
    """Number of open connections; the next one is answered by 503."""
    reload_seconds: float = 1.0
    """Seconds between the beginnings of two reloads that are asked for over HTTP."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"the limit {limit.name} is {value}; it must be a number above 0")
