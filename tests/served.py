"""A server in a process of its own, and plain ways to ask it: by HTTP, and by any bytes at all."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """``hakg serve`` on a run; ``port`` stays the same over restarts."""

    def __init__(self, run: Path, *options: str) -> None:
        self.run, self.options, self.port = run, options, 0
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "hakg_dgl.cli", "serve", self.run, "--port", self.port, "--device", "cpu"]
        self.process = subprocess.Popen(
            [*map(str, command), *self.options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.said(r"Listening at http://127\.0\.0\.1:(\d+)"))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def said(self, pattern: str, since: int = 0, seconds: float = 60) -> str:
        """The first group of the first line from ``since`` on that matches; waits for it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines[since:]:
                if match := re.search(pattern, line):
                    return match[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no line matches {pattern!r}: {''.join(self.lines[since:])}")

    def ask(
        self,
        path: str,
        given: Mapping[str, Any] | None = None,
        *,
        method: str = "GET",
        body: Any = None,
        **headers: str,
    ) -> Answer:
        """One request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(
                method, path + ("?" + urlencode(given, doseq=True) if given else ""), body=body, headers=named
            )
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def raw(self, sent: bytes, *, pause: float = 0.0, seconds: float = 15.0) -> Answer:
        """Bytes as they are, one after the other if there is a pause; the answer until the connection closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            try:
                for part in [sent[n : n + 1] for n in range(len(sent))] if pause else [sent]:
                    connection.sendall(part)
                    if pause:
                        time.sleep(pause)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before it was all sent
            return read_answer(connection)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        return code


def read_answer(connection: socket.socket) -> Answer:
    """Status, headers and body of the first answer on a connection."""
    got = http.client.HTTPResponse(connection)
    got.begin()
    return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
