"""The whole model against dense matrices: every switch, every path, with and without dropout."""

import itertools

import pytest
import torch
from dense import (
    DTYPES,
    adjacency,
    dense_mean,
    empty_graph,
    error,
    gradients,
    make_rule,
    odd_graph,
    on_one_thread,
)
from torch.nn import functional as F
from with_dgl import BACKENDS_HERE, needs_dgl

from hakg_dgl.graph.dgl_graph import to_dgl
from hakg_dgl.layers.dropout import draw_mask
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.models.hakg import HAKG, HAKGSettings

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

PATHS = ("readable", *BACKENDS_HERE)
GRAPH = odd_graph(n_relations=3)
BOUND = {torch.float32: 1e-4, torch.float64: 1e-10}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
paths = pytest.mark.parametrize("path", PATHS)
switches = pytest.mark.parametrize(
    ("formulation", "geometry", "gate", "dual"),
    [
        (formulation, geometry, gate, dual)
        for formulation, geometry in itertools.product(("released", "paper"), ("poincare", "euclidean"))
        for gate, dual in ((True, True), (False, True), (True, False))
    ],
)


def model_of(path, dtype=torch.float64, graph=GRAPH, **settings):
    settings = {"dim": 4, "layers": 2, "kernels": path, "linear_weight": 0.0, "facts_weight": 0.0, **settings}
    return HAKG(graph.heterograph(), HAKGSettings(**settings), seed=3, dtype=dtype)


def outputs(embeddings):
    parts = [embeddings.user, embeddings.entity, *([] if embeddings.item is None else [embeddings.item])]
    return torch.cat([part.reshape(-1) for part in parts])


def values_and_gradients(model, embeddings):
    output = outputs(embeddings)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return {"output": output.detach(), **dict(zip(names, gradients(output, *parameters), strict=True))}


def assert_same(ours, theirs, bound):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert error(value, theirs[name]) < bound, name


# --- the dense model ----------------------------------------------------------------------------------------------


def unit_rows(x, rate, generator):
    """Message dropout, then division by the L2 norm."""
    if generator is not None and rate > 0.0:
        x = x * draw_mask(x.numel(), rate, generator).view(x.shape) / (1.0 - rate)
    return F.normalize(x, dim=1, eps=1e-12)


def dense_propagate(model, *, all_entities=False, generator=None):
    """The equations by dense matrices, from the model's parameters; draws what a training step draws, in its order."""
    s, packed, dtype = model.settings, model.packed, model.user.dtype
    rule = make_rule(s.formulation, s.geometry, s.curvature, dtype)
    knowledge, pairs = packed.knowledge, torch.stack([packed.interactions.rows, packed.interactions.cols], 1)
    edges = torch.stack([knowledge.pairs.rows, knowledge.relation, knowledge.pairs.cols], 1)
    degrees = adjacency(pairs, packed.n_users, packed.n_items, dtype)
    per_user, per_item = degrees.sum(1, keepdim=True).clamp_min(1), degrees.sum(0)[:, None].clamp_min(1)
    weight = 1.0
    if generator is not None:
        if s.kg_edge_dropout > 0.0:
            edges = edges[draw_mask(len(edges), s.kg_edge_dropout, generator)]
        if s.interaction_dropout > 0.0:
            pairs = pairs[draw_mask(len(pairs), s.interaction_dropout, generator)]
            weight = 1.0 / (1.0 - s.interaction_dropout)
    matrix = weight * adjacency(pairs, packed.n_users, packed.n_items, dtype)
    kept = packed.n_entities if all_entities else packed.n_items
    user, entity, item = model.user, model.entity, model.item if s.dual_item_embeddings else None
    total = [user, entity[:kept], item]
    for number in range(s.layers):
        last = number == s.layers - 1
        knowledge_of_items = entity[: packed.n_items]
        if item is None:
            fused = knowledge_of_items
        elif s.gate:
            gate = torch.sigmoid(item @ model.gate_item[number].T + knowledge_of_items @ model.gate_entity[number].T)
            fused = gate * item + (1.0 - gate) * knowledge_of_items
        else:
            fused = 0.5 * item + 0.5 * knowledge_of_items
        new_user = matrix @ (fused * per_item**-s.degree_exponent) / per_user
        n_heads = kept if last else packed.n_entities
        new_entity = dense_mean(edges[edges[:, 0] < n_heads], entity, model.relation, rule, n_heads)
        new_item = None
        if item is not None:
            new_item = matrix.T @ (user * per_user**-s.degree_exponent)
            if s.formulation == "paper":
                new_item = new_item / per_item
        user = unit_rows(new_user, s.message_dropout, generator)
        entity = unit_rows(new_entity, s.message_dropout, generator)
        item = None if new_item is None else unit_rows(new_item, s.message_dropout, generator)
        total = [None if t is None else t + x for t, x in zip(total, (user, entity[:kept], item), strict=True)]
    return Embeddings(*total)


# --- propagation --------------------------------------------------------------------------------------------------


@switches
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_all_paths_are_the_dense_model(formulation, geometry, gate, dual, layers):
    for path in PATHS:
        model = model_of(
            path, formulation=formulation, geometry=geometry, gate=gate, dual_item_embeddings=dual, layers=layers,
            degree_exponent=(0.0, 0.5, 1.5, 0.25)[layers - 1],
        )  # fmt: skip
        every = layers % 2 == 0  # all entities and items alone in turn
        ours = values_and_gradients(model, model.propagate(all_entities=every))
        theirs = values_and_gradients(model, dense_propagate(model, all_entities=every))
        assert_same(ours, theirs, BOUND[torch.float64])


@switches
def test_all_paths_drop_alike(formulation, geometry, gate, dual):
    """Given the same seed, dropout is that of the dense model: edges, interactions doubled, coordinates."""
    for path in PATHS:
        dtype = torch.float32 if path == "torch" else torch.float64
        model = model_of(
            path, dtype, formulation=formulation, geometry=geometry, gate=gate, dual_item_embeddings=dual, dim=6
        )
        ours = model.propagate(dropout=torch.Generator().manual_seed(9))
        theirs = dense_propagate(model, generator=torch.Generator().manual_seed(9))
        assert_same(values_and_gradients(model, ours), values_and_gradients(model, theirs), BOUND[dtype])


@paths
@pytest.mark.parametrize("curvature", [0.5, 2.0])
@pytest.mark.parametrize("formulation", ["released", "paper"])
@dtypes
def test_curvature_is_that_of_the_settings(path, curvature, formulation, dtype):
    model = model_of(path, dtype, curvature=curvature, formulation=formulation)
    theirs = values_and_gradients(model, dense_propagate(model))
    assert_same(values_and_gradients(model, model.propagate()), theirs, BOUND[dtype])
    flat = model_of(path, dtype, curvature=1.0, formulation=formulation)
    assert error(outputs(flat.propagate()), theirs["output"]) > 1e-3


@paths
@pytest.mark.parametrize(
    ("kg", "interactions", "message"), [(0.0, 0.5, 0.0), (0.5, 0.0, 0.0), (0.0, 0.0, 0.3), (0.9, 0.75, 0.1)]
)
def test_each_rate_acts_by_itself(path, kg, interactions, message):
    model = model_of(path, kg_edge_dropout=kg, interaction_dropout=interactions, message_dropout=message, dim=6)
    ours = model.propagate(dropout=torch.Generator().manual_seed(2))
    theirs = dense_propagate(model, generator=torch.Generator().manual_seed(2))
    assert_same(values_and_gradients(model, ours), values_and_gradients(model, theirs), BOUND[torch.float64])
    assert error(outputs(ours), outputs(model.propagate())) > 1e-3


@paths
def test_dropout_follows_its_generator_alone(path):
    model = model_of(path)
    before = torch.get_rng_state()
    one, other = (outputs(model.propagate(dropout=torch.Generator().manual_seed(1))) for _ in range(2))
    assert torch.equal(one, other)
    source = torch.Generator().manual_seed(1)
    assert torch.equal(outputs(model.propagate(dropout=source)), one)
    assert not torch.equal(outputs(model.propagate(dropout=source)), one)
    assert torch.equal(outputs(model.propagate()), outputs(model.propagate()))
    assert torch.equal(torch.get_rng_state(), before)
    none = model_of(path, kg_edge_dropout=0.0, interaction_dropout=0.0, message_dropout=0.0)
    assert torch.equal(outputs(none.propagate(dropout=source)), outputs(none.propagate()))
    assert torch.equal(outputs(none.propagate()), outputs(model.propagate()))


@paths
@pytest.mark.parametrize("layers", [1, 3])
def test_items_are_the_first_entities(path, layers):
    model = model_of(path, layers=layers)
    items, every = model.propagate(), model.propagate(all_entities=True)
    assert items.entity.shape == (6, 4)
    assert every.entity.shape == (14, 4)
    torch.testing.assert_close(every.entity[:6], items.entity, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(every.user, items.user, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(every.item, items.item, rtol=1e-12, atol=1e-13)


@paths
def test_nodes_without_edges_keep_their_parameters(path):
    model = model_of(path)
    embeddings = model.propagate(all_entities=True)
    assert torch.equal(embeddings.user[0], model.user[0])
    assert torch.equal(embeddings.item[1], model.item[1])
    assert torch.equal(embeddings.entity[9], model.entity[9])


@paths
@pytest.mark.parametrize("n_relations", [0, 2])
@pytest.mark.parametrize("formulation", ["released", "paper"])
@dtypes
def test_a_graph_without_edges_leaves_the_parameters(path, n_relations, formulation, dtype):
    model = model_of(path, dtype, graph=empty_graph(n_relations), formulation=formulation, layers=3)
    for embeddings in (
        model.propagate(all_entities=True),
        model.propagate(all_entities=True, dropout=torch.Generator()),
    ):
        assert torch.equal(embeddings.user, model.user)
        assert torch.equal(embeddings.entity, model.entity)
        assert torch.equal(embeddings.item, model.item)
        for name, gradient in values_and_gradients(model, embeddings).items():
            assert gradient.isfinite().all(), name
    users, items = model.ranking_vectors()
    assert users.isfinite().all()
    assert items.isfinite().all()


@paths
@pytest.mark.parametrize("formulation", ["released", "paper"])
def test_a_layer_before_normalisation(path, formulation):
    """Where means and sums differ: items sum over users as released, average as published; users always average."""
    model = model_of(path, formulation=formulation, interaction_dropout=0.75, kg_edge_dropout=0.0, degree_exponent=0.5)
    matrix = adjacency(GRAPH.interactions, 8, 6, torch.float64)
    per_item = matrix.sum(0).clamp_min(1)[:, None] if formulation == "paper" else 1.0
    of_user, of_item = (matrix.sum(axis).clamp_min(1)[:, None] ** -0.5 for axis in (1, 0))
    fused, sent = of_item * model.fused_items(0, model.entity, model.item), of_user * model.user
    user, entity, item = model.layer(0, model.executor, model.user, model.entity, model.item, 14)
    # Degrees are inverted in float32.
    assert error(user, matrix @ fused / matrix.sum(1).clamp_min(1)[:, None]) < 1e-6
    assert error(item, matrix.T @ sent / per_item) < 1e-6
    edges, relations = GRAPH.edges(), model.relation
    assert error(entity, dense_mean(edges, model.entity, relations, model.rule, 14)) < 1e-12
    # In training, kept interactions are worth 1 / (1 - rate), and degrees are those of the whole graph.
    dropped = model.executor.drop(model._draw_masks(torch.Generator().manual_seed(4)))
    kept = draw_mask(model.packed.interactions.n_edges, 0.75, torch.Generator().manual_seed(4))
    pairs = torch.stack([model.packed.interactions.rows, model.packed.interactions.cols], 1)[kept]
    less = 4.0 * adjacency(pairs, 8, 6, torch.float64)
    user, entity, item = model.layer(0, dropped, model.user, model.entity, model.item, 14, model.updates(worth=4.0))
    assert error(user, less @ fused / matrix.sum(1).clamp_min(1)[:, None]) < 1e-6
    assert error(item, less.T @ sent / per_item) < 1e-6


# --- parts --------------------------------------------------------------------------------------------------------


def test_gate_by_hand():
    model = model_of("torch", dim=2)
    with torch.no_grad():
        model.gate_item[1].copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
        model.gate_entity[1].copy_(torch.tensor([[0.0, 0.0], [3.0, -1.0]]))
    item, entity = torch.zeros(6, 2).double(), torch.zeros(14, 2).double()
    item[0], entity[0] = torch.tensor([1.0, -1.0]), torch.tensor([2.0, 5.0])
    # A v = (1 - 2, 0), B e = (0, 6 - 5).
    gate = torch.sigmoid(torch.tensor([-1.0, 1.0]).double())
    expected = gate * item[0] + (1.0 - gate) * entity[0]
    fused = model.fused_items(1, entity, item)
    assert fused.shape == (6, 2)
    torch.testing.assert_close(fused[0], expected)
    assert torch.equal(model.fused_items(1, entity, None), entity[:6])
    plain = model_of("torch", dim=2, gate=False)
    torch.testing.assert_close(plain.fused_items(0, entity, item)[0], torch.tensor([1.5, 2.0]).double())


@paths
@switches
def test_ranking_vectors_rank_by_the_score(path, formulation, geometry, gate, dual):
    settings = {"formulation": formulation, "geometry": geometry, "gate": gate, "dual_item_embeddings": dual}
    fused = model_of(path, score="fused", **settings)
    separate = model_of(path, score="separate", **settings)
    inner = model_of(path, score="inner", **settings)
    embeddings = fused.propagate()

    def cosines(items):
        return F.cosine_similarity(embeddings.user[:, None], items[None], dim=2)

    entity, item = embeddings.entity, embeddings.item
    together = cosines(entity if item is None else entity + item)
    apart = cosines(entity) if item is None else cosines(entity) + cosines(item)
    # Nothing trains the collaborative embedding of an item without interactions, and this score leaves it out.
    known = (inner.packed.interactions.col_degree > 0).double().unsqueeze(1)
    assert not known.all()
    product = embeddings.user @ (entity if item is None else (entity + known * item) / 2).T
    for model, expected in ((fused, together), (separate, apart), (inner, product)):
        users, items = model.ranking_vectors()
        assert users.shape == (8, 4)
        assert items.shape == (6, 4)
        assert not users.requires_grad
        torch.testing.assert_close(users @ items.T, expected.detach(), rtol=1e-12, atol=1e-13)


# --- parameters ---------------------------------------------------------------------------------------------------


@switches
def test_switches_have_the_parameters_they_need_and_no_others(formulation, geometry, gate, dual):
    model = model_of(
        "torch", formulation=formulation, geometry=geometry, gate=gate, dual_item_embeddings=dual, layers=3
    )
    expected = {"user": (8, 4), "entity": (14, 4), "relation": (6, 4)}
    if dual:
        expected["item"] = (6, 4)
    if dual and gate:
        expected |= {f"gate_{side}.{i}": (4, 4) for side in ("item", "entity") for i in range(3)}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == expected
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    # Every parameter takes part (a relation's rows where it has edges).
    for name, gradient in values_and_gradients(model, model.propagate()).items():
        assert gradient.abs().sum() > 0.0, name


def test_initialisation_is_xavier_uniform_and_follows_the_seed():
    graph = odd_graph()
    settings = HAKGSettings(dim=64)
    first, again, other = (HAKG(graph.heterograph(), settings, seed=seed) for seed in (1, 1, 2))
    for (name, parameter), same, different in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(parameter, same)
        assert not torch.equal(parameter, different)
        limit = (6.0 / sum(parameter.shape)) ** 0.5
        assert 0.9 * limit < parameter.abs().max() <= limit, name
        assert parameter.mean().abs() < 5.0 * limit / (3.0 * parameter.numel()) ** 0.5
    assert not torch.equal(first.gate_item[0], first.gate_entity[0])
    assert not torch.equal(first.gate_item[0], first.gate_item[1])


def test_a_switch_leaves_the_other_parameters_as_drawn():
    """Each parameter has a random stream of its own."""
    full, plain = model_of("torch", layers=3), model_of("torch", layers=1, gate=False, dual_item_embeddings=False)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, dict(full.named_parameters())[name])


@needs_dgl
@pytest.mark.parametrize("path", PATHS)
def test_either_kind_of_graph_will_do(path):
    """With eleven relations, whose names sort differently from their numbers."""
    graph = odd_graph()
    settings = HAKGSettings(dim=4, layers=3, linear_weight=0.0, facts_weight=0.0, kernels=path)
    own = HAKG(graph.heterograph(), settings, seed=3, dtype=torch.float64)
    dgls = HAKG(to_dgl(graph.heterograph()), settings, seed=3, dtype=torch.float64)
    assert_same(
        values_and_gradients(own, own.propagate()),
        values_and_gradients(dgls, dgls.propagate()),
        1e-13,
    )


def test_weights_are_exchanged_between_paths():
    """With eleven relations, whose names sort differently from their numbers."""
    models = [model_of(path, graph=odd_graph()) for path in PATHS]
    state = {name: torch.randn_like(value) * 0.3 for name, value in models[0].state_dict().items()}
    results = []
    for model in models:
        model.load_state_dict(state)
        results.append(values_and_gradients(model, model.propagate()))
    for result in results[1:]:
        assert_same(result, results[0], 1e-10)


@needs_dgl
def test_the_callers_graph_carries_nothing_afterwards():
    heterograph = to_dgl(GRAPH.heterograph())
    model = HAKG(heterograph, HAKGSettings(dim=4, kernels="readable"))
    outputs(model.propagate(dropout=torch.Generator())).sum().backward()
    assert not any(heterograph.nodes[node].data for node in heterograph.ntypes)
    assert not any(heterograph.edges[etype].data for etype in heterograph.canonical_etypes)
