"""Requests that are refused, each with a status of HTTP, what is wrong and how to put it right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hakg_dgl.errors import DataError, HakgError

RETRY_AFTER_SECONDS = 1


class Refusal(Exception):
    """A request that is answered by a status of 4xx or 5xx.

    Parameters
    ----------
    status
        Of the answer.
    problem
        What is wrong, with the value that is.
    remedy
        How to put it right.
    headers
        Further headers of the answer.
    """

    def __init__(
        self, status: int, problem: str, remedy: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status: int = status
        self.problem: str = problem
        self.remedy: str | None = remedy
        self.headers: dict[str, str] = dict(headers or {})
        super().__init__(problem)

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer, JSON values."""
        error = {"status": self.status, "problem": self.problem, "remedy": self.remedy}
        return {"error": {key: value for key, value in error.items() if value is not None}}


def refusal_of(error: HakgError, status: int = 400) -> Refusal:
    """An error of the library as a refusal."""
    if isinstance(error, DataError):
        return Refusal(status, error.problem, error.remedy)
    return Refusal(status, str(error))


def later(problem: str, remedy: str | None = None, seconds: int = RETRY_AFTER_SECONDS) -> Refusal:
    """A refusal by 503 that says when to try again."""
    return Refusal(503, problem, remedy, {"Retry-After": str(seconds)})


def head_too_long(most: int) -> Refusal:
    """The refusal of a request whose line and headers are too long; the connection is closed after it."""
    return Refusal(
        431, "the head of the request is too long", f"At most {most:,} bytes are allowed.", {"Connection": "close"}
    )
