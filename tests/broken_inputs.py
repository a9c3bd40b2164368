"""Broken inputs for every reader, made on the spot: cases of ``test_broken_inputs.py``, seeds of ``fuzz.py``.

Run as a program it works through all cases in one process that may take no more than 2 GiB beyond what the imports
take, and prints one line of JSON for each.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import stat
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Prepare = Callable[[Path], object]

MEMORY = 2 * 2**30
"""Bytes that a case may take beyond the imports."""
SECONDS = 20

KGAT = {
    "train.txt": b"0 0 1\n1 1 2\n2 0 2\n",
    "test.txt": b"0 2\n1 0\n",
    "kg_final.txt": b"0 0 3\n1 0 3\n2 1 4\n",
}
RECBOLE = {
    "x.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    b"ann\ta\t5\t1\nann\tb\t2\t2\nbob\tb\t4\t3\nbob\ta\t4\t4\n",
    "x.kg": b"head_id:token\trelation_id:token\ttail_id:token\nQ1\tgenre\tQ9\nQ2\tgenre\tQ9\n",
    "x.link": b"item_id:token\tentity_id:token\na\tQ1\nb\tQ2\n",
}
TABLES = {
    "i.csv": b"user,item,rating,time\nann,a,5,1\nann,b,2,2\nbob,b,4,3\nbob,a,4,4\n",
    "t.csv": b"head,relation,tail\nQ1,genre,Q9\nQ2,genre,Q9\n",
    "l.csv": b"item,entity\na,Q1\nb,Q2\n",
}
SETTINGS = (
    b"[model]\ndim = 8\nlayers = 1\n\n[loss]\nmargin = 0.6\n\n[training]\nlr = 1e-3\n\n[baseline]\nease_l2 = [1.0, 2]\n"
)

FOLDER_ARGS = ("preprocess", "src", "--out", "out")
TABLE_ARGS = (*("preprocess", "tables", "--out", "out"), *("--triples", "src/t.csv", "--links", "src/l.csv"))
CSV_ARGS = (*TABLE_ARGS, "--interactions", "src/i.csv")
PARQUET_ARGS = (*TABLE_ARGS, "--interactions", "src/i.parquet")
TRAIN_ARGS = ("train", "D", "--out", "out", "--device", "cpu", "--quiet")
EVALUATE_ARGS = ("evaluate", "R", "--no-groups")
RESUME_ARGS = ("train", "D", "--out", "R", "--resume", "--device", "cpu", "--quiet")


@dataclass(frozen=True)
class Case:
    """A broken input: files to write into a folder that also holds a data set ``D`` and a run ``R``, and a command.

    ``message`` is a pattern that the refusal must match; where ``repaired`` is given the command must succeed and say
    that instead.
    """

    name: str
    args: tuple[str, ...]
    message: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    prepare: Prepare | None = None
    repaired: str | None = None


# --- the KGAT layout and archives -------------------------------------------------------------------------------------


def kgat(name: str, message: str, repaired: str | None = None, **changed: bytes) -> Case:
    """A KGAT folder with files changed; ``train_txt_gz`` is ``train.txt.gz`` and takes the place of ``train.txt``."""
    given = {
        key.replace("_", ".").replace("kg.final", "kg_final").replace(".list", "_list"): changed[key] for key in changed
    }
    replaced = {file.removesuffix(".gz").removesuffix(".zip") for file in given}
    files = {file: data for file, data in KGAT.items() if file not in replaced} | given
    return Case(
        f"kgat: {name}", FOLDER_ARGS, message, {f"src/{file}": data for file, data in files.items()}, None, repaired
    )


def kgat_cases() -> Iterator[Case]:
    ids = {
        "decimal point": "2.0",
        "exponent": "1e2",
        "hexadecimal": "0x10",
        "plus sign": "+1",
        "underscore": "1_0",
        "comma": "1,2",
        "letter": "a",
        "fullwidth digit": "\uff11",
        "superscript": "\u00b2",
        "no-break space": "1\u00a02",
        "vertical tab": "1\x0b2",
        "form feed": "1\x0c2",
        "soft hyphen": "1\u00ad",
        "minus": "-1",
        "minus sign": "\u22121",
        "quotes": '"1"',
        "comment": "#1",
        "null word": "null",
        "escape": "\x1b[31m1",
        "line separator": "1\u20282",
    }
    for name, value in ids.items():
        yield kgat(
            f"id with {name}",
            r"src/train.txt, line 2: .*(not an integer|negative id)",
            train_txt=f"0 0\n1 {value}\n".encode(),
        )
        yield kgat(
            f"tail with {name}",
            r"src/kg_final.txt, line 1: .*(not an integer|negative id)",
            kg_final_txt=f"0 0 {value}\n".encode(),
        )
    for power in (31, 32, 53, 63, 64, 1024):
        yield kgat(
            f"user 2**{power}", r"src/test.txt, line 1: id .* is not below 2\*\*31", test_txt=f"{2**power} 0\n".encode()
        )
    for relation in (1001, 10**6, 2**31 - 1):
        yield kgat(f"relation {relation}", "the largest relation id is", kg_final_txt=f"0 {relation} 3\n".encode())
    for width in (1, 2, 4, 7):
        yield kgat(
            f"triple of {width}",
            r"src/kg_final.txt, line 2: \d numbers? instead of three",
            kg_final_txt=b"0 0 3\n" + b"1 " * width + b"\n",
        )
    yield kgat("item list of another header", "src/item_list.txt, line 1: unknown header", item_list_txt=b"a b c d\n")
    yield kgat("item list of NUL bytes", "src/item_list.txt, line 1: a NUL byte", item_list_txt=bytes(100))
    yield kgat("user list of nonsense", r"src/user_list.txt: 3 of 3 lines", user_list_txt=b"org_id remap_id\na\nb\nc\n")
    yield kgat(
        "user list with an endless id",
        r"1 user list line skipped",
        "1 user list line skipped",
        user_list_txt=b"org_id remap_id\na 0\nb " + b"9" * 5000 + b"\nc 1\n",
    )
    yield kgat(
        "repeats and overlap",
        "",
        "1 train repeat dropped(.|\n)*1 train test overlap dropped from test",
        train_txt=b"0 0 0 1\n1 1\n",
        test_txt=b"0 1 2\n",
    )
    yield kgat("repeated triples", "", "2 triple repeats dropped", kg_final_txt=b"0 0 3\n0 0 3\n0 0 3\n")
    yield kgat("users alone", "", "2 train lines with user alone", train_txt=b"0 0\n1\n2\n")
    yield kgat("blank lines and carriage returns", "", "Wrote out", train_txt=b"\xef\xbb\xbf\r\n\r0 0 1\r\r\n1 1\r")


def zipped(data: bytes, *, name: str = "train.txt", mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of one member."""
    buffer, about = io.BytesIO(), zipfile.ZipInfo(name)
    about.external_attr, about.compress_type = mode << 16, method
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(about, data)
    return buffer.getvalue()


def tarred(kind: bytes, target: str = "") -> bytes:
    """A tar archive with one member that is not a file."""
    buffer, about = io.BytesIO(), tarfile.TarInfo("train.txt")
    about.type, about.linkname = kind, target
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(about)
    return buffer.getvalue()


def _lying_zip(data: bytes, at: int, value: int) -> bytes:
    """A zip archive with a field of 4 bytes of its central directory changed."""
    archive = bytearray(zipped(data))
    directory = archive.rindex(b"PK\1\2")
    archive[directory + at : directory + at + 4] = struct.pack("<I", value)
    return bytes(archive)


def archive_cases() -> Iterator[Case]:
    text = KGAT["train.txt"] * 50
    whole, packed = zipped(text), gzip.compress(text)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        yield kgat(
            f"zip cut at {share}",
            "src/train.txt.zip: damaged, truncated",
            train_txt_zip=whole[: int(len(whole) * share)],
        )
        yield kgat(
            f"gzip cut at {share}",
            "src/train.txt.gz: damaged, truncated|src/train.txt.gz: the file is empty",
            train_txt_gz=packed[: max(3, int(len(packed) * share))],
        )
    places = {
        "parent": "../train.txt",
        "deep parent": "a/../../train.txt",
        "absolute": "/etc/passwd",
        "backslash": "..\\x",
        "drive": "C:\\x",
        "drive letter": "C:x",
        "share": "\\\\host\\x",
    }
    for name, place in places.items():
        yield kgat(f"zip member in {name}", "is a place outside the archive", train_txt_zip=zipped(text, name=place))
    kinds = {
        "link": stat.S_IFLNK,
        "device": stat.S_IFCHR,
        "block device": stat.S_IFBLK,
        "pipe": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }
    for name, mode in kinds.items():
        yield kgat(
            f"zip member that is a {name}",
            f"is a {name.split()[-1]}",
            train_txt_zip=zipped(b"/etc/passwd", mode=mode | 0o644),
        )
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")):
        yield kgat(f"zip packed by {name}", "is packed by method", train_txt_zip=zipped(text, method=method))
    lies = {
        "CRC": (16, 7),
        "packed size": (20, 2**31),
        "size": (24, 1),
        "endless size": (24, 2**32 - 2),
        "offset": (42, 2**31),
    }
    for name, (at, value) in lies.items():
        yield kgat(
            f"zip that lies about its {name}",
            "src/train.txt.zip: damaged, truncated",
            train_txt_zip=_lying_zip(text, at, value),
        )
    end = whole.rindex(b"PK\5\6")
    for name, at in (("directory size", 12), ("directory offset", 16)):
        data = whole[: end + at] + b"\xfe" * 4 + whole[end + at + 4 :]
        yield kgat(f"zip that lies about its {name}", "src/train.txt.zip: damaged, truncated", train_txt_zip=data)
    nameless = zipped(text).replace(b"train.txt", b"\0rain.txt")
    yield kgat("zip member without a name", "src/train.txt.zip: (damaged|is no|its)", train_txt_zip=nameless)
    yield kgat("zip bomb", "expands to more than", train_txt_zip=zipped(b"0 " * (2**25 + 1)))
    yield kgat("gzip bomb", "expands to more than", train_txt_gz=gzip.compress(b"0 " * (2**25 + 1), 1))
    yield kgat("gzip bomb of members", "expands to more than", train_txt_gz=gzip.compress(b"0 " * 2**22, 1) * 40)
    yield kgat("zip in zip", "src/train.txt.zip: is a zip archive", train_txt_zip=zipped(zipped(text)))
    yield kgat("gzip with garbage behind", "src/train.txt.gz: damaged, truncated", train_txt_gz=packed + b"garbage")
    for kind, name in (
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
    ):
        yield kgat(
            f"tar of a {name}",
            "src/train.txt.gz, line 1: a NUL byte",
            train_txt_gz=gzip.compress(tarred(kind, "/etc/passwd")),
        )
    yield Case(
        "kgat: tar archive for a folder",
        ("preprocess", "src.tar", "--out", "out"),
        "src.tar.*is not a folder|src.tar: not a folder",
        {"src.tar": tarred(tarfile.SYMTYPE, "/")},
    )


# --- RecBole atomic files ---------------------------------------------------------------------------------------------


def recbole(name: str, message: str, changed: dict[str, bytes], repaired: str | None = None, *options: str) -> Case:
    files = {f"src/{file}": data for file, data in (RECBOLE | changed).items()}
    return Case(f"recbole: {name}", (*FOLDER_ARGS, *options), message, files, None, repaired)


def recbole_cases() -> Iterator[Case]:
    inter = RECBOLE["x.inter"]
    for value in ("five", "5,0", "0x5", "1_0", "NaN", "-inf", "1e999", "5 5", "\uff15", "True", "--5", "'5'"):
        yield recbole(
            f"rating {value!r}",
            r"src/x.inter, line 6: rating is .*not a finite number",
            {"x.inter": inter + f"cy\ta\t{value}\t9\n".encode()},
        )
    for count in (1, 2, 3, 5, 50):
        yield recbole(
            f"row of {count} values",
            rf"src/x.inter, line 6: {count} values?, but the header has 4 columns",
            {"x.inter": inter + b"\t".join([b"1"] * count) + b"\n"},
        )
    for header in (
        b"user_id",
        b"user_id:",
        b":token",
        b"user id:token",
        b"user_id:token:token",
        b"user_id:int",
        b"user_id:token item_id:token",
        b"\xc2\xa0:token",
    ):
        yield recbole(f"header {header!r}", r"src/x.inter, line 1: header column", {"x.inter": header + inter[13:]})
    for column in (b"head_id", b"relation_id", b"tail_id"):
        yield recbole(
            f"no {column.decode()}",
            rf"src/x.kg, line 1: no column '{column.decode()}'",
            {"x.kg": RECBOLE["x.kg"].replace(column, b"other")},
        )
    wide = b"\t".join(b"c%d:token" % n for n in range(5000))
    yield recbole(
        "thousands of columns",
        r"no column 'user_id'; there are: 'c0', .* and 4980 more",
        {"x.inter": wide + b"\n" + b"\t".join([b"1"] * 5000) + b"\n"},
    )
    yield recbole("other line ends", "src/x.kg: the file is empty", {"x.kg": b"\r\r\n\r"})
    yield recbole(
        "ids of blanks", "", {"x.link": b"item_id:token\tentity_id:token\na\t \nb\tQ2\n"}, "1 link without id dropped"
    )
    yield recbole(
        "no link at all", "none of the 2 items of the interactions occurs in the facts",
        {"x.link": b"item_id:token\tentity_id:token\na\t \n"},
    )  # fmt: skip
    yield recbole(
        "links twice", "", {"x.link": RECBOLE["x.link"] + b"a\tQ2\nc\tQ1\n"}, "link of an item linked twice dropped"
    )
    yield recbole(
        "triples without ids", "", {"x.kg": RECBOLE["x.kg"] + b"\tgenre\tQ9\n"}, "1 triple without id dropped"
    )
    yield recbole("name outside the folder", "there is no ../x.inter", {}, None, "--name", "../x")
    yield recbole(
        "no such title column",
        r"src/x.item, line 1: no column 'year'",
        {"x.item": b"item_id:token\ttitle:token_seq\na\tA\n"},
        None,
        "--title-col",
        "year",
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def table(
    name: str, message: str, text: bytes, *options: str, repaired: str | None = None, file: str = "i.csv"
) -> Case:
    args = tuple(f"src/{file}" if arg == "src/i.csv" else arg for arg in CSV_ARGS)
    files = {f"src/{known}": data for known, data in (TABLES | {file: text}).items()}
    return Case(f"tables: {name}", (*args, *options), message, files, None, repaired)


def table_cases() -> Iterator[Case]:
    rows = TABLES["i.csv"]
    for moment in ("2024-13-01", "2024-02-30", "24:00", "yesterday", "01/02/2024", "9999999-01-01", "2024-01-01T25:00"):
        text = f"user,item,day\na,b,2024-01-01\na,c,{moment}\n".encode()
        yield table(
            f"date {moment}",
            r"src/i.csv, line 3: day is .*(neither a number nor a date that is known|no date of the column shows)",
            text,
            "--timestamp-col",
            "day",
        )
    for part in ("TRAIN", "training", "0", "validation", "train ing"):
        yield table(
            f"split {part}",
            "src/i.csv, line 3: part is .*, allowed are",
            f"user,item,part\na,b,train\na,c,{part}\n".encode(),
            "--split-col",
            "part",
        )
    for extra, count in ((b"", 1), (b",", 2), (b",,,,", 5), (b',"a""b"', 2)):
        yield table(f"row with {extra!r}", f"src/i.csv, line 6: {count} value", rows + b"x" + extra + b"\n")
    for header, message in {
        b"user": "no column 'item'",
        b"WHO,WHAT": "no column 'user'",
        b"user~item": "no column 'user'",
        b'"user","item': "a quote that is not closed",
        b"user,user": "2 columns are called",
        b",": "2 columns have no name",
        b"user item": "no column 'user'",
    }.items():
        yield table(
            f"header {header!r}",
            f"src/i.csv, line 1: .*{message}",
            header + b"\na" + b",b" * header.count(b",") + b"\n",
        )
    yield table(
        "TSV that is none", r"src/i.tsv, line 6: 1 value, but", rows.replace(b",", b"\t") + b"a,b\n", file="i.tsv"
    )
    yield table(
        "open quote to the end", r"src/i.csv, line 6: 1 value, but the header has 4 columns", rows + b'"cy,a,1,1\n'
    )
    yield table(
        "unknown rating column",
        "no column 'stars'; there are: 'user', 'item', 'rating', 'time'",
        rows,
        "--rating-col",
        "stars",
    )
    yield table("ids of blanks alone", "src/i.csv: no row has all its ids", b"user,item\n , \n ,\n")
    yield table("missing ids", "", rows + b",a,1,1\ncy,,1,1\n", repaired="2 interactions without id dropped")
    yield table("repeated pairs", "", rows + b"ann,a,1,1\n", repaired="1 repeated interaction dropped")
    yield table("unlinked items", "", rows + b"ann,zzz,1,1\n", repaired="1 item without entity")
    yield Case(
        "tables: a device for a file",
        tuple("/dev/zero" if arg == "src/i.csv" else arg for arg in CSV_ARGS),
        "/dev/zero: is not a plain file",
        {f"src/{name}": data for name, data in TABLES.items()},
    )
    yield Case(
        "tables: a pipe for a file",
        CSV_ARGS,
        "src/i.csv: is not a plain file",
        {f"src/{name}": data for name, data in TABLES.items() if name != "i.csv"},
        lambda at: os.mkfifo(at / "src/i.csv"),
    )


def parquet_bytes(columns: dict[str, Any], **options: Any) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def varint(value: int) -> bytes:
    """A zigzag varint, as the footers of Parquet hold numbers."""
    value, out = value << 1, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def footer_with(data: bytes, old: bytes, new: bytes) -> bytes:
    """A Parquet file whose footer says something else."""
    start = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    footer = data[start:-8].replace(old, new)
    assert footer != data[start:-8]
    return data[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def parquet(name: str, message: str, data: bytes | Callable[[], bytes], *options: str) -> Case:
    def prepare(at: Path) -> None:
        (at / "src/i.parquet").write_bytes(data if isinstance(data, bytes) else data())

    return Case(
        f"parquet: {name}",
        (*PARQUET_ARGS, *options),
        message,
        {f"src/{name}": text for name, text in TABLES.items()},
        prepare,
    )


def _ids(count: int) -> dict[str, Any]:
    return {"user": [f"u{n}" for n in range(count)], "item": [f"i{n % 7}" for n in range(count)]}


def _long_text() -> bytes:
    text = pa.DictionaryArray.from_arrays(np.zeros(200_000, dtype=np.int32), pa.array(["a" * 2**20]))
    return parquet_bytes({"user": text, "item": text}, compression="zstd")


def _many_rows() -> bytes:
    zeros = np.zeros(10**7, dtype=np.int64)
    return parquet_bytes({"user": zeros, "item": zeros})


def _page_that_lies() -> bytes:
    """The header of the first page says that the page unpacks to 2 GiB."""
    data = parquet_bytes({"user": ["ab" * 500] * 3, "item": ["a"] * 3}, use_dictionary=False, compression="snappy")
    at = data.index(b"\x15", 6)  # of the first page's header: the kind, then its unpacked size
    size = next(n for n in range(at + 1, at + 6) if data[n] < 128) + 1
    return data[: at + 1] + varint(2**31 - 1) + data[size:]


def parquet_cases() -> Iterator[Case]:
    whole = parquet_bytes(_ids(100))
    unreadable = "src/i.parquet: not a readable Parquet file"
    for share in (0.05, 0.5, 0.9, 0.99):
        yield parquet(f"cut at {share}", unreadable, whole[: int(len(whole) * share)])
    for name, length in {"0": 0, "the file": len(whole), "2 GiB": 2**31 - 1, "4 GiB": 2**32 - 1}.items():
        yield parquet(f"footer of {name}", unreadable, whole[:-8] + struct.pack("<I", length) + b"PAR1")
    for rows in (101, 10**4, 10**7, 10**9, 10**12, 2**62):
        yield parquet(
            f"footer that says {rows} rows",
            f"{unreadable}|says that it holds",
            footer_with(whole, varint(100), varint(rows)),
        )
    yield parquet("ten million rows in a few bytes", "says that it holds 10,000,000 rows", _many_rows)
    yield parquet("a long text in every row", "column 'user' decodes to 209,715,200,000 bytes", _long_text)
    yield parquet("page of 2 GiB", unreadable, _page_that_lies)
    yield parquet("CSV", unreadable, TABLES["i.csv"])
    yield parquet("magic numbers alone", unreadable, b"PAR1PAR1")
    yield parquet("nothing between", unreadable, b"PAR1" + bytes(2000) + struct.pack("<I", 1900) + b"PAR1")
    two = pa.array(["a", "b"])
    kinds = {
        "list": pa.array([[1], [2]]),
        "struct": pa.array([{"a": 1}] * 2),
        "map": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        "bytes": pa.array([b"1", b"2"]),
        "fixed bytes": pa.array([b"1", b"2"], pa.binary(1)),
    }
    for name, values in kinds.items():
        yield parquet(
            f"ids of {name}",
            "column 'user' holds .*, not (text, numbers or dates|ids|numbers)",
            parquet_bytes({"user": values, "item": two}),
        )
        yield parquet(
            f"ratings of {name}",
            "column 'r' holds .*, not (text, numbers or dates|ids|numbers)",
            parquet_bytes({"user": two, "item": two, "r": values}),
            "--rating-col",
            "r",
        )
    odd = {
        "time": pa.array([1, 2], pa.time32("s")),
        "long time": pa.array([1, 2], pa.time64("ns")),
        "duration": pa.array([1, 2], pa.duration("s")),
        "boolean": pa.array([True, False]),
        "null": pa.array([None, None]),
    }
    for name, values in odd.items():
        data = parquet_bytes({"user": two, "item": two, "r": values})
        wrong = [
            "column 'r' holds .*, not numbers",
            "column 'r' holds .*, not numbers or dates",
            "column 'r' holds .*, not ids",
        ]
        if name == "null":
            wrong = [r"row 0 \(from 0\): r is missing"] * 2 + ["no row has all its ids"]
        yield parquet(f"ratings of {name}", wrong[0], data, "--rating-col", "r")
        yield parquet(f"timestamps of {name}", wrong[1], data, "--timestamp-col", "r")
        yield parquet(f"users of {name}", wrong[2], data, "--user-col", "r")
    for name, value in {"half": 0.5, "infinite": float("inf"), "huge": 1e300}.items():
        yield parquet(
            f"{name} ids",
            "ids of column 'user' are floats beyond"
            if value == 1e300
            else "ids of column 'user' are not whole numbers",
            parquet_bytes({"user": [value, 1.0], "item": two}),
        )
    for name, value in {"nan": float("nan"), "infinite": float("inf")}.items():
        yield parquet(
            f"{name} rating",
            r"row 0 \(from 0\): r is",
            parquet_bytes({"user": two, "item": two, "r": [value, 1.0]}),
            "--rating-col",
            "r",
        )
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.arange(3, dtype="<i4").tobytes()), pa.py_buffer(b"\xff\xfe")]
    )
    yield parquet("text that is not UTF-8", unreadable, parquet_bytes({"user": bad, "item": two}))
    yield parquet("no rows", "src/i.parquet: no row has all its ids", parquet_bytes({"user": two[:0], "item": two[:0]}))
    yield parquet("no columns", "no column 'user'; there are: ", parquet_bytes({"other": two}))


# --- data sets --------------------------------------------------------------------------------------------------------


def relie(at: Path, name: str, data: bytes) -> None:
    """Replace a table of the data set, and its digest."""
    (at / "D" / f"{name}.parquet").write_bytes(data)
    edit_json(
        at / "D/dataset.json",
        lambda about: about["files"][f"{name}.parquet"].update(sha256=hashlib.sha256(data).hexdigest()),
    )


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def data_set(name: str, message: str, prepare: Prepare, *args: str) -> Case:
    return Case(f"data set: {name}", args or ("info", "D"), message, {}, prepare)


def with_column(table_name: str, column: str, make: Callable[[int], Any]) -> Prepare:
    def prepare(at: Path) -> None:
        found = pq.read_table(at / "D" / f"{table_name}.parquet").replace_schema_metadata(None)
        columns = {key: found[key] for key in found.column_names} | {column: make(len(found))}
        relie(at, table_name, parquet_bytes(columns))

    return prepare


def with_many_rows(table_name: str) -> Prepare:
    return lambda at: relie(at, table_name, _many_rows())


def with_json(file: str, change: Callable[[dict[str, Any]], object]) -> Prepare:
    return lambda at: edit_json(at / file, change)


def with_value(file: str, key: str, value: object) -> Prepare:
    return with_json(file, lambda about: about.update({key: value}))


def _metadata(content: bytes) -> Prepare:
    def prepare(at: Path) -> None:
        found = pq.read_table(at / "D/interactions.parquet")
        sink = io.BytesIO()
        pq.write_table(found.replace_schema_metadata({"pandas": content}), sink)
        relie(at, "interactions", sink.getvalue())

    return prepare


def _test_rows_in_train(at: Path) -> None:
    """The same pairs stand in train and in test."""
    found = pq.read_table(at / "D/interactions.parquet").to_pandas()
    test = found[found["split"] == "test"].assign(split="train")
    both = pa.Table.from_pandas(found.astype({"split": str}).merge(test, how="outer"), preserve_index=False)
    relie(at, "interactions", parquet_bytes({name: both[name] for name in both.column_names}))


def data_set_cases() -> Iterator[Case]:
    changes: dict[str, tuple[str, str, Callable[[int], Any], str]] = {
        "splits that are lists": ("interactions", "split", lambda n: [["train"]] * n, "column 'split' holds list"),
        "splits that are structures": (
            "interactions",
            "split",
            lambda n: [{"a": 1}] * n,
            "column 'split' holds struct",
        ),
        "splits that are missing": (
            "interactions",
            "split",
            lambda n: pa.array([None] * n, pa.string()),
            "interactions.split has nan",
        ),
        "splits that are numbers": ("interactions", "split", lambda n: [1] * n, "interactions.split has 1"),
        "users that are text": ("interactions", "user", lambda n: ["1"] * n, "interactions.user is .*, not integer"),
        "users that are missing": (
            "interactions",
            "user",
            lambda n: pa.array([None] * n, pa.int64()),
            "interactions.user is float64, not integer",
        ),
        "users that are dates": (
            "interactions",
            "user",
            lambda n: pa.array([1] * n, pa.timestamp("us")),
            "interactions.user is .*, not integer",
        ),
        "users beyond 2**63": (
            "interactions",
            "user",
            lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
            "interactions.user has values 18446744073709551615",
        ),
        "negative tails": (
            "triples",
            "tail",
            lambda n: [-1] * n,
            "triples.tail has values -1 to -1, allowed are 0 to 10",
        ),
        "one pair again and again": (
            "interactions",
            "item",
            lambda n: [0] * n,
            r"interactions: \('user', 'item'\) = \(0, 0\) occurs twice",
        ),
        "timestamps that are text": (
            "interactions",
            "timestamp",
            lambda n: ["now"] * n,
            "interactions.timestamp is .*, not float64",
        ),
        "names that are bytes": ("items", "name", lambda n: [b"x"] * n, "column 'name' holds binary"),
        "ids that are numbers": (
            "entities",
            "original_id",
            lambda n: list(range(n)),
            "entities.original_id is not all text",
        ),
    }
    for name, (file, column, make, message) in changes.items():
        yield data_set(name, message, with_column(file, column, make))
    yield data_set(
        "test pairs in train too",
        r"interactions: \('user', 'item'\) = .* occurs twice, in 'test' and 'train'",
        _test_rows_in_train,
    )
    for name, content in {
        "a list": b"[]",
        "cut": b"{",
        "of another file": json.dumps({"index_columns": ["nix"], "columns": [], "column_indexes": []}).encode(),
    }.items():
        yield Case(
            f"data set: metadata that are {name} and not read", ("info", "D"), "", {}, _metadata(content), "digest"
        )
    for table_name in ("interactions", "triples", "users", "items", "entities", "relations"):
        yield data_set(
            f"{table_name} of ten million rows",
            "says that it holds 10,000,000 rows",
            with_many_rows(table_name),
        )
    for name, change, message in (
        (
            "data set of the future",
            lambda about: about.update(format_version=3),
            "format version 3, this package reads up to 2",
        ),
        (
            "version of many digits",
            lambda about: about.update(format_version=10**300),
            "format version 10+, this package reads up to 2",
        ),
        ("version that is a text", lambda about: about.update(format_version="1"), "does not describe a data set"),
        (
            "strategy that is none",
            lambda about: about.update(split_strategy="\x1b[31mfair"),
            "split_strategy missing or of the wrong type",
        ),
        ("report of fractions", lambda about: about["report"].update(a=0.5), "report missing or of the wrong type"),
        (
            "digests that are gone",
            lambda about: about.update(files={}),
            "interactions.parquet: the file was changed after preprocessing",
        ),
        ("digest of another", lambda about: about.update(digest="0" * 64), "digest or counts differ"),
        ("counts of another", lambda about: about["counts"].update(test=1), "digest or counts differ"),
    ):
        yield data_set(name, message, with_json("D/dataset.json", change))
    for name, data in {
        "deep": b"[" * 10**5,
        "endless number": b'{"format_version": ' + b"9" * 5000 + b"}",
        "NUL": bytes(50),
        "number": b"1",
        "UTF-16": '{"a":1}'.encode("utf-16"),
    }.items():
        yield Case(
            f"data set: description that is {name}",
            ("info", "D"),
            "D/dataset.json: (cannot be read|does not describe a data set)",
            {"D/dataset.json": data},
        )


# --- runs -------------------------------------------------------------------------------------------------------------


def run(name: str, message: str, prepare: Prepare, args: tuple[str, ...] = EVALUATE_ARGS) -> Case:
    return Case(f"run: {name}", args, message, {}, prepare)


def safetensors_bytes(header: bytes | dict[str, Any], data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensors(change: Callable[[dict[str, Any], dict[str, Any]], object], *, state: bool = False) -> Prepare:
    """Change the tensors, or what is noted beside them."""

    def prepare(at: Path) -> None:
        from hakg_dgl import RunFolder

        folder = RunFolder(at / "R")
        file = folder.state_file if state else folder.model_file
        tensors, about = folder.load_tensors(file)
        change(tensors, about)
        folder.save_tensors(file, tensors, about)

    return prepare


def _each(function: Callable[[Any], Any]) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda tensors, _: tensors.update({name: function(tensor) for name, tensor in tensors.items()})


def _to(kind: str) -> Callable[[Any], Any]:
    import torch

    return lambda tensor: tensor.to(getattr(torch, kind))


def _standing(key: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda _, about: about["standing"].update({key: value})


def replaced_by(make: Callable[[Path], object], file: str) -> Prepare:
    def prepare(at: Path) -> None:
        (at / file).unlink()
        make(at / file)

    return prepare


def run_cases() -> Iterator[Case]:
    damaged = "R/model.safetensors: is damaged, or not written by this package"
    one = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    files = {
        "empty": b"",
        "seven bytes": bytes(7),
        "no header": bytes(8),
        "header beyond the end": safetensors_bytes(b"{}", length=10**6),
        "header of 2**63 bytes": safetensors_bytes(b"{}", length=2**63),
        "header of 99 MB": safetensors_bytes(b"{}", length=99_000_000),
        "deep header": safetensors_bytes(b"[" * 10**5),
        "header that is a list": safetensors_bytes(b"[]"),
        "no UTF-8": safetensors_bytes(b'{"\xff": 1}'),
        "tensor beyond the end": safetensors_bytes({"user": one}),
        "tensor of 2**60": safetensors_bytes({"user": one | {"shape": [2**60]}}, bytes(16)),
        "tensor whose size overflows": safetensors_bytes({"user": one | {"shape": [2**32, 2**32, 2**32]}}, bytes(16)),
        "offsets of terabytes": safetensors_bytes(
            {"user": one | {"shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(16)
        ),
        "offsets backwards": safetensors_bytes({"user": one | {"data_offsets": [16, 0]}}, bytes(16)),
        "overlapping tensors": safetensors_bytes({"a": one, "b": one}, bytes(16)),
        "unknown type": safetensors_bytes({"user": one | {"dtype": "F99"}}, bytes(16)),
        "negative shape": safetensors_bytes({"user": one | {"shape": [-2, -2]}}, bytes(16)),
        "no notes": safetensors_bytes({"user": one}, bytes(16)),
        "bytes behind": safetensors_bytes({"user": one}, bytes(17)),
        "notes that are numbers": safetensors_bytes({"__metadata__": {"hakg": 1}}),
        "deep notes": safetensors_bytes({"__metadata__": {"hakg": "[" * 10**5}}),
        "notes that are a list": safetensors_bytes({"__metadata__": {"hakg": "[]"}}),
        "notes without settings": safetensors_bytes({"__metadata__": {"hakg": "{}"}}),
    }
    for name, data in files.items():
        yield Case(f"run: model with {name}", EVALUATE_ARGS, damaged, {"R/model.safetensors": data})
    fits_not = "R/model.safetensors: does not fit R/config.toml"
    for kind in ("int64", "bool", "float16", "float64", "complex64", "float8_e4m3fn"):
        yield run(
            f"tensors of {kind}",
            damaged if kind.startswith("float8") else fits_not,  # NumPy, by which they are read, has no such numbers
            _tensors(_each(_to(kind))),
        )
    yield run("tensors that are flat", fits_not, _tensors(_each(lambda tensor: tensor.flatten())))
    yield run("tensors that are gone", fits_not, _tensors(lambda tensors, _: tensors.clear()))
    yield run(
        "tensors that are NaN",
        "the scores of 12 users are NaN",
        _tensors(_each(lambda tensor: tensor * float("nan") if tensor.is_floating_point() else tensor)),
    )
    yield run("settings that are a number", damaged, _tensors(lambda _, about: about.update(settings=3)))
    yield run(
        "rate that no float holds", damaged, _tensors(lambda _, about: about["settings"]["training"].update(lr=10**400))
    )
    yield run("splits that are none", damaged, _tensors(lambda _, about: about.update(splits={"a": 1})))
    state = "R/state.safetensors: (does not say where training stood|is damaged)"
    odd: dict[str, list[Any]] = {
        "epoch": ["1", None, -1, True, 1.5],
        "best_epoch": ["x", []],
        "best_value": ["x", [], True],
        "best_metrics": [3, {"a": "b"}, ["a"]],
        "worse": ["x", None],
        "seconds": ["x", None],
        "refit_from": ["x"],
    }
    for key, values in odd.items():
        for value in values:
            yield run(f"state with {key} {value!r}", state, _tensors(_standing(key, value), state=True), RESUME_ARGS)
    yield run(
        "state of the future",
        "state format 99, this version reads up to",
        _tensors(lambda _, about: about.update(format_version=99), state=True),
        RESUME_ARGS,
    )
    yield run(
        "state of another device",
        "device .was .tpu., now .cpu.",
        _tensors(lambda _, about: about.update(device="tpu"), state=True),
        RESUME_ARGS,
    )
    yield run(
        "state of another tensor",
        "R/state.safetensors: does not fit this run",
        _tensors(lambda tensors, _: tensors.update({"other.x": next(iter(tensors.values())).clone()}), state=True),
        RESUME_ARGS,
    )
    yield run(
        "state with short random numbers",
        "R/state.safetensors: does not fit this run",
        _tensors(
            lambda tensors, _: tensors.update(
                {name: tensor[:9].clone() for name, tensor in tensors.items() if name.startswith("random.")}
            ),
            state=True,
        ),
        RESUME_ARGS,
    )
    about_damaged = "R/run.json: is damaged, or not written by this package"
    for key, value, message in (
        ("format_version", 99, "run format 99, this version reads up to 1"),
        ("format_version", True, about_damaged),
        ("format_version", -1, about_damaged),
        ("format_version", "1", about_damaged),
        ("data", None, about_damaged),
        ("data", {"name": 3, "digest": "x"}, about_damaged),
        ("data", {"name": "x", "digest": []}, about_damaged),
        ("data", {"name": "x", "digest": "0" * 64, "path": "a\0b"}, "its data set is no longer at"),
    ):
        yield run(
            f"run.json with {key} {value!r}",
            message,
            with_value("R/run.json", key, value),
        )
    for name, data in {
        "deep": b"[" * 10**5 + b"\n",
        "infinite epoch": b'{"epoch": 1e999}\n',
        "no object": b"3\n",
        "not UTF-8": b'{"epoch": 1, "a": "\xff"}\n',
        "text": b'{"epoch": 1, "loss": "a"}\n',
        "a list": b'{"epoch": 1, "ndcg@20": [0.5]}\n',
    }.items():
        yield Case(
            f"run: metrics that are {name}", RESUME_ARGS, "R/metrics.jsonl: is damaged", {"R/metrics.jsonl": data}
        )
    for file in ("run.json", "config.toml", "model.safetensors"):
        yield run(
            f"{file} is a folder",
            f"R/{file}: (is damaged|cannot be read)",
            replaced_by(Path.mkdir, f"R/{file}"),
        )
        yield run(
            f"{file} is a pipe",
            f"R/{file}: (is damaged|is not a plain file)",
            replaced_by(os.mkfifo, f"R/{file}"),
        )


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_cases() -> Iterator[Case]:
    texts = {
        "number no float holds": b"lr = 1" + b"0" * 400,
        "negative number no float holds": b"lr = -1" + b"0" * 400,
        "hexadecimal number without end": b"dim = 0x" + b"F" * 5000,
        "decimal number without end": b"dim = " + b"9" * 5000,
        "list of such": b"ease_l2 = [1, 1" + b"0" * 400 + b"]",
        "exponent without end": b"lr = 1e" + b"9" * 4000,
        "deep list": b"lr = " + b"[" * 5000,
        "deep table": b"lr = " + b"{a = " * 3000,
        "key of many dots": b"a." * 30000 + b"a = 1",
        "header of many dots": b"[a" + b".a" * 30000 + b"]",
        "table for a value": b"[model.dim]\nx = 1",
        "value for a section": b"model = 3",
        "list for a section": b"[[model]]\ndim = 1",
        "date": b"lr = 2024-01-01",
        "empty key": b'"" = 1',
        "key with an escape": b'"\\u001b[31m" = 1',
        "key twice": b"lr = 1\nlr = 2",
        "section twice": b"[model]\n[model]",
        "NUL byte": b"lr = 1\0",
        "UTF-16": "lr = 1".encode("utf-16"),
        "not UTF-8": b"lr = '\xff'",
        "more than settings are": b"#" * 200_000,
        "surrogate": b'kind = "\\ud800"',
        "open text": b"kind = '''x",
        "text for a number": b"lr = '1e-3'",
        "number for a switch": b"gate = 1",
        "infinite": b"margin = inf",
        "nan": b"margin = nan",
        "list for one": b"lr = [1e-3]",
        "empty list": b"ease_l2 = []",
        "nested list": b"ease_l2 = [[1.0]]",
        "list of texts": b"neighbours = ['1']",
        "seed of 2**63": b"seed = 9223372036854775808",
    }
    for name, text in texts.items():
        yield Case(f"settings: {name}", (*TRAIN_ARGS, "--config", "c.toml"), r"c.toml: \S", {"c.toml": text})
    for name, assignment in {
        "number no float holds": "lr=1" + "0" * 400,
        "hexadecimal": "seed=0x" + "F" * 5000,
        "date": "margin=2024-01-01",
        "not UTF-8": "kind=\udcff",
        "dots": "lr={" + "a." * 600 + "a=1}",
    }.items():
        yield Case(f"settings: --set with {name}", (*TRAIN_ARGS, "--set", assignment), r"lr|seed|margin|no model")
    yield Case("settings: a device", (*TRAIN_ARGS, "--config", "/dev/zero"), "/dev/zero: is not a regular file")
    yield Case(
        "settings: a pipe",
        (*TRAIN_ARGS, "--config", "pipe"),
        "pipe: is not a regular file",
        {},
        lambda at: os.mkfifo(at / "pipe"),
    )


# --- running them -----------------------------------------------------------------------------------------------------


@functools.cache
def cases() -> list[Case]:
    """All of them."""
    parts = (
        kgat_cases,
        archive_cases,
        recbole_cases,
        table_cases,
        parquet_cases,
        data_set_cases,
        run_cases,
        settings_cases,
    )
    return [case for part in parts for case in part()]


def make_base(place: Path) -> None:
    """A data set ``D`` and a run ``R`` on it: 12 users, 8 items."""
    raw = {
        "train.txt": "".join(f"{u} {' '.join(str((u + j) % 8) for j in range(4))}\n" for u in range(12)),
        "test.txt": "".join(f"{u} {(u + 5) % 8}\n" for u in range(12)),
        "kg_final.txt": "".join(f"{i} {i % 2} {8 + i % 3}\n" for i in range(8)),
    }
    (place / "raw").mkdir(parents=True)
    for name, text in raw.items():
        (place / "raw" / name).write_text(text)
    with working_in(place):
        small = ("--epochs", "1", "--set", "dim=4", "--set", "layers=1", "--device", "cpu")
        for args in (("preprocess", "raw", "--out", "D", "--valid", "0.25"), ("train", "D", "--out", "R", *small)):
            code, _, stderr, error = invoke(args)
            assert code == 0, (stderr, error)
    shutil.rmtree(place / "raw")
    edit_json(place / "R/run.json", lambda about: about["data"].update(path="D"))


class working_in:
    """Work in a folder, as ``contextlib.chdir`` of Python 3.11 does."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None:
        self.before = Path.cwd()
        os.chdir(self.place)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def invoke(args: tuple[str, ...]) -> tuple[int, str, str, str]:
    """Exit code, stdout, stderr, and the exception that a command ends in, if it is none of click's."""
    from click.testing import CliRunner

    cli: Any = importlib.import_module("hakg_dgl.cli")

    result = CliRunner().invoke(cli.main, args, prog_name="hakg")
    error = result.exception
    trace = "" if error is None or isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"[:500]
    return result.exit_code, result.stdout, result.stderr, trace


def try_case(case: Case, base: Path, place: Path) -> dict[str, Any]:
    """Run one case in a copy of ``base`` at ``place``, which is removed."""
    shutil.copytree(base, place)
    try:
        for name, data in case.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        if case.prepare is not None:
            case.prepare(place)
        began = time.monotonic()
        with working_in(place):
            code, stdout, stderr, error = invoke(case.args)
        left = (place / "out").exists()
    finally:
        shutil.rmtree(place)
    seconds = round(time.monotonic() - began, 2)
    return {
        "name": case.name,
        "code": code,
        "stdout": stdout,
        "stderr": stderr,
        "error": error,
        "seconds": seconds,
        "left": left,
    }


def status(key: str) -> int:
    """Bytes of this process: ``VmSize`` (address space now), ``VmHWM`` (most that was resident)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def limit_memory() -> None:
    """From now on this process gets no more than :data:`MEMORY` on top of what it has."""
    limit = status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def too_slow(*_: object) -> None:
    """What the alarm does."""
    raise TimeoutError(f"no answer within {SECONDS} seconds")


def main() -> None:
    """Run all cases, a line of JSON each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_base(place / "base")
        limit_memory()
        for case in cases():
            signal.alarm(SECONDS)
            found = try_case(case, place / "base", place / "work")
            signal.alarm(0)
            print(json.dumps(found), flush=True)
    print(json.dumps({"peak": status("VmHWM")}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
