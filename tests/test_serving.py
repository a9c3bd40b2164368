"""``hakg serve``: answers against the library, hostile requests, limits, reloads, kills, and the page in a browser."""

from __future__ import annotations

import dataclasses
import http.client
import json
import shlex
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import hakg
from browser import browser, complaints, requests  # noqa: F401 (a fixture)
from served import Answer, Server, read_answer
from small_demo import small_demo, small_settings

from hakg_dgl import Settings, from_tables, load_dataset, load_model, make_trainer, read_new_items
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.ranking.candidates import items_where, undecided
from hakg_dgl.ranking.fold_in import AboutUsers
from hakg_dgl.ranking.limits import at_most
from hakg_dgl.ranking.lists import recommend
from hakg_dgl.ranking.similar import Similarity
from hakg_dgl.serving.batches import AskingUser, Batch
from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.openapi import description
from hakg_dgl.serving.served_run import ServedRun
from hakg_dgl.training.loading import load_trained

for _module in ("starlette", "uvicorn", "h11", "prometheus_client"):
    pytest.importorskip(_module, reason="pip install 'hakg_dgl[serve]'")

EVIL = "</script><img src=x onerror=\"document.title='evil'\"><svg onload=document.title='evil'> {{7*7}} 'q' \u202e ü"
SECONDS = 1.5
"""The server's limit for a request and for slow clients."""
CONNECTIONS = 60
"""The server's limit for open connections."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``good``, ``other`` (more epochs) and ``plain`` (without vectors), and ``run``, a copy of the first."""
    folder = tmp_path_factory.mktemp("serving")
    demo = small_demo()
    facts = pd.DataFrame({"user": range(demo.n_users), "relation": 0, "entity": 60 + np.arange(demo.n_users) % 5})
    names = ["Evil one " + EVIL, *demo.items["name"].tolist()[1:]]
    dataset = dataclasses.replace(
        demo,
        items=demo.items.assign(name=names),
        entities=demo.entities.assign(name=[names[0], *demo.entities["name"].tolist()[1:]]),
        user_facts=facts,
        user_relations=pd.DataFrame({"original_id": ["likes"], "name": ["likes"]}),
    )
    dataset.save(folder / "D")
    for name, settings in (
        ("good", small_settings(epochs=1)),
        ("other", small_settings(epochs=2, seed=5)),
        ("plain", small_settings("popularity")),
    ):
        make_trainer(dataset, settings, run=folder / name, data_path=folder / "D").fit()
    shutil.copytree(folder / "good", folder / "run")
    return folder


@pytest.fixture(scope="session")
def server(place: Path) -> Iterator[Server]:
    """One server for all tests, with limits that they can reach."""
    limits = ["--seconds", str(SECONDS), "--at-work", "12", "--max-connections", str(CONNECTIONS)]
    running = Server(place / "run", *limits, "--allowed-host", "shop.example")
    yield running
    assert running.stop() == 143
    assert any("The service has ended" in line for line in running.lines)


@pytest.fixture(scope="session")
def dataset(place: Path) -> Dataset:
    return load_dataset(place / "D")


@pytest.fixture(scope="session")
def model(place: Path, dataset: Dataset) -> Any:
    return load_trained(place / "good", dataset).model


def ids_and_scores(answer: Any) -> tuple[list[str], list[float]]:
    rows = answer["items"]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["id"] for row in rows], [row["score"] for row in rows]


def check(answer: Any, dataset: Dataset, expected: pd.DataFrame, column: str = "item") -> None:
    ids, scores = ids_and_scores(answer)
    assert ids == dataset.items["original_id"].iloc[expected[column]].tolist()
    assert scores == pytest.approx(expected["score"].tolist(), rel=1e-4, abs=1e-5)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"include_seen": "true"}, {"where": ["made_by=maker_3"]}, {"k": 1000}], ids=str)
def test_a_list_is_that_of_the_library(server: Server, dataset: Dataset, model: Any, given: dict[str, Any]) -> None:
    seen = None if given.get("include_seen") else dataset.positives()
    candidates = items_where(dataset, *given["where"]) if "where" in given else None
    expected = recommend(model.scorer(), [7], given.get("k", 20), seen, candidates)
    answer = server.ask("/recommend", {"user": "user_7", **given})
    assert answer.status == 200
    assert answer.json["user"] == {"id": "user_7", "name": "User 7"}
    assert len(expected)
    check(answer.json, dataset, expected)


def test_similar_items_and_their_filter(server: Server, dataset: Dataset, model: Any) -> None:
    for where in ([], ["made_by=maker_3"]):
        expected = Similarity(model).items([12], 5, items_where(dataset, *where) if where else None)
        answer = server.ask("/similar", {"item": "item_12", "k": 5, "where": where}).json
        check(answer, dataset, expected, "similar")


def test_an_item_by_its_name(server: Server) -> None:
    by_name = server.ask("/similar", {"item": "Item 12", "k": 3}).json
    assert by_name == server.ask("/similar", {"item": "item_12", "k": 3}).json


def test_an_explanation_is_that_of_the_library_and_adds_up(server: Server, dataset: Dataset, model: Any) -> None:
    answer = server.ask("/explain", {"user": "user_7", "item": "item_12", "top": 3}).json
    expected = Explainer(model, dataset)(7, 12).to_dict(3)
    assert answer["rank"] == expected["rank"]
    assert sum(row["contribution"] for row in answer["components"]) == pytest.approx(answer["score"], abs=1e-4)
    past = [
        *answer["past_items"]["rows"],
        answer["past_items"]["others"],
        answer["user_own"],
        answer["user_facts"]["all"],
    ]
    assert sum(row["contribution"] for row in past) == pytest.approx(answer["score"], abs=1e-4)
    assert answer["score"] == pytest.approx(expected["score"], rel=1e-4)


def test_new_users_known_users_and_known_users_with_newer_items(server: Server, dataset: Dataset, model: Any) -> None:
    users = [
        {"items": ["item_3", "Item 12", "item_3"], "attributes": {"likes": dataset.entities["original_id"].iloc[61]}},
        {"id": "user_7"},
        {"items": ["item_3"]},
        {"id": "user_7", "items": ["item_3"]},
    ]
    lists = server.ask("/recommend", method="POST", body={"users": users, "k": 6}).json["lists"]
    assert [answer["user"] and answer["user"]["id"] for answer in lists] == [None, "user_7", None, "user_7"]
    check(lists[1], dataset, recommend(model.scorer(), [7], 6, dataset.positives()))
    every = dataset.positives()[1][dataset.positives()[0][7] : dataset.positives()[0][8]]
    no_facts = (torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64))
    for place, items, seen, known, facts in (
        (0, [3, 12], [3, 12], -1, (torch.tensor([0, 1]), torch.tensor([61]))),
        (2, [3], [3], -1, no_facts),
        (3, sorted({*every.tolist(), 3}), sorted({*every.tolist(), 3}), 7, no_facts),
    ):
        about = AboutUsers(torch.tensor([known]), {"likes": facts})
        scorer = model.fold_in().scorer([0, len(items)], items, about)
        check(lists[place], dataset, recommend(scorer, [0], 6, ([0, len(seen)], seen)))


def test_newer_items_of_a_known_user_make_the_list_of_the_command(server: Server, place: Path, tmp_path: Path) -> None:
    """The past counts in whichever split it is, as for ``--new-interactions``."""
    (tmp_path / "today.csv").write_text("user,item\nuser_7,item_3\n")
    told = hakg("recommend", place / "good", "--new-interactions", tmp_path / "today.csv", "--k", 9, "--json")
    expected = [json.loads(line) for line in told.stdout.splitlines()]
    body = {"users": [{"id": "user_7", "items": ["item_3"]}], "k": 9}
    rows = server.ask("/recommend", method="POST", body=body).json["lists"][0]["items"]
    assert [row["id"] for row in rows] == [row["item"] for row in expected]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in expected], abs=1e-4)


@pytest.mark.parametrize("limits", [["made_by=1"], ["made_by=1", "belongs_to=2"]], ids=str)
def test_lists_hold_at_most_so_many_of_a_value(server: Server, dataset: Dataset, model: Any, limits: list[str]) -> None:
    seen, kept = dataset.positives(), [at_most(dataset, text) for text in limits]
    expected = recommend(model.scorer(), [7], 6, seen, limits=kept)
    assert not expected.equals(recommend(model.scorer(), [7], 6, seen))
    check(server.ask("/recommend", {"user": "user_7", "k": 6, "at_most": limits}).json, dataset, expected)
    body = {"users": [{"id": "user_7"}], "k": 6, "at_most": limits}
    check(server.ask("/recommend", method="POST", body=body).json["lists"][0], dataset, expected)
    where = ["made_by=maker_3"]
    some = recommend(model.scorer(), [7], 6, None, items_where(dataset, *where), limits=kept)
    given = {"user": "user_7", "k": 6, "at_most": limits, "where": where, "include_seen": "true"}
    check(server.ask("/recommend", given).json, dataset, some)
    assert len(some) == 1
    alike = Similarity(model).items([12], 20).rename(columns={"similar": "other"})
    row = server.ask("/similar", {"item": "item_12", "k": 20, "at_most": limits}).json
    assert row == server.ask("/similar", method="POST", body={"item": "item_12", "at_most": limits}).json
    ids = ids_and_scores(row)[0]
    assert set(ids) < set(dataset.items["original_id"].iloc[alike["other"]])
    makers = [number for item in ids for number in kept[0].values[int(item[5:])]]
    assert len(makers) == len(set(makers))


def test_new_items_are_listed_filtered_and_alike(server: Server, place: Path, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(
        "item,name,made_by,released_in,weight\nfresh,Fresh one,maker_3|maker_4,,7\nodd,,x,,\n"
    )
    new = read_new_items(tmp_path / "new.csv", dataset)
    grown = load_model(place / "good", dataset, new_items=new)
    rows = [
        {"item": "fresh", "title": "Fresh one", "made_by": ["maker_3", "maker_4"], "released_in": None, "weight": 7.0},
        {"item": "odd", "made_by": "x"},
    ]
    users = [{"id": "user_7"}, {"items": ["fresh", "item_3"]}]
    body = {"users": users, "k": 60, "new_items": rows}
    answer = server.ask("/recommend", method="POST", body=body).json
    check(answer["lists"][0], new.dataset, recommend(grown.scorer(), [7], 60, new.dataset.positives()))
    folded = grown.fold_in().scorer([0, 2], [3, dataset.n_items])
    check(answer["lists"][1], new.dataset, recommend(folded, [0], 60, ([0, 2], [3, dataset.n_items])))
    assert answer["new_items"] == {"new_items": 2, **new.report}
    assert answer["new_items"]["values_unknown_left_out"] == answer["new_items"]["new_items_without_facts"] == 1
    assert {"rank", "id", "name", "score"} == set(answer["lists"][0]["items"][0])
    assert "Fresh one" in [row["name"] for row in answer["lists"][0]["items"]]
    some = server.ask("/recommend", method="POST", body={**body, "where": ["made_by=maker_4"]}).json["lists"][0]
    assert "fresh" in ids_and_scores(some)[0]
    assert "odd" not in ids_and_scores(some)[0]
    asked = {"item": "fresh", "k": 5, "new_items": rows}
    alike = server.ask("/similar", method="POST", body=asked).json
    assert alike["item"] == {"id": "fresh", "name": "Fresh one"}
    check(alike, new.dataset, Similarity(grown).items([dataset.n_items], 5), "similar")
    assert server.ask("/similar", {"item": "fresh"}).status == 404  # it belongs to that request alone


def test_items_whose_range_lies_on_both_sides_of_a_condition_are_counted_in_the_notes(tmp_path: Path) -> None:
    orders = pd.DataFrame({"user": [f"u{n % 10}" for n in range(60)], "item": [f"i{n * 7 % 24}" for n in range(60)]})
    goods = pd.DataFrame({"item": [f"i{n}" for n in range(24)], "price": [f"{1.5 + n:.2f}" for n in range(24)]})
    shop = from_tables(orders, items=goods, facts={"price": "bins"})
    make_trainer(shop, Settings("bpr-mf").replace({"epochs": 1, "dim": 4}), run=tmp_path / "run").fit()
    run = ServedRun(load_trained(tmp_path / "run", shop), shop, name="run")
    said = undecided(shop, "price<12")
    assert len(said) == 1
    for where, notes in ((("price<12",), said), ((), [])):
        assert run.recommend("u3", 2, where)["notes"] == run.similar("i3", 2, where)["notes"] == notes


def test_an_index_serves_the_same_lists(place: Path, dataset: Dataset) -> None:
    pytest.importorskip("faiss", reason="pip install 'hakg_dgl[index]'")
    trained = load_trained(place / "good", dataset)
    exact, indexed = (ServedRun(trained, dataset, name="run", index=index) for index in ("auto", "always"))
    assert (exact.about()["index"], indexed.about()["index"]["recall"]) == (None, 1.0)
    for where in ((), ("made_by=maker_3",)):
        one, other = (run.recommend("user_7", 5, where) for run in (exact, indexed))
        assert ids_and_scores(one)[0] == ids_and_scores(other)[0]
        assert ids_and_scores(one)[1] == pytest.approx(ids_and_scores(other)[1])
    batch = Batch((AskingUser(items=("item_3",)), AskingUser("user_7", ("item_4",))), 5)
    for one, other in zip(exact.recommend_all(batch), indexed.recommend_all(batch), strict=True):
        assert ids_and_scores(one)[0] == ids_and_scores(other)[0]
    assert ids_and_scores(exact.similar("item_12", 5))[0] == ids_and_scores(indexed.similar("item_12", 5))[0]
    result = hakg("serve", place / "plain", "--port", 0, "--index", "always")
    assert (result.exit_code, "inner products" in result.stderr) == (2, True)


def test_search_by_name_and_by_id(server: Server, dataset: Dataset) -> None:
    def found(path: str, query: str, k: int = 4) -> list[str]:
        return [row["id"] for row in server.ask(f"/{path}", {"query": query, "k": k}).json[path]]

    assert found("items", "EVIL ONE") == ["item_0"]
    assert found("items", "item 1") == ["item_1", "item_10", "item_11", "item_12"]
    assert found("items", "item_12")[0] == "item_12"
    assert found("items", "nothing is called this") == []
    assert found("users", "user 7", 1) == ["user_7"]


def test_the_hierarchy_above_an_item(server: Server, dataset: Dataset, model: Any) -> None:
    answer = server.ask("/hierarchy", {"item": "item_12"}).json
    assert answer["distance"] == pytest.approx(model.positions().entity_distance[12], rel=1e-4)
    (genre,) = (path for path in answer["paths"] if path[0]["relation"] == "belongs_to")
    assert [step["relation"] for step in genre[1:]] == ["subcategory_of"] * (len(genre) - 1)
    assert genre[-1]["name"] == "All genres"
    names = [step["id"] for step in genre]  # genre_1.2.3 stands below genre_1.2
    assert all(low.rpartition(".")[0] == high for low, high in pairwise(names[:-1]))


def test_health_readiness_metrics_and_headers(server: Server) -> None:
    assert server.ask("/healthz").json == {"alive": True}
    ready = server.ask("/readyz").json
    assert (ready["ready"], ready["run"], ready["model"]) == (True, "run", "hakg")
    server.ask("/recommend", {"user": "nobody at all"})
    server.raw(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    text = server.ask("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['hakg_requests_total{endpoint="/recommend",status="404"}']) >= 1
    assert float(values['hakg_requests_total{endpoint="refused",status="421"}']) >= 1
    assert float(values['hakg_request_seconds_count{endpoint="/healthz"}']) >= 1
    assert float(values["process_resident_memory_bytes"]) > 1e7
    head = server.ask("/", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    policy = head.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert head.headers["x-content-type-options"] == "nosniff"


def test_the_description_is_of_what_there_is(server: Server) -> None:
    described = server.ask("/openapi.json").json
    assert described["openapi"].startswith("3.1")
    assert server.ask("/openapi.json").json["info"] == description(Bounds(), described["info"]["version"])["info"]
    examples = {"user": "user_7", "item": "item_12", "query": "item"}
    for path, methods in described["paths"].items():
        if "get" not in methods:
            continue
        parameters = methods["get"].get("parameters", [])
        given = {p["name"]: examples[p["name"]] for p in parameters if p["required"]}
        answer = server.ask(path, given)
        assert answer.status == 200, path
        (kind,) = methods["get"]["responses"]["200"]["content"]
        assert answer.headers["content-type"].startswith(kind)
        schema = methods["get"]["responses"]["200"]["content"][kind].get("schema", {})
        assert set(schema.get("required", ())) <= set(answer.json if kind == "application/json" else ())
        assert server.ask(path, {**given, "surprise": 1}).status == 400 or not parameters
    batch = described["components"]["schemas"]["Batch"]["example"]
    assert len(server.ask("/recommend", method="POST", body=batch).json["lists"]) == 2


def test_the_examples_of_the_documentation_are_answered(server: Server) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = [line for line in page.replace("\\\n", " ").splitlines() if line.startswith("curl ")]
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line)
        (address,) = (word for word in words if word.startswith("http://127.0.0.1:8000/"))
        body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        method = words[words.index("-X") + 1] if "-X" in words else "GET" if body is None else "POST"
        answer = server.ask(address.removeprefix("http://127.0.0.1:8000"), method=method, body=body)
        assert answer.status in ((200, 503) if "/reload" in address else (200,)), line


# --- what is refused --------------------------------------------------------------------------------------------------


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", "Host: 127.0.0.1", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(body: bytes | str, *headers: str, path: str = "/recommend", kind: str = "application/json") -> bytes:
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    lines = [f"POST {path} HTTP/1.1", "Host: localhost:1", "Connection: close", f"Content-Type: {kind}", *headers]
    if not any(line.lower().startswith(("content-length", "transfer")) for line in headers):
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def users(*values: Any, **others: Any) -> bytes:
    return post(json.dumps({"users": list(values), **others}))


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    # paths
    "no such address": (get("/admin"), 404, "nothing at this address"),
    "path upwards": (get("/../../etc/passwd"), 404, "nothing at this address"),
    "path upwards in percent signs": (get("/%2e%2e/%2e%2e/etc/passwd"), 404, "nothing at this address"),
    "file of the package": (get("/page/../served_run.py"), 404, "nothing at this address"),
    "two slashes": (get("//page.js"), 404, "nothing at this address"),
    "slash at the end": (get("/recommend/?user=user_7"), 404, "nothing at this address"),
    "zero byte in the path": (get("/page.js%00.html"), 404, "nothing at this address"),
    "script in the path": (get("/<script>alert(1)</script>"), 404, "nothing at this address"),
    "address of another host": (get("http://evil.example/recommend?user=user_7"), 404, "nothing at this address"),
    # parameters
    "no user": (get("/recommend"), 400, "'user' is missing"),
    "empty user": (get("/recommend?user="), 400, "'user' is empty"),
    "unknown user": (get("/recommend?user=nobody"), 404, "no user with the id 'nobody'"),
    "script as a user": (get("/recommend?user=%3Cscript%3Ealert(1)%3C/script%3E"), 404, "<script>"),
    "user of a kilobyte": (get("/recommend?user=" + "u" * 1000), 400, "1,000 letters"),
    "user twice": (get("/recommend?user=user_7&user=user_8"), 400, "given 2 times"),
    "parameter that is not there": (get("/recommend?user=user_7&limit=3"), 400, "no parameter 'limit'"),
    "not UTF-8": (get("/recommend?user=%ff%fe"), 400, "not UTF-8"),
    "k is zero": (get("/recommend?user=user_7&k=0"), 400, "'k' is '0'"),
    "k is negative": (get("/recommend?user=user_7&k=-5"), 400, "'k' is '-5'"),
    "k is a fraction": (get("/recommend?user=user_7&k=1.5"), 400, "'k' is '1.5'"),
    "k is NaN": (get("/recommend?user=user_7&k=NaN"), 400, "'k' is 'NaN'"),
    "k is huge": (get("/recommend?user=user_7&k=1001"), 400, "1 to 1,000"),
    "k has 5000 digits": (get("/recommend?user=user_7&k=" + "9" * 5000), 400, "5,000 letters"),
    "k in other digits": (get("/recommend?user=user_7&k=%D9%A3"), 400, "'k' is"),
    "odd truth": (get("/recommend?user=user_7&include_seen=maybe"), 400, "true or false"),
    "unknown relation": (get("/recommend?user=user_7&where=colour%3Dred"), 400, "no relation 'colour'"),
    "no condition": (get("/recommend?user=user_7&where=red"), 400, "not a condition"),
    "many conditions": (get("/recommend?user=user_7" + "&where=a%3Db" * 9), 400, "given 9 times"),
    "unknown item": (get("/similar?item=item_9999"), 404, "item_9999"),
    "explanation of an unknown item": (get("/explain?user=user_7&item=none"), 404, "none"),
    # bodies
    "empty body": (post(""), 400, "not JSON"),
    "half of JSON": (post('{"users": ['), 400, "not JSON"),
    "deep JSON": (post("[" * 200_000), 400, "within each other"),
    "deep JSON behind texts": (post('{"users":' + '{"a":' * 50 + "1" + "}" * 51), 400, "within each other"),
    "NaN": (users({"id": "user_7"}, k=float("nan")), 400, "NaN"),
    "infinity": (post('{"users":[{"id":"user_7"}],"k":-Infinity}'), 400, "-Infinity"),
    "number of 5000 digits": (post('{"users":[{"id":"user_7"}],"k":' + "9" * 5000 + "}"), 400, "number"),
    "key twice": (post('{"users":[],"users":[{"id":"user_7"}]}'), 400, "'users' twice"),
    "not UTF-8 body": (post(b'{"users":[{"id":"\xff"}]}'), 400, "not UTF-8"),
    "half of a pair of letters": (post('{"users":[{"id":"\\ud800"}]}'), 404, "no user"),
    "half of a pair in an item": (users({"items": ["\ud800"]}), 400, "half of a pair of letters"),
    "half of a pair in a condition": (users({"id": "user_7"}, where=["made_by=\ud800"]), 400, "half of a pair"),
    "half of a pair alike": (post('{"item": "\\udfff"}', path="/similar"), 400, "half of a pair"),
    "half of a pair in a new item": (
        users({"id": "user_7"}, new_items=[{"item": "x", "name": "\ud800", "made_by": "maker_3"}]),
        400,
        "new_items[0]['name'][0] has half of a pair",
    ),
    "half of a pair as a column": (
        users({"id": "user_7"}, new_items=[{"item": "x", "\ud800": "y", "made_by": "maker_3"}]),
        400,
        "half of a pair",
    ),
    "number beyond floating point": (
        post('{"users":[{"id":"user_7"}],"new_items":[{"item":"x","weight":1e999}]}'),
        400,
        "1e999, which is too large",
    ),
    "quotes behind backslashes": (post(b'\\"' * 500_000), 400, "not JSON"),
    "key twice among many": (
        post("{" + ",".join(f'"{n}":0' for n in range(60_000)) + ',"59999":1}'),
        400,
        "'59999' twice",
    ),
    "other type": (post("user=user_7", kind="application/x-www-form-urlencoded"), 415, "application/x-www"),
    "type of a foreign form": (post('{"users":[{"id":"user_7"}]}', kind="text/plain"), 415, "text/plain"),
    "list as body": (post("[]"), 400, "not an object"),
    "no users": (users(), 400, "users is empty"),
    "101 users": (users(*[{"id": "user_7"}] * 101), 400, "101 entries"),
    "too many items asked for": (users(*[{"id": "user_7"}] * 100, k=10_000), 400, "1 to 1,000"),
    "user of numbers": (users({"id": 7}), 400, "users[0].id is a number"),
    "unknown key": (users({"id": "user_7", "admin": True}), 400, "'admin'"),
    "unknown item of a new user": (users({"id": "user_7"}, {"items": ["item_1", "none"]}), 400, "users[1]"),
    "unknown attribute": (users({"attributes": {"age": "25"}}), 400, "no attribute 'age'"),
    "unknown value": (users({"attributes": {"likes": "nothing"}}), 400, "no user has 'likes' 'nothing'"),
    "one unknown value of a list": (users({"attributes": {"likes": "nothing|" + "x" * 9}}), 400, "no user has 'likes'"),
    "1001 items": (users({"items": ["item_1"] * 1001}), 400, "1,001 entries"),
    "odd limit": (get("/recommend?user=user_7&at_most=made_by"), 400, "not a limit"),
    "limit of an unknown relation": (users({"id": "user_7"}, at_most=["colour=1"]), 400, "colour"),
    "limit of many digits": (users({"id": "user_7"}, at_most=["made_by=" + "9" * 400]), 400, "not a limit"),
    "limit in other digits": (get("/recommend?user=user_7&at_most=made_by%3D%D9%A2"), 400, "not a limit"),
    "condition of signs": (get("/recommend?user=user_7&where=" + "%3D" * 511), 400, "no relation"),
    "many limits": (get("/similar?item=item_1" + "&at_most=a%3D1" * 9), 400, "given 9 times"),
    "new items that are no list": (users({"id": "user_7"}, new_items={"item": "x"}), 400, "new_items is not a list"),
    "new item without id": (users({"id": "user_7"}, new_items=[{"made_by": "x"}]), 400, "new_items[0].item is missing"),
    "new item of odd values": (users({"id": "user_7"}, new_items=[{"item": "x", "a": {}}]), 400, "new_items[0]['a']"),
    "new item of 51 keys": (
        users({"id": "user_7"}, new_items=[{"item": "x", **{f"k{n}": "" for n in range(50)}}]),
        400,
        "51 keys",
    ),
    "new item of a huge number": (
        users({"id": "user_7"}, new_items=[{"item": "x", "made_by": 10**3000}]),
        400,
        "3,001 letters",
    ),
    "new items that are known": (users({"id": "user_7"}, new_items=[{"item": "item_1"}]), 400, "in the data set"),
    "new item without facts": (users({"id": "user_7"}, new_items=[{"item": "x", "a": "b"}]), 400, "is a relation"),
    "101 new items": (users({"id": "user_7"}, new_items=[{"item": "x", "made_by": "y"}] * 101), 400, "101 entries"),
    "similar to nothing": (post("{}", path="/similar"), 400, "item is missing"),
    "similar to an unknown item": (post('{"item": "none"}', path="/similar"), 404, "none"),
    "body too large": (post(b" " * ((1 << 20) + 1)), 413, "larger than 1,048,576"),
    "body said to be huge": (post(b"{}", "Content-Length: 99999999999999999999"), 413, "larger than"),
    "body too large in pieces": (
        post(b"100000\r\n" + b" " * (1 << 20) + b"\r\n100000\r\n" + b" " * 1000, "Transfer-Encoding: chunked"),
        413,
        "larger than",
    ),
    "smuggled length": (post(b"{}", "Content-Length: 2", "Content-Length: 5"), 400, "HTTP/1.1"),
    "two kinds of length": (post(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"), 400, "has both"),
    # heads
    "header flood": (get("/healthz", *[f"X-{n}: {'a' * 50}" for n in range(2000)]), 431, "too long"),
    "one long header": (get("/healthz", "Cookie: " + "a" * 100_000), 431, "too long"),
    "long address": (get("/recommend?user=" + "a" * 50_000), 431, "too long"),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 5 + b"\r\n\r\n", 400, "not a request"),
    "no host": (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "not a request"),
    "other host": (b"GET / HTTP/1.1\r\nHost: evil.example:8000\r\nConnection: close\r\n\r\n", 421, "evil.example"),
    "method": (get("/recommend?user=user_7").replace(b"GET", b"DELETE", 1), 405, "Use GET, POST"),
    "made-up method": (get("/").replace(b"GET", b"JEFF", 1), 405, "Use GET"),
    "reload by GET": (get("/reload"), 405, "Use POST"),
    "reload by a page of another site": (post("", "Sec-Fetch-Site: cross-site", path="/reload"), 403, "another site"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_gets_a_clear_refusal_and_the_next_one_its_list(server: Server, name: str) -> None:
    sent, status, words = HOSTILE[name]
    answer = server.raw(sent)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    assert error["status"] == status
    assert words in f"{error['problem']} {error.get('remedy')}"
    assert "Traceback" not in answer.body.decode()
    assert server.ask("/recommend", {"user": "user_7", "k": 1}).status == 200


def test_other_names_of_this_host_are_answered(server: Server) -> None:
    for host in ("localhost", "127.0.0.1:80", "[::1]:8000", "SHOP.example"):
        assert server.raw(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()).status == 200


def test_slow_clients_are_cut_off_while_others_are_served(server: Server) -> None:
    def slow_head() -> Answer:
        return server.raw(get("/healthz"), pause=SECONDS / 10)

    def nothing_sent() -> Answer:
        with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
            return read_answer(connection)

    def slow_second_head() -> Answer:
        with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).status == 200
            connection.sendall(b"GET /healthz")
            return read_answer(connection)

    def slow_body() -> Answer:
        return server.raw(post(b'{"users"', "Content-Length: 100"))

    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(work) for work in (slow_head, nothing_sent, slow_second_head, slow_body)]
        begun, served = time.monotonic(), 0
        while not all(one.done() for one in slow):
            assert server.ask("/recommend", {"user": "user_7", "k": 1}).status == 200
            served += 1
        assert time.monotonic() - begun < 10 * SECONDS
        assert served > 5
    assert [one.result().status for one in slow] == [408] * 4


def test_connections_are_bounded_and_those_that_flood_are_cut_off(server: Server) -> None:
    """So many clients as may be connected send heads without an end; the next ones are told to come later."""

    def open_files() -> float:
        lines = server.ask("/metrics").body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("process_open_fds"))

    before = open_files()
    flood = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    with ExitStack() as stack:
        clients = []
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=15))
            connection.sendall(flood)
            clients.append(connection)
        begun = time.monotonic()
        refused = [server.ask("/recommend", {"user": "user_7", "k": 1}) for _ in range(5)]
        assert time.monotonic() - begun < SECONDS  # all of them are still there
        assert {answer.status for answer in refused} == {503}
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert "too many connections" in refused[0].json["error"]["problem"]
        for connection in clients[::2]:
            with suppress(ConnectionError):
                connection.sendall(b"".join(b"X-%d: %s\r\n" % (n, b"a" * 100) for n in range(500)))
        statuses = [read_answer(connection).status for connection in clients]
        assert time.monotonic() - begun < 5 * SECONDS
        assert statuses == [431, 408] * (CONNECTIONS // 2)
        assert server.ask("/recommend", {"user": "user_7", "k": 1}).status == 200
    assert open_files() < before + CONNECTIONS / 2  # what they had is given back


def ask_until(connection: socket.socket, request: bytes, end: float) -> None:
    while time.monotonic() < end:
        connection.sendall(request)
        time.sleep(0.05)


def test_a_client_that_takes_nothing_is_cut_off(server: Server) -> None:
    """It asks again and again without reading: what waits for it is bounded, and then the connection is gone."""
    request = b"GET /recommend?user=user_7&k=1000&include_seen=true HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10 * SECONDS)
        connection.connect(("127.0.0.1", server.port))
        end = time.monotonic() + 20 * SECONDS
        with pytest.raises(ConnectionError):
            ask_until(connection, request * 2000, end)
    assert server.ask("/healthz").status == 200


def test_more_than_can_be_at_work_is_told_to_come_later(server: Server) -> None:
    body = {"users": [{"items": [f"item_{n % 50}" for n in range(1000)]}] * 40, "k": 50}
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: server.ask("/recommend", method="POST", body=body), range(80)))
    busy = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
    assert server.ask("/readyz").status == 200


# --- reload, kill -----------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask without a pause until they are told to stop; statuses, models and broken connections."""

    def __init__(self, server: Server, clients: int = 3) -> None:
        self.server, self.statuses, self.lists, self.broken = server, [0] * 600, set[tuple[str, ...]](), 0
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        self.going = True

    def _ask(self) -> None:
        while self.going:
            try:
                answer = self.server.ask("/recommend", {"user": "user_7", "k": 5})
            except OSError:
                self.broken += 1
                time.sleep(0.02)
                continue
            self.statuses[answer.status] += 1
            self.lists.add(tuple(row["id"] for row in answer.json["items"]))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.2)
        self.going = False
        for thread in self.threads:
            thread.join(timeout=30)


def replace_run(place: Path, name: str) -> None:
    """Put another run in the place of the one that is served, as a deployment does: by one renaming."""
    shutil.copytree(place / name, place / "next")
    (place / "run").rename(place / "old")
    (place / "next").rename(place / "run")
    shutil.rmtree(place / "old")


def best_of(place: Path, name: str, dataset: Dataset) -> tuple[str, ...]:
    found = recommend(load_trained(place / name, dataset).model.scorer(), [7], 5, dataset.positives())
    return tuple(dataset.items["original_id"].iloc[found["item"]])


def test_a_newer_run_is_taken_over_under_load_without_a_failed_request(
    server: Server, place: Path, dataset: Dataset
) -> None:
    good, other = best_of(place, "good", dataset), best_of(place, "other", dataset)
    assert good != other
    with Load(server) as load:
        replace_run(place, "other")
        answer = server.ask("/reload", method="POST")
        assert (answer.status, answer.json["reloaded"]) == (200, True)
        assert server.ask("/reload", method="POST").status in (200, 503)  # too soon after, unless the first took long
    assert load.lists == {good, other}
    assert (sum(load.statuses), load.broken) == (load.statuses[200], 0)
    replace_run(place, "good")
    since = len(server.lines)
    server.process.send_signal(signal.SIGHUP)
    server.said("(Reloaded): run, model hakg", since)
    assert tuple(ids_and_scores(server.ask("/recommend", {"user": "user_7", "k": 5}).json)[0]) == good


def test_a_signal_while_a_run_is_read_takes_over_the_newest(server: Server, place: Path, dataset: Dataset) -> None:
    other = best_of(place, "other", dataset)
    time.sleep(1.1)  # reloads over HTTP are a second apart
    since = len(server.lines)
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.ask, "/reload", method="POST")
            time.sleep(0.02)
            replace_run(place, "other")
            server.process.send_signal(signal.SIGHUP)
            assert asked.result().status in (200, 409)  # it may have read a half of each
        server.said("(Reloaded): run, model hakg", since)
        assert not any("a reload is not done" in line for line in server.lines[since:])
        assert tuple(ids_and_scores(server.ask("/recommend", {"user": "user_7", "k": 5}).json)[0]) == other
    finally:
        replace_run(place, "good")
        since = len(server.lines)
        server.process.send_signal(signal.SIGHUP)
        server.said("(Reloaded): run, model hakg", since)


def test_a_broken_run_is_refused_with_its_reason_and_the_old_one_goes_on(server: Server, place: Path) -> None:
    model, before = place / "run" / "model.safetensors", server.ask("/recommend", {"user": "user_7"}).json
    whole = model.read_bytes()
    try:
        model.write_bytes(whole[: len(whole) // 2])
        time.sleep(1.1)  # reloads over HTTP are a second apart
        answer = server.ask("/reload", method="POST")
        assert answer.status == 409
        assert "model.safetensors" in answer.json["error"]["problem"]
        since = len(server.lines)
        server.process.send_signal(signal.SIGHUP)
        assert "model.safetensors" in server.said("(Not reloaded: .*)", since)
        assert server.ask("/recommend", {"user": "user_7"}).json == before
        assert 'hakg_reloads{outcome="refused"} 2.0' in server.ask("/metrics").body.decode()
    finally:
        model.write_bytes(whole)


def test_a_model_without_vectors_says_what_it_cannot(server: Server, place: Path) -> None:
    try:
        replace_run(place, "plain")
        since = len(server.lines)
        server.process.send_signal(signal.SIGHUP)
        server.said("(Reloaded): run, model popularity", since)
        about = server.ask("/about").json
        assert (about["explains"], about["similar"]) == (False, False)
        for path, words in (
            ("/explain?user=user_7&item=item_1", "take its scores"),
            ("/similar?item=item_1", "vectors"),
        ):
            answer = server.ask(path)
            assert (answer.status, words in answer.json["error"]["problem"]) == (400, True)
        assert server.ask("/hierarchy?item=item_1").json["distance"] is None
        assert server.ask("/recommend?user=user_7").status == 200
    finally:
        replace_run(place, "good")
        since = len(server.lines)
        server.process.send_signal(signal.SIGHUP)
        server.said("(Reloaded): run, model hakg", since)


def test_killed_and_restarted_under_load_it_answers_as_before(server: Server) -> None:
    before = server.ask("/recommend", {"user": "user_7", "k": 5}).json
    with Load(server) as load:
        server.process.kill()
        server.process.wait(timeout=30)
        server.start()
        served = load.statuses[200]
        while load.statuses[200] < served + 20:
            time.sleep(0.01)
    assert load.broken > 0
    assert load.statuses[200] == sum(load.statuses)
    assert server.ask("/recommend", {"user": "user_7", "k": 5}).json == before


@pytest.mark.slow
def test_told_to_end_it_does_not_begin_what_waits(place: Path) -> None:
    """Sixty models for new items would take sixty times as long as one; it ends after the few seconds of grace."""
    running = Server(place / "good", "--seconds", "60")

    def ask(number: int) -> None:
        rows = [{"item": f"new_{number}", "made_by": "maker_3"}]
        with suppress(OSError, http.client.HTTPException):
            running.ask("/recommend", method="POST", body={"users": [{"id": "user_7"}], "new_items": rows})

    ask(0)
    begun = time.monotonic()
    ask(1)
    one = time.monotonic() - begun
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(ask, number) for number in range(2, 62)]
        while not any(answer.done() for answer in waiting):
            time.sleep(0.01)
        begun = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=300) == 143
        assert time.monotonic() - begun < 15 + 20 * one


# --- the page ---------------------------------------------------------------------------------------------------------


def until(driver: Any, found: str) -> Any:
    """Wait for the first element of a selector."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 20).until(lambda page: page.find_elements("css selector", found))[0]


def test_the_page_finds_an_item_by_name_and_explains_it_and_no_name_runs(server: Server, browser: Any) -> None:  # noqa: F811
    browser.get_log("browser"), browser.get_log("performance")
    home = f"http://127.0.0.1:{server.port}/"
    browser.get(home)
    until(browser, "#user-query").send_keys("user 7")
    until(browser, "#user-found button").click()
    until(browser, "#list li.row button")
    browser.find_element("id", "item-query").send_keys("evil one")
    found = until(browser, "#item-found button")
    assert EVIL.split()[0] in found.text
    found.click()
    heading = until(browser, "#item h2")
    until(browser, "#item table")
    assert heading.text.startswith("Evil one </script><img src=x onerror=")
    assert "\u202e" not in heading.text  # it would turn the id behind the name
    text = browser.find_element("id", "item").text
    for part in ("Parts of the score", "By what the user has", "Facts of the item", "hierarchy", "Similar items"):
        assert part in text
    rows = browser.find_elements("css selector", "#item table")[0].find_elements("css selector", "tbody tr")
    parts = [float(row.find_elements("css selector", "td")[1].text) for row in rows]
    score = float(text.split("Score ")[1].split()[0])
    assert sum(parts) == pytest.approx(score, abs=5e-4)
    assert browser.title == "Recommendations"  # the hostile name would have changed it
    assert browser.find_elements("css selector", "main img, main svg, main script") == []
    assert complaints(browser) == []
    asked = requests(browser)
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith(home)] == []
    for width in (1200, 400):
        browser.set_window_size(width, 800)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


# --- the command ------------------------------------------------------------------------------------------------------


def test_without_the_extra_the_command_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    result = hakg("serve", place / "good")
    assert result.exit_code == 2
    assert "pip install 'hakg_dgl[serve]'" in result.stderr


def test_a_port_that_is_taken_and_a_run_that_is_not_there(place: Path, server: Server) -> None:
    result = hakg("serve", place / "good", "--port", server.port)
    assert result.exit_code == 2
    assert f"127.0.0.1:{server.port}" in result.stderr
    assert "--port" in result.stderr
    result = hakg("serve", place / "nothing", "--port", 0)
    assert result.exit_code == 2
    assert "no such folder" in result.stderr
