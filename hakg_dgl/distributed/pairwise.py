"""Matrix factorisation and LightGCN in several processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hakg_dgl.distributed.batches import SharedSampler
from hakg_dgl.distributed.edges import ReceivedEdges, received_edges
from hakg_dgl.distributed.ranks import sum_over_ranks
from hakg_dgl.distributed.scores import BatchScores
from hakg_dgl.distributed.shard import Shard
from hakg_dgl.kernels.choice import choose_backend
from hakg_dgl.kernels.interface import SparseBackend


class BPRMFShard(Shard):
    """See :class:`~hakg_dgl.models.bpr_mf.BPRMF`."""

    def prepare(self) -> None:
        """The sampler of negatives."""
        self.backend: SparseBackend = choose_backend("torch")
        self.sampler: SharedSampler = SharedSampler(self.ranks, self.ownership, self.model.graph.pairs())

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Own users and items as they are scored, ``[n_own, d]`` each."""
        return self.model.get_parameter("user"), self.model.get_parameter("item")

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """See :meth:`Shard.ranking_vectors`."""
        return self.propagate()

    def loss(self, users: Tensor, positives: Tensor) -> Tensor:
        """See :meth:`Shard.loss`."""
        negatives = self.sampler.sample(users, 1, self.random["negatives"]).squeeze(1)
        user, item = self.propagate()
        scores = BatchScores(self.ranks, self.ownership, self.backend, user, users)
        total = -F.logsigmoid(scores.of(item, positives) - scores.of(item, negatives)).mean()
        decay: float = self.model.loss.weight_decay
        if decay == 0.0:
            return total
        at = (self.ownership.owners["user"][users] == self.ranks.rank).nonzero().flatten()
        tables = [(self.model.get_parameter("user"), self.ownership.places["user"][users[at]])]
        tables += [(self.model.get_parameter("item"), scores.own(items)[1]) for items in (positives, negatives)]
        squares = torch.stack([table.index_select(0, rows).square().sum() for table, rows in tables]).sum()
        return total + decay * sum_over_ranks(self.ranks, squares) / (2 * len(users))


class LightGCNShard(BPRMFShard):
    """See :class:`~hakg_dgl.models.lightgcn.LightGCN`."""

    def prepare(self) -> None:
        """Edges that end at own users and own items."""
        super().prepare()
        pattern, dtype = self.model.graph.packed.interactions, self.model.dtype
        self.backend: SparseBackend = choose_backend(self.model.settings.kernels, self.model.device)
        users, items = ("user", pattern.rows), ("item", pattern.cols)
        self.to_users: ReceivedEdges = received_edges(self.ranks, self.ownership, users, items, pattern.rows)
        self.to_items: ReceivedEdges = received_edges(self.ranks, self.ownership, items, users, pattern.rows)
        degrees = pattern.row_degree[self.own["user"]], pattern.col_degree[self.own["item"]]
        self.scales: list[Tensor] = [degree.clamp_min(1).to(dtype).rsqrt().unsqueeze(1) for degree in degrees]

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The means over all layers."""
        user, item = super().propagate()
        of_user, of_item = self.scales
        users, items = user, item
        n_layers: int = self.model.settings.layers
        for _ in range(n_layers):
            user, item = (
                self.to_users.sums(self.backend, item * of_item) * of_user,
                self.to_items.sums(self.backend, user * of_user) * of_item,
            )
            users, items = users + user, items + item
        return users / (n_layers + 1), items / (n_layers + 1)
