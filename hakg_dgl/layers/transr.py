"""TransR: facts as translations in a space of their relation.

Lin, Liu, Sun, Liu and Zhu, "Learning Entity and Relation Embeddings for Knowledge Graph Completion", AAAI 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def project_by_relation(values: Tensor, relation: Tensor, matrices: Tensor) -> Tensor:
    r"""Rows in the spaces of their relations, :math:`W_r x`.

    Rows of one relation are one matrix product, so that no matrix is copied for each row.

    Parameters
    ----------
    values
        ``[n, d]``.
    relation
        int64 ``[n]``: the relation of each row.
    matrices
        W, ``[n_relations, k, d]``.

    Returns
    -------
    Tensor
        ``[n, k]``, differentiable in values and matrices.
    """
    order = torch.argsort(relation, stable=True)
    sizes = torch.bincount(relation, minlength=len(matrices)).tolist()
    parts = torch.split(values.index_select(0, order), sizes)
    products = torch.cat([part @ matrix.T for part, matrix in zip(parts, matrices.unbind(), strict=True)])
    return products.index_select(0, torch.argsort(order))


def transr_distance(head: Tensor, relation: Tensor, tail: Tensor, translations: Tensor, matrices: Tensor) -> Tensor:
    r"""How far a fact is from true, :math:`\|W_r h + r - W_r t\|^2 = \|W_r (h - t) + r\|^2` (Lin et al., eq. 8).

    Parameters
    ----------
    head, tail
        Vectors h and t, ``[n, d]`` each.
    relation
        int64 ``[n]``.
    translations
        The vectors r, ``[n_relations, k]``.
    matrices
        W, ``[n_relations, k, d]``.

    Returns
    -------
    Tensor
        ``[n]``, differentiable in all but ``relation``.
    """
    moved = project_by_relation(head - tail, relation, matrices)
    return (moved + translations.index_select(0, relation)).square().sum(1)


def transr_loss(
    head: Tensor, relation: Tensor, tail: Tensor, false: Tensor, translations: Tensor, matrices: Tensor
) -> Tensor:
    r"""Mean of :math:`-\ln \sigma(f(h, r, t') - f(h, r, t))` with f of :func:`transr_distance`: a scalar.

    Parameters
    ----------
    head, tail, false
        Vectors h, t and t', ``[n, d]`` each.
    relation, translations, matrices
        As for :func:`transr_distance`.
    """
    true = transr_distance(head, relation, tail, translations, matrices)
    return -F.logsigmoid(transr_distance(head, relation, false, translations, matrices) - true).mean()
