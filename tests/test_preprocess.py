from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.data.dataset import load_dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.data.readers.raw import RawData
from hakg_dgl.data.readers.recbole import read_recbole
from hakg_dgl.data.summary import summary
from hakg_dgl.errors import ConfigError, DataError

SHARED = Path(os.environ.get("HAKG_SHARED_DIR", Path(__file__).resolve().parents[2] / "shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not at {SHARED}")


def table(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


NO_FACTS = table("head relation tail")


def tables(**changed) -> RawData:
    """Items b and c are linked, c to an entity without triples; a is not linked."""
    return RawData(
        **{
            "name": "toy",
            "interactions": table(
                "user item rating timestamp",
                ("u9", "a", 5.0, 1.0),
                ("u9", "b", 4.0, 2.0),
                ("u9", "c", 1.0, 3.0),
                ("u10", "b", 2.0, 9.0),
                ("u10", "b", 3.0, 7.0),
                ("u10", "a", 5.0, 8.0),
            ),
            "triples": table("head relation tail", ("m1", "r", "g"), ("g", "s", "m9"), ("m1", "r", "g")),
            "item_entity": table("item entity", ("b", "m1"), ("c", "m2"), ("z", "m9")),
            "items": table("id name", ("b", "Bee")),
            "report": {"from_reader": 1},
        }
        | changed
    )


def kgat(**changed) -> RawData:
    return RawData(
        **{
            "name": "rows",
            "interactions": table(
                "user item split", (0, 1, "train"), (0, 2, "train"), (0, 4, "test"), (2, 1, "train"), (2, 2, "test")
            ),
            "triples": table("head relation tail", (1, 0, 6), (2, 2, 6)),
            "ids_are_indices": True,
            "counts": {"users": 4},
        }
        | changed
    )


def test_numbering_puts_items_first():
    data = preprocess(tables())
    assert data.users["original_id"].tolist() == ["u10", "u9"]
    assert data.items.to_dict("list") == {"original_id": ["a", "b", "c"], "name": ["a", "Bee", "c"]}
    assert data.entities["original_id"].tolist() == ["item:a", "m1", "m2", "g", "m9"]
    assert data.entities["name"].tolist() == ["item:a", "Bee", "m2", "g", "m9"]
    assert data.triples.to_numpy().tolist() == [[1, 0, 3], [3, 1, 4]]
    expected = {
        "from_reader": 1,
        "triple_repeats_dropped": 1,
        "repeated_interactions_dropped": 1,
        "items_without_entity": 1,
        "items_without_triples": 2,
    }
    assert expected.items() <= data.report.items()
    kept = data.interactions.set_index(["user", "item"])["timestamp"]
    assert kept[0, 1] == 7.0  # of a repeated pair, the earliest


def test_row_numbers_are_kept():
    data = preprocess(kgat(), PreprocessOptions(valid=0))
    assert (data.n_users, data.n_items, data.n_entities, data.n_relations) == (4, 5, 7, 3)
    assert data.split_strategy == "given"
    assert data.pairs("train").tolist() == [[0, 1], [0, 2], [2, 1]]
    assert data.pairs("test").tolist() == [[0, 4], [2, 2]]
    assert data.relations["name"].tolist() == ["relation_0", "relation_1", "relation_2"]
    assert data.entities["original_id"].tolist() == list("0123456")


def test_filters_of_the_kgat_layout_keep_numbers():
    data = preprocess(kgat(), PreprocessOptions(valid=0, min_item_interactions=2))
    assert (data.n_users, data.n_items, data.n_entities) == (4, 5, 7)
    assert data.pairs().tolist() == [[0, 1], [0, 2], [2, 1], [2, 2]]
    assert data.report["outside_k_core_dropped"] == 1
    assert (
        preprocess(kgat(), PreprocessOptions(drop_unlinked=True)).report["interactions_with_unlinked_items_dropped"]
        == 1
    )


def test_given_split():
    data = preprocess(kgat(), PreprocessOptions(valid=0.5))
    assert len(data.pairs("valid")) == 1  # one of user 0's two; user 2 keeps its only one
    assert data.pairs("test").tolist() == [[0, 4], [2, 2]]
    resplit = preprocess(kgat(), PreprocessOptions(split="random", test=0.4))
    assert resplit.split_strategy == "random"
    assert len(resplit.interactions) == 5
    with pytest.raises(DataError, match="no split to keep"):
        preprocess(tables(), PreprocessOptions(split="given"))
    own = table("user item split", ("a", "x", "train"), ("a", "y", "valid"), ("a", "x", "test"), ("b", "x", "train"))
    data = preprocess(tables(interactions=own, triples=NO_FACTS), PreprocessOptions(valid=0.9))
    assert data.interactions["split"].value_counts().to_dict() == {"train": 2, "valid": 1, "test": 0}
    assert data.report["repeated_interactions_dropped"] == 1
    with pytest.raises(DataError, match="no training interaction"):
        preprocess(tables(interactions=own.assign(split="test"), triples=NO_FACTS))


@pytest.mark.parametrize(
    ("options", "dropped", "left"),
    [
        ({"rating_threshold": 3.0}, {"below_rating_threshold_dropped": 2}, 4),
        (
            {"drop_unlinked": True},
            {"interactions_with_unlinked_items_dropped": 3, "repeated_interactions_dropped": 1},
            2,
        ),
        ({"min_item_interactions": 2}, {"outside_k_core_dropped": 1}, 4),
    ],
)
def test_filters_are_counted(options, dropped, left):
    data = preprocess(tables(), PreprocessOptions(**options))
    assert dropped.items() <= data.report.items()
    assert len(data.interactions) == left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rating_threshold": 9.0}, "rating_threshold: no interaction is rated 9 or more"),
        ({"min_user_interactions": 9}, "min_user_interactions and min_item_interactions: nothing is left with 9"),
    ],
)
def test_empty_results_name_the_filter(options, message):
    with pytest.raises(DataError, match=message):
        preprocess(tables(), PreprocessOptions(**options))
    unlinked = tables(item_entity=table("item entity"))
    with pytest.raises(DataError, match="drop_unlinked: no item"):
        preprocess(unlinked, PreprocessOptions(drop_unlinked=True))


def test_temporal_split():
    data = preprocess(tables(), PreprocessOptions(split="temporal", test=0.3, valid=0.4))
    by_user = data.interactions.sort_values("timestamp").groupby("user")["split"].agg(list)
    assert by_user.to_dict() == {0: ["train", "test"], 1: ["train", "valid", "test"]}
    without = tables(interactions=tables().interactions.drop(columns="timestamp"))
    with pytest.raises(DataError, match="needs timestamps"):
        preprocess(without, PreprocessOptions(split="temporal"))


def test_one_cut_in_time_leaves_out_users_who_come_after_it():
    rows = [("a", "x", 1), ("b", "x", 2), ("a", "y", 3), ("b", "y", 4), ("c", "x", 5), ("a", "z", 6), ("d", "w", 7),
            ("c", "z", 8), ("d", "x", 9), ("b", "z", 10)]  # fmt: skip
    log = (
        pd.DataFrame(rows, columns=["user", "item", "timestamp"])
        .astype({"timestamp": float})
        .sample(frac=1, random_state=0)
    )
    data = preprocess(RawData("toy", log, pd.DataFrame({"head": [], "relation": [], "tail": []}, dtype=object)),
                      PreprocessOptions(split="temporal-global", test=0.3, valid=0.3))  # fmt: skip
    users, items = data.users["original_id"], data.items["original_id"]
    found = {
        split: sorted(zip(users.iloc[part["user"]], items.iloc[part["item"]], strict=True))
        for split, part in data.interactions.groupby("split", observed=False)
    }
    # of ten, three are for the test (8, 9, 10), and of the seven before two for validation (6, 7); c and d come later
    assert found == {
        "train": [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x")],
        "valid": [("a", "z")],
        "test": [("b", "z"), ("c", "z")],
    }
    assert users.tolist() == ["a", "b", "c"]
    assert items.tolist() == ["w", "x", "y", "z"]  # only d has chosen w, and it is an item
    assert data.report["users_without_training_interactions_left_out"] == 1
    assert data.report["their_interactions_after_the_cut_left_out"] == 2
    assert data.report["items_that_only_they_have_chosen"] == 1
    assert data.report["catalogue_items_without_interactions"] == 0
    assert data.report["test_users_without_training_items"] == 0
    assert data.split_strategy == "temporal-global"


def test_relation_names_become_distinct():
    names = pd.DataFrame({"id": [0, 1, 2, 3], "name": ["x", "inverse_x", "y", "y"]})
    triples = table("head relation tail", *((1, relation, 6) for relation in range(4)))
    data = preprocess(kgat(triples=triples, relations=names))
    assert data.relations["name"].tolist() == ["x", "inverse_x_1", "y_2", "y_3"]
    assert data.report["relation_names_made_distinct"] == 3


def test_names_of_relations_and_of_relations_of_users_are_distinct():
    names = pd.DataFrame({"id": range(3), "name": ["genre", "genre", "genre_0"]})
    triples = table("head relation tail", *((1, relation, 6) for relation in range(3)))
    links = table("user relation other", (0, "genre_1", 2))
    facts = table("user relation entity", (0, "likes", 6), (2, "interacts", 7))
    data = preprocess(kgat(triples=triples, relations=names, user_links=links, user_facts=facts))
    assert data.relations["name"].tolist() == ["genre_0_0", "genre_1", "genre_0"]
    assert data.user_relations["original_id"].tolist() == ["interacts", "likes", "genre_1"]
    assert data.user_relations["name"].tolist() == ["interacts_0", "likes", "genre_1_2"]
    assert data.report["relation_names_made_distinct"] == 2
    assert data.report["user_relation_names_made_distinct"] == 2
    assert data.n_entities == 8  # entity 7 occurs in a user's fact alone


def test_facts_and_links_of_users():
    links = table(
        "user relation other",
        ("u9", "trusts", "u10"),
        ("u9", "trusts", "u10"),
        ("u10", "trusts", "u9"),
        ("u9", "trusts", "u9"),
        ("u9", "trusts", "gone"),
        ("gone", "trusts", "u9"),
    )
    facts = table(
        "user relation entity",
        ("u9", "lives_in", "Ulm"),
        ("u9", "likes", "g"),
        ("u10", "likes", "m1"),
        ("u10", "likes", "m1"),
        ("gone", "likes", "nowhere"),
    )
    data = preprocess(tables(user_links=links, user_facts=facts))
    plain = preprocess(tables())
    assert data.entities["original_id"].tolist() == ["item:a", "m1", "m2", "Ulm", "g", "m9"]
    assert data.users["original_id"].tolist() == ["u10", "u9"]
    assert data.user_relations["name"].tolist() == ["likes", "lives_in", "trusts"]
    assert data.user_facts.to_numpy().tolist() == [[0, 0, 1], [1, 0, 4], [1, 1, 3]]
    assert data.user_links.to_numpy().tolist() == [[0, 2, 1], [1, 2, 0]]
    assert data.report.items() - plain.report.items() == {
        ("user_links_to_oneself_dropped", 1),
        ("user_link_repeats_dropped", 1),
        ("user_links_with_users_without_interactions_dropped", 2),
        ("user_facts_of_users_without_interactions_dropped", 1),
        ("user_fact_repeats_dropped", 1),
    }
    assert data.digest != plain.digest


def test_a_relation_of_facts_and_of_links_becomes_two():
    links = table("user relation other", ("u9", "likes", "u10"))
    facts = table("user relation entity", ("u9", "likes", "g"))
    data = preprocess(tables(user_links=links, user_facts=facts))
    assert data.user_relations.to_dict("list") == {"original_id": ["likes", "likes"], "name": ["likes_0", "likes_1"]}
    assert data.user_facts["relation"].tolist() == [0]
    assert data.user_links["relation"].tolist() == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_user_interactions": 0},
        {"min_item_interactions": 2.0},
        {"seed": -1},
        {"valid": 1.0},
        {"test": -0.1},
        {"split": "latest"},
        {"rating_threshold": float("nan")},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PreprocessOptions(**wrong)


pair_lists = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(
    rows=pair_lists,
    split=st.sampled_from(["random", "temporal", "leave-one-out", "cold-items"]),
    seed=st.integers(0, 3),
)
def test_splits_are_a_partition(rows, split, seed):
    interactions = (
        pd.DataFrame(rows, columns=["user", "item"]).astype(str).assign(timestamp=np.arange(float(len(rows))))
    )
    raw = tables(interactions=interactions, triples=NO_FACTS)
    data = preprocess(raw, PreprocessOptions(split=split, seed=seed, valid=0.3))
    parts = [set(map(tuple, data.pairs(part).tolist())) for part in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(set(rows))
    if split != "cold-items":
        assert {user for user, _ in parts[0]} == set(range(data.n_users))


def test_seed_decides(tmp_path):
    interactions = pd.DataFrame({"user": np.repeat(range(20), 20), "item": np.tile(range(20), 20)}).astype(str)
    raw = tables(interactions=interactions, triples=NO_FACTS)
    one, same, other = (preprocess(raw, PreprocessOptions(seed=seed)).digest for seed in (1, 1, 2))
    assert one == same != other
    # another validation fraction leaves the test split alone
    tests = [preprocess(raw, PreprocessOptions(valid=valid)).pairs("test") for valid in (0.1, 0.5)]
    np.testing.assert_array_equal(*tests)


@needs_shared
@pytest.mark.parametrize(
    ("name", "users", "items", "train", "test", "entities", "relations", "triples"),
    [("ml-100k", 943, 1598, 78050, 19504, 34628, 24, 91631), ("music", 1815, 3846, 16794, 4202, 9366, 60, 15518)],
)
def test_real_kgat(tmp_path, name, users, items, train, test, entities, relations, triples):
    raw = read_kgat(SHARED / name)
    data = preprocess(raw)
    assert (data.n_users, data.n_items, data.n_entities, data.n_relations) == (users, items, entities, relations)
    assert (len(data.pairs("train", "valid")), len(data.pairs("test")), len(data.triples)) == (train, test, triples)
    assert len(data.pairs("valid")) == pytest.approx(0.1 * train, rel=0.1)
    assert (
        summary(preprocess(raw, PreprocessOptions(valid=0)))["cold_items"]
        == raw.report["test_items_without_training_users"]
    )
    data.save(tmp_path / name)
    assert load_dataset(tmp_path / name).digest == data.digest


@needs_shared
def test_real_recbole():
    data = preprocess(read_recbole(SHARED / "ml-100k-recbole"))
    assert (data.n_users, data.n_items, len(data.interactions), len(data.triples)) == (943, 1682, 100_000, 91_631)
    assert summary(data)["linked_items"] == 1598
    assert data.entities["name"][0] == "Toy Story"
    linked = preprocess(read_recbole(SHARED / "ml-100k-recbole"), PreprocessOptions(drop_unlinked=True))
    assert linked.n_items == 1598
