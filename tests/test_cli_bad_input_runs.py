"""Data sets and runs that were changed, cut or mixed up, and disks that are full: refused, with nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_input import SMALL, Message, check_refusal, contents, hakg, refuse, usage

from hakg_dgl import RunFolder

pytestmark = pytest.mark.usefixtures("work")  # src, D and R in the working folder

AGAIN = "Run 'hakg preprocess' again; runs trained on the earlier data do not belong to the changed one."
TABLES = ("interactions", "triples", "users", "items", "entities", "relations")
EVALUATE = ("evaluate", "R", "--no-groups")

Edit = Callable[[bytes], bytes]
Change = Callable[[dict[str, Any]], object]
Lie = Callable[[pd.DataFrame], pd.DataFrame]

NEW_USER = "A user whom RUN does not know has a list by what they have or are: --new-users FILE."


def edit(file: str, change: Edit) -> None:
    Path(file).write_bytes(change(Path(file).read_bytes()))


def edit_json(file: str, change: Change) -> None:
    value = json.loads(Path(file).read_text())
    change(value)
    Path(file).write_text(json.dumps(value))


# --- a data set edited after preprocessing ----------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1] + b"x", lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"\n"],
    ids=["edited", "truncated", "empty", "longer"],
)
def test_tables_that_were_changed(table: str, change: Edit) -> None:
    edit(f"D/{table}.parquet", change)
    refuse(f"D/{table}.parquet: the file was changed after preprocessing\n{AGAIN}", "info", "D")


@pytest.mark.parametrize("table", TABLES)
def test_tables_that_are_missing(table: str) -> None:
    Path(f"D/{table}.parquet").unlink()
    message = f"D/{table}.parquet: the file is missing\nRun 'hakg preprocess' again."
    refuse(message, "train", "D", "--out", "R2", *SMALL)


@pytest.mark.parametrize(
    ("table", "lie", "message"),
    [
        (
            "interactions",
            lambda t: t.assign(item=t["item"] + 100),
            "D: interactions.item has values 100 to 107, allowed are 0 to 7",
        ),
        (
            "interactions",
            lambda t: t.assign(item=t["item"] - 1),
            "D: interactions.item has values -1 to 6, allowed are 0 to 7",
        ),
        ("interactions", lambda t: t.assign(item=t["item"] + 0.5), "D: interactions.item is float64, not integer"),
        (
            "interactions",
            lambda t: t.assign(split="dev"),
            "D: interactions.split has dev; allowed are train, valid, test",
        ),
        (
            "interactions",
            lambda t: pd.concat([t, t[:1]]),
            r"D: interactions: \('user', 'item'\) = \(0, 0\) occurs twice, in '\w+'",
        ),
        ("interactions", lambda t: t.assign(timestamp="now"), "D: interactions.timestamp is (str|object), not float64"),
        ("interactions", lambda t: t[:0], "D/dataset.json: digest or counts differ from those of the tables"),
        (
            "interactions",
            lambda t: t.assign(item=t["item"][::-1].to_numpy()),
            "D.*(digest or counts differ from those of the tables|occurs twice)",
        ),
        (
            "interactions",
            lambda t: t.drop(columns="user"),
            "D/interactions.parquet: has the columns 'item', 'split', where user, item, split are needed once",
        ),
        (
            "triples",
            lambda t: t.assign(tail=t["tail"] + 100),
            "D: triples.tail has values 108 to 110, allowed are 0 to 10",
        ),
        (
            "triples",
            lambda t: t.assign(relation=t["relation"] + 9),
            "D: triples.relation has values 9 to 10, allowed are 0 to 1",
        ),
        ("users", lambda t: t[:-1], "D: interactions.user has values 0 to 11, allowed are 0 to 10"),
        ("users", lambda t: t.assign(original_id=None), "D: users.original_id is not all text"),
        ("users", lambda t: t.assign(original_id=range(len(t))), "D: users.original_id is not all text"),
        ("users", lambda t: t.assign(original_id=[[1]] * len(t)), "D: users.original_id is not all text"),
        (
            "users",
            lambda t: t.assign(original_id="same"),
            "D/dataset.json: digest or counts differ from those of the tables",
        ),
        ("entities", lambda t: t[:3], "D: 8 items but 3 entities: every item is an entity"),
        ("relations", lambda t: t.assign(name=None), "D: relations.name is not all text"),
    ],
)
def test_tables_that_lie_with_a_digest_to_match(table: str, lie: Lie, message: str) -> None:
    file = Path(f"D/{table}.parquet")
    pq.write_table(pa.Table.from_pandas(lie(pd.read_parquet(file)), preserve_index=False), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit_json("D/dataset.json", lambda about: about["files"][file.name].update(sha256=digest))
    refuse(re.compile(f"{message}\n{re.escape(AGAIN)}"), "info", "D")


def test_a_damaged_table_with_a_digest_to_match() -> None:
    file = Path("D/users.parquet")
    edit(str(file), lambda data: data[: len(data) // 2] + data[-8:])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit_json("D/dataset.json", lambda about: about["files"][file.name].update(sha256=digest))
    refuse(re.compile(f"D/users.parquet: not a readable Parquet file: .+\n{re.escape(AGAIN)}"), "info", "D")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:100], "cannot be read: .+"),
        (lambda data: b"", "cannot be read: .+"),
        (lambda data: b"\xff" + data, "cannot be read: .+"),
        (lambda data: b"[" * 100_000, "cannot be read: .+"),
        (lambda data: b"[]", "does not describe a data set of this package"),
        (lambda data: b'{"format": "other"}', "does not describe a data set of this package"),
    ],
    ids=["truncated", "empty", "encoding", "deep", "list", "other"],
)
def test_a_description_that_is_none(change: Edit, message: str) -> None:
    edit("D/dataset.json", change)
    refuse(re.compile(f"D/dataset.json: {message}\n{re.escape(AGAIN)}"), "info", "D")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda about: about.update(format_version=3),
            "D/dataset.json: format version 3, this package reads up to 2\n"
            "Install a newer hakg_dgl, or run 'hakg preprocess' again.",
        ),
        (
            lambda about: about.update(format_version=True),
            f"D/dataset.json: does not describe a data set of this package\n{AGAIN}",
        ),
        (
            lambda about: about.update(format_version=0),
            f"D/dataset.json: does not describe a data set of this package\n{AGAIN}",
        ),
        (
            lambda about: about["counts"].update(users=99),
            f"D/dataset.json: digest or counts differ from those of the tables\n{AGAIN}",
        ),
        (
            lambda about: about.update(digest="0" * 64),
            f"D/dataset.json: digest or counts differ from those of the tables\n{AGAIN}",
        ),
        (lambda about: about.pop("files"), f"D/dataset.json: files missing or of the wrong type\n{AGAIN}"),
        (
            lambda about: about.update(name=1, report=[]),
            f"D/dataset.json: name, report missing or of the wrong type\n{AGAIN}",
        ),
        (
            lambda about: about["report"].update(repairs="many"),
            f"D/dataset.json: report missing or of the wrong type\n{AGAIN}",
        ),
        (
            lambda about: about["files"].update({"users.parquet": 3}),
            f"D/users.parquet: the file was changed after preprocessing\n{AGAIN}",
        ),
    ],
)
def test_a_description_that_was_changed(change: Change, message: str) -> None:
    edit_json("D/dataset.json", change)
    refuse(message, "info", "D")


# --- runs that are incomplete, damaged or of other data ---------------------------------------------------------------

DAMAGED = r"is damaged, or not written by this package \([^\n]+\); train again, or restore it"
NO_TOML = r"is not valid TOML: [^\n]+"
CHANGED = r"was changed after training: [^\n]+; set it back, or train again"
HAS_NO = (
    "so it is not a run, or one that has not come so far; train with `hakg train DATA --out RUN`, or continue with "
    "--resume"
)
NEW_RUN = "Make a run with 'hakg train DATA --out RUN'."


@pytest.mark.parametrize("command", [("evaluate",), ("recommend", "--user", "0")])
def test_no_run(command: tuple[str, ...]) -> None:
    refuse(f"nowhere: no such folder\n{NEW_RUN}", *command, "nowhere")
    refuse(f"D: has no run.json, {HAS_NO}", *command, "D")
    message = "Invalid value for 'RUN': Directory 'R/run.json' is a file."
    refuse(usage(command[0], message), *command, "R/run.json")


@pytest.mark.parametrize("file", ["config.toml", "run.json", "model.safetensors"])
@pytest.mark.parametrize("command", [EVALUATE, ("recommend", "R", "--user", "0")], ids=["evaluate", "recommend"])
def test_files_of_a_run_that_are_missing_or_damaged(file: str, command: tuple[str, ...]) -> None:
    whole = Path("R", file).read_bytes()
    pattern = f"(?:{NO_TOML}\nFix the file, or train again.|{CHANGED})" if file == "config.toml" else DAMAGED
    for data in (b"\xff\x00garbage", whole[: len(whole) // 2], whole[:1], b""):
        Path("R", file).write_bytes(data)
        refuse(re.compile(f"R/{file}: {pattern}"), *command)
    Path("R", file).unlink()
    refuse(f"R: has no {file}, {HAS_NO}", *command)


@pytest.mark.parametrize("file", ["config.toml", "run.json", "state.safetensors", "metrics.jsonl"])
def test_files_of_a_run_that_cannot_be_resumed(file: str) -> None:
    whole = Path("R", file).read_bytes()
    Path("R", file).write_bytes(b"{oops\n" + whole if file == "metrics.jsonl" else whole[: len(whole) // 2])
    pattern = NO_TOML if file == "config.toml" else DAMAGED
    refuse(re.compile(f"R/{file}: {pattern}"), "train", "D", "--out", "R", "--resume", "--epochs", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda about: about.update(format_version=99),
            "R/run.json: run format 99, this version reads up to 1\nInstall a newer hakg_dgl, or train again.",
        ),
        (lambda about: about.pop("data"), re.compile(f"R/run.json: {DAMAGED}")),
        (lambda about: about["data"].pop("digest"), re.compile(f"R/run.json: {DAMAGED}")),
        (lambda about: about["data"].update(path=3), re.compile(f"R/run.json: {DAMAGED}")),
        (
            lambda about: about["data"].update(path=None),
            "R: the run does not say where its data set is\nAdd --data DATA.",
        ),
        (
            lambda about: about["data"].update(path="/nowhere/D"),
            "R: its data set is no longer at /nowhere/D\nAdd --data DATA, if it has moved.",
        ),
    ],
)
def test_a_run_that_says_odd_things_of_itself(change: Change, message: Message) -> None:
    edit_json("R/run.json", change)
    refuse(message, *EVALUATE)


@pytest.mark.parametrize(
    ("key", "value"), [("dim", "5"), ("degree_exponent", "1.5"), ("linear_weight", "1.5"), ("score", '"fused"')]
)
def test_settings_changed_after_training(key: str, value: str) -> None:
    written = rf"(?ms)^{key} = (?:\[.*?^\]|[^\n]*)".encode()
    edit("R/config.toml", lambda data: re.sub(written, f"{key} = {value}".encode(), data))
    shown = r"(?:[^,]+|\[.+\])"
    changed = rf"{key} \(was {shown}, now {shown}\)"
    problem = f"R/config.toml: was changed after training: {changed}; set it back, or train again"
    refuse(re.compile(problem), *EVALUATE)


@pytest.mark.parametrize(
    "args", [("evaluate", "R"), ("recommend", "R", "--user", "0"), ("train", "--out", "R", "--resume")]
)
def test_a_run_of_another_data_set(args: tuple[str, ...]) -> None:
    Path("src/test.txt").write_text("0 5\n")
    assert hakg("preprocess", "src", "--out", "other", "--valid", 0.25).exit_code == 0
    about = {name: json.loads(Path(name, "dataset.json").read_text())["digest"][:12] for name in ("D", "other")}
    data = ("other",) if args[0] == "train" else ("--data", "other")
    remedies = {
        "evaluate": r"'hakg evaluate RUN --interactions FILE' measures the run on a later log\.",
        "recommend": r".+--new-users, --new-items and --new-interactions.+hakg update RUN .+",
    }
    usual = r"Give the data set it was trained on \(--data DATA\), or train again on this one\. "
    own = "--resume goes on with the data set that the run was trained on.+'hakg update RUN .+"
    remedy = usual + remedies[args[0]] if args[0] in remedies else own
    refuse(
        re.compile(
            f"R: the run was trained on data set 'src' .digest {about['D']}., not on 'src' .digest {about['other']}.\n"
            + remedy
        ),
        *(args[0], *data, *args[1:]),
    )


def test_a_checkpoint_of_another_run() -> None:
    shutil.copy("R/state.safetensors", "R/model.safetensors")
    refuse(
        re.compile(
            r"R/model.safetensors: is damaged, or not written by this package \(its splits are None\); train again, "
            "or restore it"
        ),
        *EVALUATE,
    )
    hakg("train", "D", "--out", "R2", *SMALL, "--set", "dim=8")
    shutil.copy("R2/model.safetensors", "R/model.safetensors")
    refuse("R/config.toml: was changed after training: dim (was 8, now 4); set it back, or train again", *EVALUATE)


def test_a_checkpoint_with_other_tensors() -> None:
    folder = RunFolder("R")
    tensors, about = folder.load_tensors(folder.model_file)
    other = {"user": tensors["user"][:-1].clone(), "spare": tensors["user"]}
    folder.save_tensors(folder.model_file, tensors | other, about)
    refuse(
        "R/model.safetensors: does not fit R/config.toml: 2 tensors are missing, too many, or of another shape or "
        "type, such as 'spare'; train again, or restore it",
        *EVALUATE,
    )


# --- what is asked of a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            f"{command} --k {k}",
            usage(command.split()[0], f"Invalid value for '--k': {k} is not in the range 1<=x<=1000000."),
        )
        for command in ("evaluate R", "recommend R --user 0")
        for k in (0, -3, 1_000_001, 2**63, 10**30)
    ]
    + [
        ("evaluate R --k many", usage("evaluate", "Invalid value for '--k': 'many' is not a valid integer range.")),
        (
            "evaluate R --split train",
            usage("evaluate", "Invalid value for '--split': 'train' is not one of 'test', 'valid'."),
        ),
        (
            "evaluate R --per-user x.txt",
            usage("evaluate", "Invalid value for '--per-user': 'x.txt' must end with one of .csv, .parquet, .jsonl"),
        ),
        ("evaluate R --per-user R", usage("evaluate", "Invalid value for '--per-user': File 'R' is a directory.")),
        ("evaluate R --json R", usage("evaluate", "Invalid value for '--json': File 'R' is a directory.")),
        ("evaluate R --json=", usage("evaluate", "Invalid value for '--json': an empty name")),
        (
            "evaluate R --data nowhere",
            "nowhere: no such folder\nMake a data set with 'hakg preprocess SOURCE --out DATA'.",
        ),
        ("recommend R", usage("recommend", "name users (--user ID), or a file for the lists of all (--out lists.csv)")),
        (
            "recommend R --user ghost",
            "there is no user with the id 'ghost'\nIds look like these: '0', '1', '2', '3', '4'. " + NEW_USER,
        ),
        (
            "recommend R --user 0 --user 12",
            "there is no user with the id '12'\nIds look like these: '0', '1', '2', '3', '4'. " + NEW_USER,
        ),
        (
            "recommend R --user=",
            "there is no user with the id ''\nIds look like these: '0', '1', '2', '3', '4'. " + NEW_USER,
        ),
        (
            "recommend R --user \x1b[31m",
            r"there is no user with the id '\x1b[31m'" "\nIds look like these: '0', '1', '2', '3', '4'. " + NEW_USER,
        ),
        (
            "recommend R --out lists.txt",
            usage("recommend", "Invalid value for '--out': 'lists.txt' must end with one of .csv, .parquet, .jsonl"),
        ),
        (
            "recommend R --json --out l.csv",
            usage("recommend", "--json prints, --out writes a file: give one of them (--out lists.jsonl for JSON)"),
        ),
    ],
)
def test_what_cannot_be_asked(args: str, message: str) -> None:
    refuse(message, *args.split())


def test_results_below_a_file(work: Path) -> None:
    message = f"'R/run.json/x' cannot be written: '{work}/R/run.json' is not a folder"
    refuse(usage("evaluate", f"Invalid value for '--json': {message}"), *EVALUATE, "--json", "R/run.json/x")


def test_lists_longer_than_the_catalogue_hold_every_item_that_is_left() -> None:
    listed = hakg("recommend", "R", "--user", "0", "--k", 1_000_000, "--json").stdout.splitlines()
    assert [json.loads(line)["rank"] for line in listed] == [1, 2, 3]  # 8 items, 5 of them the user's
    whole = json.loads(hakg(*EVALUATE, "--k", 8, "--k", 1000, "--json", "-").stdout)["model"]["metrics"]
    assert whole["recall@1000"] == whole["recall@8"] == 1.0
    assert whole["precision@1000"] == pytest.approx(whole["precision@8"] * 8 / 1000)


def test_splits_there_are_not() -> None:
    Path("i.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user in "abcd" for item in range(5)))
    Path("t.csv").write_text("head,relation,tail\n1,about,9\n")
    files = ("--interactions", "i.csv", "--triples", "t.csv")
    assert hakg("preprocess", "tables", *files, "--out", "D2", "--test", 0, "--valid", 0.2).exit_code == 0
    assert hakg("train", "D2", "--out", "R2", *SMALL).exit_code == 0
    refuse(
        "no user has an item in the 'test' split, so there is nothing to evaluate\n"
        "evaluate another split, or preprocess again with a share for this one (--valid, --test)",
        *("evaluate", "R2"),
    )


# --- a full disk ------------------------------------------------------------------------------------------------------

NOTHING_CHANGED = "Nothing was changed there. Free some space, change the permissions, or choose another place."


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """A disk that is full, for any user: no file may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("out", ["new", "D"])
def test_a_data_set_and_a_full_disk(out: str) -> None:
    with no_file_beyond(1000):
        refuse(
            f"{out}: cannot be written: {os.strerror(errno.EFBIG)}\n{NOTHING_CHANGED}",
            "preprocess",
            "src",
            "--out",
            out,
        )


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_lists_and_a_full_disk(suffix: str) -> None:
    Path(f"lists.{suffix}").write_text("something good")
    with no_file_beyond(100):
        refuse(re.compile(f".*{os.strerror(errno.EFBIG)}.*"), "recommend", "R", "--out", f"lists.{suffix}")


@pytest.mark.parametrize("option", [("--json", "m.json"), ("--per-user", "u.csv"), ("--per-user", "u.parquet")])
def test_metrics_and_a_full_disk(option: tuple[str, str]) -> None:
    Path(option[1]).write_text("something good")
    with no_file_beyond(100):
        refuse(f"{option[1]}: {os.strerror(errno.EFBIG)}", *EVALUATE, *option)


def test_training_and_a_full_disk() -> None:
    before = contents(Path.cwd())
    with no_file_beyond(2000):
        result = hakg("train", "D", "--out", "R2", *SMALL)
    check_refusal(
        result.exit_code,
        result.stdout,
        result.stderr,
        re.compile(
            r"R2/\w+.safetensors: cannot be written: [^\n]+; what the run saved earlier is intact\n"
            "Free space or fix permissions, then continue with --resume, or train in another folder.",
        ),
    )
    left = contents(Path.cwd())
    assert {name: left[name] for name in before} == before
    assert not [name for name in left.keys() - before.keys() if "tmp" in name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here (only root can)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(40_000))
    before = contents(small_disk)
    space = os.strerror(errno.ENOSPC)
    refuse(
        f"disk/data: cannot be written: {space}\n{NOTHING_CHANGED}",
        *("preprocess", "demo", "--out", "disk/data"),
    )
    result = hakg("train", "D", "--out", "disk/run", *SMALL, "--set", "dim=512")
    assert result.exit_code == 2
    assert space in result.stderr
    assert result.stdout == ""
    left = contents(small_disk)
    assert {name: left[name] for name in before} == before
    assert not [name for name in left if ".tmp" in name or ".new" in name or name.endswith("safetensors")]
