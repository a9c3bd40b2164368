"""Writes results under a temporary name and renames them, so that a file is whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")


class ResultPath(click.Path):
    """A file to write, whose name and folder are checked before any work is done.

    Parameters
    ----------
    suffixes
        Endings that the name may have; without them, any ending is right.
    dash
        Whether ``-`` stands for stdout.
    folder
        Whether it may be a folder that is there.
    """

    def __init__(self, *suffixes: str, dash: bool = False, folder: bool = False) -> None:
        super().__init__(dir_okay=folder, allow_dash=dash, path_type=Path)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, if a file can be written there."""
        if not str(value):
            self.fail("an empty name", param, ctx)
        path = Path(str(super().convert(value, param, ctx)))
        if self.suffixes and path.suffix not in self.suffixes:
            self.fail(f"{str(value)!r} must end with one of {', '.join(self.suffixes)}", param, ctx)
        if str(value) != "-":
            place = next(folder for folder in path.absolute().parents if folder.exists())
            if not place.is_dir():
                self.fail(f"{str(value)!r} cannot be written: {str(place)!r} is not a folder", param, ctx)
            if not os.access(place, os.W_OK | os.X_OK):
                self.fail(f"{str(value)!r} cannot be written: {str(place)!r} is not writable", param, ctx)
        return path


def table_path(*, folder: bool = False) -> ResultPath:
    """A file to write a table to, whose name tells the format; ``folder``: or a folder of such files."""
    return ResultPath(*TABLE_SUFFIXES, folder=folder)


def write_json(value: Any, target: Path) -> None:
    """Write JSON to a file, or to stdout for ``-``."""
    if str(target) == "-":
        click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
        return
    from hakg_dgl import atomic_files

    with _errors_naming(Path(target)):
        atomic_files.write_json(Path(target), value)


def write_text_file(text: str, target: Path) -> None:
    """Write a text file (UTF-8)."""
    from hakg_dgl import atomic_files

    with _errors_naming(target):
        atomic_files.write_text(target, text)


def write_tables(blocks: Iterable[pd.DataFrame], path: Path) -> int:
    """Write blocks of one table, one after the other; returns the number of rows."""
    from hakg_dgl.atomic_files import replace_file

    rows = 0

    def write_all(temporary: Path) -> None:
        nonlocal rows
        with _writer(temporary, path.suffix) as write:
            for block in blocks:
                write(block)
                rows += len(block)

    with _errors_naming(path):
        replace_file(path, write_all)
    return rows


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Make the folder, and let errors name the file itself instead of its temporary name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def _writer(path: Path, suffix: str) -> Iterator[Callable[[pd.DataFrame], None]]:
    if suffix == ".parquet":
        with _parquet_writer(path) as write:
            yield write
        return
    with path.open("w", encoding="utf-8", newline="") as handle:

        def write_text(block: pd.DataFrame) -> None:
            if suffix == ".csv":
                block.to_csv(handle, index=False, header=handle.tell() == 0, lineterminator="\n")
            elif len(block):  # pandas makes an empty line of an empty table
                block.to_json(handle, orient="records", lines=True, force_ascii=False)

        yield write_text


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def write(block: pd.DataFrame) -> None:
        nonlocal writer
        rows = pa.Table.from_pandas(block, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
