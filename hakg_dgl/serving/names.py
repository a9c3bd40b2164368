"""Users and items by original id, and by what is in their name."""

from __future__ import annotations

import heapq

import pandas as pd


class Names:
    """The rows of a table by original id or name.

    Parameters
    ----------
    table
        Columns ``original_id`` and ``name`` (text); row ``i`` is number ``i``.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.ids: list[str] = table["original_id"].tolist()
        self.names: list[str] = table["name"].tolist()
        self._folded = [name.casefold() for name in self.names]
        self._number = {text: number for number, text in reversed(list(enumerate(self.ids)))}  # the first of equal ids
        self._named: dict[str, int | None] = {}
        for number, name in enumerate(self.names):
            self._named[name] = None if name in self._named else number

    def __len__(self) -> int:
        return len(self.ids)

    def number(self, original_id: str) -> int | None:
        """The row with this id, None if there is none."""
        return self._number.get(original_id)

    def named(self, name: str) -> int | None:
        """The row that alone has this name, None if there is none or several have it."""
        return self._named.get(name)

    def label(self, number: int) -> dict[str, str]:
        """Id and name of a row."""
        return {"id": self.ids[number], "name": self.names[number]}

    def search(self, text: str, k: int) -> list[int]:
        """At most ``k`` rows with this id or with the text in their name, whatever its case.

        The row with the id comes first, then names that begin with the text, then the others, each in order of rows.
        """
        wanted = text.casefold().strip()
        same = self.number(text.strip())
        found = (
            (number != same, not name.startswith(wanted), number)
            for number, name in enumerate(self._folded)
            if wanted in name or number == same
        )
        return [number for _, _, number in heapq.nsmallest(k, found)]
