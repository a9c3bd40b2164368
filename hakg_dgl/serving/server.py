"""The server: one process that listens, answers, takes over newer runs and ends gently."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.refusals import Refusal
from hakg_dgl.serving.served_run import ServedRun

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from hakg_dgl.serving.current import CurrentRun

_OWN = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ANY = frozenset({"0.0.0.0", "::"})
_ENDING_SECONDS = 5
"""Seconds that requests have to end when the server is told to stop."""

_LOOKING_SECONDS = 0.1
"""Seconds until a reload that waits for another one looks again."""


def require_server() -> None:
    """Raise MissingDependencyError unless the packages of the extra ``serve`` can be imported."""
    try:
        import h11  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"serving needs Starlette, uvicorn and prometheus_client ({error}): pip install 'hakg_dgl[serve]'"
        ) from error


def serve(
    load: Callable[[], ServedRun],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    bounds: Bounds | None = None,
    allowed_hosts: Collection[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Answer over HTTP until SIGINT or SIGTERM; SIGHUP reads the run again.

    One request is computed by one thread, several requests at once.

    Parameters
    ----------
    load
        Reads the run; it is called at the start and for every reload.
    host, port
        Where to listen; port 0 takes a free one.
    bounds
        What requests may ask for; by default those of :class:`~hakg_dgl.serving.bounds.Bounds`.
    allowed_hosts
        Further names that requests may be for. On an address of this machine alone, or with names given, requests for
        any other name are refused; on ``0.0.0.0`` and other addresses without names, all are allowed.
    tell
        Is given a line when the server listens and after every reload by SIGHUP.

    Raises
    ------
    MissingDependencyError
        If the extra ``serve`` is not installed.
    ConfigError
        If the address cannot be listened at.
    HakgError, OSError
        If the run is broken.
    """
    require_server()
    import torch

    from hakg_dgl.serving.application import make_application
    from hakg_dgl.serving.current import CurrentRun
    from hakg_dgl.serving.work import Workplace

    limits = bounds or Bounds()
    torch.set_num_threads(1)  # threads within a product would take the cores from other requests
    sys.setswitchinterval(0.001)  # a long request gives way to short ones sooner than by default
    listening = _listening(host, port)
    with listening:
        current = CurrentRun(load, pause=limits.reload_seconds)
        work = Workplace(limits)
        application = make_application(current, limits, hosts=_hosts(host, allowed_hosts), work=work)
        address = _address(*listening.getsockname()[:2])
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line for every odd request would fill a disk
        try:
            asyncio.run(_run(application, current, limits, listening, lambda: tell(f"Listening at {address}"), tell))
        finally:  # what waits is not begun any more, or the process would stay until all of it is computed
            work.close()
            current.close()


async def _run(
    application: ASGIApp,
    current: CurrentRun,
    bounds: Bounds,
    listening: socket.socket,
    listens: Callable[[], None],
    tell: Callable[[str], None],
) -> None:
    import uvicorn

    from hakg_dgl.serving.connections import bounded_protocol

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listens()

    config = uvicorn.Config(
        application,
        http=bounded_protocol(bounds),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=bounds.connections,
        timeout_keep_alive=int(bounds.idle_seconds),
        timeout_graceful_shutdown=_ENDING_SECONDS,
        h11_max_incomplete_event_size=bounds.head_bytes,
    )
    tasks: set[asyncio.Task[None]] = set()

    def hang_up() -> None:
        if len(tasks) > 1:  # one is at work, and one waits that will read what is there then
            return
        task = asyncio.ensure_future(_reload(current, tell))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    await Server(config).serve(sockets=[listening])


async def _reload(current: CurrentRun, tell: Callable[[str], None]) -> None:
    while current.reloading:  # which may have begun before the newest run was there
        await asyncio.sleep(_LOOKING_SECONDS)
    try:
        run = await current.reload(at_once=True)
    except Refusal as refusal:
        tell(f"Not reloaded: {refusal.problem}")
    else:
        tell(f"Reloaded: {run.facts['run']}, model {run.facts['model']}, epoch {run.facts['epoch']}")


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address; ConfigError with the reason if that cannot be."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen at {_address(host, port)}: {reason}; choose another address (--host, --port)"
        ) from error
    return listening


def _hosts(host: str, allowed: Collection[str]) -> frozenset[str] | None:
    named = f"[{host}]" if ":" in host else host
    if allowed or named in _OWN or host.startswith("127."):
        return frozenset({*_OWN, *allowed, *(() if host in _ANY else (named,))})
    return None


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
