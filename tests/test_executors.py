"""Every executor runs every form of update function, and one of a user's own, and gives what dense matrices give."""

import dataclasses
import sys

import pytest
import torch
from dense import error, gradients, make_rule, odd_graph, on_one_thread, random_table
from with_dgl import needs_dgl

from hakg_dgl.errors import ConfigError, MissingDependencyError
from hakg_dgl.graph.edge_types import INTERACTED_BY, INTERACTS
from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.batch_executor import BatchExecutor
from hakg_dgl.layers.executors import make_executor
from hakg_dgl.layers.packed_executor import PackedExecutor
from hakg_dgl.layers.updates import Attention, Copy, RelationTransitive, Silent, WeightedSum, reduction

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

DIM = 4
LIKES, FOLLOWS, LIKED_BY = ("user", "likes", "entity"), ("user", "follows", "user"), ("entity", "liked_by", "user")
NOBODY = ("user", "nobody", "entity")


def whole_graph():
    """Entities, users and items with each oddity, and edges of users; user 0 and entity 9 receive nothing."""
    graph = odd_graph(n_relations=3).heterograph()
    draw = torch.Generator().manual_seed(3)
    ends = {}
    for etype, n in ((LIKES, 15), (FOLLOWS, 12), (LIKED_BY, 9), (NOBODY, 0)):
        source = torch.randint(graph.num_nodes(etype[0]), (n,), generator=draw)
        destination = torch.randint(1, 8, (n,), generator=draw)
        ends[etype] = (source, destination)
    return HeteroGraph(graph.n_nodes, {**graph.edges, **ends}, graph.names)


GRAPH = whole_graph()
RELATIONS = GRAPH.relation_types


def dgl_executor(graph):
    from hakg_dgl.layers.dgl_executor import DGLExecutor

    return DGLExecutor(graph)


EXECUTORS = {
    "dgl": dgl_executor,
    "batches": lambda graph: BatchExecutor(graph, choose_backend("torch")),
    "packed": lambda graph: PackedExecutor(graph, choose_backend("torch")),
    "packed-dgl": lambda graph: PackedExecutor(graph, choose_backend("dgl")),
}
executors = pytest.mark.parametrize(
    "executor", [pytest.param(name, marks=needs_dgl if "dgl" in name else ()) for name in EXECUTORS]
)


class Own:
    """A function of a user's own: what the source has and the destination lacks, by edge."""

    def __init__(self, reduce="mean"):
        self.reduce = reduce

    def __call__(self, edges):
        return torch.relu(edges.src["x"] - edges.dst["x"]) * (1.0 + edges.data["id"].unsqueeze(1))


class Inputs:
    """Values of nodes and edges, all with a gradient."""

    def __init__(self):
        self.features = {
            name: random_table(n, DIM, torch.float64, seed, reach=0.7).requires_grad_()
            for seed, (name, n) in enumerate(GRAPH.n_nodes.items())
        }
        self.relations = random_table(len(RELATIONS), DIM, torch.float64, 9, reach=0.7).requires_grad_()
        draw = torch.Generator().manual_seed(7)
        self.edges = {
            etype: torch.randn(GRAPH.num_edges(etype), generator=draw, dtype=torch.float64).requires_grad_()
            for etype in GRAPH.canonical_etypes
        }
        self.scales = {
            name: (0.5 + torch.rand(n, generator=draw, dtype=torch.float64)).requires_grad_()
            for name, n in GRAPH.n_nodes.items()
        }

    def tensors(self):
        return [*self.features.values(), self.relations, *self.edges.values(), *self.scales.values()]


def layer(form, inputs, rule):
    """A function for each edge type, with the form where it stands out."""
    scales, edges = inputs.scales, inputs.edges
    transitive = {etype: RelationTransitive(inputs.relations, n, rule) for n, etype in enumerate(RELATIONS)}
    rest = {etype: Silent() for etype in GRAPH.canonical_etypes}
    both = (INTERACTS, INTERACTED_BY)
    forms = {
        "copy": {etype: Copy(scales[etype[0]], scales[etype[2]], 3.0) for etype in (*both, FOLLOWS)},
        "plain copy": {etype: Copy() for etype in (*both, NOBODY)},
        "mean copy": {etype: Copy(reduce="mean") for etype in (INTERACTS, LIKES, NOBODY, LIKED_BY, FOLLOWS)},
        "weighted sum": {etype: WeightedSum(edges[etype]) for etype in (*both, LIKES, NOBODY, RELATIONS[0])},
        "weighted mean": {etype: WeightedSum(edges[etype], "mean") for etype in (LIKED_BY, FOLLOWS)},
        "attention": {etype: Attention(edges[etype]) for etype in (LIKES, NOBODY, FOLLOWS, LIKED_BY, INTERACTED_BY)},
        "attention of two": {LIKED_BY: Attention(edges[LIKED_BY], "a"), FOLLOWS: Attention(edges[FOLLOWS], "b")},
        "relation-transitive": transitive,
        "some relations": {etype: transitive[etype] for etype in (RELATIONS[4], RELATIONS[0])},
        "own": {LIKES: Own(), FOLLOWS: Own("sum"), NOBODY: Own()},
        "all": {
            **transitive, **{etype: Copy(reduce="mean") for etype in both}, LIKES: Own(),
            FOLLOWS: Attention(edges[FOLLOWS]), LIKED_BY: WeightedSum(edges[LIKED_BY]),
        },
    }  # fmt: skip
    return {**rest, **forms[form]}


FORMS = (
    "copy", "plain copy", "mean copy", "weighted sum", "weighted mean", "attention", "attention of two",
    "relation-transitive", "some relations", "own", "all",
)  # fmt: skip


@dataclasses.dataclass
class Ends:
    src: dict
    dst: dict
    data: dict


def dense_layer(updates, features, kept):
    """Every message of every kept edge, one matrix of zeros and ones for each edge type."""
    exponentials, edges = {}, {}
    for etype, update in updates.items():
        (source, destination), ids = GRAPH.edges[etype], kept[etype].nonzero().squeeze(1)
        source, destination = source[ids], destination[ids]
        received = torch.nn.functional.one_hot(destination, GRAPH.num_nodes(etype[2])).double()
        edges[etype] = (
            received,
            Ends(
                {"x": features[etype[0]][source], "id": source},
                {"x": features[etype[2]][destination], "id": destination},
                {"id": ids},
            ),
        )
        if isinstance(update, Attention):
            key = etype[2], update.group
            exponentials.setdefault(key, []).append(received.T @ torch.exp(update.logits[ids]))
    sums, degrees = {}, {}
    for etype, update in updates.items():
        if isinstance(update, Silent):
            continue
        received, ends = edges[etype]
        if isinstance(update, Attention):
            bottom = torch.stack(exponentials[etype[2], update.group]).sum(0)
            ends.data["share"] = torch.exp(update.logits[ends.data["id"]]) / bottom[ends.dst["id"]]
        key = etype[2], reduction(update)
        sums[key] = sums.get(key, 0.0) + received.T @ update(ends)
        degrees[key] = degrees.get(key, 0.0) + received.sum(0)
    found = {}
    for (node_type, reduce), total in sums.items():
        part = total / degrees[node_type, reduce].clamp_min(1.0)[:, None] if reduce == "mean" else total
        found[node_type] = found.get(node_type, 0.0) + part
    return found


def masks_of(share, seed=0):
    """Masks over relations together, over interactions, and over one type of a user's own; and by edge type."""
    draw = torch.Generator().manual_seed(seed)
    masks, kept = {}, {etype: torch.ones(GRAPH.num_edges(etype), dtype=torch.bool) for etype in GRAPH.edges}
    for etypes in (RELATIONS, (INTERACTED_BY,), (FOLLOWS,)):
        places = GRAPH.joined(etypes).places
        masks[etypes] = torch.rand(sum(map(len, places.values())), generator=draw) < share
        kept |= {etype: masks[etypes][place] for etype, place in places.items()}
    kept[INTERACTS] = kept[INTERACTED_BY]
    return masks, kept


def outputs(found):
    return torch.cat([found[name].reshape(-1) for name in sorted(found)])


@executors
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [None, 0.5, 0.0], ids=["all edges", "half of them", "none"])
def test_all_executors_give_the_same(executor, form, share):
    inputs, rule = Inputs(), make_rule("released", "poincare", 1.0, torch.float64)
    updates, chosen = layer(form, inputs, rule), EXECUTORS[executor](GRAPH)
    masks, kept = masks_of(1.1 if share is None else share)
    if share is not None:
        chosen = chosen.drop(masks)
    found, expected = chosen.run(updates, inputs.features), dense_layer(updates, inputs.features, kept)
    assert set(found) == set(expected)
    assert error(outputs(found), outputs(expected)) < 1e-11
    ours, theirs = (gradients(outputs(values), *inputs.tensors()) for values in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 1e-10


@executors
@pytest.mark.parametrize("rows", [0, 6])
def test_the_first_nodes_can_be_asked_for_alone(executor, rows):
    inputs, rule = Inputs(), make_rule("paper", "poincare", 1.0, torch.float64)
    updates, chosen = layer("all", inputs, rule), EXECUTORS[executor](GRAPH)
    every, some = chosen.run(updates, inputs.features), chosen.run(updates, inputs.features, {"entity": rows})
    assert len(some["entity"]) == rows
    assert error(some["entity"], every["entity"][:rows]) < 1e-12
    assert error(some["user"], every["user"]) < 1e-12


@executors
def test_values_may_be_made_when_they_are_read(executor):
    inputs, rule = Inputs(), make_rule("paper", "euclidean", 1.0, torch.float64)
    updates, made = layer("all", inputs, rule), []

    def items():
        made.append(1)
        return inputs.features["item"]

    chosen = EXECUTORS[executor](GRAPH)
    found = chosen.run(updates, {**inputs.features, "item": items})
    assert made == [1]
    assert error(outputs(found), outputs(chosen.run(updates, inputs.features))) < 1e-14


@executors
def test_an_edge_type_without_a_function_is_an_error_and_so_is_a_function_without_edges(executor):
    chosen, features = EXECUTORS[executor](GRAPH), Inputs().features
    updates = {etype: Copy() for etype in GRAPH.canonical_etypes}
    missing = {etype: update for etype, update in updates.items() if etype != FOLLOWS}
    with pytest.raises(ConfigError, match=r"'follows'.*no update function.*updates=\{.*Copy.*Silent"):
        chosen.run(missing, features)
    with pytest.raises(ConfigError, match=r"'blocks'.*does not have.*'follows'"):
        chosen.run({**updates, ("user", "blocks", "user"): Copy()}, features)
    with pytest.raises(ConfigError, match=r"'item'.*\['user', 'entity'\]"):
        chosen.run(updates, {name: features[name] for name in ("user", "entity")})


def test_a_reduction_is_sum_or_mean():
    def own(edges):
        return edges.src["x"]

    assert reduction(own) == "sum"
    own.reduce = "max"
    with pytest.raises(ConfigError, match=r"'max'.*'sum' or 'mean'"):
        reduction(own)


@needs_dgl
def test_readable_is_dgl_where_it_is_there():
    assert type(make_executor(GRAPH, "readable")).__name__ == "DGLExecutor"
    assert type(make_executor(GRAPH.to("meta"), "readable")) is BatchExecutor
    assert type(make_executor(GRAPH)) is PackedExecutor


def test_readable_runs_without_dgl(monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "hakg_dgl.graph.dgl_gate":
                raise MissingDependencyError("DGL is not installed")

    monkeypatch.delitem(sys.modules, "hakg_dgl.graph.dgl_gate", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert type(make_executor(GRAPH, "readable")) is BatchExecutor


def test_relations_of_all_types_are_one_call():
    """Whatever the number of relations: the fused kernels would be worth nothing otherwise."""
    calls = []

    class Counting(PackedExecutor):
        def relation_transitive(self, *arguments):
            calls.append(1)
            return super().relation_transitive(*arguments)

    inputs, rule = Inputs(), make_rule("released", "poincare", 1.0, torch.float64)
    Counting(GRAPH, choose_backend("torch")).run(layer("all", inputs, rule), inputs.features)
    assert calls == [1]
