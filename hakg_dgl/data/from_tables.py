"""Tables, in memory or in files -> :class:`~hakg_dgl.data.dataset.Dataset`, in one call."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.sources import Files
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.errors import ConfigError, DataError

_GIVEN = ("interactions", "triples", "items", "users")
"""Tables that have an argument of their own."""
READ_BY = tuple(name for name in inspect.signature(read_tables).parameters if name not in _GIVEN)
"""Further arguments that the reader of tables takes."""
PREPARED_BY = tuple(field.name for field in dataclasses.fields(PreprocessOptions))
"""Settings of the preprocessing."""


def from_tables(
    interactions: Files,
    items: Files | None = None,
    users: Files | None = None,
    knowledge_graph: Files | None = None,
    **more: Any,
) -> Dataset:
    """A data set from tables: :func:`~hakg_dgl.read_tables` and then :func:`~hakg_dgl.preprocess`.

    A table is a ``pandas.DataFrame``, a ``polars.DataFrame``, a ``pyarrow.Table`` or anything else that speaks Arrow's
    protocols, or a file. Checks, repairs and their counts are those of files; a message names the argument and the row
    (from 0) where it would name file and line. The same tables as files give an equal data set, with an equal digest.

    Parameters
    ----------
    interactions
        A row an interaction: ``user`` and ``item``, and what ``rating_col``, ``timestamp_col`` and ``split_col`` name.
    items
        A row an item: its id, its name, and facts in the other columns.
    users
        A row a user, likewise.
    knowledge_graph
        A row a triple: ``head``, ``relation`` and ``tail``; ``links`` says which entity an item is, if ids differ.
    **more
        Further arguments of :func:`~hakg_dgl.read_tables` (``user_col``, ``timestamp_col``, ``links``, ``user_facts``,
        ``facts``, ...) and settings of :class:`~hakg_dgl.PreprocessOptions` (``split``, ``test``,
        ``min_user_interactions``, ``seed``, ...).

    Raises
    ------
    DataError
        If a table lacks a column or holds a value that is wrong, or nothing is left.
    ConfigError
        If an argument does not exist, or has a value that is not allowed.

    Examples
    --------
    >>> orders = pandas.DataFrame({"user": ["ann", "bob"], "item": ["tea", "tea"]})
    >>> goods = pandas.DataFrame({"item": ["tea", "jam"], "kind": ["drink", "food"]})
    >>> dataset = from_tables(orders, items=goods, valid=0, test=0)
    >>> dataset.n_users, dataset.n_items
    (2, 2)
    """
    reading, settings = split_arguments(more)
    raw = raw_from_tables(interactions, items, users, knowledge_graph, **reading)
    return preprocess(raw, PreprocessOptions(**settings))


def raw_from_tables(
    interactions: Files,
    items: Files | None = None,
    users: Files | None = None,
    knowledge_graph: Files | None = None,
    **reading: Any,
) -> RawData:
    """The tables as :func:`~hakg_dgl.read_tables` reads them, with messages that name the arguments given here.

    Parameters and errors are those of :func:`from_tables`, without the settings of the preprocessing.
    """
    try:
        return read_tables(interactions, knowledge_graph, items=items, users=users, **reading)
    except DataError as error:
        if not re.fullmatch(r"triples(-\d+)?", str(error.path)):
            raise
        path = str(error.path).replace("triples", "knowledge_graph", 1)
        raise DataError(error.problem, path=path, line=error.line, remedy=error.remedy) from error


def split_arguments(more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that the reader of tables takes, and those that the preprocessing does.

    Raises
    ------
    ConfigError
        If there is one that neither takes; the message names the nearest.
    """
    unknown = next((name for name in more if name not in (*READ_BY, *PREPARED_BY)), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, [*READ_BY, *PREPARED_BY], n=3)
        known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join((*READ_BY, *PREPARED_BY))}"
        raise ConfigError(f"there is no argument {unknown!r}; {known}")
    reading = {name: value for name, value in more.items() if name in READ_BY}
    return reading, {name: value for name, value in more.items() if name in PREPARED_BY}
