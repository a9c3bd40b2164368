"""Load, soak and kills of ``hakg serve``: latencies by a public load generator, memory over time, answers after kills.

    python benchmarks/serving.py RUN load --rate 200 --seconds 30      # needs hey on the path
    python benchmarks/serving.py RUN soak --rate 200 --seconds 600 [--new-items [1000]]
    python benchmarks/serving.py RUN kills --times 10

Each starts a server of its own on RUN. ``load`` has hey ask for one user's list; the other two ask for those of all
users, and now and then for explanations, similar items, batches and requests that are refused; ``soak``
prints memory over time, the start being after the first of them. The numbers that depend least on what else the machine
does are the processor seconds a request takes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

CLIENTS = 4
_HEY_WORKERS = 4
"""Each asks for one list after the other; all of them ask at the same moments."""


class Service:
    """``hakg serve`` in a process of its own, always on the same port."""

    def __init__(self, run: Path) -> None:
        self.run, self.port = run, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "hakg_dgl.cli", "serve", str(self.run), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if match := re.search(r"Listening at http://[\d.]+:(\d+)", line):
                self.port = int(match[1])
                return
        raise SystemExit("the server did not start: " + "".join(said))

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            content = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, content, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] == b"{" else text.decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        lines = self.ask("/metrics")[1].splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def requests(service: Service) -> list[tuple[str, Any]]:
    """A round of requests: lists of users, and now and then something else."""
    found = (service.ask(f"/users?query={letter}&k=200")[1]["users"] for letter in "0123456789aeiou")
    users = list(dict.fromkeys(row["id"] for rows in found for row in rows))
    first = service.ask(f"/recommend?user={quote(users[0])}&k=2")[1]["items"]
    item = quote(first[0]["id"])
    rounds: list[tuple[str, Any]] = []
    for number, user in enumerate(users):
        rounds.append((f"/recommend?user={quote(user)}&k=20", None))
        if number % 20 == 0:
            rounds += [
                (f"/similar?item={item}&k=10", None),
                (f"/explain?user={quote(user)}&item={item}", None),
                ("/recommend", {"users": [{"id": user}, {"items": [first[-1]["id"]]}], "k": 10}),
                ("/recommend?user=nobody", None),
                (f"/items?query={item}", None),
            ]
    return rounds


def a_fact(service: Service) -> dict[str, str] | None:
    """A column and a value that a new item may have; None if the model ranks none, or the first items have no facts."""
    if not service.ask("/about")[1]["new_items"]:
        return None
    items = service.ask("/items?query=1&k=100")[1]["items"]
    paths = (service.ask(f"/hierarchy?item={quote(row['id'])}")[1]["paths"] for row in items)
    step = next((path[0] for found in paths for path in found), None)
    return None if step is None else {step["relation"]: step["id"]}


def load(service: Service, rate: int, seconds: int) -> None:
    """Latencies of single lists at a rate, by hey."""
    hey = shutil.which("hey")
    if hey is None:
        raise SystemExit("hey is not on the path: apt-get install hey, or see https://github.com/rakyll/hey")
    path = requests(service)[0][0]
    address = f"http://127.0.0.1:{service.port}{path}"
    subprocess.run([hey, "-n", "200", "-c", "2", address], capture_output=True, check=True)  # warm
    before = service.metrics()
    command = [hey, "-z", f"{seconds}s", "-c", str(_HEY_WORKERS), "-q", str(rate // _HEY_WORKERS), address]
    print("$", " ".join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = [line.strip() for line in done.stdout.splitlines() if re.search(r"Requests/sec|% in|responses", line)]
    print("\n".join(kept))
    _processor(before, service.metrics())


def soak(service: Service, rate: int, seconds: int, new_items: int) -> None:
    """Mixed requests at a rate, one of ``new_items`` with a new item if that is asked for; memory over time."""
    todo, wrong, lock = requests(service), [], threading.Lock()
    new, first = a_fact(service) if new_items else None, service.ask("/users?query=1&k=1")[1]["users"][0]["id"]
    begun, place = time.monotonic(), 0

    def client() -> None:
        nonlocal place
        while True:
            with lock:
                number, place = place, place + 1
            due = begun + number / rate
            if due > begun + seconds:
                return
            time.sleep(max(0.0, due - time.monotonic()))
            path, body = todo[number % len(todo)]
            if new is not None and number % new_items == new_items - 1:
                path, body = "/recommend", arrived(number)
            status, answer = service.ask(path, body)
            if status != (404 if "nobody" in path else 200):
                wrong.append((status, path, answer))

    def arrived(number: int) -> Any:
        return {"users": [{"id": first}], "new_items": [{"item": f"new-{number}", **(new or {})}]}

    warm = [*todo[:200], *([("/recommend", arrived(number)) for number in (-1, -2)] if new else [])]
    for path, body in warm:
        service.ask(path, body)
    before = service.metrics()
    begun = time.monotonic()
    threads = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    print("| seconds | requests | resident MB | open files |\n|---|---|---|---|")
    while any(thread.is_alive() for thread in threads):
        values = service.metrics()
        memory, files = values["process_resident_memory_bytes"] / 1e6, values["process_open_fds"]
        print(
            f"| {time.monotonic() - begun:.0f} | {_count(values) - _count(before):.0f} | {memory:.1f} | {files:.0f} |",
            flush=True,
        )
        time.sleep(max(1.0, seconds / 12))
    _processor(before, service.metrics())
    end = service.metrics()["process_resident_memory_bytes"]
    begin = before["process_resident_memory_bytes"]
    print(f"resident memory: {begin / 1e6:.1f} MB at the start, {end / 1e6:.1f} MB at the end ({end / begin - 1:+.1%})")
    print(f"{len(wrong)} answers were not as expected" + (f", such as {wrong[0]}" if wrong else ""))
    raise SystemExit(1 if wrong else 0)


def kills(service: Service, times: int) -> None:
    """Kill the server under load again and again; the answers after it are those before it."""
    todo = [path for path, body in requests(service) if path.startswith("/recommend?user=") and "nobody" not in path][
        :50
    ]
    expected = {path: service.ask(path) for path in todo}
    going, counts, wrong = True, {"answered": 0, "broken off": 0}, []

    def client(start: int) -> None:
        number = start
        while going:
            number += 1
            path = todo[number % len(todo)]
            try:
                answer = service.ask(path)
            except (OSError, http.client.HTTPException):
                counts["broken off"] += 1
                time.sleep(0.05)
                continue
            counts["answered"] += 1
            if answer != expected[path]:
                wrong.append(path)

    threads = [threading.Thread(target=client, args=(n * 7,), daemon=True) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    down = []
    for _ in range(times):
        time.sleep(1.0)
        service.process.kill()
        service.process.wait()
        begun = time.monotonic()
        service.start()
        down.append(time.monotonic() - begun)
    time.sleep(1.0)
    going = False
    for thread in threads:
        thread.join()
    print(f"{times} kills: {counts['answered']} requests answered, {counts['broken off']} broken off or not connected")
    print(f"{len(wrong)} answers differ from those before; {min(down):.1f} to {max(down):.1f} s from kill to listening")
    raise SystemExit(1 if wrong else 0)


def _count(values: dict[str, float]) -> float:
    return sum(value for name, value in values.items() if name.startswith("hakg_requests_total"))


def _processor(before: dict[str, float], after: dict[str, float]) -> None:
    spent = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    number = _count(after) - _count(before)
    print(f"{number:.0f} requests, {1000 * spent / max(1.0, number):.2f} ms of processor time each")
    print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("what", choices=["load", "soak", "kills"])
    parser.add_argument("--rate", type=int, default=200, help="requests a second")
    parser.add_argument("--seconds", type=int, default=30, help="how long load and soak last")
    parser.add_argument(
        "--new-items", type=int, nargs="?", const=1000, default=0, metavar="N",
        help="let the soak bring a new item every N requests (1000)",
    )  # fmt: skip
    parser.add_argument("--times", type=int, default=10, help="number of kills")
    options = parser.parse_args(arguments)
    service = Service(options.run)
    try:
        if options.what == "kills":
            kills(service, options.times)
        elif options.what == "soak":
            soak(service, options.rate, options.seconds, options.new_items)
        else:
            load(service, options.rate, options.seconds)
    finally:
        service.stop()


if __name__ == "__main__":
    main()
