"""All layers of HAKG at once in Triton's kernels against PyTorch's layer by layer, with the same random words."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined, so before they are imported
pytest.importorskip("triton", reason="Triton is not installed: python -m pip install 'triton>=3.4'")

from dense import error, odd_graph, on_one_thread
from gpu_code import CAPABILITIES, compiled

from hakg_dgl.graph.edge_types import INTERACTED_BY, INTERACTS
from hakg_dgl.kernels.propagation import Chance
from hakg_dgl.kernels.triton_kernels import edge_lists
from hakg_dgl.kernels.triton_kernels.edge_lists import EdgeLists, Group
from hakg_dgl.layers.dropout import draw_mask, draw_words
from hakg_dgl.layers.propagation_form import propagation_form
from hakg_dgl.layers.updates import Attention, Copy
from hakg_dgl.models.hakg import HAKG, HAKGSettings

one_thread = pytest.fixture(autouse=True, scope="module")(on_one_thread)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-11}


def model_of(kernels: str, dtype: torch.dtype = torch.float32, **settings: Any) -> HAKG:
    graph = odd_graph(n_triples=1, n_relations=3).heterograph().to(DEVICE)
    few = {"dim": 4, "layers": 2, "kernels": kernels}
    return HAKG(graph, HAKGSettings(**few | settings), seed=3, dtype=dtype)


def propagated(model: HAKG, *, trains: bool, all_entities: bool) -> list[torch.Tensor]:
    """Sums, gradients of the parameters, and the state of the generator of dropout."""
    generator = torch.Generator(DEVICE).manual_seed(5)
    found = model.propagate(all_entities=all_entities, dropout=generator if trains else None)
    sums = [x for x in (found.user, found.entity, found.item) if x is not None]
    total = sum((x * torch.linspace(-1, 9, x.numel()).to(x).view_as(x).sin()).sum() for x in sums)
    gradients = torch.autograd.grad(total, list(model.parameters()))  # type: ignore[arg-type]
    return [*(x.detach() for x in sums), *gradients, generator.get_state().double()]


@pytest.mark.parametrize(
    ("settings", "dtype", "trains", "all_entities"),
    [
        ({"layers": 1}, torch.float32, True, False),
        ({"dual_item_embeddings": False, "layers": 1}, torch.float64, False, True),
        pytest.param({}, torch.float32, True, False, marks=pytest.mark.slow),
        pytest.param({"dim": 20, "layers": 3}, torch.float64, False, True, marks=pytest.mark.slow),
        pytest.param({"dual_item_embeddings": False}, torch.float64, True, False, marks=pytest.mark.slow),
        pytest.param({"gate": False, "degree_exponent": 0.0}, torch.float64, True, True, marks=pytest.mark.slow),
        pytest.param({"geometry": "euclidean"}, torch.float32, True, False, marks=pytest.mark.slow),
        pytest.param({"formulation": "released", "curvature": 0.5}, torch.float64, True, False,
                     marks=pytest.mark.slow),
        pytest.param({"kg_edge_dropout": 0.0, "message_dropout": 0.0}, torch.float64, True, False,
                     marks=pytest.mark.slow),
        pytest.param({"interaction_dropout": 0.0}, torch.float64, True, False, marks=pytest.mark.slow),
        pytest.param({"dim": 130, "layers": 1}, torch.float32, True, False, marks=pytest.mark.slow),
    ],
    ids=str,
)  # fmt: skip
def test_all_layers_at_once_are_layer_by_layer(
    settings: dict[str, Any], dtype: torch.dtype, trains: bool, all_entities: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in several pieces included; the same edges and coordinates are dropped."""
    monkeypatch.setattr(edge_lists, "HEAD_PIECE", 5)
    monkeypatch.setattr(edge_lists, "ROW_PIECE", 3)
    model, expected = model_of("triton", dtype, **settings), model_of("torch", dtype, **settings)
    ours = propagated(model, trains=trains, all_entities=all_entities)
    assert model._form is not None
    assert model._form[1] is not None
    theirs = propagated(expected, trains=trains, all_entities=all_entities)
    assert expected._form is None
    found = [error(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    assert max(found) < CLOSE[dtype], found


def test_the_words_of_several_draws_are_those_of_one() -> None:
    one, other = (torch.Generator().manual_seed(4) for _ in range(2))
    uses = [(10, 0.5), (7, 0.0), (5, 0.25), (0, 0.5), (9, 1e-7)]
    words, starts, limits = draw_words(uses, one)
    for (n, rate), start, limit in zip(uses, starts, limits, strict=True):
        mask = draw_mask(n, rate, other)
        if mask is not None:
            assert torch.equal(words[start : start + n] >= limit, mask)
    assert limits[1] == limits[4] == -(1 << 15)
    assert torch.equal(one.get_state(), other.get_state())


def kept_in(lists: EdgeLists, group: Group) -> list[list[int]]:
    """The kept edges of each row of a group."""
    counts = [0, *lists.counts.tolist()]
    places = [counts[place] for place in lists.bounds.tolist()]
    first = group.first.tolist()
    return [lists.order[places[a] : places[b]].tolist() for a, b in pairwise(first)]


def test_lists_hold_the_kept_edges_of_each_end_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_lists, "HEAD_PIECE", 4)
    monkeypatch.setattr(edge_lists, "ROW_PIECE", 3)
    packed = odd_graph(n_triples=6).packed(DEVICE)
    facts, interactions = packed.knowledge, packed.interactions
    sizes = facts.n_edges, interactions.n_edges
    uses = [(sizes[0], 0.5), (sizes[1], 0.25)]
    words, starts, limits = draw_words(uses, torch.Generator(DEVICE).manual_seed(1))
    masks = [(words[s : s + n] >= limit).tolist() for s, n, limit in zip(starts, sizes, limits, strict=True)]
    whole = EdgeLists.of(interactions, facts)
    lists = whole.drop(Chance(words, tuple(starts), (*limits, -(1 << 15))))  # type: ignore[arg-type]
    assert whole.drop(Chance(words, tuple(starts), (-(1 << 15),) * 3)) is whole
    ends = (
        (whole.users, interactions.rows, 1), (whole.items, interactions.cols, 1), (whole.heads, facts.pairs.rows, 0),
        (whole.tails, facts.pairs.cols, 0), (whole.relations, facts.relation, 0),
    )  # fmt: skip
    for group, end, which in ends:
        numbers = end.tolist()
        every = [[e for e, row in enumerate(numbers) if row == r] for r in range(len(group.first) - 1)]
        assert kept_in(whole, group) == every
        assert kept_in(lists, group) == [[e for e in edges if masks[which][e]] for edges in every]
    heads = facts.pairs.rows.tolist()
    for group, last in ((whole.tails, whole.last_tails), (whole.relations, whole.last_relations)):
        of_items = [[e for e in edges if heads[e] < packed.n_items] for edges in kept_in(lists, group)]
        assert kept_in(lists, last) == of_items


def test_layers_of_other_functions_have_no_form() -> None:
    model = model_of("torch")
    updates, graph = model.updates(), model.graph
    form = propagation_form(graph, updates)
    assert form is not None
    assert form.item_scale is not None
    etype = graph.relation_types[0]
    logits = torch.zeros(graph.num_edges(etype))
    changes: tuple[dict[Any, Any], ...] = (
        {etype: Attention(logits)}, {etype: updates[graph.relation_types[1]]}, {INTERACTS: Copy(reduce="mean")},
        {INTERACTED_BY: Copy(factor=2.0)},
    )  # fmt: skip
    for change in changes:
        assert propagation_form(graph, {**updates, **change}) is None


COMPILE = """
import triton.language as tl
from hakg_dgl.kernels.triton_kernels import aggregation, edge_lists, layer_rows, layer_sums, products

integers = "tails order counts bounds piece_row cols kinds rows heads outer n_outer first last tail_first"
types = dict.fromkeys([*integers.split(), "last_first", "flags"], "*i32") | {"words": "*i16"}
sizes = "n n_interactions n_rows n_sums users entities dim piece n_by_row base_by_row base_by_col before before_last"
sizes += " n_each n_layers n_heads tail_piece n_tails relation_piece tails_lie n_mixed"
types |= dict.fromkeys(sizes.split(), "i32")
types |= dict.fromkeys("interaction_words fact_words user_words item_words entity_words".split(), "i64")
DIM = 128
tile = aggregation.tile_of_messages(DIM, 20)
messages = dict(WIDEN=True, CURVATURE=1.0, PAPER=True, FLAT=False, LIMIT=0.996, ROWS=tile.rows)
shape = products.tile_shape(DIM, 1024)
rows = dict(ROWS=shape.rows, SCALED=True, ABOVE=True, BELOW=True, COPIED=True, DROPS=True)
edges = dict(INTERACTIONS=0, FACTS=0, BLOCK=1024)

def compile(kernel, warps, **constants):
    build(kernel, types, warps=warps, **{"DIMS": DIM, "SUM": tl.float32, "LIMIT": -9} | constants)

for kernel in (edge_lists._mark_kernel, edge_lists._move_kernel):
    compile(kernel, 4, **edges)
for kernel in (layer_rows.finish_kernel, layer_rows.collect_kernel, layer_rows.piece_kernel, layer_sums.copy_kernel,
               layer_sums.relation_kernel):
    compile(kernel, 4, **rows)
for kernel in (layer_sums.head_kernel, layer_sums.outer_head_kernel, layer_sums.head_gradient_kernel,
               layer_sums.outer_head_gradient_kernel, layer_sums.share_kernel):
    compile(kernel, tile.warps, **messages)
"""


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="the other tests compile")
def test_kernels_compile_for_a_gpu_that_is_not_there_and_fit_into_registers(tmp_path: Path) -> None:
    found = compiled(COMPILE, tmp_path)
    assert len(found) == 12 * len(CAPABILITIES)
    in_float64 = "outer_head_gradient_kernel"  # of the few heads near the edge of the ball; its formulas are long
    assert {each.kernel for each in found if each.stack} <= {in_float64}
