"""Names of relations that can name edge types: distinct from each other, from inverses and from the interactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

INVERSE_PREFIX = "inverse_"

INTERACTION_NAMES = ("interacts", "interacted_by")
"""Names of the edge types of interactions."""


def distinct_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Names that are distinct, from those taken too, and of which none is the inverse (``inverse_NAME``) of another.

    A name without a conflict stays. Any other gets its position appended, ``genre_3``, as often as it takes to become a
    name that occurs nowhere. So every name that changes differs from all names that were given, and a second call
    changes nothing.

    Parameters
    ----------
    names
        Names of relations, in index order.
    taken
        Names that others have.
    """
    others = set(taken)
    occupied = {*names, *others}
    times = Counter(names)
    result: list[str] = []
    for number, name in enumerate(names):
        if times[name] == 1 and not _in_conflict(name, others) and not _is_inverse_of_one(name, occupied):
            result.append(name)
            continue
        candidate = f"{name}_{number}"
        while _in_conflict(candidate, occupied):
            candidate = f"{candidate}_{number}"
        occupied.add(candidate)
        result.append(candidate)
    return result


def _is_inverse_of_one(name: str, names: set[str]) -> bool:
    return name.startswith(INVERSE_PREFIX) and name.removeprefix(INVERSE_PREFIX) in names


def _in_conflict(name: str, names: set[str]) -> bool:
    return name in names or INVERSE_PREFIX + name in names or _is_inverse_of_one(name, names)
