"""The estimator against the package's own functions, its folders, and scikit-learn's conventions."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hakg_dgl.cli import main
from small_demo import SMALL, small_demo

import hakg_dgl
from hakg_dgl import Estimator, Settings, from_tables
from hakg_dgl.errors import CheckpointError, ConfigError, DataError

SETTINGS = {name: value for name, value in SMALL.items() if name != "negatives"} | {"epochs": 2}


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A log with columns of other names, and a catalogue with a fact, of the demo."""
    dataset = small_demo()
    ids = {kind: getattr(dataset, f"{kind}s")["original_id"].to_numpy() for kind in ("user", "item")}
    log = pd.DataFrame({kind: ids[kind][dataset.interactions[kind]] for kind in ids})
    facts = dataset.triples.query("relation == 0").drop_duplicates("head")
    colour = dataset.entities["name"].to_numpy()[facts["tail"]]
    goods = pd.DataFrame({"item": ids["item"]}).merge(
        pd.DataFrame({"item": dataset.entities["original_id"].to_numpy()[facts["head"]], "kind": colour}), how="left"
    )
    return log.rename(columns={"user": "customer"}), goods


@pytest.fixture(scope="module")
def fitted() -> Estimator:
    log, goods = tables()
    return Estimator("hakg", **SETTINGS).fit(log[:-60], goods, user_col="customer")


def test_it_does_what_the_functions_of_the_package_do(fitted: Estimator, tmp_path: Path) -> None:
    log, goods = tables()
    dataset = from_tables(log[:-60], goods, user_col="customer", test=0)
    assert fitted.dataset_.digest == dataset.digest
    settings = Settings.resolve(overrides=SETTINGS)
    hakg_dgl.Trainer(dataset, settings, run=tmp_path / "run").fit()
    scorer = hakg_dgl.load_scorer(tmp_path / "run", dataset)
    expected = hakg_dgl.recommend(scorer, np.arange(dataset.n_users), 7, dataset.positives())
    found = fitted.recommend(k=7)
    assert list(found.columns) == ["user", "item", "score", "rank"]
    assert found["user"].tolist() == dataset.users["original_id"].to_numpy()[expected["user"]].tolist()
    assert found["item"].tolist() == dataset.items["original_id"].to_numpy()[expected["item"]].tolist()
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)
    user = found["user"][0]
    mine = found[found["user"] == user].reset_index(drop=True)
    pd.testing.assert_frame_equal(fitted.recommend([user], k=7), mine)
    pairs = mine.rename(columns={"user": "customer"})[["customer", "item"]]
    np.testing.assert_allclose(fitted.predict(pairs)["score"], mine["score"], rtol=1e-5)
    assert fitted.explain(user, mine["item"][0]).score == pytest.approx(mine["score"][0], rel=1e-4)
    assert fitted.result_["metrics"]["valid"]


def test_what_may_be_listed(fitted: Estimator) -> None:
    log, goods = tables()
    user = log["customer"][0]
    had = set(log[:-60].query("customer == @user")["item"])
    kind = goods["kind"].dropna().iloc[0]
    some = fitted.recommend([user], k=100, where=f"kind={kind}")["item"]
    assert len(some)
    assert set(some) <= set(goods.query("kind == @kind")["item"]) - had
    assert set(fitted.recommend([user], k=100, exclude=some[:2])["item"]) == set(goods["item"]) - had - set(some[:2])
    every = fitted.recommend([user], k=100, include_seen=True)
    assert set(every["item"]) == set(goods["item"])
    assert set(fitted.recommend([user], items=list(some[:3]))["item"]) == set(some[:3])
    alike = fitted.similar([goods["item"][3]], k=4)
    assert list(alike.columns) == ["item", "similar", "score", "rank"]
    assert alike["rank"].tolist() == [1, 2, 3, 4]
    assert goods["item"][3] not in set(alike["similar"])
    new = pd.DataFrame({"customer": ["someone new"] * 2, "item": goods["item"][:2]})
    assert set(fitted.recommend(k=3, history=new)["user"]) == {"someone new"}
    for wrong, message in (
        (lambda: fitted.recommend(["nobody"]), "no user with the id 'nobody'"),
        (lambda: fitted.recommend(user), "is one id, not a list"),
        (lambda: fitted.recommend(items=[some[0]], exclude=[some[0]]), "no item is left"),
    ):
        with pytest.raises(DataError, match=message):
            wrong()


def test_a_later_log_measures_it(fitted: Estimator) -> None:
    log, _ = tables()
    later = log[-60:]
    result = fitted.evaluate(later, ks=(5, 20))
    assert set(result.ks) == {5, 20}
    assert fitted.score(later) == pytest.approx(result.metrics["ndcg@20"])
    with pytest.raises(ConfigError, match="give a later log, or fit with test"):
        fitted.score()
    held = Estimator("popularity").fit(log, test=0.3, user_col="customer")
    assert 0 < held.score() < 1


def test_the_folder_is_a_run_of_the_commands(fitted: Estimator, tmp_path: Path) -> None:
    user, runner = fitted.dataset_.users["original_id"][0], CliRunner()
    out = tmp_path / "shop"
    fitted.save(out)
    lists = runner.invoke(main, ["recommend", str(out), "--user", user, "--k", "4", "--json"])
    assert lists.exit_code == 0, lists.output
    mine = fitted.recommend([user], k=4)
    assert [f'"item":"{item}"' in lists.stdout for item in mine["item"]] == [True] * 4
    assert not [file for file in out.rglob("*") if file.suffix in (".pkl", ".pickle", ".pt", ".joblib")]
    moved = tmp_path / "moved"
    out.rename(moved)
    again = Estimator.load(moved, user_col="customer")
    pd.testing.assert_frame_equal(again.recommend([user], k=4), mine)
    assert again.get_params() == fitted.get_params()
    with pytest.raises(DataError, match="holds something already"):
        fitted.save(moved)
    fitted.save(moved, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds something already"):
        fitted.save(tmp_path / "other", overwrite=True)
    with pytest.raises(CheckpointError):
        Estimator.load(tmp_path / "nothing")


def test_an_update_goes_on_with_what_is_new() -> None:
    log, goods = tables()
    shop = Estimator("hakg", **SETTINGS).fit(log[:-60], goods, user_col="customer")
    first = shop.run_
    more = pd.concat([log[-60:], pd.DataFrame({"customer": "new one", "item": goods["item"][:6]})])
    assert shop.update(more) is shop
    assert "new one" in set(shop.recommend(k=2)["user"])
    assert len(shop.dataset_.interactions) == len(from_tables(log, user_col="customer").interactions) + 6
    assert not first.exists()


def test_the_temporary_folder_goes_with_the_estimator() -> None:
    shop = Estimator("item-knn").fit(tables()[0], user_col="customer")
    place = shop.run_
    assert (place / "model.safetensors").exists()
    with pytest.raises(TypeError, match="save"):
        pickle.dumps(shop)
    del shop
    gc.collect()
    assert not place.exists()


def test_conventions_of_scikit_learn() -> None:
    shop = Estimator("hakg", epochs=3, lr=0.01)
    assert shop.get_params() == {"model": "hakg", "epochs": 3, "lr": 0.01}
    assert repr(shop) == "Estimator(model='hakg', epochs=3, lr=0.01)"
    twin = type(shop)(**{name: copy.deepcopy(value) for name, value in shop.get_params(deep=False).items()})
    assert twin.get_params() == shop.get_params()
    assert shop.set_params(epochs=4, dim=16) is shop
    assert twin.get_params()["epochs"] == 3
    assert shop.get_params() == {"model": "hakg", "epochs": 4, "lr": 0.01, "dim": 16}
    with pytest.raises(ValueError, match="no setting 'depth'"):
        shop.set_params(depth=3)
    with pytest.raises(ValueError, match="not fitted"):
        shop.recommend()
    with pytest.raises(ConfigError, match="epochs"):
        Estimator("popularity", epochs=3).fit(tables()[0], user_col="customer")  # what it does not read
    assert not [name for name in vars(shop) if name.endswith("_")]


def test_scikit_learn_clones_it(fitted: Estimator) -> None:
    base: Any = pytest.importorskip("sklearn.base", reason="python -m pip install scikit-learn")
    twin = base.clone(fitted)
    assert twin.get_params() == fitted.get_params()
    with pytest.raises(ConfigError, match="not fitted"):
        twin.recommend()
