"""A command that several processes run together: the same command line, started again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from hakg_dgl.distributed.starter import STARTED_BY, orphaned

if TYPE_CHECKING:
    from hakg_dgl.ranking.topk import EmbeddingScorer, Scorer

Command = TypeVar("Command", bound="Callable[..., Any]")
_ARGUMENTS = "hakg_dgl.arguments"


VECTORS = "HAKG_SHARED_VECTORS"
"""Environment variable with the folder of the vectors that the process that started this one ranks by."""


class KeepsArguments(click.Command):
    """A command that remembers how it was called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, and parse them."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def arguments(ctx: click.Context) -> list[str]:
    """The command line of a command that :class:`KeepsArguments`, from its name on."""
    return [str(ctx.info_name), *ctx.meta[_ARGUMENTS]]


def processes_option(help_text: str) -> Callable[[Command], Command]:
    """Add the option ``--processes`` to a command that ranks by several processes of this machine."""
    return click.option(
        "--processes", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N", help=help_text
    )


def one_device(processes: int, device: str) -> str:
    """The CPU for several processes; UsageError if a GPU is asked for."""
    if processes > 1 and device == "cuda":
        raise click.UsageError("--processes rank on the CPU, a GPU ranks by one process: leave one of them out")
    return "cpu" if processes > 1 else device


@contextmanager
def shared_vectors(scorer: Scorer, processes: int) -> Iterator[tuple[Scorer, dict[str, str]]]:
    """The scorer, and the environment that :func:`helpers` need for the same one, whose vectors are there once.

    Of a scorer without vectors of users there is nothing to share: each process makes its own.
    """
    from tempfile import TemporaryDirectory

    from hakg_dgl.ranking.shared_vectors import has_vectors, mapped_scorer, save_vectors

    if processes == 1 or not has_vectors(scorer):
        yield scorer, {}
        return
    with TemporaryDirectory(prefix="hakg-vectors-") as folder:
        save_vectors(Path(folder), scorer)
        yield mapped_scorer(Path(folder)), {VECTORS: folder}


def given_scorer() -> EmbeddingScorer | None:
    """The scorer of the process that started this one, if it shares it."""
    from hakg_dgl.ranking.shared_vectors import mapped_scorer

    folder = os.environ.get(VECTORS)
    return None if folder is None else mapped_scorer(Path(folder))


@contextmanager
def helpers(processes: int, shared: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Have ``processes - 1`` others run the same command until the end of the block; they share the processors.

    They must divide the work among themselves and with this process, by files. One that fails costs only its help: a
    note says why.
    """
    if processes == 1:
        yield
        return
    import tempfile

    import torch

    before = torch.get_num_threads()
    threads = max(1, before // processes)
    ctx = click.get_current_context()
    command = [sys.executable, "-m", "hakg_dgl.cli", *arguments(ctx), "--processes", "1"]
    environment = {**os.environ, **shared, STARTED_BY: str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
    started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    with ExitStack() as held:
        held.callback(torch.set_num_threads, before)
        torch.set_num_threads(threads)
        held.callback(_end, started)
        for _ in range(processes - 1):
            errors: IO[bytes] = held.enter_context(tempfile.TemporaryFile())
            child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )
            started.append((child, errors))
        yield
        for child, told in started:
            if child.wait():
                told.seek(0)
                lines = told.read().decode(errors="replace").strip().splitlines()
                why = lines[-1] if lines else f"exit code {child.returncode}"
                click.echo(f"Note: one of the processes ended early, and the others did its work: {why}", err=True)


def _end(started: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
    """End what is still at work."""
    for child, _ in started:
        if child.poll() is None:
            child.terminate()
            child.wait()


def still_wanted() -> bool:
    """Whether the process that started this one, if any did, is still there."""
    return not orphaned()
