"""The edges that end at the nodes of a process, and the sums over them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hakg_dgl.distributed.halo import Halo
from hakg_dgl.distributed.ownership import Ownership
from hakg_dgl.distributed.ranks import Ranks
from hakg_dgl.graph.packed import KnowledgePattern, SparsePattern
from hakg_dgl.kernels.interface import SparseBackend
from hakg_dgl.kernels.products import sum_over_columns


@dataclass(frozen=True, eq=False)
class ReceivedEdges:
    """The edges of a pattern that end at the own nodes of a process.

    Attributes
    ----------
    halo
        The rows that they read.
    pattern
        Own nodes x rows of the halo.
    ids
        Numbers that draws for the edges are made by, the same in every process, int64 ``[n_edges]``.
    chosen
        Which of the given edges they are, int64 ``[n_edges]``.
    """

    halo: Halo
    pattern: SparsePattern
    ids: Tensor
    chosen: Tensor

    def sums(self, backend: SparseBackend, own: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sums over what each own node receives, ``[n_own, d]``, from own rows of the senders' type; differentiable."""
        pattern = self.pattern if mask is None else self.pattern.keep(mask)
        return sum_over_columns(backend, pattern, self.halo.table(own))


def received_edges(
    ranks: Ranks, ownership: Ownership, receivers: tuple[str, Tensor], senders: tuple[str, Tensor], ids: Tensor
) -> ReceivedEdges:
    """The edges that end at own nodes; a step of all processes together.

    Parameters
    ----------
    ranks, ownership
        The processes and what they own.
    receivers, senders
        Node type and node of edges, int64 ``[n]``: all that end at own nodes, and maybe others.
    ids
        Numbers of the edges, int64 ``[n]``; they follow from what is joined, whoever holds the edge.
    """
    owner, places = ownership.owners[receivers[0]], ownership.places[receivers[0]]
    chosen = (owner[receivers[1]] == ranks.rank).nonzero().flatten()
    rows = places[receivers[1][chosen]]
    order = rows.argsort(stable=True)
    chosen, rows = chosen[order], rows[order]
    wanted = senders[1][chosen]
    halo = Halo(ranks, ownership, senders[0], wanted)
    pattern = SparsePattern.from_pairs(
        rows, halo.columns(wanted), ownership.counts(receivers[0])[ranks.rank], len(halo)
    )
    return ReceivedEdges(halo, pattern, ids[chosen], chosen)


def knowledge_of(edges: ReceivedEdges, whole: KnowledgePattern) -> KnowledgePattern:
    """The relations of received edges."""
    return KnowledgePattern(edges.pattern, whole.relation[edges.chosen], whole.n_relations)
