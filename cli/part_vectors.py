"""``--parts``: the vectors that a run ranks by, computed by processes that each hold their own rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .processes import in_processes
from .several import VECTORS


def parts_option(command: Any) -> Any:
    """Add the option ``--parts`` to a command that ranks."""
    return click.option(
        "--parts",
        type=click.Path(path_type=Path, file_okay=False),
        help="With --processes: what 'hakg partition DATA' wrote. Each process reads its part and its rows of the run.",
    )(command)


def refuse_parts(parts: Path | None, processes: int) -> None:
    """Raise UsageError for parts without processes, ConfigError for another number of them."""
    if parts is None or VECTORS in os.environ:  # this process helps one that has computed them
        return
    if processes == 1:
        raise click.UsageError("--parts is for several processes: add --processes N, as many as there are parts")
    from hakg_dgl.data.parts import Parts
    from hakg_dgl.distributed.loading import require_one_part_each

    require_one_part_each(Parts(parts).n_parts, processes)


def is_one_of_several() -> bool:
    """Whether :func:`vectors_by_parts` started this process, which has to :func:`write_own_vectors`."""
    from hakg_dgl.distributed.group import in_group

    return in_group() and VECTORS in os.environ


def write_own_vectors(run: Path, data: Path | None, parts: Path) -> None:
    """Write the vectors of own users and items, together with the other processes."""
    from hakg_dgl.distributed.group import joined
    from hakg_dgl.distributed.loading import load_own
    from hakg_dgl.distributed.vectors import write_vectors
    from hakg_dgl.training.run_folder import RunFolder

    with joined():
        part, owners = load_own(data or RunFolder(run).data_path or Path(), parts)
        write_vectors(run, part, owners, Path(os.environ[VECTORS]))


@contextmanager
def vectors_by_parts(parts: Path | None, processes: int) -> Iterator[None]:
    """Have the processes of the parts compute the vectors; within the block they are what this process ranks by."""
    if parts is None or VECTORS in os.environ:
        yield
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="hakg-vectors-") as folder:
        os.environ[VECTORS] = folder
        try:
            in_processes(processes, what="the command", advice="Nothing was written; give the command again.")
            yield
        finally:
            del os.environ[VECTORS]
