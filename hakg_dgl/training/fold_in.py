"""Users that a trained run has not seen: what each kind of model makes of their items."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry.guards import ROW_NORM_FLOOR
from hakg_dgl.kernels.products import sum_over_columns, sum_over_rows
from hakg_dgl.layers.dropout import drop_and_normalise
from hakg_dgl.models.ease import DenseItemScorer
from hakg_dgl.models.hakg import HAKG
from hakg_dgl.models.item_knn import NeighbourScorer
from hakg_dgl.models.lightgcn import LightGCN
from hakg_dgl.ranking.fold_in import EmbeddingFoldIn, FoldIn, ScorerFoldIn, SumOfRows, SumOfUnitMeans, UserPart
from hakg_dgl.ranking.topk import Scorer
from hakg_dgl.ranking.yardsticks import PopularityScorer
from hakg_dgl.training.baselines import build_pairwise_model, load_scorer
from hakg_dgl.training.run_folder import RunFolder, fill, load_model, model_splits, trained_tensors


def load_fold_in(run: str | Path, dataset: Dataset, *, device: torch.device | str = "cpu") -> FoldIn:
    """The best model of a run, ready to score users by their items alone.

    Parameters
    ----------
    run
        Folder written by training.
    dataset
        The data set it was trained on.
    device
        Where to rank.

    Returns
    -------
    FoldIn
        Its ``scorer(indptr, items)`` scores new users; docs/recommending.md defines how. For hakg and lightgcn an
        :class:`~hakg_dgl.ranking.fold_in.EmbeddingFoldIn`, whose ``fold_in(indptr, items)`` gives their vectors.

    Raises
    ------
    ConfigError
        If the model is bpr-mf, whose users are parameters.
    IntegrityError, CheckpointError
        As :func:`~hakg_dgl.load_scorer`.

    Examples
    --------
    >>> fold = load_fold_in("run", dataset)
    >>> recommend(fold.scorer([0, 2], [5, 17]), [0], k=10, seen=([0, 2], [5, 17]))
    """
    folder, device = RunFolder(run), torch.device(device)
    kind = folder.settings.model.kind
    if kind == "hakg":
        return fold_into_hakg(load_model(run, dataset, device=device))
    if kind == "lightgcn":
        tensors, settings = trained_tensors(folder, dataset)
        model = build_pairwise_model(dataset, settings, device, model_splits(folder))
        fill(model, tensors, folder)
        assert isinstance(model, LightGCN)
        return fold_into_lightgcn(model)
    if kind == "bpr-mf":
        raise ConfigError(
            f"{folder.path}: is a model of kind 'bpr-mf', in which a user is a row of parameters, so that new users "
            "need training; train on a data set with them, or take another model (--model)"
        )
    return _fold_into_closed_form(load_scorer(run, dataset, device=device))


def fold_into_hakg(model: HAKG) -> EmbeddingFoldIn:
    """New users of HAKG, by the aggregation of the trained graph's items."""
    return EmbeddingFoldIn(hakg_parts(model), model.ranking_vectors()[1])


def hakg_parts(model: HAKG) -> list[UserPart]:
    """What a new user's vector consists of, in the order of ``ranking_vectors()``: a part a term of the score."""
    settings = model.settings
    parts: list[UserPart] = [SumOfUnitMeans(fused_layers(model), settings.score != "inner", ROW_NORM_FLOOR)]
    if settings.linear_weight > 0.0:
        parts.append(SumOfRows(settings.linear_weight * model.linear_left))
    return parts


@torch.no_grad()
def fused_layers(model: HAKG) -> list[Tensor]:
    """What users receive from items in each layer, ``[n_items, d]`` each, without dropout (HAKG eqs. 8-9)."""
    user, entity = model.user, model.entity
    item = model.item if model.settings.dual_item_embeddings else None
    fused = [model.sent_by_items(0, entity, item)]
    for number in range(model.settings.layers - 1):
        outputs = model.layer(number, model.executor, user, entity, item, model.graph.n_entities)
        user, entity, item = (  # type: ignore[assignment]
            None if x is None else drop_and_normalise(x, 0.0, None) for x in outputs
        )
        fused.append(model.sent_by_items(number + 1, entity, item))
    return fused


@torch.no_grad()
def fold_into_lightgcn(model: LightGCN) -> EmbeddingFoldIn:
    r"""New users of LightGCN, zero parameters of theirs being propagated.

    .. math:: u = \frac{1}{L+1} \frac{1}{\sqrt{|I_u|}} \sum_{i \in I_u} t_i,
              \qquad t_i = \frac{1}{\sqrt{|U_i|}} \sum_{l=0}^{L-1} i^{(l)}
    """
    pattern, dtype = model.interactions, model.user.dtype
    user_scale, item_scale = (
        degree.clamp_min(1).to(dtype).rsqrt()[:, None] for degree in (pattern.row_degree, pattern.col_degree)
    )
    user: Tensor = model.user
    item: Tensor = model.item
    total = torch.zeros_like(item)
    for _ in range(model.layers):
        total = total + item
        user, item = (
            user_scale * sum_over_columns(model.backend, pattern, item_scale * item),
            item_scale * sum_over_rows(model.backend, pattern, user_scale * user),
        )
    return EmbeddingFoldIn([SumOfRows(item_scale * total / (model.layers + 1), 0.5)], model.ranking_vectors()[1])


def _fold_into_closed_form(scorer: Scorer) -> FoldIn:
    """New users of a model that scores from rows of interactions: theirs take the place of the data set's."""

    def make(indptr: Tensor, items: Tensor) -> Scorer:
        if isinstance(scorer, PopularityScorer):
            same_for_all = copy(scorer)
            same_for_all.n_users = len(indptr) - 1
            return same_for_all
        assert isinstance(scorer, (DenseItemScorer, NeighbourScorer))
        ones = np.ones(len(items), dtype=scorer.interactions.dtype)
        shape = (len(indptr) - 1, scorer.n_items)
        rows = sparse.csr_matrix((ones, items.numpy(), indptr.numpy()), shape=shape)
        if isinstance(scorer, DenseItemScorer):
            return DenseItemScorer(rows, scorer.weights)
        return NeighbourScorer(rows, scorer.weights)

    return ScorerFoldIn(scorer.n_items, make)
