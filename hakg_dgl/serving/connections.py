"""Connections of uvicorn with bounds that it lacks: slow heads, slow readers, heads too long, too many at once."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.refusals import RETRY_AFTER_SECONDS, Refusal, head_too_long


def bounded_protocol(bounds: Bounds) -> type[H11Protocol]:
    """The class of connections for ``uvicorn.Config(http=...)``, held to ``connections`` and ``client_seconds``."""

    class Bounded(BoundedConnection):
        limits = bounds

    return Bounded


class HeadWithBody:
    """A transport that sends an answer's head together with what follows it, by one call of the system and not two.

    Parameters
    ----------
    transport
        Of the connection; everything but writing and closing is left to it.
    loop
        Sends a head at the end of its turn if nothing has followed by then.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._head = transport, loop, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes; a head waits for what follows."""
        if not self._head and data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
        elif self._head or data:
            head, self._head = self._head, b""
            self._transport.write(head + data)

    def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class BoundedConnection(H11Protocol):
    """A connection; see :func:`bounded_protocol`."""

    limits = Bounds()
    _head_timer: asyncio.TimerHandle | None = None
    _taking_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Refuse the connection if there are too many."""
        super().connection_made(HeadWithBody(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self._refuse(Refusal(503, "too many connections are open", "Try again in a moment."))
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._head_timer = _stop(self._head_timer)
        self._taking_timer = _stop(self._taking_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Watch how long a head takes from its first byte on."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Watch the next head, of which a part may be there already."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._watch_head()

    def pause_writing(self) -> None:
        """Watch how long the client takes to take what waits for it."""
        super().pause_writing()
        self._taking_timer = self.loop.call_later(self.limits.client_seconds, self._abort)

    def resume_writing(self) -> None:
        """The client has taken it."""
        self._taking_timer = _stop(self._taking_timer)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose client never took its last answer is cut off."""
        if self.transport.get_write_buffer_size():
            self._abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Say in JSON what is wrong with a head."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if status == 431:
            self._refuse(head_too_long(self.limits.head_bytes))
        else:
            self._refuse(Refusal(400, "this is not a request of HTTP/1.1", f"{sys.exc_info()[1]}"[:200]))

    def _watch_head(self) -> None:
        """Have the timer run exactly while a head is awaited."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self._head_timer = _stop(self._head_timer)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.client_seconds, self._late)

    def _late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            return
        self._refuse(Refusal(408, "the head of the request did not come in time", "Send it at once."))

    def _abort(self) -> None:
        if not self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer without a request, and close."""
        status = refusal.status
        body = json.dumps(refusal.to_dict()).encode("ascii")
        retry = f"Retry-After: {RETRY_AFTER_SECONDS}\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


_REASONS = {
    400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable",
}  # fmt: skip


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer if there is one; what is left is none."""
    if timer is not None:
        timer.cancel()
    return None
