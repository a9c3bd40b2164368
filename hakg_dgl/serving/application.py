"""The ASGI application: routes, bounds, refusals as JSON, and headers that keep a browser strict."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hakg_dgl.errors import HakgError
from hakg_dgl.serving.batches import read_asked_item, read_batch
from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.current import CurrentRun
from hakg_dgl.serving.endpoints import ENDPOINTS, Endpoint
from hakg_dgl.serving.json_bodies import read_json
from hakg_dgl.serving.monitoring import Monitor
from hakg_dgl.serving.openapi import description
from hakg_dgl.serving.parameters import read_query
from hakg_dgl.serving.refusals import Refusal, head_too_long, later, refusal_of
from hakg_dgl.serving.served_run import ServedRun
from hakg_dgl.serving.work import Workplace

log: logging.Logger = logging.getLogger(__name__)

PAGE_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""

TWO_LENGTHS = Refusal(
    400, "the request has both Content-Length and Transfer-Encoding", "Send one of them.", {"Connection": "close"}
)
"""A proxy may see another request in the same bytes (RFC 9112, section 6.1)."""

Handler = Callable[[Request], Awaitable[Response]]


def make_application(
    current: CurrentRun, bounds: Bounds, *, hosts: Collection[str] | None = None, work: Workplace | None = None
) -> ASGIApp:
    """The application.

    Parameters
    ----------
    current
        The run that answers.
    bounds
        What requests may ask for.
    hosts
        The names that a request's ``Host`` may have, without port; None allows all. On a machine's own address, a
        page of another site could otherwise have a browser ask under a name that it points there.
    work
        The threads that requests are computed by; by default those of ``bounds``.

    Returns
    -------
    ASGIApp
        Serve it by any ASGI server; :func:`hakg_dgl.serving.server.serve` also bounds heads, clients and connections.
    """
    return _Guarded(_Service(current, bounds, work or Workplace(bounds)), bounds.head_bytes, hosts)


class _Service:
    """The routes and their handlers."""

    def __init__(self, current: CurrentRun, bounds: Bounds, work: Workplace) -> None:
        self.current, self.bounds, self.work = current, bounds, work
        self.monitor = Monitor(lambda: self.work.at_work, lambda: current.loaded_at, lambda: current.reloads)
        self.described = _json(description(bounds, version("hakg_dgl")))
        self.routes = self._routes()

    def _routes(self) -> dict[str, dict[str, Handler]]:
        """Handlers by path and method. Paths are compared as a whole, so there is no way around in one."""
        routes: dict[str, dict[str, Handler]] = {
            endpoint.path: {"GET": partial(self.answer, endpoint)} for endpoint in ENDPOINTS
        }
        routes["/recommend"]["POST"] = partial(self.posted, _lists)
        routes["/similar"]["POST"] = partial(self.posted, _similar)
        routes["/reload"] = {"POST": self.reload}
        routes |= {"/healthz": {"GET": self.health}, "/readyz": {"GET": self.ready}, "/metrics": {"GET": self.metrics}}
        routes["/openapi.json"] = {"GET": self.describe}
        for path, (name, kind) in PAGE_FILES.items():
            content = files("hakg_dgl.serving").joinpath(name).read_bytes()
            routes[path] = {"GET": partial(_file, content, kind)}
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and note it in the metrics; endpoints that are not there are noted as one."""
        begun = time.perf_counter()
        path = scope["path"] if scope["path"] in self.routes else "unknown"
        response = await self.response(path, Request(scope, receive))
        await response(scope, receive, send)
        self.monitor.count(path, response.status_code, time.perf_counter() - begun)

    async def response(self, path: str, request: Request) -> Response:
        """The answer of a route's handler, or the refusal that it raises."""
        try:
            return await _handler(request, self.routes.get(path, {}))(request)
        except Refusal as refusal:
            return refused(refusal)
        except HakgError as error:  # of the model itself, such as scores that are not finite
            log.error("%s: %s", path, error)
            return refused(refusal_of(error, 500))
        except ClientDisconnect:
            return refused(Refusal(400, "the client is gone"))
        except MemoryError:
            return refused(later("out of memory", "Ask for less at once."))
        except Exception:
            log.exception("%s %s", request.method, path)
            return refused(Refusal(500, "the service has an error, which its log shows"))

    # --- from the run -----------------------------------------------------------------------------------------------

    async def answer(self, endpoint: Endpoint, request: Request) -> Response:
        given = read_query(request.scope["query_string"], endpoint.parameters, self.bounds)
        run = self.current.run
        return _answered(await self.work.do(lambda: _json(endpoint.answer(run, given))))

    async def posted(self, answer: Callable[[ServedRun, Any, Bounds], Any], request: Request) -> Response:
        read_query(request.scope["query_string"], (), self.bounds)
        body = await self._body(request)
        run, bounds = self.current.run, self.bounds
        return _answered(
            await self.work.do(lambda: _json(answer(run, read_json(body, depth=bounds.json_depth), bounds)))
        )

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # also what a browser sends for a page of another site without asking first
            raise Refusal(415, f"the body is {kind[:80] or 'of no type'!r}", "Send Content-Type: application/json.")
        most, told = self.bounds.body_bytes, request.headers.get("content-length", "0")
        if told.isascii() and told.isdecimal() and (len(told) > 15 or int(told) > most):
            raise _too_large(most)
        try:
            return await asyncio.wait_for(_read(request, most), self.bounds.client_seconds)
        except asyncio.TimeoutError as error:
            late = f"the body did not come within {self.bounds.client_seconds:g} seconds"
            raise Refusal(408, late, "Send it at once.", {"Connection": "close"}) from error

    # --- about the service ------------------------------------------------------------------------------------------

    async def reload(self, request: Request) -> Response:
        read_query(request.scope["query_string"], (), self.bounds)
        site = request.headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin"):
            raise Refusal(403, "a page of another site may not reload", "Reload from a program or from this page.")
        run = await self.current.reload()
        return _answered(_json({"reloaded": True, **run.about()}))

    async def health(self, request: Request) -> Response:
        return _answered(_json({"alive": True}))

    async def ready(self, request: Request) -> Response:
        run = self.current.run
        await self.work.do(run.check)
        return _answered(_json({"ready": True, **run.facts}))

    async def metrics(self, request: Request) -> Response:
        return Response(self.monitor.text(), headers={"Content-Type": self.monitor.content_type})

    async def describe(self, request: Request) -> Response:
        return _answered(self.described)


class _Guarded:
    """Adds the headers of every answer, and refuses heads that are too long and hosts that are not this one's.

    A server such as uvicorn bounds a head that is not complete yet; one that comes in one piece is bounded here. What
    is refused here stands in the metrics under the endpoint ``refused``.
    """

    def __init__(self, application: _Service, head_bytes: int, hosts: Collection[str] | None) -> None:
        self.application, self.head_bytes = application, head_bytes
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        if scope["type"] != "http":
            await self.application(scope, receive, send)
        elif (refusal := self._refusal(scope)) is None:
            await self.application(scope, receive, sent)
        else:
            begun = time.perf_counter()
            await refused(refusal)(scope, receive, sent)
            self.application.monitor.count("refused", refusal.status, time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is refused before its path is read; None if it is not."""
        if _head_size(scope) > self.head_bytes:
            return head_too_long(self.head_bytes)
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            return TWO_LENGTHS
        if self.hosts is not None and _host(scope) not in self.hosts:
            names = ", ".join(sorted(self.hosts))
            return Refusal(421, f"this service is not {_host(scope)[:80]!r}", f"It is {names}; see --allowed-host.")
        return None


def refused(refusal: Refusal) -> Response:
    """The answer that says why a request is refused."""
    return _answered(_json(refusal.to_dict()), refusal.status, refusal.headers)


def _handler(request: Request, by_method: Mapping[str, Handler]) -> Handler:
    if not by_method:
        raise Refusal(404, "there is nothing at this address", "/openapi.json describes what there is.")
    method = "GET" if request.method == "HEAD" else request.method
    if method not in by_method:
        allowed = ", ".join(by_method)
        raise Refusal(405, f"{request.method[:20]!r} does not go here", f"Use {allowed}.", {"Allow": allowed})
    return by_method[method]


def _lists(run: ServedRun, body: Any, bounds: Bounds) -> dict[str, Any]:
    batch = read_batch(body, bounds)
    run, found = run.with_new_items(batch.new_items) if batch.new_items else (run, None)
    return {"lists": run.recommend_all(batch), **({} if found is None else {"new_items": found})}


def _similar(run: ServedRun, body: Any, bounds: Bounds) -> dict[str, Any]:
    asked = read_asked_item(body, bounds)
    run, found = run.with_new_items(asked.new_items) if asked.new_items else (run, None)
    answer = run.similar(asked.item, asked.k, asked.where, asked.at_most)
    return {**answer, **({} if found is None else {"new_items": found})}


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> Refusal:
    """The connection is closed after it, since what follows is not read."""
    return Refusal(413, f"the body is larger than {most:,} bytes", "Send smaller batches.", {"Connection": "close"})


async def _file(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, headers={"Content-Type": kind})


def _answered(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _json(value: Any) -> bytes:
    """ASCII, so that texts which UTF-8 has no form for (halves of pairs) can be written too."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _head_size(scope: Scope) -> int:
    """Bytes of the path, the query and the headers, as they were sent."""
    lines = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return lines + len(scope.get("raw_path") or b"") + len(scope["query_string"])


def _host(scope: Scope) -> str:
    """The host that a request is for, lower case and without port."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
