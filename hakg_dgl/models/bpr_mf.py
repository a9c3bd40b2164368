"""Matrix factorisation by Bayesian personalised ranking.

Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009
(arXiv 1205.2618).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.settings import Settings
from hakg_dgl.randomness import torch_generator

if TYPE_CHECKING:
    from hakg_dgl.data.dataset import Dataset

STREAMS = ("batches", "negatives")
"""Random streams of training, apart from those of the initialisation."""


class MatrixFactorisation(nn.Module):
    """A vector for each user and each item, Xavier-uniform; scores are inner products.

    Parameters
    ----------
    n_users, n_items
        Numbers of rows.
    dim
        Their width d.
    seed
        Of the initialisation; each parameter has a random stream of its own.
    dtype
        ``torch.float32`` or ``torch.float64``.
    """

    def __init__(
        self, n_users: int, n_items: int, dim: int, *, seed: int = 2020, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()

        def parameter(name: str, rows: int) -> nn.Parameter:
            values = torch.empty(rows, dim, dtype=dtype)
            nn.init.xavier_uniform_(values, generator=torch_generator(seed, f"init:{name}"))
            return nn.Parameter(values)

        self.user, self.item = parameter("user", n_users), parameter("item", n_items)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.user.device

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors that are scored: the parameters themselves."""
        return self.user, self.item

    @torch.no_grad()
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of :meth:`propagate`, whose inner products rank."""
        return self.propagate()


def bpr_loss(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    r"""Mean of :math:`-\ln \sigma(\langle u, i \rangle - \langle u, j \rangle)` over a batch (Rendle et al., eq. 4).

    Parameters
    ----------
    user, positive, negative
        Vectors u, i and j, ``[batch, d]`` each.

    Returns
    -------
    Tensor
        A scalar.
    """
    return -F.logsigmoid((user * (positive - negative)).sum(1)).mean()


class PairwiseObjective:
    r"""The loss of a batch: :func:`bpr_loss` with one uniform negative a pair, and an L2 term.

    The L2 term is :math:`\frac{w}{2B} \sum (\|u\|^2 + \|i\|^2 + \|j\|^2)` over the parameters (not the propagated
    vectors) of the batch's B pairs and their negatives, as in He et al. 2020 and Rendle et al. 2009.

    Parameters
    ----------
    model
        The model being trained.
    dataset
        For the negatives: items a user has none of ``splits`` with.
    settings
        Its ``weight_decay`` w, and the seed.
    splits
        Whose interactions are trained on.
    """

    def __init__(
        self, model: MatrixFactorisation, dataset: Dataset, settings: Settings, splits: tuple[str, ...]
    ) -> None:
        self.model, self.weight_decay = model, settings.baseline.weight_decay
        self.generators = {name: torch_generator(settings.run.seed, name, model.device) for name in STREAMS}
        self.sampler = NegativeSampler(*dataset.positives(*splits), dataset.n_items, device=model.device)

    def __call__(self, users: Tensor, positives: Tensor) -> Tensor:
        """Loss of a batch, int64 ``[batch]`` each: a scalar, differentiable in the model's parameters."""
        negatives = self.sampler.sample(users, 1, self.generators["negatives"]).squeeze(1)
        user, item = self.model.propagate()
        total = bpr_loss(*_rows(user, item, users, positives, negatives))
        if self.weight_decay > 0.0:
            drawn = _rows(self.model.user, self.model.item, users, positives, negatives)
            squares = sum((rows.square().sum() for rows in drawn), start=total.new_zeros(()))
            total = total + self.weight_decay * squares / (2 * len(users))
        return total


def _rows(user: Tensor, item: Tensor, users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
    """The rows of a batch, ``[batch, d]`` each; their gradients add up in the same order on any number of threads."""
    return user.index_select(0, users), item.index_select(0, positives), item.index_select(0, negatives)
