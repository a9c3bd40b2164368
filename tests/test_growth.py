"""Growing a data set and going on from a run: numbers stay, new rows are means, wrong logs are refused, runs resume."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import hakg
from small_demo import small_settings

from hakg_dgl import Dataset, PreprocessOptions, RawData, load_model, make_trainer, model_class, model_names, preprocess
from hakg_dgl.data.growth import Growth, GrowthOptions, grow
from hakg_dgl.data.readers.tables import read_tables
from hakg_dgl.errors import ConfigError, DataError, HakgError, IntegrityError
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.quickstart import quickstart
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.trainee import build_model
from hakg_dgl.training.update import make_updater, update_settings
from hakg_dgl.training.warm_start import warm_start

BY_GRADIENTS = [name for name in model_names() if issubclass(model_class(name), GradientRecommender)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a shop, earlier and now: with new users, items and a new relation."""
    place, draw = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", 100 * t + u) for u in range(30) for t, i in enumerate(draw.permutation(40)[:12])]
    log = pd.DataFrame(rows, columns=["user", "item", "time"]).sort_values("time")
    earlier = log[:250]
    earlier = earlier[~earlier["user"].isin(["u1", "u29"]) & ~earlier["item"].isin(["i2", "i39"])]
    items = pd.DataFrame({"item": [f"i{i}" for i in range(40)], "brand": [f"b{i % 5}" for i in range(40)]})
    log.to_csv(place / "log.csv", index=False)
    earlier.to_csv(place / "earlier.csv", index=False)
    log[~log.index.isin(earlier.index)].to_csv(place / "added.csv", index=False)
    items[items["item"].isin(earlier["item"])].to_csv(place / "items-earlier.csv", index=False)
    items.assign(color=[f"c{i % 3}" for i in range(40)]).to_csv(place / "items.csv", index=False)
    return place


def read(shop: Path, log: str, items: str = "items.csv") -> RawData:
    return read_tables(shop / log, items=shop / items, timestamp_col="time")


@pytest.fixture(scope="module")
def before(shop: Path) -> Dataset:
    return preprocess(read(shop, "earlier.csv", "items-earlier.csv"), PreprocessOptions(split="temporal"))


@pytest.fixture(scope="module")
def growth(shop: Path, before: Dataset) -> Growth:
    return grow(before, read(shop, "log.csv"))


def named(dataset: Dataset) -> set[tuple[str, str, str]]:
    """Triples by original ids."""
    entity, relation = dataset.entities["original_id"].to_numpy(), dataset.relations["original_id"].to_numpy()
    t = dataset.triples
    return set(zip(entity[t["head"]], relation[t["relation"]], entity[t["tail"]], strict=True))


def test_what_was_known_keeps_its_number(before: Dataset, growth: Growth, shop: Path) -> None:
    after = growth.dataset
    for table in ("users", "items", "relations"):
        known = getattr(before, table)["original_id"].tolist()
        assert getattr(after, table)["original_id"].tolist()[: len(known)] == known
    assert (after.n_users, after.n_items, after.n_relations) == (30, 40, 2)
    assert after.entities["original_id"].to_numpy()[growth.entities].tolist() == before.entities["original_id"].tolist()
    assert named(after) == named(preprocess(read(shop, "log.csv")))
    assert {tuple(pair) for pair in before.pairs()} <= {tuple(pair) for pair in after.pairs("train")}
    assert set(after.pairs("train")[:, 0]) == set(range(30))


def test_the_latest_of_the_new_are_held_out(before: Dataset, growth: Growth) -> None:
    rows = growth.dataset.interactions
    known = {tuple(pair) for pair in before.pairs()}
    new = rows[[pair not in known for pair in zip(rows["user"], rows["item"], strict=True)]]
    test, valid = (new[new["split"] == split] for split in ("test", "valid"))
    assert (len(test), len(valid)) == tuple(int(np.floor(len(new) * share + 0.5)) for share in (0.2, 0.1))
    assert valid["timestamp"].max() <= test["timestamp"].min()


def test_added_rows_alone_make_the_same_data_set(shop: Path, before: Dataset, growth: Growth) -> None:
    added = grow(before, read(shop, "added.csv"), GrowthOptions(added=True))
    assert added.dataset.digest == growth.dataset.digest


def test_a_log_that_does_not_fit_is_refused(shop: Path, before: Dataset) -> None:
    raw = read(shop, "log.csv")
    moved = raw.interactions.assign(timestamp=raw.interactions["timestamp"] + 1)
    wrong = {
        "shrank": raw.interactions[20:],
        "another timestamp": moved,
        "no interaction that": read(shop, "earlier.csv").interactions,
        "has none": raw.interactions.drop(columns="timestamp"),
    }
    for message, log in wrong.items():
        with pytest.raises(DataError, match=message):
            grow(before, dataclasses.replace(raw, interactions=log))


def test_too_little_to_validate_on_is_said_as_it_is(shop: Path, before: Dataset) -> None:
    with pytest.raises(ConfigError, match="valid = 0 is not allowed"):
        GrowthOptions(valid=0)
    with pytest.raises(DataError, match=r"a share of 0\.001 of \d+ new interactions leaves none"):
        grow(before, read(shop, "log.csv"), GrowthOptions(valid=0.001))


def test_two_new_items_are_not_one_entity(shop: Path, before: Dataset) -> None:
    raw = read(shop, "log.csv")
    links = raw.item_entity
    same = links.assign(entity=links["entity"].mask(links["item"].isin(["i2", "i39"]), "the same"))
    with pytest.raises(
        DataError, match="the new item 'i39' is linked to entity 'the same', which is item 'i2' already"
    ):
        grow(before, dataclasses.replace(raw, item_entity=same))


def test_a_changed_attribute_of_a_user_replaces_the_earlier_one(shop: Path, tmp_path: Path) -> None:
    people = pd.DataFrame(
        {"user": [f"u{u}" for u in range(30)], "city": ["Paris", "Rome"] * 15, "plan": ["free", "paid", "free"] * 10}
    )
    people.to_csv(tmp_path / "people.csv", index=False)
    people.assign(city=people["city"].mask(people["user"] == "u2", "Oslo")).to_csv(tmp_path / "now.csv", index=False)
    options = {"items": shop / "items.csv", "timestamp_col": "time"}
    old = preprocess(read_tables(shop / "earlier.csv", users=tmp_path / "people.csv", **options))
    grown = grow(old, read_tables(shop / "log.csv", users=tmp_path / "now.csv", **options)).dataset
    facts = grown.user_facts[grown.user_facts["user"] == grown.users["original_id"].tolist().index("u2")]
    assert sorted(grown.entities["name"].iloc[facts["entity"]]) == ["Oslo", "free"]
    assert grown.report["facts_of_known_users_replaced"] == 1
    assert len(grown.user_facts) == 60


def test_numbers_of_new_users_come_into_the_earlier_bins(shop: Path, tmp_path: Path) -> None:
    people = pd.DataFrame({"user": [f"u{u}" for u in range(30)], "age": [20.5 + 2 * u for u in range(30)]})
    people = people.assign(since=[f"202{u % 3}-01-05" for u in range(30)])
    people[~people["user"].isin(["u1", "u29"])].to_csv(tmp_path / "people.csv", index=False)
    now = people.assign(age=people["age"].mask(people["user"] == "u5", 90.0))  # the bins of all are others by it
    now = now.assign(since=now["since"].mask(now["user"] == "u1", "2031-02-03"))
    now.to_csv(tmp_path / "now.csv", index=False)
    options = {"items": shop / "items.csv", "timestamp_col": "time"}
    old = preprocess(read_tables(shop / "earlier.csv", users=tmp_path / "people.csv", **options))
    raw = read_tables(shop / "log.csv", users=tmp_path / "now.csv", **options)
    grown = grow(old, raw).dataset

    def ages(data: Dataset) -> dict[str, str]:
        (age,) = np.flatnonzero(data.user_relations["original_id"] == "age")
        facts = data.user_facts[data.user_facts["relation"] == age]
        owners = data.users["original_id"].iloc[facts["user"]]
        return dict(zip(owners, data.entities["original_id"].iloc[facts["entity"]], strict=True))

    before, after = ages(old), ages(grown)
    assert {user: after[user] for user in before} == before
    assert set(raw.user_facts.query("relation == 'age'")["entity"]).isdisjoint(before.values())
    ordered = sorted(set(before.values()), key=lambda name: float(name.partition("=")[2].split()[0]))
    assert (after["u1"], after["u29"]) == (ordered[0], ordered[-1])  # the second youngest, and the oldest but one
    bins = grown.entities["original_id"].str.startswith("user:age=")
    assert set(grown.entities.loc[bins, "original_id"]) == set(ordered)
    assert grown.report["numbers_put_into_earlier_bins"] == 2
    assert ("user:since=2031-02", "part_of", "user:since=2031") in named(grown)


def test_a_data_set_that_was_cut_in_time_is_updated_so(shop: Path, tmp_path: Path) -> None:
    raw = read(shop, "log.csv")
    late = raw.interactions.tail(60).assign(user=[f"late{n % 4}" for n in range(60)])
    late = late.assign(timestamp=np.arange(60) + 2000.0)  # later than all others
    raw = dataclasses.replace(raw, interactions=pd.concat([raw.interactions, late], ignore_index=True))
    old = preprocess(read(shop, "earlier.csv", "items-earlier.csv"), PreprocessOptions(split="temporal-global"))
    grown = grow(old, raw, GrowthOptions(test=0.5)).dataset
    assert grown.split_strategy == grown.options["split"] == "temporal-global"
    known = {tuple(pair) for pair in old.pairs()}
    rows = grown.interactions
    new = rows[[pair not in known for pair in zip(rows["user"], rows["item"], strict=True)]]
    train, valid, test = (new.loc[new["split"] == split, "timestamp"] for split in ("train", "valid", "test"))
    assert train.max() < valid.min() <= valid.max() < test.min()
    assert set(rows["user"]) == set(rows.loc[rows["split"] == "train", "user"]) == set(range(grown.n_users))
    assert grown.report["new_users_without_training_interactions_left_out"] == 4
    assert grown.report["their_interactions_after_the_cut_left_out"] == late.drop_duplicates(["user", "item"]).shape[0]
    assert not grown.users["original_id"].str.startswith("late").any()
    assert old.users["original_id"].tolist() == grown.users["original_id"].tolist()[: old.n_users]
    plain = preprocess(dataclasses.replace(raw, interactions=raw.interactions.drop(columns="timestamp")[:200]))
    with pytest.raises(DataError, match="needs timestamps"):
        grow(plain, raw, GrowthOptions(split="temporal-global"))
    result = make_updater_of(old, grow(old, raw, GrowthOptions(test=0.5)), tmp_path)
    assert result["metrics"]["test"]["ndcg@20"] > 0


def make_updater_of(old: Dataset, growth: Growth, place: Path) -> dict[str, Any]:
    """The result of an update by one epoch."""
    make_trainer(old, small_settings(epochs=1), run=place / "run").fit()
    return make_updater(place / "run", old, growth, update_settings(place / "run", {"epochs": 1})).fit()


@pytest.mark.parametrize("name", BY_GRADIENTS)
def test_vectors_go_on(name: str, before: Dataset, growth: Growth) -> None:
    settings, cpu = small_settings(name), torch.device("cpu")
    earlier, model = (build_model(data, settings, cpu, ("train",)) for data in (before, growth.dataset))
    assert isinstance(earlier, GradientRecommender)
    assert isinstance(model, GradientRecommender)
    start, trained = warm_start(earlier, model, growth), dict(earlier.named_parameters())
    assert start.keys() == trained.keys()
    prefix = "base." if "base.user" in start else ""
    n = before.n_users
    if name != "ckan":  # the only one whose users have no rows
        assert torch.equal(start[prefix + "user"][:n], trained[prefix + "user"])
        train = growth.dataset.pairs("train")
        known = [train[(train[:, 1] == i) & (train[:, 0] < n), 0] for i in train[train[:, 0] == n, 1]]
        means = [trained[prefix + "user"][users].mean(0) for users in known if len(users)]
        torch.testing.assert_close(start[prefix + "user"][n], torch.stack(means).mean(0).detach())
    if prefix + "entity" in start:
        assert torch.equal(start[prefix + "entity"][growth.entities], trained[prefix + "entity"])
    if name == "hakg":  # brand, color (new), their inverses: the inverse has moved
        assert torch.equal(start["relation"][[0, 2]], trained["relation"][[0, 1]])


def test_an_update_that_was_stopped_goes_on_to_the_same_end(before: Dataset, growth: Growth, tmp_path: Path) -> None:
    make_trainer(before, small_settings(epochs=2), run=tmp_path / "run").fit()
    settings = update_settings(tmp_path / "run", {"epochs": 3, "refit": True})
    whole = make_updater(tmp_path / "run", before, growth, settings, out=tmp_path / "whole").fit()

    def stop(progress: Progress) -> None:
        if progress.epoch == 1 and progress.step == 1:
            raise KeyboardInterrupt

    stopped = make_updater(tmp_path / "run", before, growth, settings, out=tmp_path / "stopped", on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    again = make_trainer(growth.dataset, settings, run=tmp_path / "stopped").fit(resume=True)
    assert again["metrics"] == whole["metrics"]
    ends = [load_model(tmp_path / run, growth.dataset).state_dict() for run in ("whole", "stopped")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    with pytest.raises(IntegrityError):
        make_updater(tmp_path / "run", growth.dataset, growth)
    with pytest.raises(HakgError, match="the run itself"):
        make_updater(tmp_path / "run", before, growth, out=tmp_path / "run")
    first = update_settings(tmp_path / "run")
    assert first.training.lr == 3 * small_settings().training.lr
    make_updater(tmp_path / "run", before, growth, first, out=tmp_path / "first").fit()
    assert update_settings(tmp_path / "first") == first  # an update of an update is no faster
    foreign = make_trainer(before, settings, run=tmp_path / "stopped")
    with pytest.raises(IntegrityError, match="was trained on data set"):
        foreign.fit(resume=True)


def test_a_quick_start_refuses_an_empty_list_before_it_reads(tmp_path: Path) -> None:
    def read_nothing() -> RawData:
        raise AssertionError("read")

    with pytest.raises(ConfigError, match="k = 0 is not allowed"):
        quickstart(read_nothing, tmp_path / "shop", k=0)
    assert not (tmp_path / "shop").exists()


def test_epochs_of_a_quick_start(shop: Path, tmp_path: Path) -> None:
    tables = ["--interactions", shop / "earlier.csv", "--items", shop / "items-earlier.csv"]
    done = hakg("quickstart", *tables, "--out", tmp_path / "shop", "--model", "bpr-mf", "--epochs", "1")
    assert done.exit_code == 0, done.stderr
    assert RunFolder(tmp_path / "shop" / "run").result["epochs_run"] == 1


def test_from_tables_to_lists_and_on_by_commands(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop"
    tables = ["--interactions", shop / "earlier.csv", "--items", shop / "items-earlier.csv", "--timestamp-col", "time"]
    quick = ["quickstart", *tables, "--out", out, "--model", "ease", "--set", "device=cpu", "--k", "5"]
    first = hakg(*quick)
    assert first.exit_code == 0
    told = [shlex.split(line)[1:] for line in first.stdout.splitlines() if line.startswith("  hakg ")]
    for command in told:  # what it says to run next can be run
        if command[0] not in ("serve", "update"):
            assert hakg(*command[: command.index("#")]).exit_code == 0, command
    assert [command[0] for command in told] == ["info", "recommend", "explain", "serve", "update"]
    lists = pd.read_csv(out / "lists.csv")
    had = set(pd.read_csv(shop / "earlier.csv")[["user", "item"]].itertuples(index=False, name=None))
    assert lists.groupby("user").size().eq(5).all()
    assert not had & set(lists[["user", "item"]].itertuples(index=False, name=None))
    assert (out / "evaluation.json").exists()
    again = hakg(*quick)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert hakg(*quick, "--resume").exit_code == 0
    for option, message in {"--model=rp3beta": "kind (was 'ease'", "--set=ease_l2=7": "ease_l2 (was"}.items():
        other = hakg(*quick, "--resume", option)
        assert other.exit_code == 2
        assert message in other.stderr
    now = ["--interactions", shop / "log.csv", "--items", shop / "items.csv", "--timestamp-col", "time"]
    itself = hakg("update", out / "run", *now, "--out", out / "run", "--overwrite")
    assert itself.exit_code == 2
    assert "the run itself" in itself.stderr
    assert not (out / "run-data").exists()
    updated = hakg("update", out / "run", *now, "--out", tmp_path / "run2")
    assert updated.exit_code == 0, updated.stderr
    assert hakg("recommend", tmp_path / "run2", "--user", "u29").exit_code == 0
    cut = hakg("update", out / "run", *now, "--out", tmp_path / "run3", "--split", "temporal-global")
    assert cut.exit_code == 0, cut.stderr
    shrunk = hakg("update", out / "run", "--interactions", shop / "added.csv", "--timestamp-col", "time", "--out", "x")
    assert shrunk.exit_code == 2
    assert "--added" in shrunk.stderr
