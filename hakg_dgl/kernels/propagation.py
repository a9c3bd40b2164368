"""What the layers of HAKG pass on, and the chance of a training step, for backends that run all layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from hakg_dgl.geometry.message import MessageRule
from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern


@dataclass(frozen=True, eq=False)
class Propagation:
    """The same layer, over and over: what it adds up along which edges, and what it multiplies sums by.

    Attributes
    ----------
    interactions
        Pattern user x item: users receive from items, and items from users if there are collaborative embeddings.
    knowledge
        Pattern head x tail of all entities; heads receive the mean of relation-transitive messages.
    rule
        Which messages.
    user_sent, item_sent
        What users and items multiply what they send by, ``[n_users]`` and ``[n_items]``; None for ones.
    user_scale, item_scale
        What users and items multiply the sums that they receive by; None for ones.
    """

    interactions: SparsePattern
    knowledge: KnowledgePattern
    rule: MessageRule
    user_sent: Tensor | None
    item_sent: Tensor | None
    user_scale: Tensor | None
    item_scale: Tensor | None


@dataclass(frozen=True, eq=False)
class Chance:
    """Which edges and coordinates a training step keeps: those whose random word is not below the limit.

    Attributes
    ----------
    words
        int16, of all edges and coordinates, one use after the other.
    starts
        First word of the edges of the knowledge graph, of the interactions, and then, layer by layer, of the
        coordinates of users, entities and items.
    limits
        Lowest word kept of facts, of interactions, and of coordinates; -32768 where none is dropped, and these have no
        words.
    """

    words: Tensor
    starts: tuple[int, ...]
    limits: tuple[int, int, int]


class Start(NamedTuple):
    """What enters the first layer: rows of users ``[n_users, d]``, of entities and, maybe, of items."""

    user: Tensor
    entity: Tensor
    item: Tensor | None


class Weights(NamedTuple):
    """What all layers share, ``[2R, d]``, and the gate matrices A and B of each layer, ``[d, d]``; none if no gate."""

    relation: Tensor
    gates: Sequence[tuple[Tensor, Tensor]]
