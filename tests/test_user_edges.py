"""Facts and links of users, and edge types of one's own: they take part in training, or are refused."""

import dataclasses
import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from bad_input import SMALL, hakg
from dense import dense_mean, error, gradients, odd_graph, on_one_thread
from small_demo import small_demo
from with_dgl import WHY_NOT

from hakg_dgl import RunFolder
from hakg_dgl.data.preprocess import preprocess
from hakg_dgl.data.synthetic import generate_demo
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import HeteroGraph, build_graph
from hakg_dgl.insight.explain import Explainer
from hakg_dgl.kernels.choice import BACKENDS
from hakg_dgl.layers.updates import Copy, Silent
from hakg_dgl.models.hakg import HAKG
from hakg_dgl.models.hakg.settings import HAKGSettings
from hakg_dgl.models.hakg.trace import Trace

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

PATHS = ("readable", *(name for name in BACKENDS if name != "dgl" or WHY_NOT is None))
LIVES_IN, KNOWS = ("user", "lives_in", "entity"), ("user", "knows", "user")
WAYS_BACK = ("entity", "inverse_lives_in", "user"), ("user", "inverse_knows", "user")
FACTS = torch.tensor([[0, 3], [0, 12], [2, 3], [5, 9], [7, 0]])  # user, entity
LINKS = torch.tensor([[0, 1], [1, 4], [4, 1], [6, 2]])  # user, other


def graph_with_users(*, facts=True, links=True):
    graph = odd_graph(n_relations=3).heterograph()
    edges = dict(graph.edges)
    forward = [*([(LIVES_IN, FACTS)] if facts else []), *([(KNOWS, LINKS)] if links else [])]
    for etype, table in forward:
        edges[etype] = table[:, 0], table[:, 1]
    for (source, name, destination), table in forward:
        edges[destination, f"inverse_{name}", source] = table[:, 1], table[:, 0]
    return HeteroGraph(graph.n_nodes, edges, graph.names)


def model_of(graph, path="torch", updates=None, **settings):
    settings = {"dim": 4, "layers": 2, "linear_weight": 0.0, "facts_weight": 0.0, "kernels": path, **settings}
    return HAKG(graph, HAKGSettings(**settings), seed=3, dtype=torch.float64, updates=updates)


def test_relations_of_users_are_numbered_after_those_of_the_graph():
    with_users, without = model_of(graph_with_users()), model_of(odd_graph(n_relations=3).heterograph())
    assert with_users.relation_types[6:] == (LIVES_IN, KNOWS, *WAYS_BACK)
    assert len(with_users.relation) == 10
    assert len(without.relation) == 6
    for name in ("user", "entity", "item"):
        assert torch.equal(getattr(with_users, name), getattr(without, name))
    assert with_users.packed.n_relations == without.packed.n_relations == 3
    assert with_users.packed.knowledge.n_edges == without.packed.knowledge.n_edges


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_a_layer_with_facts_and_links_is_the_dense_one(path, formulation):
    """Entities and users are one table; users add the mean of what they receive to the mean over their items."""
    graph = graph_with_users()
    model = model_of(graph, path, formulation=formulation)
    ours = model.layer(0, model.executor, model.user, model.entity, model.item, 14)
    triples = odd_graph(n_relations=3).edges()
    n = 14
    (user, entity), (one, other) = FACTS.unbind(1), LINKS.unbind(1)
    parts = [triples]
    for number, heads, tails in (
        (6, entity, user + n), (7, other + n, one + n), (8, user + n, entity), (9, one + n, other + n)
    ):  # fmt: skip
        parts.append(torch.stack([heads, torch.full_like(heads, number), tails], 1))
    table = torch.cat([model.entity, model.user])
    means = dense_mean(torch.cat(parts), table, model.relation, model.rule, n + 8)
    plain = model_of(
        graph, path, formulation=formulation, updates=dict.fromkeys((LIVES_IN, KNOWS, *WAYS_BACK), Silent())
    )
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(model.get_parameter(name))
    from_items = plain.layer(0, plain.executor, model.user, model.entity, model.item, 14)[0]
    expected = (from_items + means[n:], means[:n])
    for a, b in zip(ours[:2], expected, strict=True):
        assert error(a, b) < 1e-11
        inputs = (model.user, model.entity, model.item, model.relation)
        for x, y in zip(gradients(a, *inputs), gradients(b, *inputs), strict=True):
            assert error(x, y) < 1e-10


@pytest.mark.parametrize("change", [{"facts": False}, {"links": False}])
def test_facts_and_links_change_what_is_learned(change):
    graphs = graph_with_users(), graph_with_users(**change)
    outputs = [model_of(graph).propagate(dropout=torch.Generator().manual_seed(1)).user for graph in graphs]
    assert error(outputs[0], outputs[1]) > 1e-3


def linked(dataset):
    """The data set with three links to each user."""
    user = torch.arange(dataset.n_users).repeat(3)
    other = (user + torch.tensor([1, 2, 7]).repeat_interleave(dataset.n_users)) % dataset.n_users
    links = pd.DataFrame({"user": user.numpy(), "relation": 0, "other": other.numpy()})
    return dataclasses.replace(
        dataset, user_links=links, user_relations=pd.DataFrame({"original_id": ["knows"], "name": ["knows"]})
    )


def test_the_command_trains_on_links(tmp_path):
    """One seed, the same interactions and facts: links change every loss and the lists, and nothing else does."""
    plain = small_demo()
    runs = {}
    for name, dataset in (("plain", plain), ("again", plain), ("linked", linked(plain))):
        dataset.save(tmp_path / name / "data")
        result = hakg("train", tmp_path / name / "data", "--out", tmp_path / name / "run", "--epochs", 2, *SMALL[2:])
        assert result.exit_code == 0, result.output
        runs[name] = RunFolder(tmp_path / name / "run")
    losses = {name: [line["loss"] for line in run.metrics] for name, run in runs.items()}
    assert losses["again"] == losses["plain"]
    assert all(abs(a - b) > 1e-4 * abs(a) for a, b in zip(losses["plain"], losses["linked"], strict=True)), losses
    metrics = {name: run.result["metrics"]["test"] for name, run in runs.items()}
    assert metrics["again"] == metrics["plain"] != metrics["linked"]


@pytest.mark.parametrize("path", PATHS)
def test_paths_agree_in_training_with_facts_and_links(path):
    graph, embeddings = graph_with_users(), []
    for chosen in (path, "torch"):
        found = model_of(graph, chosen).propagate(dropout=torch.Generator().manual_seed(1))
        embeddings.append(torch.cat([found.user, found.entity, found.item]))
    assert error(*embeddings) < 1e-10


def follows(graph):
    return HeteroGraph(graph.n_nodes, {**graph.edges, ("user", "follows", "user"): tuple(LINKS.unbind(1))}, graph.names)


@pytest.mark.parametrize("path", PATHS)
def test_an_edge_type_of_ones_own_takes_part_by_one_line_and_never_silently(path):
    graph, etype = odd_graph(n_relations=3).heterograph(), ("user", "follows", "user")
    with pytest.raises(ConfigError, match=r"'follows'.*no update function.*updates="):
        model_of(follows(graph), path)
    model = model_of(follows(graph), path, {etype: Copy(reduce="mean")})
    user, *_ = model.layer(0, model.executor, model.user, model.entity, model.item, 14)
    plain = model_of(graph, path)
    without, *_ = plain.layer(0, plain.executor, plain.user, plain.entity, plain.item, 14)
    degree = torch.bincount(LINKS[:, 1], minlength=8).clamp_min(1)[:, None]
    received = torch.zeros_like(user).index_add(0, LINKS[:, 1], model.user[LINKS[:, 0]]) / degree
    assert error(user - without, received) < 1e-11
    with pytest.raises(ConfigError, match=r"'blocks'.*does not have"):
        model_of(graph, path, {("user", "blocks", "user"): Copy()})


@pytest.mark.parametrize("settings", [
    {"score": "inner"}, {"score": "fused", "layers": 3}, {"score": "separate", "formulation": "released"},
    {"layers": 1, "dual_item_embeddings": False}, {"linear_weight": 2.0, "geometry": "euclidean"},
    {"kernels": "readable"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("present", [{}, {"facts": False}, {"links": False}])
def test_explanations_add_up_with_facts_and_links(settings, present):
    """On both sides of every pair, with facts of users about items among the edges."""
    model = model_of(graph_with_users(**present), settings.get("kernels", "torch"), **{"layers": 2, **settings})
    model.fit_terms()
    users, items = model.ranking_vectors()
    breakdown, seen = model.breakdown(), set()
    for user in range(8):
        for item in range(model.graph.n_items):
            terms = [component.terms(user, item) for component in breakdown.components]
            assert sum(term.value for term in terms) == pytest.approx(float(users[user] @ items[item]), abs=1e-11)
            for term in terms:
                assert term.from_user["contribution"].sum() == pytest.approx(term.value, abs=1e-11)
                assert term.from_item["contribution"].sum() == pytest.approx(term.value, abs=1e-11)
            seen |= {
                (side, via)
                for term in terms
                for side in ("user", "item")
                for via in getattr(term, f"from_{side}")["via"]
            }
    assert ("user", "fact") in seen or present == {"facts": False}
    assert ("item", "user fact") in seen or present == {"facts": False}
    assert ("user", "link") in seen or present == {"links": False}


def test_terms_of_facts_and_links_of_one_layer_by_hand():
    """User 1 is known to user 0, and knows and is known to user 4."""
    model = model_of(graph_with_users(), layers=1, score="inner")
    with torch.no_grad():
        received = model.layer(0, model.executor, model.user, model.entity, model.item, 14)[0]
        vector = model.ranking_vectors()[1][3]
        messages = {
            (relation, other): model.rule.message(model.user[1], model.user[other], model.relation[number])
            for relation, number, other in ((False, 9, 4), (True, 7, 0), (True, 7, 4))
        }  # relation 7: ('user', 'knows', 'user'), whose receiver is known; 9: its inverse, whose receiver knows
        expected = {key: float(m @ vector / 3 / received[1].norm()) for key, m in messages.items()}
    terms = [component.terms(1, 3) for component in model.breakdown().components]
    rows = pd.concat([term.from_user for term in terms])
    rows = rows[rows["via"].isin(["fact", "link"])]
    assert set(rows["relation"]) == {"knows"}
    found = rows.groupby(["inverse", "node"])["contribution"].sum().to_dict()
    assert found == pytest.approx(expected)


def test_the_command_explains_runs_with_links(tmp_path):
    linked(small_demo()).save(tmp_path / "data")
    result = hakg("train", tmp_path / "data", "--out", tmp_path / "run", "--epochs", 1, *SMALL[2:])
    assert result.exit_code == 0, result.output
    pair = ("--user", "user_3", "--item", "item_7")
    result = hakg("explain", tmp_path / "run", *pair, "--top", 2, "--json", tmp_path / "why.json")
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "why.json").read_text())
    facts = about["user_facts"]
    assert facts["all"]["count"] == 6
    assert facts["others"]["count"] == 4
    row = facts["rows"][0]
    assert (row["relation"], row["via"]) == ("knows", "link")
    assert f"{'<-knows--' if row['inverse'] else '--knows->'} {row['name']} ({row['id']})" in result.stdout.replace(
        "user U", "U"
    )
    assert "the user's facts and links" in result.stdout
    total = sum(r["contribution"] for r in about["past_items"]["rows"]) + about["past_items"]["others"]["contribution"]
    total += facts["all"]["contribution"] + about["user_own"]["contribution"]
    assert total == pytest.approx(about["score"], abs=1e-5)


def test_the_picture_of_an_explanation_counts_facts_and_links():
    pytest.importorskip("matplotlib", reason="python -m pip install -e .[plot]")
    from hakg_dgl.figures.explanation import draw

    dataset = linked(small_demo())
    x = Explainer(model_of(build_graph(dataset), linear_weight=2.0), dataset)(7, 31)
    assert max(map(abs, x.rounding.values())) < 1e-11
    whole = draw(x, items=2).axes[1]
    labels = [label.get_text() for label in whole.get_yticklabels()]
    assert labels == ["these 2", f"{len(x.past_items) - 2} others", "the user's facts", "the user's own", "whole score"]
    width = {c.get_label(): [bar.get_width() for bar in c] for c in whole.containers}
    assert width["facts and links"][2] == pytest.approx(x.user_facts["contribution"].sum())
    assert sum(values[-1] for values in width.values()) == pytest.approx(x.score, abs=1e-9)


def test_explanations_refuse_what_they_cannot_account_for():
    etype = ("user", "follows", "user")
    with pytest.raises(ConfigError, match=r"explanations.*'follows'"):
        Trace(model_of(follows(odd_graph().heterograph()), updates={etype: Copy()}))


def test_the_tables_of_a_data_set_become_edges():
    demo = preprocess(generate_demo())
    plain = build_graph(demo)
    names = ("interactions", "triples", "relations", "n_users", "n_items", "n_entities", "pairs")
    tables = {
        "user_relations": pd.DataFrame({"original_id": ["a", "b"], "name": ["knows", "lives_in"]}),
        "user_facts": pd.DataFrame({"user": [0, 2], "relation": [1, 1], "entity": [5, 6]}),
        "user_links": pd.DataFrame({"user": [3], "relation": [0], "other": [4]}),
    }
    graph = build_graph(SimpleNamespace(**{name: getattr(demo, name) for name in names}, **tables))
    added = graph.canonical_etypes[len(plain.edges) :]
    assert graph.canonical_etypes[: len(plain.edges)] == plain.canonical_etypes
    assert added == [KNOWS, LIVES_IN, WAYS_BACK[1], WAYS_BACK[0]]
    assert [[end.tolist() for end in graph.edges[etype]] for etype in added] == [
        [[3], [4]], [[0, 2], [5, 6]], [[4], [3]], [[5, 6], [0, 2]],
    ]  # fmt: skip
    assert graph.relation_types == plain.relation_types
    assert graph.user_types == tuple(added)


# --- to another device --------------------------------------------------------------------------------------------


def test_the_graph_follows_the_model():
    model = model_of(odd_graph().heterograph())
    before, executor = model.graph, model.executor
    assert model.double() is model
    assert model.graph is before
    assert model.executor is executor
    model.to("meta")
    assert model.graph.device.type == model.device.type == "meta"
    assert model.executor.graph is model.graph
    assert before.device.type == "cpu"


def test_another_type_of_number_reaches_the_scales():
    """Degrees are inverted when they are read, so none of another type is left behind."""
    model = model_of(odd_graph().heterograph(), degree_exponent=0.5).float()
    found = model.propagate()
    assert found.user.dtype == found.entity.dtype == torch.float32
    fresh = HAKG(odd_graph().heterograph(), model.settings, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    assert error(found.user, fresh.propagate().user) < 1e-4
