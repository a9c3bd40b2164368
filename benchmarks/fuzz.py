"""Mutated inputs for every reader, as long as asked: each must be accepted or refused, within 20 s and 2 GiB.

    python benchmarks/fuzz.py --seconds 600
    python benchmarks/fuzz.py --seconds 600 --engine atheris    (pip install atheris; mutations that reach new code)
    python benchmarks/fuzz.py --again parquet:1234 --keep found (makes one case again)

Starts from the inputs and the broken inputs of ``tests/broken_inputs.py``. A mutation knows what it changes: bytes,
lines, columns, tokens, JSON values, numbers in Parquet footers, safetensors headers, archives. A data set whose table
was changed gets the digest to match, mostly, so that more than the digest is tried. What is accepted by ``preprocess``
must also load. Each reader has a process of its own that may take no more than 2 GiB on top of its imports; a case is
made of the seed, the reader and its number alone. A finding is an exception that no command should end in, a crash, a
hang, or a refusal without a message; the command then ends with exit code 1.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import broken_inputs  # noqa: E402
from broken_inputs import CSV_ARGS, EVALUATE_ARGS, FOLDER_ARGS, PARQUET_ARGS, RESUME_ARGS, invoke, working_in  # noqa: E402
from measure import markdown, write_results  # noqa: E402

Files = dict[str, bytes]

MOST_BYTES = 2**20
"""Longer inputs are cut: a mutation may double them again and again."""

VALUES = [
    b"",
    b"0",
    b"-1",
    b"1",
    b"2147483647",
    b"2147483648",
    b"9223372036854775807",
    b"18446744073709551616",
    b"9" * 400,
    b"1e999",
    b"nan",
    b"-inf",
    b"1.5",
    b"0x10",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    "\u0661".encode(),
    "\u2028".encode(),
    b"\x1b[31m",
    b'"',
    b"'",
    b"\r",
    b"a" * 5000,
    b"true",
    b"null",
    b"[]",
    b"{}",
    b"[" * 2000,
    b"../x",
    b"2024-02-30",
    b"train",
    b":token",
    b"=",
    b"\\ud800",
]
NUMBERS = [0, 1, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62]

Mutation = Callable[[bytes, random.Random], bytes]


# --- mutations --------------------------------------------------------------------------------------------------------


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.choice((1, 1, 2, 4, 8, 40, 400)))


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bits."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end, or a part within, is gone."""
    begin, end = _span(data, rng)
    return data[:begin] if rng.random() < 0.5 else data[:begin] + data[end:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A part stands there again, perhaps many times."""
    begin, end = _span(data, rng)
    return data[:end] + data[begin:end] * rng.choice((1, 1, 3, 100)) + data[end:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Something that readers trip over."""
    begin, end = _span(data, rng)
    return data[:begin] + rng.choice(VALUES) + data[begin if rng.random() < 0.5 else end :]


def overwrite_number(data: bytes, rng: random.Random) -> bytes:
    """A binary number of 2, 4 or 8 bytes, or a varint as Parquet has them."""
    begin, value = _span(data, rng)[0], rng.choice(NUMBERS)
    if rng.random() < 0.4:
        new = broken_inputs.varint(value)
        return data[:begin] + new + data[begin + rng.choice((0, 1, 2, len(new))) :]
    width = rng.choice((2, 4, 8))
    number: bytes = (value % 256**width).to_bytes(width, "little")
    return data[:begin] + number + data[begin + width :]


def lines(data: bytes, rng: random.Random) -> bytes:
    """A line twice, gone, moved, or ended otherwise."""
    parts = data.split(b"\n")
    at, to = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(5):
        case 0:
            parts.insert(to, parts[at])
        case 1:
            del parts[at]
        case 2:
            parts[at], parts[to] = parts[to], parts[at]
        case 3:
            parts[at] += rng.choice((b"\r", b" ", b"\t", b",", b"\0"))
        case _:
            return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"")))
    return b"\n".join(parts)


def tokens(data: bytes, rng: random.Random) -> bytes:
    """A token is another, or two of a line are exchanged, or separated otherwise."""
    separator = rng.choice([mark for mark in (b"\t", b",", b" ", b": ", b" = ") if mark in data] or [b" "])
    if rng.random() < 0.1:
        return data.replace(separator, rng.choice((b";", b"\t", b",", b" ", b"  ", b"")))
    parts = data.split(b"\n")
    at = rng.randrange(len(parts))
    words = parts[at].split(separator)
    one, other = rng.randrange(len(words)), rng.randrange(len(words))
    if rng.random() < 0.3:
        words[one], words[other] = words[other], words[one]
    else:
        words[one] = rng.choice(VALUES)
    parts[at] = separator.join(words)
    return b"\n".join(parts)


def encode(data: bytes, rng: random.Random) -> bytes:
    """Text in another encoding, or with a mark."""
    if rng.random() < 0.3:
        return b"\xef\xbb\xbf" + data
    return data.decode("latin-1").encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8")))


def json_value(data: bytes, rng: random.Random) -> bytes:
    """A value somewhere in a JSON document is another."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return flip(data, rng)
    odd: list[Any] = [
        None,
        True,
        -1,
        1.5,
        2**63,
        10**300,
        "",
        "x",
        [],
        {},
        [[]],
        {"a": [1]},
        "\ud800",
        "a\0b",
        rng.choice(NUMBERS),
    ]
    place = document
    while isinstance(place, (dict, list)) and place:
        key: Any = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.2:
            if isinstance(place, dict) and rng.random() < 0.2:
                del place[key]
            else:
                place[key] = rng.choice(odd)
            break
        place = place[key]
    return json.dumps(document).encode()


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file says something else, with the length to match or not."""
    size = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    header, rest = data[8 : 8 + size], data[8 + size :]
    header = rng.choice((json_value, tokens, insert, flip))(header, rng)
    length = len(header) if rng.random() < 0.8 else rng.choice(NUMBERS)
    return struct.pack("<Q", length) + header + rest


def parquet_footer(data: bytes, rng: random.Random) -> bytes:
    """The footer of a Parquet file says something else, with the length to match or not."""
    size = struct.unpack("<I", data[-8:-4].rjust(4, b"\0"))[0]
    if not 0 < size <= len(data) - 12:
        return flip(data, rng)
    start = len(data) - 8 - size
    footer = rng.choice((overwrite_number, flip, cut, repeat))(data[start:-8], rng)
    length = len(footer) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**32
    return data[:start] + footer + struct.pack("<I", length) + b"PAR1"


def packed(name: str, data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file in an archive, itself mutated."""
    if rng.random() < 0.5:
        return f"{name}.gz", rng.choice((flip, cut, repeat))(gzip.compress(data, mtime=0), rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((0, 8, 12, 14))) as archive:
        for member in rng.choice((("x",), ("x",), ("a", "b"), ("../x",), ("/x",))):
            archive.writestr(zipfile.ZipInfo(member), data)
    return f"{name}.zip", rng.choice((flip, cut, overwrite_number))(buffer.getvalue(), rng)


TEXT: tuple[Mutation, ...] = (flip, cut, repeat, insert, lines, lines, tokens, tokens, tokens, encode)
BINARY: tuple[Mutation, ...] = (flip, cut, repeat, insert, overwrite_number, overwrite_number)


def mutate(files: Files, rng: random.Random) -> Files:
    """Some of the files, changed one to four times."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(sorted(files))
        special = {".parquet": parquet_footer, ".safetensors": safetensors_header, ".json": json_value}.get(
            Path(name).suffix
        )
        ways = BINARY if Path(name).suffix in (".parquet", ".safetensors", ".gz", ".zip") else TEXT
        if special is not None and rng.random() < 0.6:
            files[name] = special(files[name], rng)
        else:
            files[name] = rng.choice(ways)(files[name], rng)[:MOST_BYTES]
    return files


# --- readers ----------------------------------------------------------------------------------------------------------


class Reader:
    """What is mutated, and the command that reads it."""

    def __init__(self, name: str, base: Path) -> None:
        self.name, self.base = name, base
        self.args, own = READERS[name]
        self.seeds = [own(base)]
        prefix = name if name != "archives" else "kgat"
        for case in broken_inputs.cases():  # broken ones are near to others that are broken
            if case.name.startswith(prefix) and case.files and case.prepare is None and case.args == self.args:
                small = {file: data for file, data in case.files.items() if len(data) <= MOST_BYTES}
                self.seeds.append(self.seeds[0] | small)

    def make(self, rng: random.Random) -> Files:
        """The files of a case."""
        files = mutate(rng.choice(self.seeds) if rng.random() < 0.3 else self.seeds[0], rng)
        if self.name == "archives":
            name = rng.choice([name for name in files if name.endswith(".txt")] or sorted(files))
            new, data = packed(name, files.pop(name), rng)
            files[new] = data
        if self.name == "data set" and rng.random() < 0.8:
            files = _with_digests(files)
        return files

    def run(self, files: Files, place: Path) -> tuple[str, str]:
        """``refused``, ``accepted`` or ``finding``, and what was found."""
        shutil.rmtree(place, ignore_errors=True)
        if any(arg in ("D", "R") for arg in self.args):
            shutil.copytree(self.base, place)
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        with working_in(place):
            found = judge(*invoke(self.args))
            if found == ("accepted", "") and "preprocess" in self.args:
                code, _, stderr, error = invoke(("info", "out"))
                if code or error:
                    return "finding", f"accepted, but does not load: {error or stderr}"
        return found


def judge(code: int, stdout: str, stderr: str, error: str) -> tuple[str, str]:
    """What to think of how a command ended."""
    if error or code not in (0, 2):
        return "finding", error or f"exit code {code}: {stderr[:300]}"
    if code == 0:
        return "accepted", ""
    if not stderr.startswith(("Error: ", "Usage: ")) or "Traceback" in stderr or stdout or "out of memory" in stderr:
        return "finding", f"an odd refusal: {stderr[:300]}{stdout[:100]}"
    return "refused", ""


def _with_digests(files: Files) -> Files:
    """Digests in ``dataset.json`` that fit the tables, where it can still hold them."""
    import hashlib

    try:
        about = json.loads(files["D/dataset.json"])
        for name, data in files.items():
            if name.endswith(".parquet"):
                about["files"][Path(name).name]["sha256"] = hashlib.sha256(data).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        return files
    return files | {"D/dataset.json": json.dumps(about).encode()}


def _in_src(files: Files) -> Callable[[Path], Files]:
    return lambda base: {f"src/{name}": data for name, data in files.items()}


def _of_base(*patterns: str) -> Callable[[Path], Files]:
    return lambda base: {
        str(file.relative_to(base)): file.read_bytes() for pattern in patterns for file in sorted(base.glob(pattern))
    }


def _parquet_seed(base: Path) -> Files:
    ids = {"user": [f"u{n}" for n in range(50)], "item": [n % 7 for n in range(50)]}
    data = broken_inputs.parquet_bytes({**ids, "r": [0.5] * 50, "t": list(range(50))})
    return _in_src(broken_inputs.TABLES)(base) | {"src/i.parquet": data}


_LISTS = {
    "item_list.txt": b"org_id remap_id freebase_id\na b 0 m.1\nc 1 m.2\n",
    "user_list.txt": b"org_id remap_id\nu 0\n",
}
_TITLES = {"x.item": b"item_id:token\ttitle:token_seq\na\tAn A\nb\tA B\n"}
_COLUMNS = ("--rating-col", "rating", "--timestamp-col", "time")
_SHOP = {
    "i.csv": b"user;item;rating;time\nann;a;5,0;1/2/2024\nann;b;2,5;13/2/2024\nbob;b;4;3/2/2024\nbob;a;1;1/1/2024\n",
    "p.csv": b'item,name,brand,kind,tags,price,since\na,A,x,M > S,p|q,"1.299,00 \xe2\x82\xac",31/12/2023\n'
    b'b,B,x,M > T,q,"9,50 \xe2\x82\xac",01/02/2024\nc,<b>C</b>,y,M,,,\n',
    "u.csv": b"user,age,city,since\nann,20,Rome,2024-01-31\nbob,30,Paris,2023-12-01\n",
}
_JSON = {
    "i.jsonl": b'{"user": "ann", "item": 1, "r": 3.5}\n{"user": "bob", "item": 2, "r": 4}\n'
    b'{"user": "ann", "item": 2, "r": 1}\n',
    "p.json": b'[{"item": 1, "tags": ["a", "b"], "box": {"w": 1}, "n": 1.5}, {"item": 2, "tags": ["b"], "n": null}]',
}
_TRIPLES = {
    "i.csv": b"user,item\nann,http://x/1\nbob,http://x/2\nann,http://x/2\n",
    "kg.ttl": b"@prefix x: <http://x/> .\n@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n"
    b'x:1 x:genre x:g ; rdfs:label "One"@en ; x:year 1990 .\nx:2 x:genre [ x:part x:g ] .\n',
    "kg.nt": b"<http://x/1> <http://x/by> <http://x/m> .\n<http://x/2> <http://x/by> _:b .\n"
    b'<http://x/m> <http://xmlns.com/foaf/0.1/name> "Maker"^^<http://www.w3.org/2001/XMLSchema#string> .\n',
}
_KGCN = {
    "ratings_final.txt": b"0\t0\t1\n0\t1\t0\n1\t1\t1\n1\t0\t1\n",
    "kg_final.txt": b"0\t0\t2\n1\t0\t2\n2\t1\t3\n",
}
_LISTS_ARGS = ("recommend", "R", "--k", "3", "--json", "--device", "cpu")
READERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Files]]] = {
    "kgat": (FOLDER_ARGS, _in_src(broken_inputs.KGAT | _LISTS)),
    "archives": (FOLDER_ARGS, _in_src(broken_inputs.KGAT)),
    "recbole": (FOLDER_ARGS, _in_src(broken_inputs.RECBOLE | _TITLES)),
    "tables": ((*CSV_ARGS, *_COLUMNS), _in_src(broken_inputs.TABLES)),
    "parquet": ((*PARQUET_ARGS, "--rating-col", "r", "--timestamp-col", "t"), _parquet_seed),
    "shop": (
        (
            *("preprocess", "tables", "--interactions", "src/i.csv", "--items", "src/p.csv", "--users", "src/u.csv"),
            *("--out", "out", *_COLUMNS),
        ),
        _in_src(_SHOP),
    ),
    "json": (
        (
            *("preprocess", "tables", "--interactions", "src/i.jsonl", "--items", "src/p.json", "--rating-col", "r"),
            *("--out", "out"),
        ),
        _in_src(_JSON),
    ),
    "rdf": (
        (
            *("preprocess", "tables", "--interactions", "src/i.csv", "--triples", "src/kg.ttl"),
            *("--triples", "src/kg.nt", "--out", "out"),
        ),
        _in_src(_TRIPLES),
    ),
    "kgcn": (FOLDER_ARGS, _in_src(_KGCN)),
    "later log": (
        ("evaluate", "R", "--no-groups", "--interactions", "src/later.csv"),
        _in_src({"later.csv": b"user,item\n0,6\n1,7\n2,0\n"}),
    ),
    "new users": (
        (*_LISTS_ARGS, "--new-users", "src/n.csv", "--unknown-items", "skip"),
        _in_src({"n.csv": b"user,item\nann,1\nann,2\n0,6\nbob,7\n"}),
    ),
    "new items": (
        (*_LISTS_ARGS, "--new-items", "src/n.csv", "--not-in", "src/out.txt", "--unknown-items", "skip"),
        _in_src({"n.csv": b"item,name,relation_0,relation_1\nx,X,8,9\ny,Y,10,\n", "out.txt": b"1\n2\n"}),
    ),
    "pairs": (
        ("recommend", "R", "--pairs", "src/p.csv", "--json", "--device", "cpu"),
        _in_src({"p.csv": b"user,item\n0,1\n1,2\n0,7\n"}),
    ),
    "data set": (("info", "D"), _of_base("D/*")),
    "run": (EVALUATE_ARGS, _of_base("R/run.json", "R/config.toml", "R/model.safetensors", "R/result.json")),
    "state": (RESUME_ARGS, _of_base("R/state.safetensors", "R/metrics.jsonl")),
    "settings": (
        ("train", "nowhere", "--out", "out", "--config", "c.toml"),
        lambda base: {"c.toml": broken_inputs.SETTINGS},
    ),
}


# --- processes --------------------------------------------------------------------------------------------------------


class FromBytes(random.Random):
    """Choices read from the bytes that a coverage-guided fuzzer gives; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._rest = io.BytesIO(data)

    def getrandbits(self, k: int, /) -> int:
        """``k`` bits."""
        width = (k + 7) // 8
        return int.from_bytes(self._rest.read(width).ljust(width, b"\0"), "little") & ((1 << k) - 1)

    def random(self) -> float:
        """A number in [0, 1)."""
        return self.getrandbits(16) / 2**16


class Worker:
    """Tries cases of one reader and writes a line of JSON before and after each to stdout."""

    def __init__(self, reader: Reader, place: Path, keep: Path | None) -> None:
        self.reader, self.place, self.keep = reader, place, keep

    def try_one(self, label: str, rng: random.Random) -> None:
        files = self.reader.make(rng)
        signal.alarm(broken_inputs.SECONDS)
        began = time.monotonic()
        try:
            outcome, why = self.reader.run(files, self.place)
        except TimeoutError as error:
            outcome, why = "finding", str(error)
        finally:
            signal.alarm(0)
        line = {"case": label, "outcome": outcome, "why": why, "seconds": time.monotonic() - began}
        if outcome == "finding" and self.keep is not None:
            broken = self.keep / label.replace(":", "-").replace(" ", "-")
            for name, data in files.items():
                (broken / name).parent.mkdir(parents=True, exist_ok=True)
                (broken / name).write_bytes(data)
        print(json.dumps(line | {"peak": broken_inputs.status("VmHWM")}), flush=True)


def work(options: argparse.Namespace) -> None:
    """One reader, in this process, for some seconds from a case number on."""
    if options.engine == "atheris":
        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

        with atheris.instrument_imports(include=["hakg_dgl"]):
            invoke(("--help",))
    signal.signal(signal.SIGALRM, broken_inputs.too_slow)
    with tempfile.TemporaryDirectory() as name:
        base = Path(options.base)
        reader = Reader(options.worker, base)
        worker = Worker(reader, Path(name) / "work", options.keep)
        reader.run(reader.seeds[0], worker.place)  # imports what the command needs
        broken_inputs.limit_memory()
        print(json.dumps({"start": broken_inputs.status("VmHWM")}), flush=True)
        if options.again is not None:
            worker.try_one(
                f"{reader.name}:{options.again}", random.Random(f"{options.seed}:{reader.name}:{options.again}")
            )
        elif options.engine == "atheris":
            count = iter(range(10**12))
            flags = [
                f"-max_total_time={int(options.seconds)}",
                "-rss_limit_mb=0",
                "-timeout=0",
                "-max_len=4096",
                f"-seed={options.seed + 1}",
            ]
            atheris.Setup(
                ["fuzz", *flags], lambda data: worker.try_one(f"{reader.name}:a{next(count)}", FromBytes(data))
            )
            atheris.Fuzz()
        else:
            number, end = options.first, time.monotonic() + options.seconds
            while time.monotonic() < end:
                print(json.dumps({"trying": number}), flush=True)
                worker.try_one(f"{reader.name}:{number}", random.Random(f"{options.seed}:{reader.name}:{number}"))
                number += 1


def fuzz(reader: str, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One reader for its share of the time; a process that dies is a finding, and another goes on after it."""
    counts: Counter[str] = Counter()
    findings: list[dict[str, str]] = []
    start = peak = number = 0
    slowest, end = 0.0, time.monotonic() + options.seconds / len(options.readers)
    while (left := end - time.monotonic()) > 0:
        command = [
            sys.executable,
            __file__,
            "--worker",
            reader,
            "--base",
            str(base),
            "--seconds",
            str(left),
            "--first",
            str(number),
        ]
        command += [
            "--seed",
            str(options.seed),
            "--engine",
            options.engine,
            *(["--keep", str(options.keep)] if options.keep else []),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as process:
            watch = _Watch(process)
            assert process.stdout is not None
            for line in process.stdout:
                watch.seen()
                found = json.loads(line)
                start, peak, number = (
                    found.get("start", start),
                    max(peak, found.get("peak", 0)),
                    found.get("trying", number),
                )
                if "outcome" in found:
                    counts[found["outcome"]] += 1
                    slowest = max(slowest, found["seconds"])
                    if found["outcome"] == "finding":
                        findings.append({"case": found["case"], "why": found["why"]})
            watch.stop()
            code = process.wait()
        if code in (0, None):
            break
        counts["finding"] += 1
        findings.append({"case": f"{reader}:{number}", "why": f"the process ended with {code}"})
        number += 1
    total = counts.total()
    return {
        "reader": reader,
        "cases": total,
        **counts,
        "slowest": slowest,
        "start": start,
        "peak": peak,
        "findings": findings,
    }


class _Watch:
    """Kills a process that says nothing for longer than any case may take (native code hears no alarm)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._timer: Any = None
        self._make: Callable[[float], threading.Timer] = lambda seconds: threading.Timer(seconds, process.kill)
        self._start(600)  # imports are slow on a busy machine

    def seen(self) -> None:
        """A line has come."""
        self._start(3 * broken_inputs.SECONDS)

    def _start(self, seconds: float) -> None:
        self.stop()
        self._timer = self._make(seconds)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """No longer."""
        if self._timer is not None:
            self._timer.cancel()


def report(results: list[dict[str, Any]]) -> str:
    """A table of the readers, and the findings."""
    rows = [
        {
            "reader": result["reader"],
            "cases": f"{result['cases']:,}",
            "refused": f"{result.get('refused', 0):,}",
            "accepted": f"{result.get('accepted', 0):,}",
            "findings": str(result.get("finding", 0)),
            "slowest": f"{result['slowest']:.1f} s",
            "peak memory": f"{result['peak'] / 2**20:,.0f} MiB",
            "imports alone": f"{result['start'] / 2**20:,.0f} MiB",
        }
        for result in results
    ]
    found = [f"{finding['case']}: {finding['why']}" for result in results for finding in result["findings"]]
    return "\n".join([markdown(list(rows[0]), [list(row.values()) for row in rows]), *found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="in all, shared among the readers")
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--engine", choices=["own", "atheris"], default="own")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    parser.add_argument("--again", help="READER:NUMBER of a case to make again")
    parser.add_argument("--json", type=Path, help="also write the numbers to benchmarks/results/NAME.json")
    for hidden in ("--worker", "--base"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        broken_inputs.make_base(base)
        if options.again:
            options.worker, _, options.again = options.again.partition(":")
            options.base = str(base)
            return work(options)
        results = [fuzz(reader, base, options) for reader in options.readers]
    print(report(results))
    if options.json:
        import torch

        write_results(options.json, {"results": results}, torch.device("cpu"))
    sys.exit(1 if any(result["findings"] for result in results) else 0)


if __name__ == "__main__":
    main()
