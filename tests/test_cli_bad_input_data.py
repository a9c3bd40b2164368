"""Raw data that cannot be used: exit code 2, one message with file, line, value and remedy, nothing written."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from bad_input import Content, Message, check_refusal, hakg, refuse, refuse_in_a_process, usage, write

KGAT = {
    "train.txt": "0 0 1\n1 1 2\n2 0 2\n",
    "test.txt": "0 2\n1 0\n",
    "kg_final.txt": "0 0 3\n1 0 3\n2 1 4\n",
}
RECBOLE = {
    "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "ann\ta\t5\t1\nann\tb\t2\t2\nbob\tb\t4\t3\nbob\ta\t4\t4\n",
    "x.kg": "head_id:token\trelation_id:token\ttail_id:token\nQ1\tgenre\tQ9\nQ2\tgenre\tQ9\n",
    "x.link": "item_id:token\tentity_id:token\na\tQ1\nb\tQ2\n",
}
TABLES = {
    "i.csv": "user,item,rating,time\nann,a,5,1\nann,b,2,2\nbob,b,4,3\nbob,a,4,4\n",
    "t.csv": "head,relation,tail\nQ1,genre,Q9\nQ2,genre,Q9\n",
    "l.csv": "item,entity\na,Q1\nb,Q2\n",
}
FOLDER_ARGS = ("preprocess", "src", "--out", "data")
TABLE_ARGS = (
    *("preprocess", "tables", "--out", "data", "--interactions", "src/i.csv"),
    *("--triples", "src/t.csv", "--links", "src/l.csv"),
)

DIGITS = "This layout holds numbers in the digits 0 to 9 only, and no header line."
EMPTY = "the file is empty\nCheck that it was downloaded or written completely."
NO_ROW = "there is no row below the header\nCheck that it was downloaded or written completely."
TYPES = "Columns are separated by tabs; a type is one of token, token_seq, float, float_seq."
COMMAS = "Name the column to read, or rename it; values are separated by commas."
TABS = "Name the column to read, or rename it; values are separated by tabs."
CORRECT = "Correct or drop this line."
DATES = "Dates may look like 2026-01-31, 31/12/2026 or 31.12.26, with a time such as 17:04 or 5:04 PM behind them."
NUL = "a NUL byte\nSave it as UTF-8 text: this is UTF-16, binary or damaged."
UTF16 = "UTF-16 text, not UTF-8\nConvert it: iconv -f utf-16 -t utf-8 OLD > NEW"
LATIN = r"byte b'\xe9' is not UTF-8" "\nConvert it, for example from Latin-1: iconv -f latin1 -t utf-8 OLD > NEW"
QUOTE = "Is a quote opened there that is not closed?"


@pytest.fixture(autouse=True)
def _work_here(here: Path) -> None:
    pass


def refuse_folder(base: dict[str, str], changed: dict[str, Content], message: Message, *options: str) -> None:
    write(Path("src"), base | changed)
    refuse(message, *FOLDER_ARGS, *options)


def refuse_tables(changed: dict[str, Content], message: Message, *options: str) -> None:
    write(Path("src"), TABLES | changed)
    refuse(message, *TABLE_ARGS, *options)


def told(*args: object) -> list[str]:
    """The report of a command that succeeds."""
    result = hakg(*args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return [line.strip() for line in result.stdout.splitlines() if line.startswith("  ")]


# --- the KGAT layout --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", KGAT)
@pytest.mark.parametrize("content", ["", " \n\t\r\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "bom"])
def test_kgat_files_without_content(file: str, content: Content) -> None:
    refuse_folder(KGAT, {file: content}, f"src/{file}: {EMPTY}")


@pytest.mark.parametrize("file", KGAT)
@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_kgat_with_other_delimiters(file: str, separator: str) -> None:
    text = KGAT[file].replace(" ", separator)
    first = text.splitlines()[0]
    problem = f"src/{file}, line 1: '{first}' is not an integer\nSeparate the numbers by spaces or tabs."
    refuse_folder(KGAT, {file: text}, problem)


@pytest.mark.parametrize("value", ["1.5", "1e3", "0x1F", "1_000", "+1", "nan", "inf", "None", "١", "０", "½"])
def test_kgat_ids_that_are_no_integers(value: str) -> None:
    refuse_folder(
        KGAT, {"train.txt": f"0 0 1\n\n1 {value}\n"}, f"src/train.txt, line 3: '{value}' is not an integer\n{DIGITS}"
    )


@pytest.mark.parametrize("value", [-1, -(2**63)])
def test_kgat_negative_ids(value: int) -> None:
    message = f"negative id '{value}'\nNumber users, items, entities and relations from 0."
    refuse_folder(KGAT, {"kg_final.txt": f"0 0 3\r\n1 {value} 3\r\n"}, f"src/kg_final.txt, line 2: {message}")


@pytest.mark.parametrize("value", [2**31, 2**32, 2**63, 2**64, 10**30])
@pytest.mark.parametrize("file", KGAT)
def test_kgat_ids_that_overflow(file: str, value: int) -> None:
    message = f"id '{value}' is not below 2**31\nNumber ids from 0 without gaps."
    refuse_folder(KGAT, {file: f"0 0 1\n1 1 {value}\n"}, f"src/{file}, line 2: {message}")


@pytest.mark.parametrize(
    ("kind", "largest", "distinct", "changed"),
    [
        ("user", 2**31 - 1, 4, {"train.txt": f"0 0\n{2**31 - 1} 1\n2 2\n"}),
        ("entity", 2**31 - 1, 6, {"train.txt": f"0 0 1\n1 {2**31 - 1}\n2 2\n"}),
        ("relation", 99_999, 2, {"kg_final.txt": "0 0 3\n1 99999 4\n"}),
        ("entity", 10**9, 5, {"kg_final.txt": f"0 0 3\n1 0 {10**9}\n"}),
    ],
)
def test_kgat_ids_with_gaps_that_would_cost_memory(
    kind: str, largest: int, distinct: int, changed: dict[str, Content]
) -> None:
    refuse_folder(
        KGAT,
        changed,
        f"src: the largest {kind} id is {largest}, but only {distinct} distinct {kind} ids occur\n"
        "Every number up to the largest would get an embedding: number ids from 0 without gaps,\n"
        "or give the files as tables, whose ids are renumbered.",
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kg_final.txt": "0 0 1\n\n0 1\n"}, "src/kg_final.txt, line 3: 2 numbers instead of three: '0 1'"),
        ({"kg_final.txt": "0 0 1\n7\n"}, "src/kg_final.txt, line 2: 1 number instead of three: '7'"),
        ({"kg_final.txt": "0 0 1 4\n"}, "src/kg_final.txt, line 1: 4 numbers instead of three: '0 0 1 4'"),
    ],
)
def test_kgat_triples_that_are_none(changed: dict[str, Content], message: str) -> None:
    refuse_folder(KGAT, changed, f"{message}\nA line is: head relation tail, separated by spaces or tabs.")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"kg_final.txt": "head relation tail\n0 0 1\n"},
            f"src/kg_final.txt, line 1: 'head' is not an integer\n{DIGITS}",
        ),
        (
            {"train.txt": "0\n1\n"},
            "src/train.txt: every line holds a user alone, there is no item\nA line is: user item ...",
        ),
        (
            {"user_list.txt": "id name\n1 a\n"},
            "src/user_list.txt, line 1: unknown header 'id name'\n"
            "The first line is 'org_id remap_id', with perhaps one more column such as freebase_id.",
        ),
        (
            {"item_list.txt": "org_id remap_id\nx\ny\nz 1\n"},
            "src/item_list.txt: 2 of 3 lines below the header cannot be read\n"
            "A line is: org_id remap_id (the second a number).",
        ),
        ({"entity_list.txt": ""}, f"src/entity_list.txt: {EMPTY}"),
        ({"relation_list.txt": b"org_id remap_id\ncaf\xe9 0\n"}, f"src/relation_list.txt, line 2: {LATIN}"),
        (
            {"test.txt": None},
            "src: there is no test.txt\nPut test.txt there (or test.txt.gz, or test.txt.zip).",
        ),
    ],
)
def test_kgat_files_of_another_kind(changed: dict[str, Content], message: str) -> None:
    refuse_folder(KGAT, changed, message)


def test_a_list_line_with_a_long_run_of_blanks_takes_no_quadratic_time() -> None:
    write(Path("src"), KGAT | {"item_list.txt": "org_id remap_id freebase_id\n" + "a" + " " * 200_000 + "b\nc 0 d\n"})
    assert told(*FOLDER_ARGS)[-2:] == [
        "1 item list line skipped",
        "remark: no interaction is left to validate on, which 'hakg train' needs; see --valid",
    ]


# --- text that is none ------------------------------------------------------------------------------------------------

_BASES = {"train.txt": KGAT, "x.inter": RECBOLE, "x.link": RECBOLE}


@pytest.mark.parametrize("file", [*_BASES, "i.csv", "l.csv"])
@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda text: text.encode() + b"caf\xe9\n", "line {last}: " + LATIN),
        (lambda text: text.encode("utf-16"), None),
        (lambda text: text.encode("utf-16-le"), "line 1: " + NUL),
        (lambda text: text.encode() + b"1 \0\n", "line {last}: " + NUL),
        (lambda text: b"\0" * 99, "line 1: " + NUL),
    ],
    ids=["latin-1", "utf-16", "utf-16-without-mark", "one-nul", "only-nul"],
)
def test_text_in_another_encoding(file: str, spoil: Callable[[str], bytes], where: str | None) -> None:
    base = _BASES.get(file, TABLES)
    message = (
        f"src/{file}: {UTF16}"
        if where is None
        else f"src/{file}, {where.replace('{last}', str(base[file].count(chr(10)) + 1))}"
    )
    changed: dict[str, Content] = {file: spoil(base[file])}
    if base is TABLES:  # they have an option for it
        message = message.replace("\nConvert it", "\nGive its encoding, for example --encoding ENCODING, or convert it")
        message = message.replace("ENCODING", "utf-16" if where is None else "latin-1")
        refuse_tables(changed, message)
    else:
        refuse_folder(base, changed, message)


@pytest.mark.parametrize("base", [KGAT, RECBOLE, TABLES], ids=["kgat", "recbole", "tables"])
def test_a_byte_order_mark_and_line_ends_of_other_systems_are_read(base: dict[str, str]) -> None:
    args = TABLE_ARGS if base is TABLES else FOLDER_ARGS
    write(Path("src"), base)
    plain = hakg(*args).stdout
    write(Path("src"), {name: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() for name, text in base.items()})
    assert hakg(*args).stdout == plain


# --- RecBole atomic files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", RECBOLE)
def test_recbole_files_without_rows(file: str) -> None:
    refuse_folder(RECBOLE, {file: ""}, f"src/{file}: {EMPTY}")
    refuse_folder(RECBOLE, {file: RECBOLE[file].splitlines()[0] + "\n\n"}, f"src/{file}: {NO_ROW}")


@pytest.mark.parametrize("file", RECBOLE)
@pytest.mark.parametrize("separator", [" ", ",", ";"])
def test_recbole_with_other_delimiters(file: str, separator: str) -> None:
    text = RECBOLE[file].replace("\t", separator)
    header = text.splitlines()[0]
    shown = re.escape(repr(header)[:50])
    message = re.compile(rf"src/{file}, line 1: header column {shown}.* is not NAME:TYPE\n{re.escape(TYPES)}")
    refuse_folder(RECBOLE, {file: text}, message)


_INTER = RECBOLE["x.inter"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"x.inter": _INTER.replace("item_id", "thing")},
            "src/x.inter, line 1: no column 'item_id'; there are: 'user_id', 'thing', 'rating', 'timestamp'\n" + TABS,
        ),
        (
            {"x.kg": RECBOLE["x.kg"].replace("tail_id", "object")},
            "src/x.kg, line 1: no column 'tail_id'; there are: 'head_id', 'relation_id', 'object'\n" + TABS,
        ),
        (
            {"x.inter": _INTER.replace(":token", "")},
            f"src/x.inter, line 1: header column 'user_id' is not NAME:TYPE\n{TYPES}",
        ),
        (
            {"x.inter": _INTER.replace(":float", ":double")},
            f"src/x.inter, line 1: header column 'rating:double' is not NAME:TYPE\n{TYPES}",
        ),
        (
            {"x.inter": _INTER.replace("rating", "")},
            f"src/x.inter, line 1: header column 'float' is not NAME:TYPE\n{TYPES}",
        ),
        ({"x.inter": "\n" + _INTER}, "src/x.inter, line 1: the header is blank\nThe first line names the columns."),
        (
            {"x.inter": _INTER.replace("timestamp:", "rating:")},
            "src/x.inter, line 1: 2 columns are called 'rating'\nRename them.",
        ),
        (
            {"x.inter": _INTER + "cy\ta\n"},
            "src/x.inter, line 6: 2 values, but the header has 4 columns\nValues are separated by tabs.",
        ),
        (
            {"x.inter": _INTER + '"c\ty"\ta\t1\t1\n'},
            "src/x.inter, line 6: 5 values, but the header has 4 columns\nValues are separated by tabs.",
        ),
        (
            {"x.inter": _INTER + "cy\ta\t1\tsoon\n"},
            f"src/x.inter, line 6: timestamp is 'soon', not a finite number\n{CORRECT}",
        ),
        (
            {"x.link": None},
            "src: there is no x.link, which says what entity an item is\nPut x.link there. Items and entities of the "
            "same ids need no link: hakg preprocess tables --interactions src/x.inter --triples src/x.kg",
        ),
        (
            {"x.kg": "head_id:token\trelation_id:token\ttail_id:token\n\tgenre\tQ9\n"},
            "src/x.kg: no row has all its ids\nCheck that the right columns are read, and are not empty.",
        ),
        (
            {"y.inter": _INTER},
            "src: several data sets: x, y\nName one: --name x",
        ),
    ],
)
def test_recbole_columns_and_rows(changed: dict[str, Content], message: str) -> None:
    refuse_folder(RECBOLE, changed, message)


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "1e999", "five", "5,0", "١", ""])
def test_ratings_that_are_no_finite_numbers(value: str) -> None:
    what = f"is '{value}', not a finite number" if value else "is missing"
    changed: dict[str, Content] = {"x.inter": f"{_INTER}cy\ta\t{value}\t5\n"}
    refuse_folder(RECBOLE, changed, f"src/x.inter, line 6: rating {what}\n{CORRECT}")
    quoted = f'{TABLES["i.csv"]}cy,a,"{value}",5\n'
    remedy = f"{CORRECT} If it has a decimal comma, say so: --decimal comma." if value == "5,0" else CORRECT
    refuse_tables({"i.csv": quoted}, f"src/i.csv, line 6: rating {what}\n{remedy}", "--rating-col", "rating")


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", TABLES)
def test_tables_without_rows_or_file(file: str) -> None:
    refuse_tables({file: ""}, f"src/{file}: {EMPTY}")
    refuse_tables({file: TABLES[file].splitlines()[0]}, f"src/{file}: {NO_ROW}")
    Path("src", file).unlink()
    message = f"src/{file}: cannot be read: No such file or directory\nCheck the path and its permissions."
    refuse(message, *TABLE_ARGS)


@pytest.mark.parametrize(
    ("file", "column", "option"),
    [("i.csv", "user", "--user-col"), ("t.csv", "head", "--head-col"), ("l.csv", "item", "--link-item-col")],
)
def test_tables_with_another_separator(file: str, column: str, option: str) -> None:
    text = TABLES[file].replace(",", "~")
    header = text.splitlines()[0]
    remedy = COMMAS.replace("read,", f"read ({option} COLUMN),")
    refuse_tables({file: text}, f"src/{file}, line 1: no column '{column}'; there are: '{header}'\n{remedy}")


_RATINGS = TABLES["i.csv"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            _RATINGS,
            ["--user-col", "who"],
            "line 1: no column 'who'; there are: 'user', 'item', 'rating', 'time'\n"
            + COMMAS.replace("read,", "read (--user-col COLUMN),"),
        ),
        (
            _RATINGS,
            ["--rating-col", "s"],
            f"line 1: no column 's'; there are: 'user', 'item', 'rating', 'time'\n{COMMAS}",
        ),
        (_RATINGS.replace("time", "item"), [], "line 1: 2 columns are called 'item'\nRename them."),
        (",,,\n1,2,3,4\n", [], "line 1: 4 columns have no name\nRename them."),
        ("\n" + _RATINGS, [], "line 1: the header is blank\nThe first line names the columns."),
        (_RATINGS + "cy,a\n", [], "line 6: 2 values, but the header has 4 columns\nValues are separated by commas."),
        (
            _RATINGS + "\ncy,a,1,1,1\n",
            [],
            "line 7: 5 values, but the header has 4 columns\nValues are separated by commas.",
        ),
        (_RATINGS + '"cy,a,1,1\ndan,b,2,2\n', [], f"line 6: 1 value, but the header has 4 columns\n{QUOTE}"),
        (
            'user,item\n"ann,a\nbob",b\ncy,a\n',
            [],
            rf"line 2: user is 'ann,a\nbob', over several lines; is a quote not closed?" f"\n{CORRECT}",
        ),
        (
            '"user,item,rating,time\nann,a,5,1\n',
            [],
            "line 1: the header has a quote that is not closed: '\"user,item,rating,time'\n"
            "Close it, or take the quotes away; names of columns stand in one line.",
        ),
        (_RATINGS + '"' + "cy,a,1,1\n" * 20_000, [], f"line 6: a value is too long\n{QUOTE}"),
        (
            _RATINGS + "cy,a,1,soon\n",
            ["--timestamp-col", "time"],
            f"line 6: time is 'soon', not a finite number\n{CORRECT}",
        ),
        (
            _RATINGS + "cy,a,1,nan\n",
            ["--timestamp-col", "time"],
            f"line 6: time is 'nan', not a finite number\n{CORRECT}",
        ),
        (
            "user,item,day\na,b,2024-01-01\na,c,2024-13-01\n",
            ["--timestamp-col", "day"],
            f"line 3: day is '2024-13-01', neither a number nor a date that is known\n{CORRECT} {DATES}",
        ),
        (
            "user,item,part\na,b,train\na,c,dev\n",
            ["--split-col", "part"],
            f"line 3: part is 'dev', allowed are train, valid, test\n{CORRECT}",
        ),
        (
            "user,item,part\na,b,train\na,c,\n",
            ["--split-col", "part"],
            f"line 3: part is missing, allowed are train, valid, test\n{CORRECT}",
        ),
    ],
)
def test_tables_columns_and_rows(text: str, options: list[str], message: str) -> None:
    refuse_tables({"i.csv": text}, f"src/i.csv, {message}", *options)


def test_tables_whose_ids_are_all_missing() -> None:
    refuse_tables(
        {"i.csv": "user,item\n,a\n,b\n"},
        "src/i.csv: no row has all its ids\nCheck that the right columns are read, and are not empty.",
    )


def test_a_given_split_without_training_rows() -> None:
    refuse_tables(
        {"i.csv": "user,item,part\na,b,test\na,c,valid\n"},
        "no training interaction is left\nThe given split needs rows that say 'train'.",
        *("--split-col", "part"),
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-50]),
            "src/i.parquet: not a readable Parquet file: .+\nWrite or download it again.",
        ),
        (
            lambda path: path.write_bytes(b"user,item\na,b\n"),
            "src/i.parquet: not a readable Parquet file: .+\nWrite or download it again.",
        ),
        (lambda path: path.write_bytes(b""), re.escape(f"src/i.parquet: {EMPTY}")),
        (
            lambda path: pd.DataFrame({"user": ["a", "b"], "item": [0.5, 1.0]}).to_parquet(path),
            "src/i.parquet: ids of column 'item' are not whole numbers\nName another column, or convert this one.",
        ),
        (
            lambda path: pd.DataFrame({"user": ["a"], "item": [[1]]}).to_parquet(path),
            "src/i.parquet: column 'item' holds list<.+>, not ids .text or integers.\nName another column, .+",
        ),
        (
            lambda path: pd.DataFrame({"user": ["a"], "thing": [1]}).to_parquet(path),
            "src/i.parquet: no column 'item'; there are: 'user', 'thing'\n"
            r"Name the column to read \(--item-col COLUMN\), or rename it.",
        ),
    ],
)
def test_parquet_tables(spoil: Callable[[Path], object], message: str) -> None:
    write(Path("src"), TABLES)
    path = Path("src", "i.parquet")
    pd.read_csv("src/i.csv").to_parquet(path)
    args = [str(path) if arg == "src/i.csv" else arg for arg in TABLE_ARGS]
    spoil(path)
    refuse(re.compile(message), *args)


def test_a_parquet_table_with_a_missing_rating() -> None:
    write(Path("src"), TABLES)
    pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [1.0, None]}).to_parquet("src/i.parquet")
    args = ["src/i.parquet" if arg == "src/i.csv" else arg for arg in TABLE_ARGS]
    message = "src/i.parquet: row 1 (from 0): rating is missing\nCorrect or drop this row."
    refuse(message, *args, "--rating-col", "rating")


# --- archives ---------------------------------------------------------------------------------------------------------

TRAIN = KGAT["train.txt"] * 200


def zipped(*members: tuple[str, str | bytes], link: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            about = zipfile.ZipInfo(name)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = (stat.S_IFLNK | 0o777) << 16 if link else 0o644 << 16
            archive.writestr(about, content)
    return buffer.getvalue()


def patched(data: bytes, **at: int) -> bytes:
    """An archive of one member with fields of both headers changed."""
    changed, central = bytearray(data), data.find(b"PK\x01\x02")
    for field, value in at.items():
        local, listed = {"flags": (6, 8), "method": (8, 10), "crc": (14, 16)}[field]
        changed[local] = changed[central + listed] = value
    return bytes(changed)


GZ, ZIP = gzip.compress(TRAIN.encode(), mtime=0), zipped(("train.txt", TRAIN))
DAMAGED = "damaged, truncated or unsupported archive: "
AGAIN = "\nDownload it again, or unpack it."
ONE = "\nAn archive must hold exactly one file."
PLAIN = "\nAn archive must hold exactly one plain file."


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("gz", GZ[: len(GZ) // 2], f"{DAMAGED}.+{AGAIN}"),
        ("gz", GZ[:-4], f"{DAMAGED}.+{AGAIN}"),
        ("gz", GZ[:-8] + bytes(4) + GZ[-4:], f"{DAMAGED}CRC check failed .+{AGAIN}"),
        ("gz", b"hello", f"{DAMAGED}.+{AGAIN}"),
        ("gz", b"", re.escape(EMPTY)),
        ("gz", gzip.compress(b"", mtime=0), re.escape(EMPTY)),
        ("zip", ZIP[: len(ZIP) // 2], f"{DAMAGED}File is not a zip file{AGAIN}"),
        ("zip", ZIP[:-4], f"{DAMAGED}.+{AGAIN}"),
        ("zip", b"hello", f"{DAMAGED}File is not a zip file{AGAIN}"),
        ("zip", b"", f"{DAMAGED}File is not a zip file{AGAIN}"),
        ("zip", patched(ZIP, crc=77), f"{DAMAGED}Bad CRC-32 for file 'train.txt'{AGAIN}"),
        ("zip", patched(ZIP, method=97), "is packed by method 97; stored and deflated members are read\n.+"),
        ("zip", patched(ZIP, flags=1), "is encrypted\nUnpack it yourself."),
        ("zip", zipped(), f"holds 0 files{ONE}"),
        ("zip", zipped(("a", TRAIN), ("b", TRAIN)), f"holds 2 files: 'a', 'b'{ONE}"),
        ("zip", zipped(*((str(n), "x") for n in range(9))), rf"holds 9 files: '0', '1', '2', '3', \.\.\.{ONE}"),
        ("zip", zipped(("../train.txt", TRAIN)), rf"its member '\.\./train.txt' is a place outside the archive{PLAIN}"),
        ("zip", zipped(("/etc/x", TRAIN)), f"its member '/etc/x' is a place outside the archive{PLAIN}"),
        ("zip", zipped(("..\\x", TRAIN)), rf"its member '\.\.\\\\x' is a place outside the archive{PLAIN}"),
        ("zip", zipped(("train.txt", "/etc/passwd"), link=True), f"its member 'train.txt' is a link{PLAIN}"),
        (
            "zip",
            zipped(("t", b"0 " * 2**26)),
            "expands to more than 67,108,864 bytes\nUnpack it yourself, if you trust it.",
        ),
        (
            "gz",
            gzip.compress(b"0 " * 2**26, 1, mtime=0),
            "expands to more than [0-9,]+ bytes\nUnpack it yourself, if you trust it.",
        ),
        ("zip", zipped(("train.txt", "0 x\n")), f"line 1: 'x' is not an integer\n{re.escape(DIGITS)}"),
    ],
)
def test_archives(name: str, data: bytes, message: str) -> None:
    file = f"train.txt.{name}"
    joint = ", " if message.startswith("line") else ": "
    refuse_folder(KGAT, {"train.txt": None, file: data}, re.compile(re.escape(f"src/{file}") + joint + message))


def test_archives_that_are_read() -> None:
    write(Path("src"), KGAT)
    plain = hakg(*FOLDER_ARGS).stdout
    Path("src/train.txt").unlink()
    for name, data in (
        ("gz", gzip.compress(KGAT["train.txt"].encode(), mtime=0)),
        ("zip", zipped(("t", KGAT["train.txt"]))),
    ):
        write(Path("src"), {f"train.txt.{name}": data})
        assert hakg(*FOLDER_ARGS).stdout == plain
        Path(f"src/train.txt.{name}").unlink()


def test_atomic_files_in_archives_are_recognised() -> None:
    write(Path("src"), {f"{name}.zip": zipped((name, text)) for name, text in RECBOLE.items()})
    assert hakg(*FOLDER_ARGS).exit_code == 0


# --- huge lines -------------------------------------------------------------------------------------------------------

HUGE = 50_000_000


_MEASURED = """
import sys
from hakg_dgl.cli import main
try:
    main(sys.argv[2:], prog_name="hakg")
finally:
    with open("/proc/self/status") as status, open(sys.argv[1], "w") as peak:
        peak.write(next(line for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_huge_line_of_tables_in_bounded_time_and_memory(tmp_path_factory: pytest.TempPathFactory) -> None:
    write(Path("src"), TABLES | {"i.csv": _RATINGS.encode() + b'"' + b"cy,a,1,1\n" * (HUGE // 9)})
    peak = tmp_path_factory.mktemp("peak") / "peak"
    command = [sys.executable, "-c", _MEASURED, str(peak), *TABLE_ARGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    message = f"src/i.csv, line 6: a value is too long\n{QUOTE}"
    check_refusal(done.returncode, done.stdout, done.stderr, message)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["src"]
    assert int(peak.read_text().split()[1]) < 900_000  # KiB; to start pandas and PyArrow takes 150,000


def test_a_huge_line_of_the_kgat_layout() -> None:
    message = f"src/train.txt, line 2: '{'x' * 55}...' is not an integer\n{DIGITS}"
    refuse_folder(KGAT, {"train.txt": b"0 0 1\n1 " + b"x" * HUGE}, message)


def test_a_huge_line_of_atomic_files() -> None:
    message = "src/x.inter, line 6: a value is too long\nValues are separated by tabs."
    refuse_folder(RECBOLE, {"x.inter": _INTER.encode() + b"x" * HUGE + b"\ta\t1\t1\n"}, message)


@pytest.mark.parametrize("filler", [b"x", b",", b"\t", b"x:token\t"])
@pytest.mark.parametrize(("file", "base"), [("x.inter", RECBOLE), ("i.csv", TABLES)])
def test_huge_headers(file: str, base: dict[str, str], filler: bytes) -> None:
    write(Path("src"), base | {file: filler * (5_000_000 // len(filler)) + b"\n1\n"})
    message = f"src/{file}, line 1: a header of more than 65,536 bytes\nThe first line names the columns."
    refuse(message, *(TABLE_ARGS if base is TABLES else FOLDER_ARGS))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"train.txt": b"1" * 5_000_000},
            f"src/train.txt, line 1: id '{'1' * 55}...' is not below 2**31\nNumber ids from 0 without gaps.",
        ),
        (
            {"kg_final.txt": b"0 0 1\n" + b"1 " * 1_000_000},
            f"src/kg_final.txt, line 2: 1000000 numbers instead of three: '{'1 ' * 27}1...'\n"
            "A line is: head relation tail, separated by spaces or tabs.",
        ),
    ],
)
def test_long_values_are_cut_in_messages(changed: dict[str, Content], message: str) -> None:
    refuse_folder(KGAT, changed, message)


# --- files and folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("nowhere"), "a link that leads nowhere"),
        (os.mkfifo, "not a plain file"),
    ],
)
@pytest.mark.parametrize(("base", "file"), [(KGAT, "train.txt"), (KGAT, "user_list.txt"), (RECBOLE, "x.kg")])
def test_something_else_where_a_file_is_expected(
    base: dict[str, str], file: str, make: Callable[[Path], None], what: str
) -> None:
    write(Path("src"), base | {file: None})
    make(Path("src", file))
    refuse(f"src/{file}: is {what}; a file is expected\nPut the file there, or remove it.", *FOLDER_ARGS)


def test_a_folder_where_a_table_is_expected() -> None:
    write(Path("src"), TABLES | {"i.csv": None})
    Path("src/i.csv").mkdir()
    refuse("src/i.csv: is a folder; a file is expected\nPut the file there, or remove it.", *TABLE_ARGS)


NO_LAYOUT = (
    "A KGAT folder holds train.txt, test.txt and kg_final.txt, a RecBole folder NAME.inter, NAME.kg and NAME.link,\n"
    "a KGCN folder ratings_final.txt and kg_final.txt.\n"
    "For CSV, TSV or Parquet files use 'tables'."
)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, (), f"src: no known layout: the folder is empty\n{NO_LAYOUT}"),
        (TABLES, (), f"src: no known layout: the folder holds 'i.csv', 'l.csv', 't.csv'\n{NO_LAYOUT}"),
        (
            KGAT | RECBOLE,
            (),
            "src: both the KGAT and the RecBole layout\nSay which to read (--format kgat or recbole).",
        ),
        (
            RECBOLE,
            ("--format", "kgat"),
            "src: there is no train.txt\nPut train.txt there (or train.txt.gz, or train.txt.zip).",
        ),
        (
            KGAT,
            ("--format", "recbole"),
            "src: there is no NAME.inter\nA data set is NAME.inter, NAME.kg and NAME.link.",
        ),
        (RECBOLE, ("--name", "z"), "src: there is no z.inter\nPut z.inter there (or z.inter.gz, or z.inter.zip)."),
        (
            KGAT,
            ("--title-col", "t"),
            "--title-col is an option for RecBole atomic files, and this folder has the KGAT layout",
        ),
        (KGAT, ("--mirror", "m"), usage("preprocess", "--mirror is an option for card, and 'src' is a folder")),
    ],
)
def test_folders_of_another_layout(files: dict[str, Content], options: tuple[str, ...], message: str) -> None:
    refuse_folder({}, files, message, *options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("lastfm", "SOURCE 'lastfm' is not a folder; did you mean 'last-fm'?"),
        (
            "nowhere",
            "SOURCE 'nowhere' is not a folder, nor one of tables, demo, alibaba-ifashion, amazon-book, last-fm, "
            "yelp2018",
        ),
        ("no/where", "no/where: no such folder\nName one that holds the files."),
        ("file.txt", "file.txt: not a folder\nName the folder that holds the files."),
        ("", usage("preprocess", "SOURCE is empty")),
    ],
)
def test_sources_that_are_not_there(source: str, message: str) -> None:
    Path("file.txt").write_text("0 1\n")
    refuse(message, "preprocess", source, "--out", "data")


def test_a_mirror_without_the_file() -> None:
    Path("cache/last-fm").mkdir(parents=True)
    Path("mirror").mkdir()
    args = ("preprocess", "last-fm", "--cache", "cache", "--out", "data", "--mirror")
    for mirror in ("mirror", "gone"):
        refuse(
            f"train.txt from {mirror}: the mirror folder does not hold it\n"
            f"Looked for {mirror}/last-fm/train.txt and {mirror}/train.txt.",
            *(*args, mirror),
        )
    refuse(
        "train.txt from ftp://host/last-fm/train.txt: the address has a scheme that is not http or https\n"
        "Give an http or https address, or a folder.",
        *(*args, "ftp://host"),
    )


def test_a_mirror_with_another_file() -> None:
    Path("cache/last-fm").mkdir(parents=True)
    write(Path("mirror"), {"train.txt": "0 1\n"})
    refuse(
        re.compile(
            "train.txt from mirror/train.txt: this is not the file of the card: expected git blob [0-9a-f]{40}, "
            r"found [0-9a-f]{40} \(4 bytes\)\n.+"
        ),
        *("preprocess", "last-fm", "--cache", "cache", "--out", "data", "--mirror", "mirror"),
    )


def test_a_file_that_may_not_be_read() -> None:
    write(Path("src"), KGAT)
    Path("src/train.txt").chmod(0)
    prefix: list[str] = []
    if os.access("src/train.txt", os.R_OK):  # root reads everything, unless it gives up its capabilities
        prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        if (
            not shutil.which("setpriv")
            or subprocess.run([*prefix, "cat", "src/train.txt"], check=False).returncode == 0
        ):
            pytest.skip("root reads every file here, whatever its permissions")
    message = "src/train.txt: cannot be read: Permission denied\nCheck the path and its permissions."
    refuse_in_a_process(message, *FOLDER_ARGS, prefix=prefix)


# --- repairs: done, and told with their counts ------------------------------------------------------------------------

NO_TIME = (
    "note: column 'time' of the interactions is not read; if it is their time, say so: --timestamp-col time, and "
    "--split temporal holds out the latest"
)
NO_VALID = "remark: no interaction is left to validate on, which 'hakg train' needs; see --valid"
NO_TEST = "remark: no interaction is left to test on; see --test"


@pytest.mark.parametrize(
    ("changed", "report"),
    [
        (
            {
                "train.txt": "0 0 0 1\n1 1 2\n2 0 2\n",
                "test.txt": "0 2 2 1\n1 0\n",
                "kg_final.txt": "0 0 3\n0 0 3\n0 0 3\n2 1 4\n",
            },
            [
                "1 train repeat dropped",
                "1 test repeat dropped",
                "1 train test overlap dropped from test",
                "2 triple repeats dropped",
            ],
        ),
        (
            {"train.txt": "0 0 1\n1\n2 2\n", "test.txt": "0 2\n1 0\n"},
            [
                "1 train line with user alone",
                "1 test user without training items",
            ],
        ),
        (
            {"test.txt": "0 7\n9 0\n1\n"},
            [
                "1 test line with user alone",
                "1 test user without training items",
                "1 test item without training users",
            ],
        ),
    ],
)
def test_repairs_of_the_kgat_layout(changed: dict[str, Content], report: list[str]) -> None:
    write(Path("src"), KGAT | changed)
    assert told(*FOLDER_ARGS) == [*report, NO_VALID]


@pytest.mark.parametrize(
    ("changed", "options", "report"),
    [
        (
            {
                "i.csv": TABLES["i.csv"] + "ann,a,5,1\n,a,1,1\n",
                "t.csv": TABLES["t.csv"] + "Q1,genre,Q9\n,genre,Q9\n",
                "l.csv": "item,entity\na,Q1\nb,Q2\na,Q2\nc,Q1\n,Q1\n",
            },
            (),
            [
                NO_TIME,
                "1 interaction without id dropped",
                "1 triple without id dropped",
                "1 triple repeat dropped",
                "1 link without id dropped",
                "1 link of an item linked twice dropped",
                "1 link to an entity already taken dropped",
                "1 repeated interaction dropped",
                NO_VALID,
                NO_TEST,
            ],
        ),
        (
            {"l.csv": "item,entity\na,Q1\n"},
            (),
            [NO_TIME, "1 item without entity", "1 item without triples", NO_VALID, NO_TEST],
        ),
        (
            {"i.csv": "user,item,part\nann,a,train\nann,y,test\nbob,a,test\n"},
            ("--split-col", "part"),
            [
                "1 item without entity",
                "1 item without triples",
                "1 test user without training items",
                "1 test item without training users",
                NO_VALID,
            ],
        ),
    ],
)
def test_repairs_of_tables(changed: dict[str, Content], options: tuple[str, ...], report: list[str]) -> None:
    write(Path("src"), TABLES | changed)
    assert told(*TABLE_ARGS, *options) == report
