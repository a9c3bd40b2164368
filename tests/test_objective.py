"""What a step minimises, and which random stream each part of it draws from."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.hierarchy import attribute_tree, hierarchical_relations, relation_table
from hakg_dgl.errors import ConfigError
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.layers.losses import contrastive_loss, softmax_loss
from hakg_dgl.models.hakg.objective import STREAMS, Objective, relation_ids
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import BATCHES, Trainee


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo()


def objective(dataset: Dataset, **overrides: Any) -> Objective:
    settings = small_settings(dtype="float64", **overrides)
    splits = settings.training.training_splits
    objective = Trainee(dataset, settings, torch.device("cpu"), splits).passes[0].loss
    assert isinstance(objective, Objective)
    return objective


def batch(dataset: Dataset, n: int = 100) -> tuple[Tensor, Tensor]:
    users, items = torch.from_numpy(dataset.pairs("train")[:n]).T
    return users, items


def states(of: Objective) -> dict[str, Tensor]:
    return {name: generator.get_state() for name, generator in of.generators.items()}


def drawn_from(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_loss_is_the_sum_of_both_losses_on_draws_of_their_own_streams(demo: Dataset) -> None:
    sut = objective(demo, ranking_loss="hinge", angle_weight=0.3, gate_l2=0.0)
    users, items = batch(demo)
    negatives, dropout, angle = (torch_generator(2020, name) for name in ("negatives", "dropout", "angle"))
    drawn = sut.sampler.sample(users, 10, negatives)
    embeddings = sut.network.propagate(dropout=dropout)
    contrastive = contrastive_loss(sut.backend, embeddings, users, items, drawn, 0.6)
    cones = sut.angle(sut.backend, sut.network.entity, angle)
    assert bool(cones > 0)
    torch.testing.assert_close(sut(users, items), contrastive + 0.3 * cones, rtol=1e-12, atol=0)


@pytest.mark.parametrize("candidates", [20, 4096])
def test_the_softmax_is_over_a_sample_of_the_items_or_all(demo: Dataset, candidates: int) -> None:
    sut = objective(demo, angle_weight=0.0, candidates=candidates, temperature=0.5, gate_l2=0.0)
    users, items = batch(demo)
    user, item = sut.network.score_vectors(sut.network.propagate(dropout=torch_generator(2020, "dropout")))
    sample = None
    if candidates < demo.n_items:
        sample = torch.randperm(demo.n_items, generator=torch_generator(2020, "negatives"))[:candidates]
    indptr, known = (torch.tensor(ids) for ids in demo.positives("train"))
    expected = softmax_loss(user, item, users, items, (indptr, known), candidates=sample, temperature=0.5)
    torch.testing.assert_close(sut(users, items), expected, rtol=1e-12, atol=0)


def test_a_step_draws_from_its_streams_alone(demo: Dataset) -> None:
    users, items = batch(demo)
    everything = torch.get_rng_state()
    for overrides, used in (
        ({"ranking_loss": "hinge"}, {"negatives", "dropout", "angle"}),
        ({}, {"dropout", "angle"}),  # all items are candidates
        ({"candidates": 10}, {"negatives", "dropout", "angle"}),
        ({"angle_weight": 0.0}, {"dropout"}),
        ({"angle_dropout": 0.0}, {"dropout"}),
        ({"kg_edge_dropout": 0.0, "interaction_dropout": 0.0, "message_dropout": 0.0}, {"angle"}),
    ):
        sut = objective(demo, **overrides)
        before = states(sut)
        assert set(before) == {BATCHES, *STREAMS}
        sut(users, items)
        assert drawn_from(before, states(sut)) == used
    assert torch.equal(everything, torch.get_rng_state())


def test_the_number_of_negatives_leaves_all_other_draws_alone(demo: Dataset) -> None:
    few, many = (objective(demo, ranking_loss="hinge", negatives=n) for n in (3, 40))
    for one, other in zip(few.network.parameters(), many.network.parameters(), strict=True):
        assert torch.equal(one, other)
    for _ in range(2):
        few(*batch(demo))
        many(*batch(demo))
    assert drawn_from(states(few), states(many)) == {"negatives"}


def test_every_parameter_learns(demo: Dataset) -> None:
    sut = objective(demo)
    sut(*batch(demo)).backward()
    for name, parameter in sut.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name


def test_negatives_are_items_without_training_interaction(demo: Dataset) -> None:
    for protocol, splits in (("validation", ("train",)), ("published", ("train", "valid"))):
        sut = objective(demo, protocol=protocol)
        users = torch.arange(demo.n_users)
        drawn = sut.sampler.sample(users, 1000, torch_generator(0, "test"))
        pairs = set(map(tuple, torch.stack([users.repeat_interleave(1000), drawn.view(-1)], 1).tolist()))
        taken = set(map(tuple, demo.pairs(*splits).tolist()))
        assert not pairs & taken
        assert len(pairs) == demo.n_users * demo.n_items - len(taken)  # with 1000 draws each, all others turn up


def test_relations_by_name_by_original_id_or_estimated(demo: Dataset) -> None:
    names = list(demo.relations["name"])
    assert relation_ids(build_graph(demo), ("all",)) is None
    assert relation_ids(build_graph(demo), (names[2], names[0])).tolist() == [2, 0]
    estimated = relation_ids(build_graph(demo), ("auto",)).tolist()
    assert estimated == hierarchical_relations(demo.facts)
    assert estimated
    swapped = demo.relations.assign(original_id=["a", "b", names[0], "d"])
    renamed = dataclasses.replace(demo, relations=swapped)
    assert relation_ids(build_graph(renamed), ("b", names[0])).tolist() == [
        1,
        0,
    ]  # a name goes before an equal original id


def test_an_unknown_relation_is_named_with_those_there_are(demo: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"'genre'.*lacks; it has 'belongs_to', 'subcategory_of'"):
        relation_ids(build_graph(demo), ("belongs_to", "genre"))
    with pytest.raises(ConfigError, match="'genre'"):
        objective(demo, hierarchical_relations=["genre"])


def test_the_angle_loss_uses_the_chosen_relations(demo: Dataset) -> None:
    triples = demo.triples
    items = (triples["head"] < demo.n_items) != (triples["tail"] < demo.n_items)
    for names in (["all"], ["made_by"], ["made_by", "belongs_to"]):
        ids = relation_ids(build_graph(demo), tuple(names))
        chosen = items if ids is None else items & triples["relation"].isin(ids.tolist())
        sut = objective(demo, hierarchical_relations=names, angle_pairs="items")
        assert sut.angle.pairs.n_edges == int(chosen.sum()) > 0
    none = objective(demo, hierarchical_relations=["subcategory_of"], angle_pairs="items")
    assert none.angle.pairs.n_edges == 0
    assert torch.isfinite(none(*batch(demo)))


def test_attributes_are_below_attributes_where_relations_order_them(demo: Dataset) -> None:
    tree = attribute_tree(demo.facts)
    marked = relation_table(demo.facts, demo.relations["name"]).set_index("name")["orders_attributes"]
    assert marked[marked].index.tolist() == ["subcategory_of"]
    of_items = objective(demo, angle_pairs="items").angle.pairs
    for names, kept in ((["all"], of_items.n_edges), (["subcategory_of"], 0)):
        found = objective(demo, hierarchical_relations=names).angle.pairs
        pairs = pd.DataFrame({"child": found.rows, "parent": found.cols})
        assert found.n_edges == kept + len(tree)
        between = pairs[pairs["child"] >= demo.n_items].reset_index(drop=True)
        expected = tree[["child", "parent"]].sort_values(["child", "parent"], ignore_index=True)
        pd.testing.assert_frame_equal(between, expected)
    made = objective(demo, hierarchical_relations=["made_by"])
    assert made.angle.pairs.n_edges == int((demo.triples["relation"] == 2).sum())


def test_what_is_on_a_cycle_or_gathers_nothing_does_not_order(demo: Dataset) -> None:
    first = demo.n_items
    one = pd.DataFrame({"head": [first, first + 1, first + 2], "relation": 0, "tail": first + 3})

    def tree(*rows: tuple[int, int], relations: list[int] | None = None) -> list[tuple[int, int]]:
        lower, upper = ([first + row[end] for row in rows] for end in (0, 1))
        extra = pd.DataFrame({"head": lower, "relation": 0, "tail": upper}).astype("int64")
        changed = dataclasses.replace(demo, triples=pd.concat([one, extra]))
        edges = attribute_tree(changed.facts, relations)
        return sorted(zip(edges["child"] - first, edges["parent"] - first, strict=True))

    fan = [(0, 3), (1, 3), (2, 3)]
    assert tree() == fan
    assert tree((4, 4)) == fan, "a loop says nothing"
    assert tree((3, 0)) == [], "a cycle"
    assert tree((3, 0), relations=[0]) == [(0, 3), (1, 3), (2, 3), (3, 0)], "asked for by name"
    assert tree((5, 6), (7, 8), (9, 10)) == [], "as many at the one end as at the other"
    backwards = dataclasses.replace(demo, triples=one.rename(columns={"head": "tail", "tail": "head"}))
    edges = attribute_tree(backwards.facts)
    assert sorted(zip(edges["child"] - first, edges["parent"] - first, strict=True)) == fan
    with_item = dataclasses.replace(demo, triples=pd.concat([one, one.assign(tail=0)]))
    assert attribute_tree(with_item.facts).empty, "a relation that items have too"


def test_the_gate_is_kept_small(demo: Dataset) -> None:
    users, items = batch(demo)
    plain, sut = objective(demo, gate_l2=0.0), objective(demo, gate_l2=0.5)
    squares = sum(parameter.square().sum() for name, parameter in sut.network.named_parameters() if "gate" in name)
    assert squares > 1.0
    torch.testing.assert_close(sut(users, items), plain(users, items) + 0.5 * squares, rtol=1e-12, atol=0)
    without = objective(demo, gate=False, gate_l2=0.5)
    assert torch.equal(without(users, items), objective(demo, gate=False, gate_l2=0.0)(users, items))
