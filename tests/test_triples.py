"""Facts to train on: the draws of true ones, false tails that are false, and batches of all of them."""

from __future__ import annotations

import pytest
import torch

from hakg_dgl.errors import ConfigError, DataError
from hakg_dgl.layers.triples import TripleBatches, Triples
from hakg_dgl.randomness import torch_generator

TRUE = torch.tensor([[0, 0, 1], [0, 0, 2], [0, 1, 3], [4, 0, 0], [0, 0, 1]])  # the last one twice


def triples() -> Triples:
    return Triples(*TRUE.unbind(1), n_nodes=5, n_relations=2)


def test_false_tails_are_all_those_of_no_true_triple_about_equally_often() -> None:
    facts, generator = triples(), torch_generator(1, "facts")
    false = facts.false_tails(torch.arange(5), generator, 3000)
    assert false.shape == (5, 3000)
    for number, allowed in enumerate(([0, 3, 4], [0, 3, 4], [0, 1, 2, 4], [1, 2, 3, 4], [0, 3, 4])):
        seen, counts = torch.unique(false[number], return_counts=True)
        assert seen.tolist() == allowed
        assert (counts / 3000 - 1 / len(allowed)).abs().max() < 0.05


def test_what_is_drawn_are_triples() -> None:
    facts, generator = triples(), torch_generator(1, "facts")
    numbers = facts.draw(200, generator)
    assert set(numbers.tolist()) == set(range(5))
    assert torch.equal(torch.stack(facts.of(numbers), 1), TRUE[numbers])


def test_without_triples_nothing_is_drawn() -> None:
    none = torch.empty(0, dtype=torch.int64)
    facts = Triples(none, none, none, n_nodes=3, n_relations=1)
    assert len(facts) == 0
    assert len(facts.draw(7, torch_generator(1, "facts"))) == 0


def test_batches_hold_each_triple_once_in_an_order_of_their_generator() -> None:
    batches = TripleBatches(10, 4, torch_generator(3, "batches"))
    assert (len(batches), batches.largest) == (3, 4)
    state = batches.generator.get_state()
    first, second = ([numbers for (numbers,) in batches] for _ in range(2))
    assert [len(part) for part in first] == [4, 4, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    batches.generator.set_state(state)
    assert torch.equal(torch.cat([numbers for (numbers,) in batches]), torch.cat(first))


def test_no_triples_and_no_size_are_errors() -> None:
    with pytest.raises(DataError, match="no triple"):
        TripleBatches(0, 4, torch_generator(3, "batches"))
    with pytest.raises(ConfigError, match="0"):
        TripleBatches(4, 0, torch_generator(3, "batches"))
