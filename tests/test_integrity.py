"""What belongs together stays together: data sets, runs and states that were edited, mixed up, or are of the future."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_input import SMALL, hakg, refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from small_demo import small_demo

from hakg_dgl import RunFolder, load_dataset
from hakg_dgl.errors import DataError, FormatVersionError, IntegrityError

SPLITS = ("train", "valid", "test")


def replace_table(folder: Path, table: str, frame: pd.DataFrame, *, digest: bool) -> None:
    """Put another table in the place of one, perhaps with its digest."""
    file = folder / f"{table}.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)
    if digest:
        about = json.loads((folder / "dataset.json").read_text())
        about["files"][file.name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / "dataset.json").write_text(json.dumps(about))


@pytest.mark.parametrize("strategy", ["random", "temporal", "leave-one-out", "cold-items"])
def test_splits_are_disjoint_by_construction(strategy: str) -> None:
    dataset = small_demo(split=strategy, valid=0.2, test=0.2)
    parts = [set(map(tuple, dataset.pairs(split))) for split in SPLITS]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(dataset.interactions)


@pytest.mark.parametrize(("one", "other"), [("train", "test"), ("train", "valid"), ("valid", "test")])
def test_an_overlap_is_refused_by_the_names_of_its_splits(work: Path, one: str, other: str) -> None:
    frame = pd.read_parquet("D/interactions.parquet")
    twin = frame[frame["split"] == other].head(1).assign(split=one)
    user, item = int(twin["user"].iloc[0]), int(twin["item"].iloc[0])
    replace_table(work / "D", "interactions", pd.concat([frame.astype({"split": str}), twin]), digest=True)
    problem = f"('user', 'item') = ({user}, {item}) occurs twice, in {' and '.join(map(repr, sorted((one, other))))}"
    refuse(re.compile(f"D: interactions: {re.escape(problem)}\n.+"), "info", "D")
    with pytest.raises(DataError, match="occurs twice"):
        load_dataset("D", verify=False)


def test_an_overlap_is_refused_where_a_data_set_is_made() -> None:
    dataset = small_demo()
    twin = dataset.interactions.head(1).assign(split="test")
    both = pd.concat([dataset.interactions.iloc[:1].assign(split="train"), twin])
    with pytest.raises(DataError, match="occurs twice, in 'test' and 'train'"):
        dataclasses.replace(dataset, interactions=both)


@given(st.sampled_from(["interactions", "triples", "users", "items", "entities", "relations"]), st.data())
@settings(max_examples=30)
def test_any_flipped_bit_of_a_table_is_noticed(trained: Path, table: str, data: st.DataObject) -> None:
    file = trained / "D" / f"{table}.parquet"
    whole = file.read_bytes()
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(content)
        with pytest.raises(IntegrityError, match="changed after preprocessing") as error:
            load_dataset(file.parent)
    finally:
        file.write_bytes(whole)
    assert error.value.path == file


def test_an_edit_with_its_digest_is_noticed_by_the_digest_of_the_contents(work: Path) -> None:
    frame = pd.read_parquet("D/users.parquet")
    replace_table(work / "D", "users", frame.assign(original_id=frame["original_id"] + "x"), digest=True)
    refuse(re.compile("D/dataset.json: digest or counts differ from those of the tables\n.+"), "info", "D")


@pytest.mark.parametrize(
    "args", [("evaluate", "R"), ("recommend", "R", "--user", "0"), ("train", "--out", "R", "--resume")]
)
def test_a_run_and_another_data_set(work: Path, args: tuple[str, ...]) -> None:
    assert hakg("preprocess", "src", "--out", "D2", "--valid", 0.25, "--seed", 7).exit_code == 0
    place = ("D2",) if args[0] == "train" else ("--data", "D2")
    remedies = {
        "evaluate": r"'hakg evaluate RUN --interactions FILE' measures the run on a later log\.",
        "recommend": r".+--new-users, --new-items and --new-interactions.+hakg update RUN .+",
    }
    usual = r"Give the data set it was trained on \(--data DATA\), or train again on this one\. "
    own = "--resume goes on with the data set that the run was trained on.+'hakg update RUN .+"
    remedy = usual + remedies[args[0]] if args[0] in remedies else own
    message = re.compile(
        r"R: the run was trained on data set 'src' \(digest [0-9a-f]{12}\), not on 'src' \(digest [0-9a-f]{12}\)\n"
        + remedy
    )
    refuse(message, args[0], *place, *args[1:])


def test_formats_of_the_future(work: Path) -> None:
    about = json.loads(Path("D/dataset.json").read_text())
    Path("D/dataset.json").write_text(json.dumps(about | {"format_version": 3}))
    refuse(
        re.compile("D/dataset.json: format version 3, this package reads up to 2\nInstall a newer hakg_dgl.+"),
        "info",
        "D",
    )
    with pytest.raises(FormatVersionError):
        load_dataset("D")
    Path("D/dataset.json").write_text(json.dumps(about))

    folder = RunFolder("R")
    tensors, state = folder.load_tensors(folder.state_file)
    folder.save_tensors(folder.state_file, tensors, state | {"format_version": 99})
    resume = ("train", "D", "--out", "R", "--resume", *SMALL[2:])
    refuse(
        re.compile("R/state.safetensors: state format 99, this version reads up to .+\nInstall a newer hakg_dgl.+"),
        *resume,
    )

    run = json.loads(Path("R/run.json").read_text())
    Path("R/run.json").write_text(json.dumps(run | {"format_version": 99}))
    refuse(
        re.compile("R/run.json: run format 99, this version reads up to .+\nInstall a newer hakg_dgl.+"),
        "evaluate",
        "R",
    )
