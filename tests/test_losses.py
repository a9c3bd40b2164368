"""Both losses against dense evaluations and by hand, gradients included."""

import dataclasses
import math

import pytest
import torch
from dense import DTYPES, Graph, error, gradients, make_rule, odd_graph, on_one_thread, random_table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional as F
from with_dgl import BACKENDS_HERE, backend_objects

from hakg_dgl.geometry import cones
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.layers.embeddings import Embeddings
from hakg_dgl.layers.losses import (
    COUNT_FLOOR,
    AngleLoss,
    contrastive_loss,
    hinge_over_negatives,
    item_attribute_pairs,
    with_attribute_pairs,
)

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)

backends = pytest.mark.parametrize("backend", backend_objects())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
quick = settings(max_examples=30, deadline=None, derandomize=True)
TORCH = choose_backend("torch")


def bound(dtype):
    return 1e-5 if dtype == torch.float32 else 1e-12


def unit(rows, dim, dtype, seed):
    return F.normalize(random_table(rows, dim, dtype, seed, zero=False), dim=1)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours, theirs, *inputs):
    assert ours.dtype == theirs.dtype
    assert error(ours, theirs) < bound(theirs.dtype)
    for a, b in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        assert error(a, b) < 4.0 * bound(theirs.dtype)


# --- hinge over negatives -----------------------------------------------------------------------------------------


def dense_hinge(x, z, negatives, margin):
    """Row by row, negative by negative; the count is not a function of the inputs."""
    totals = []
    for row, chosen in zip(x, negatives, strict=True):
        cosines = torch.stack([row @ z[j] for j in chosen])
        active = int((cosines > margin).sum())
        totals.append((cosines - margin).clamp_min(0.0).sum() / (1e-5 + active))
    return torch.stack(totals)


@backends
@dtypes
@pytest.mark.parametrize("margin", [-1.5, -0.2, 0.3, 1.5], ids=["all active", "many", "few", "none"])
def test_hinge_agrees_with_a_loop(backend, dtype, margin):
    """Duplicates among negatives count each time; row 2 has one negative only, again and again."""
    x, z = unit(6, 4, dtype, 1).requires_grad_(), unit(9, 4, dtype, 2).requires_grad_()
    negatives = integers(9, 6, 12)
    negatives[2] = 5
    ours, theirs = hinge_over_negatives(backend, x, z, negatives, margin), dense_hinge(x, z, negatives, margin)
    assert_same(ours, theirs, x, z)
    active = int(((x @ z.T).gather(1, negatives) > margin).sum())
    assert (active == 72) == (margin == -1.5)
    assert (active == 0) == (margin == 1.5)
    if active == 0:
        assert torch.equal(ours, torch.zeros_like(ours))
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(ours, x, z))


@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(1, 4), st.floats(-1, 1), st.integers(0, 999)
)
@quick
def test_hinge_of_any_shape(n_rows, n_items, n_negatives, dim, margin, seed):
    x, z = (
        unit(n_rows, dim, torch.float64, seed).requires_grad_(),
        unit(n_items, dim, torch.float64, 7).requires_grad_(),
    )
    negatives = integers(n_items, n_rows, n_negatives, seed=seed)
    if ((x @ z.T).gather(1, negatives) - margin).abs().min() < 1e-9:
        return  # on the margin, rounding decides
    for name in BACKENDS_HERE:
        ours = hinge_over_negatives(choose_backend(name), x, z, negatives, margin)
        assert_same(ours, dense_hinge(x, z, negatives, margin), x, z)


@backends
def test_hinge_gradients_by_finite_differences(backend):
    x, z = unit(3, 3, torch.float64, 1).requires_grad_(), unit(4, 3, torch.float64, 2).requires_grad_()
    negatives = integers(4, 3, 6)
    assert gradcheck(lambda a, b: hinge_over_negatives(backend, a, b, negatives, 0.1), (x, z))


def test_hinge_by_hand():
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    value = hinge_over_negatives(TORCH, x, z, torch.tensor([[0, 1, 1, 2]]), 0.5)
    # Excesses 0.5, 0.1, 0.1 of three active negatives.
    assert value.item() == pytest.approx(0.7 / (COUNT_FLOOR + 3.0))


@pytest.mark.parametrize("n_items", [1 << 16, (1 << 16) + 3])
def test_hinge_over_large_catalogues(n_items):
    """Items are grouped by numbers of 16 bits where these suffice."""
    x, z = unit(3, 4, torch.float64, 1).requires_grad_(), unit(n_items, 4, torch.float64, 2).requires_grad_()
    negatives = torch.tensor([[0, n_items - 1, 70], [n_items - 1, n_items - 1, 32768], [5, 32767, 5]])
    assert_same(hinge_over_negatives(TORCH, x, z, negatives, -1.5), dense_hinge(x, z, negatives, -1.5), x, z)


# --- contrastive --------------------------------------------------------------------------------------------------


def dense_contrastive(embeddings, users, positives, negatives, margin):
    total = 0.0
    tables = [table for table in (embeddings.entity, embeddings.item) if table is not None]
    for user, positive, chosen in zip(users, positives, negatives, strict=True):
        u = embeddings.user[user]

        def cosine(z, u=u):
            return (u @ z) / (u.norm() * z.norm())

        term = (len(tables) - sum(cosine(table[positive]) for table in tables)).clamp_min(0.0)
        for table in tables:
            cosines = torch.stack([cosine(table[j]) for j in chosen])
            term = term + (cosines - margin).clamp_min(0.0).sum() / (1e-5 + int((cosines > margin).sum()))
        total = total + term
    return total / len(users)


@backends
@dtypes
@pytest.mark.parametrize("dual", [True, False])
def test_contrastive_loss_agrees_with_a_loop(backend, dtype, dual):
    """Users and positives repeat in the batch; entities beyond the items take no part."""
    tables = [random_table(n, 4, dtype, n, zero=False).requires_grad_() for n in (5, 9, 7)]
    embeddings = Embeddings(tables[0], tables[1], tables[2] if dual else None)
    inputs = tables if dual else tables[:2]
    batch = (torch.tensor([0, 3, 3, 1]), torch.tensor([6, 2, 2, 0]), integers(7, 4, 10))
    ours = contrastive_loss(backend, embeddings, *batch, 0.2)
    assert ours.shape == ()
    assert_same(ours, dense_contrastive(embeddings, *batch, 0.2), *inputs)
    (gradient,) = torch.autograd.grad(ours, tables[1])
    assert torch.equal(gradient[7:], torch.zeros_like(gradient[7:]))


def test_contrastive_loss_of_two_users_by_hand():
    """User 0 lies on its positive; user 1 is at right angles to its own, and along its negative."""
    user = torch.tensor([[2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    entity = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    item = torch.tensor([[3.0, 4.0], [4.0, 3.0]], dtype=torch.float64)
    users, positives, negatives = torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([[1, 1], [1, 1]])
    count = 2.0 / (1e-5 + 2.0)
    # User 0: cosines 1 and 0.6 to item 0, 0 and 0.8 to item 1. User 1: 0 and 0.8 to item 0, 1 and 0.6 to item 1.
    first = (2.0 - 1.6) + count * (0.8 - 0.5)
    second = (2.0 - 0.8) + count * ((1.0 - 0.5) + (0.6 - 0.5))
    loss = contrastive_loss(TORCH, Embeddings(user, entity, item), users, positives, negatives, 0.5)
    assert loss.item() == pytest.approx((first + second) / 2.0, rel=1e-12)
    single = contrastive_loss(TORCH, Embeddings(user, entity, None), users, positives, negatives, 0.5)
    assert single.item() == pytest.approx(((1.0 - 1.0) + (1.0 - 0.0) + count * 0.5) / 2.0, rel=1e-12)


@dtypes
def test_zero_embeddings_give_finite_losses(dtype):
    tables = [torch.zeros(3, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    batch = (torch.tensor([0, 1]), torch.tensor([0, 1]), integers(3, 2, 5))
    loss = contrastive_loss(TORCH, Embeddings(*tables), *batch, 0.5)
    assert loss.item() == 2.0
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, tables))


# --- item-attribute pairs -----------------------------------------------------------------------------------------


def brute_pairs(graph, relations):
    """(item, attribute) of each triple with exactly one end an item, whichever end that is."""
    found = []
    for head, relation, tail in graph.triples.tolist():
        if relations is not None and relation not in relations:
            continue
        if (head < graph.n_items) != (tail < graph.n_items):
            found.append((min(head, tail), max(head, tail)))
    return sorted(found)


@given(st.integers(0, 500), st.none() | st.sets(st.integers(0, 10)))
@quick
def test_pairs_are_those_of_the_triples(seed, relations):
    graph = odd_graph(seed, n_triples=seed % 60)
    chosen = None if relations is None else torch.tensor(sorted(relations), dtype=torch.int64)
    pattern = item_attribute_pairs(graph.packed().knowledge, graph.n_items, chosen)
    assert sorted(zip(pattern.rows.tolist(), pattern.cols.tolist(), strict=True)) == brute_pairs(graph, relations)
    assert (pattern.n_rows, pattern.n_cols) == (graph.n_items, graph.n_entities)
    assert pattern.rows.tolist() == sorted(pattern.rows.tolist())
    assert pattern.row_degree.tolist() == torch.bincount(pattern.rows, minlength=graph.n_items).tolist()


def test_the_item_may_be_the_tail():
    triples = torch.tensor([[0, 0, 3], [4, 1, 1], [0, 0, 1], [3, 0, 4], [3, 1, 0]])  # items 0, 1; attributes 2, 3, 4
    knowledge = Graph(torch.empty(0, 2).long(), triples, 1, 2, 5, 2).packed().knowledge
    every = item_attribute_pairs(knowledge, 2)
    assert sorted(zip(every.rows.tolist(), every.cols.tolist(), strict=True)) == [(0, 3), (0, 3), (1, 4)]
    one = item_attribute_pairs(knowledge, 2, torch.tensor([1]))
    assert sorted(zip(one.rows.tolist(), one.cols.tolist(), strict=True)) == [(0, 3), (1, 4)]
    assert item_attribute_pairs(knowledge, 2, torch.tensor([], dtype=torch.int64)).n_edges == 0


# --- angle --------------------------------------------------------------------------------------------------------

ANGLE_RULES = [
    (formulation, geometry, c)
    for formulation in ("released", "paper")
    for geometry, c in (("poincare", 1.0), ("poincare", 0.5), ("poincare", 2.0), ("euclidean", 1.0))
]
angle_rules = pytest.mark.parametrize(("formulation", "geometry", "c"), ANGLE_RULES)
directions = pytest.mark.parametrize("direction", ["both", "attribute"])


def excess(apex, point, geometry, c, aperture):
    """relu(angle - half aperture), by vectors, one pair, unguarded: the angle at the apex as Ganea et al. write it."""
    if geometry == "euclidean":
        opening = torch.asin((aperture / apex.norm()).clamp_max(1.0))
        cosine = (point - apex) @ apex / ((point - apex).norm() * apex.norm())
        return (torch.acos(cosine) - opening).clamp_min(0.0)
    x, y = math.sqrt(c) * apex, math.sqrt(c) * point
    xx, yy, xy = x @ x, y @ y, x @ y
    opening = torch.asin((aperture * (1.0 - xx) / x.norm()).clamp_max(1.0))
    below = x.norm() * (x - y).norm() * (1.0 + xx * yy - 2.0 * xy).sqrt()
    return (torch.acos((xy * (1.0 + xx) - xx * (1.0 + yy)) / below) - opening).clamp_min(0.0)


def dense_angle(pairs, entity, rule, direction, aperture):
    points = rule.point(entity) if (rule.formulation, rule.geometry) == ("paper", "poincare") else entity
    terms = []
    for item, attribute in zip(pairs.rows.tolist(), pairs.cols.tolist(), strict=True):
        ends = [(attribute, item)] + ([(item, attribute)] if direction == "both" else [])
        terms += [excess(points[a], points[p], rule.geometry, rule.curvature, aperture) for a, p in ends]
    return torch.stack(terms).mean()


def angle_setup(formulation, geometry, c, dtype=torch.float64, **options):
    """The odd graph's pairs, and entities well within the ball of every curvature and off every guard."""
    graph, rule = odd_graph(n_triples=60), make_rule(formulation, geometry, c, dtype)
    pairs = item_attribute_pairs(graph.packed().knowledge, graph.n_items)
    generator = torch.Generator().manual_seed(3)
    entity = random_table(graph.n_entities, 5, torch.float64, 4, zero=False)
    lengths = 0.25 + 0.35 * torch.rand(graph.n_entities, 1, generator=generator, dtype=torch.float64)
    entity = (F.normalize(entity, dim=1) * lengths).to(dtype).requires_grad_()
    return AngleLoss(pairs, rule, **options), entity


@backends
@angle_rules
@directions
@dtypes
def test_angle_loss_agrees_with_vectors(backend, formulation, geometry, c, direction, dtype):
    """Guards add 1e-6 to the angle's denominator, so agreement is to a few 1e-5."""
    loss, entity = angle_setup(formulation, geometry, c, dtype, direction=direction)
    ours = loss(backend, entity, None)
    theirs = dense_angle(loss.pairs, entity, loss.rule, direction, 0.1)
    assert ours.shape == ()
    assert ours.item() > 0.1
    assert error(ours, theirs) < 3e-5
    (mine,), (other,) = gradients(ours, entity), gradients(theirs, entity)
    assert error(mine, other) < 3e-4


@angle_rules
@directions
def test_angle_loss_agrees_with_the_cones_exactly(formulation, geometry, c, direction):
    """Every pair by the functions of the cones, guards included."""
    loss, entity = angle_setup(formulation, geometry, c, direction=direction, aperture=0.15)
    point = loss.rule.point(entity) if (formulation, geometry) == ("paper", "poincare") else entity
    item, attribute = point[loss.pairs.rows], point[loss.pairs.cols]
    if geometry == "poincare":
        item, attribute = math.sqrt(c) * item, math.sqrt(c) * attribute
        opening, angle = cones.half_aperture, cones.cone_angle
    else:
        opening, angle = cones.euclidean_half_aperture, cones.euclidean_cone_angle

    def relu(apex, other):
        square, dot = apex.square().sum(1), (apex * other).sum(1)
        return (angle(square, other.square().sum(1), dot) - opening(square, aperture=0.15)).clamp_min(0.0)

    terms = relu(attribute, item)
    if direction == "both":
        terms = torch.cat([terms, relu(item, attribute)])
    assert_same(loss(TORCH, entity, None), terms.mean(), entity)


@backends
@angle_rules
@directions
def test_pairs_of_attributes_in_any_order_are_pairs_like_others(backend, formulation, geometry, c, direction):
    loss, entity = angle_setup(formulation, geometry, c, direction=direction)
    children, parents = torch.tensor([13, 8, 10, 8]), torch.tensor([7, 13, 6, 11])
    pairs = with_attribute_pairs(loss.pairs, children, parents)
    edges = set(zip(pairs.rows.tolist(), pairs.cols.tolist(), strict=True))
    assert set(zip(children.tolist(), parents.tolist(), strict=True)) < edges
    assert (pairs.n_edges, pairs.n_rows, pairs.n_cols) == (loss.pairs.n_edges + 4, 14, 14)
    more = AngleLoss(pairs, loss.rule, direction=direction)
    ours, theirs = more(backend, entity, None), dense_angle(pairs, entity, loss.rule, direction, 0.1)
    assert error(ours, theirs) < 3e-5
    (mine,), (other,) = gradients(ours, entity), gradients(theirs, entity)
    assert error(mine, other) < 3e-4


def test_direction_of_the_cone_by_hand():
    """An item behind its attribute costs nothing with the attribute as apex; the other way it costs about pi."""
    triples = torch.tensor([[0, 0, 1]])
    pairs = item_attribute_pairs(Graph(torch.empty(0, 2).long(), triples, 1, 1, 2, 1).packed().knowledge, 1)
    entity = torch.tensor([[0.6, 0.0], [0.3, 0.0]], dtype=torch.float64)  # item further out on the same ray
    rule = make_rule("released", "poincare", 1.0, torch.float64)
    attribute = AngleLoss(pairs, rule, "attribute")(TORCH, entity, None)
    both = AngleLoss(pairs, rule, "both")(TORCH, entity, None)
    opening = math.asin(0.1 * (1.0 - 0.36) / 0.6)
    assert attribute.item() == 0.0
    # The angle there is pi but for the guard, which keeps the cosine 1e-6 from -1: arccos is 1.4e-3 short.
    assert both.item() == pytest.approx((math.pi - opening) / 2.0, abs=2e-3)


def test_angle_gradients_by_finite_differences():
    loss, entity = angle_setup("paper", "poincare", 1.0)
    assert gradcheck(lambda e: loss(TORCH, e, None), (entity,), fast_mode=True)
    loss, entity = angle_setup("released", "euclidean", 1.0)
    assert gradcheck(lambda e: loss(TORCH, e, None), (entity,), fast_mode=True)


@pytest.mark.parametrize("mask", ["step", "edge"])
@directions
def test_no_pairs_no_loss(mask, direction):
    graph = odd_graph()
    pairs = item_attribute_pairs(graph.packed().knowledge, graph.n_items, torch.tensor([1]))  # without edges
    assert pairs.n_edges == 0
    rule = make_rule("released", "poincare", 1.0, torch.float32)
    entity = random_table(14, 4, torch.float32, 1).requires_grad_()
    loss = AngleLoss(pairs, rule, direction, mask=mask)(TORCH, entity, torch.Generator())
    assert loss.item() == 0.0
    assert loss.dtype == torch.float32


# --- the angle loss's coordinate masks ----------------------------------------------------------------------------


def test_step_mask_is_the_loss_of_entities_without_these_coordinates():
    loss, entity = angle_setup("paper", "poincare", 1.0, dropout=0.5)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        keep = (torch.rand(5, generator=torch.Generator().manual_seed(seed)) >= 0.5).double()
        assert_same(loss(TORCH, entity, generator), loss(TORCH, entity * keep, None), entity)


@angle_rules
@directions
def test_edge_mask_is_the_mean_of_single_pairs_without_their_coordinates(formulation, geometry, c, direction):
    loss, entity = angle_setup(formulation, geometry, c, direction=direction, mask="edge", dropout=0.4)
    keep = torch.rand(loss.pairs.n_edges, 5, generator=torch.Generator().manual_seed(3)) >= 0.4
    terms = []
    for number, (item, attribute) in enumerate(zip(loss.pairs.rows, loss.pairs.cols, strict=True)):
        triples = torch.tensor([[0, 0, 1]])
        single = item_attribute_pairs(Graph(torch.empty(0, 2).long(), triples, 1, 1, 2, 1).packed().knowledge, 1)
        pair = entity[torch.stack([item, attribute])] * keep[number]
        terms.append(dataclasses.replace(loss, pairs=single)(TORCH, pair, None))
    ours = loss(TORCH, entity, torch.Generator().manual_seed(3))
    assert_same(ours, torch.stack(terms).mean(), entity)


@pytest.mark.parametrize("mask", ["step", "edge"])
def test_masks_have_their_rate_follow_the_generator_and_can_be_off(mask):
    """Kept squared length, over many draws, is 1 - rate of the whole: counted through the loss's own inputs."""
    loss, entity = angle_setup("released", "poincare", 1.0, mask=mask, dropout=0.3)
    first, again = (loss(TORCH, entity, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    source = torch.Generator().manual_seed(1)
    assert not torch.equal(loss(TORCH, entity, source), loss(TORCH, entity, source))
    whole = loss(TORCH, entity, None)
    assert not torch.equal(first, whole)
    off = dataclasses.replace(loss, dropout=0.0)
    source = torch.Generator().manual_seed(1)
    assert torch.equal(off(TORCH, entity, source), whole)
    assert torch.equal(source.get_state(), torch.Generator().manual_seed(1).get_state())
    shape = (5,) if mask == "step" else (4000, 5)
    source, draws = torch.Generator().manual_seed(2), 4000 if mask == "step" else 1
    kept = torch.cat([loss._kept(shape, source).reshape(-1) for _ in range(draws)])
    assert set(kept.tolist()) == {False, True}
    assert abs(float(kept.float().mean()) - 0.7) < 5.0 * math.sqrt(0.3 * 0.7 / kept.numel())


def test_both_masks_agree_in_the_mean():
    """A coordinate is left out of a pair as often either way, so the expected loss is the same."""
    means = {}
    for mask in ("step", "edge"):
        loss, entity = angle_setup("released", "poincare", 1.0, mask=mask, dropout=0.5)
        source = torch.Generator().manual_seed(5)
        with torch.no_grad():
            values = torch.stack([loss(TORCH, entity, source) for _ in range(1500)])
        means[mask] = (float(values.mean()), float(values.std()) / math.sqrt(len(values)))
    spread = math.hypot(means["step"][1], means["edge"][1])
    assert abs(means["step"][0] - means["edge"][0]) < 5.0 * spread
    assert means["edge"][1] < means["step"][1]  # drawn once a step, all pairs move together


@dtypes
@angle_rules
@pytest.mark.parametrize("mask", ["step", "edge"])
def test_values_and_gradients_are_finite_in_degenerate_positions(dtype, formulation, geometry, c, mask):
    """Equal, opposite and zero ends, ends beyond the ball, everything masked."""
    triples = torch.tensor([[item, 0, attribute] for item in range(5) for attribute in range(5, 9)])
    pairs = item_attribute_pairs(Graph(torch.empty(0, 2).long(), triples, 1, 5, 9, 1).packed().knowledge, 5)
    x = torch.tensor([0.3, -0.2, 0.1, 0.4])
    rows = [x, -x, torch.zeros(4), 20.0 * x, 1e-12 * x, x, 2.0 * x, torch.zeros(4), -30.0 * x]
    entity = torch.stack(rows).to(dtype).requires_grad_()
    loss = AngleLoss(pairs, make_rule(formulation, geometry, c, dtype), mask=mask, dropout=0.9)
    for source in (None, torch.Generator().manual_seed(0)):
        value = loss(TORCH, entity, source)
        assert value.isfinite()
        assert torch.autograd.grad(value, entity)[0].isfinite().all()
