"""``hakg serve`` answers over HTTP with the lists of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from hakg_dgl.serving.bounds import Indexed

from .failures import after_interrupt
from .runs import device_option, open_run

if TYPE_CHECKING:
    from hakg_dgl.serving.served_run import ServedRun


@click.command(
    "serve",
    epilog="\b\nExamples:\n"
    "  hakg serve runs/demo\n"
    "  hakg serve runs/demo --host 0.0.0.0 --port 8080 --allowed-host shop.example\n"
    "  curl 'http://127.0.0.1:8000/recommend?user=user_7&k=5'\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="A further host name that requests may be for; repeatable. On 127.0.0.1 others are refused.",
)  # fmt: skip
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Requests computed at once, one a thread.",
)
@click.option(
    "--at-work", type=click.IntRange(1, 100_000), default=64, show_default=True,
    help="Requests computed or waiting; further ones get status 503.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.01, 3600), default=10.0, show_default=True,
    help="Time limit of a request, and of a client that sends or takes slowly.",
)  # fmt: skip
@click.option("--max-k", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="Longest list.")
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=1 << 20,
    show_default=True,
    help="Largest body of a request, in bytes.",
)
@click.option("--max-users", type=click.IntRange(1), default=100, show_default=True, help="Most users in a batch.")
@click.option(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=512,
    show_default=True,
    help="Most open connections; further ones get status 503.",
)
@click.option(
    "--index", type=click.Choice(get_args(Indexed)), default="auto", show_default=True,
    help="Rank by an approximate index of the items (FAISS): auto is from a million items on.",
)  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def serve_command(
    run: Path, host: str, port: int, allowed_hosts: tuple[str, ...], threads: int, at_work: int, seconds: float,
    max_k: int, max_body: int, max_users: int, max_connections: int, index: Indexed, data: Path | None, device: str,
) -> None:  # fmt: skip
    """Answer over HTTP by the model of RUN.

    There are lists, similar items and explanations. A page for people is at /, the description of all addresses at
    /openapi.json. POST /reload and SIGHUP read RUN again; the earlier model answers until the newer one is ready, and
    goes on if that is broken. docs/serving.md shows every address.
    """
    from hakg_dgl.serving.bounds import Bounds
    from hakg_dgl.serving.server import require_server, serve

    require_server()
    bounds = Bounds(
        threads=threads, at_work=at_work, work_seconds=seconds, client_seconds=seconds, list_length=max_k,
        body_bytes=max_body, users=max_users, connections=max_connections,
    )  # fmt: skip
    after_interrupt("The service has ended; requests that were at work were answered.")
    serve(
        lambda: _served(run, data, device, index),
        host=host, port=port, bounds=bounds, allowed_hosts=allowed_hosts, tell=_tell,
    )  # fmt: skip


def _served(run: Path, data: Path | None, device: str, index: Indexed) -> ServedRun:
    from hakg_dgl.serving.served_run import ServedRun

    opened = open_run(run, data)
    name = opened.folder.path.name
    served = ServedRun(opened.load(device), opened.dataset, name=name, notes=opened.notes, index=index)
    if (found := served.about()["index"]) is not None:
        _tell(
            f"Lists come from an index: {found['probes']:,} of its {found['lists']:,} lists are looked through, which "
            f"finds {found['recall']:.1%} of the best {found['cut']} of {found['users']} users"
        )
    return served


def _tell(line: str) -> None:
    click.echo(line, err=True)
