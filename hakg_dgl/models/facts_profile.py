"""The profile of facts: what a user's items have in common with an item, without learning anything."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.graph.heterograph import HeteroGraph
from hakg_dgl.graph.matrices import fact_matrix, interaction_matrix
from hakg_dgl.models.recommender import Abilities, ClosedFormRecommender, NoSettings, Sections, require_tensors
from hakg_dgl.ranking.fold_in import FoldIn, rows_fold_in
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.settings.run import RunSettings
from hakg_dgl.settings.training import SelectionSettings


class FactsProfile(ClosedFormRecommender):
    r"""Content-based ranking by TF-IDF: :math:`\mathrm{score}(u, i) = \sum_{j \in N_u} \langle f_j, f_i \rangle`.

    f are the rows of :func:`~hakg_dgl.graph.matrices.fact_matrix`, :math:`N_u` the user's items (Lops, de Gemmis and
    Semeraro, "Content-based Recommender Systems", 2011, section 3.3.1). It is the yardstick for what a model makes of
    facts, above all for items that nobody has chosen yet. Computed on the CPU.

    Parameters are those of :class:`~hakg_dgl.models.recommender.Recommender`.
    """

    name = "facts-profile"
    sections = Sections(NoSettings, NoSettings, SelectionSettings, RunSettings)
    abilities = Abilities(facts=True, folds_in_users=True, new_items=True)
    indptr: Tensor
    indices: Tensor
    values: Tensor

    def build(self) -> None:
        """The facts of items, none yet."""
        self.interactions = interaction_matrix(self.graph)
        self.register_buffer("indptr", torch.zeros(self.graph.n_items + 1, dtype=torch.int64))
        self.register_buffer("indices", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("n_facts", torch.zeros((), dtype=torch.int64))

    def candidates(self) -> list[dict[str, float]]:
        """One, empty."""
        return [{}]

    def solve(self, chosen: Mapping[str, float]) -> None:
        """Weigh the facts."""
        facts = fact_matrix(self.graph)
        self.indptr, self.indices = (torch.from_numpy(part).long() for part in (facts.indptr, facts.indices))
        self.values, self.n_facts = torch.from_numpy(facts.data), torch.tensor(facts.shape[1])

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the facts of a trained model; ValueError if they are not those of a model on this graph."""
        n, ids = tensors["values"].numel() if "values" in tensors else 0, torch.int64
        expected = {"indptr": ((self.graph.n_items + 1,), ids), "indices": ((n,), ids), "n_facts": ((), ids)}
        require_tensors(tensors, {**expected, "values": ((n,), torch.float64)})
        n_facts, most = int(tensors["n_facts"]), 2 * self.graph.n_relations * self.graph.n_entities
        if not 0 <= n_facts <= most:
            raise ValueError(f"there cannot be {n_facts} facts, such as with {most} pairs of a relation and an entity")
        self.indptr, self.indices, self.values = tensors["indptr"], tensors["indices"], tensors["values"]
        self.n_facts = tensors["n_facts"]
        self._facts()

    def with_new_items(self, graph: HeteroGraph) -> FactsProfile:
        """The profile of all facts, those of the new items among them."""
        model = type(self)(graph, self.settings, self.loss, self.run)
        model.solve({})
        return model.eval()

    def _facts(self) -> sparse.csr_matrix:
        """The facts of items; ValueError if they are not a CSR matrix."""
        parts = tuple(part.cpu().numpy() for part in (self.values, self.indices, self.indptr))
        facts = sparse.csr_matrix(parts, shape=(self.graph.n_items, int(self.n_facts)))
        facts.check_format()
        return facts

    def scorer(self) -> Scorer:
        """Inner products of users' sums with items."""
        return ProfileScorer(self.interactions, self._facts())

    def fold_in(self) -> FoldIn:
        """New users by their rows of interactions, as those of the data set."""
        facts = self._facts()
        return rows_fold_in(self.graph.n_items, lambda rows: ProfileScorer(rows, facts))


class ProfileScorer:
    """Scores by what the facts of a user's items have in common with those of an item.

    Parameters
    ----------
    interactions
        ``[n_users, n_items]``, ones.
    facts
        ``[n_items, n_facts]``.
    """

    def __init__(self, interactions: sparse.csr_matrix, facts: sparse.csr_matrix) -> None:
        self.n_users: int
        self.n_items: int
        self.n_users, self.n_items = interactions.shape
        self.interactions, self._facts, self._by_fact = interactions, facts, facts.T.tocsr()
        self.interactions.sort_indices()

    def scores(self, users: Tensor) -> Tensor:
        """Float64 ``[B, n_items]`` of the users ``[B]``."""
        profiles = self.interactions[users.cpu().numpy()] @ self._facts
        return torch.from_numpy((profiles @ self._by_fact).toarray())
