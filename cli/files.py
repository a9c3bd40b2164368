"""Writing results: under a temporary name first, then renamed, so that a file is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")


class TablePath(click.Path):
    """A file to write a table to, whose name tells the format."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check the name before any work is done."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix not in TABLE_SUFFIXES:
            self.fail(f"{str(value)!r} must end with one of {', '.join(TABLE_SUFFIXES)}", param, ctx)
        return path


def write_json(value: Any, target: str) -> None:
    """Write JSON to a file, or to stdout for ``-``."""
    if target == "-":
        click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
        return
    from hakg_dgl.training import files

    with _errors_naming(Path(target)):
        files.write_json(Path(target), value)


def write_tables(blocks: Iterable[pd.DataFrame], path: Path) -> int:
    """Write blocks of one table, one after the other; returns the number of rows."""
    from hakg_dgl.training.files import replace_file

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
    """Make the folder, and let errors name the file that was asked for, not its temporary, or none."""
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
            else:
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
