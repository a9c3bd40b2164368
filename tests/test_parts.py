"""Parts of a data set: what each holds, what the cut costs, and that one is read without the others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hakg_dgl.cli import main
from small_demo import small_demo
from with_dgl import needs_dgl

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.edge_blocks import EDGE_TABLES, SavedEdges
from hakg_dgl.data.owners import KINDS, Owners, cut_costs, halos, hash_owners, range_owners
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.data.parts import Parts
from hakg_dgl.errors import ConfigError, DataError, IntegrityError
from hakg_dgl.graph.metis import metis_owners

METHODS = [
    pytest.param(metis_owners, id="metis", marks=needs_dgl),
    pytest.param(hash_owners, id="hash"),
    pytest.param(range_owners, id="range"),
]


def with_users_facts(dataset: Dataset) -> Dataset:
    """The data set with facts and links of users too."""
    draw = np.random.default_rng(3)
    facts = {"user": draw.integers(0, 60, 40), "relation": 0, "entity": draw.integers(0, dataset.n_entities, 40)}
    links = {"user": np.arange(30), "relation": 1, "other": np.arange(30) + 30}
    return dataclasses.replace(
        dataset,
        user_facts=pd.DataFrame(facts).drop_duplicates(),
        user_links=pd.DataFrame(links),
        user_relations=pd.DataFrame({"original_id": ["a", "b"], "name": ["a", "b"]}),
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return with_users_facts(small_demo())


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parts") / "data"
    dataset.save(path)
    return path


def edges_of(dataset: Dataset) -> list[tuple[str, int, int]]:
    """Table and ends of every edge of training, one by one."""
    found = []
    for table, (_, (first, _), (second, _)) in EDGE_TABLES.items():
        frame = getattr(dataset, table)
        if table == "interactions":
            frame = frame[frame["split"] == "train"]
        found += [(table, int(a), int(b)) for a, b in zip(frame[first], frame[second], strict=True)]
    return found


def halo_of(dataset: Dataset, owners: Owners, part: int) -> dict[str, set[int]]:
    """The halo of a part, edge by edge."""
    halo: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for table, first, second in edges_of(dataset):
        kinds = EDGE_TABLES[table].first[1], EDGE_TABLES[table].second[1]
        here, there = owners.of(kinds[0])[first] == part, owners.of(kinds[1])[second] == part
        if here and not there:
            halo[kinds[1]].add(second)
        if there and not here:
            halo[kinds[0]].add(first)
    return halo


@pytest.mark.parametrize("find", METHODS)
@pytest.mark.parametrize("n_parts", [1, 3])
def test_each_part_has_its_nodes_their_edges_and_its_halo(
    find: Callable[[SavedEdges, int], Owners], n_parts: int, folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    edges = SavedEdges(folder, rows=97)  # blocks end within the rows of a user
    owners = find(edges, n_parts)
    assert len(owners.users) == dataset.n_users
    assert len(owners.entities) == dataset.n_entities
    write_parts(edges, owners, tmp_path / "parts", method="any")
    parts = Parts(tmp_path / "parts")
    assert parts.data_digest == dataset.digest
    assert (np.array(parts.owners("entities")) == owners.entities).all()
    for number in range(n_parts):
        part = parts.part(number)
        assert part.users.tolist() == np.flatnonzero(owners.users == number).tolist()
        assert part.entities.tolist() == np.flatnonzero(owners.entities == number).tolist()
        wanted = halo_of(dataset, owners, number)
        for kind, halo in part.halo.items():
            assert set(halo["id"]) == wanted[kind]
            assert (owners.of(kind)[halo["id"]] == halo["owner"]).all()
            assert halo.sort_values(["owner", "id"]).index.tolist() == list(range(len(halo)))
        for table, (columns, (first, kind), (second, other)) in EDGE_TABLES.items():
            frame = getattr(dataset, table)
            mine, theirs = owners.of(kind)[frame[first]] == number, owners.of(other)[frame[second]] == number
            if table == "interactions":
                theirs = theirs & (frame["split"] != "test").to_numpy()
            rows = frame.loc[mine | theirs, list(columns)].astype({"split": str} if table == "interactions" else {})
            assert part.edges[table].to_numpy().tolist() == rows.to_numpy().tolist()


@pytest.mark.parametrize("find", METHODS)
def test_costs_are_those_of_the_edges(
    find: Callable[[SavedEdges, int], Owners], folder: Path, dataset: Dataset
) -> None:
    owners = find(SavedEdges(folder), 4)
    found = cut_costs(SavedEdges(folder, rows=50), owners, d=8, layers=2)
    sizes = [sum(map(len, halo_of(dataset, owners, part).values())) for part in range(4)]
    assert found["rows_a_layer"] == sum(sizes)
    assert found["largest_halo"] == max(sizes)
    assert found["bytes_a_step"] == sum(sizes) * 8 * 4 * 2 * 2  # numbers, bytes, layers, there and back
    received = np.zeros(4, int)
    cut = 0
    for table, first, second in edges_of(dataset):
        ends = [owners.of(EDGE_TABLES[table].first[1])[first], owners.of(EDGE_TABLES[table].second[1])[second]]
        received[ends[0]] += 1
        received[ends[1]] += 1
        cut += ends[0] != ends[1]
    assert found["edges_max"] == received.max()
    assert found["cut"] == pytest.approx(cut / len(edges_of(dataset)))


def test_halos_of_few_parts_at_a_time_are_the_same(folder: Path) -> None:
    edges = SavedEdges(folder)
    owners = hash_owners(edges, 5)
    together, apart = list(halos(edges, owners)), list(halos(edges, owners, marks_at_once=1))
    assert len(together) == len(apart) == 5
    for one, other in zip(together, apart, strict=True):
        assert {kind: ids.tolist() for kind, ids in one.items()} == {kind: ids.tolist() for kind, ids in other.items()}


def test_ranges_are_even_by_edges(folder: Path) -> None:
    edges = SavedEdges(folder)
    owners = range_owners(edges, 4)
    users, entities = edges.degrees()
    for owner, weight in (
        (owners.users, users),
        (owners.entities[: edges.n_items], entities[: edges.n_items]),
        (owners.entities[edges.n_items :], entities[edges.n_items :]),
    ):
        assert (np.diff(owner) >= 0).all()
        parts = np.bincount(owner, weight + 1, 4)
        assert parts.max() - parts.min() <= 2 * (weight.max() + 1)


@needs_dgl
def test_metis_cuts_less_than_a_hash(folder: Path) -> None:
    edges = SavedEdges(folder)
    metis, hashed = (cut_costs(edges, find(edges, 4), d=1, layers=1) for find in (metis_owners, hash_owners))
    assert metis["cut"] < hashed["cut"]
    assert metis["rows_a_layer"] < hashed["rows_a_layer"]


def test_a_part_is_read_without_the_others_and_verified(folder: Path, tmp_path: Path) -> None:
    edges, out = SavedEdges(folder), tmp_path / "parts"
    write_parts(edges, hash_owners(edges, 2), out, method="hash")
    shutil.rmtree(out / "part-00001")
    assert len(Parts(out).part(0).users)
    with pytest.raises(DataError, match="missing"):
        Parts(out).part(1)
    with pytest.raises(DataError, match="0 to 1"):
        Parts(out).part(2)
    file = out / "part-00000" / "triples.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match=r"part-00000.triples\.parquet"):
        Parts(out).part(0)


def test_nothing_else_is_replaced(folder: Path, tmp_path: Path) -> None:
    edges, out = SavedEdges(folder), tmp_path / "parts"
    owners = hash_owners(edges, 2)
    write_parts(edges, owners, out, method="hash")
    before = json.loads((out / "parts.json").read_text())
    write_parts(edges, owners, out, method="hash")  # its own kind is
    assert json.loads((out / "parts.json").read_text()) == before
    (out / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"mine\.txt"):
        write_parts(edges, owners, out, method="hash")
    with pytest.raises(DataError, match="holds no parts"):
        write_parts(edges, owners, folder, method="hash")
    with pytest.raises(ConfigError, match="owners go from"):
        Owners(2, np.array([2], np.int32), np.array([0], np.int32))


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_tells_the_costs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    done = invoke("partition", folder, "--out", out, "--parts", 3, "--method", "range", "--compare", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {row["method"] for row in told["costs"]} >= {"range", "hash"}
    assert Parts(out).about["method"] == told["written"] == "range"
    row = next(row for row in told["costs"] if row["method"] == "range")
    assert Parts(out).about["costs"]["rows_a_layer"] == row["rows_a_layer"] > 0
    people = invoke("partition", folder, "--out", out, "--parts", 3, "--method", "hash")
    assert "rows a layer" in people.stdout
    assert "hash" in people.stdout


def test_a_changed_data_set_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "data"
    shutil.copytree(folder, changed)
    file = changed / "triples.parquet"
    file.write_bytes(file.read_bytes() + b"?")
    done = invoke("partition", changed, "--out", tmp_path / "parts", "--parts", 2, "--method", "hash")
    assert done.exit_code == 2
    assert "triples.parquet" in done.stderr
    assert not (tmp_path / "parts").exists()
