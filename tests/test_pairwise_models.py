"""BPR-MF and LightGCN against autograd of the published formulas and dense powers of the adjacency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor
from with_dgl import named

from hakg_dgl.graph.heterograph import graph_from_arrays
from hakg_dgl.kernels.choice import BACKENDS, choose_backend
from hakg_dgl.layers.losses import bpr_loss
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.bpr_mf import BPRMF, BPRMFSettings
from hakg_dgl.models.lightgcn import LightGCN, LightGCNSettings
from hakg_dgl.randomness import torch_generator
from hakg_dgl.training.trainee import Trainee

CPU = torch.device("cpu")
DEMO = small_demo()


def rows(seed: int, n: int, d: int = 5) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_bpr_loss_by_hand() -> None:
    user, positive, negative = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    # <u, i> = 3, <u, j> = 2
    assert bpr_loss(user, positive, negative).item() == pytest.approx(np.log1p(np.exp(-1.0)))
    far = 1000.0 * user
    assert bpr_loss(far, negative, positive).item() == pytest.approx(1000.0)  # no overflow


def test_bpr_gradients_are_those_of_the_publication() -> None:
    """Rendle et al. 2009, 4.3: the derivative of -ln σ(x) is -(1 - σ(x)) times that of x = <u, i - j>."""
    user, positive, negative = (rows(seed, 7).requires_grad_() for seed in range(3))
    bpr_loss(user, positive, negative).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        x = (user * (positive - negative)).sum(1, keepdim=True)
        weight = -(1.0 - 1.0 / (1.0 + torch.exp(-x))) / 7
        for parameter, expected in ((user, positive - negative), (positive, user), (negative, -user)):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, weight * expected, rtol=1e-12)


def formula(model: BPRMF, users: Tensor, items: Tensor, negatives: Tensor, decay: float) -> Tensor:
    """-mean ln σ(x_ui - x_uj) + decay / (2 B) Σ ‖parameters of the batch‖², by the full score matrix."""
    user, item = model.propagate()
    scores = user @ item.T
    margin = scores[users, items] - scores[users, negatives]
    squares = model.user[users] ** 2 + model.item[items] ** 2 + model.item[negatives] ** 2
    return -torch.log(torch.sigmoid(margin)).mean() + decay * squares.sum() / (2 * len(users))


@pytest.mark.parametrize("kind", ["bpr-mf", "lightgcn"])
def test_the_objective_is_the_formula_with_the_negatives_of_its_stream(kind: str) -> None:
    layers = {"layers": 3} if kind == "lightgcn" else {}
    settings = small_settings(kind, dtype="float64", weight_decay=0.3, seed=5, **layers)
    trainee = Trainee(DEMO, settings, CPU, ("train",))
    model, objective = trainee.model, trainee.passes[0].loss
    assert isinstance(model, BPRMF)
    users, items = torch.from_numpy(DEMO.pairs("train")[::7]).unbind(1)
    loss = objective(users, items)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()

    indptr, owned = DEMO.positives("train")
    sampler = NegativeSampler(indptr, owned, DEMO.n_items)
    negatives = sampler.sample(users, 1, torch_generator(5, "negatives")).squeeze(1)
    assert all(j not in owned[indptr[u] : indptr[u + 1]] for u, j in zip(users, negatives, strict=True))
    expected = formula(model, users, items, negatives, 0.3)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert set(found) == {"user", "item"}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", named(*BACKENDS))
@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn_is_the_mean_of_dense_powers(backend: str, layers: int) -> None:
    """He et al. 2020, eq. 8, with users and items that have no interaction."""
    try:
        choose_backend(backend)
    except ImportError as error:
        pytest.skip(str(error))
    n_users, n_items = 6, 5
    users, items = torch.tensor([0, 0, 1, 2, 2, 2, 4, 5]), torch.tensor([0, 2, 2, 0, 1, 2, 1, 2])  # user 3, items 3, 4
    none = torch.empty(0, 3, dtype=torch.int64)
    pairs = torch.stack([users, items], 1)
    graph = graph_from_arrays(pairs, none, [], n_users=n_users, n_items=n_items, n_entities=n_items)
    settings = LightGCNSettings(dim=4, layers=layers, kernels=backend)  # type: ignore[arg-type]
    model = LightGCN(graph, settings, seed=3, dtype="float64")
    adjacency = torch.zeros(n_users + n_items, n_users + n_items, dtype=torch.float64)
    adjacency[users, n_users + items] = adjacency[n_users + items, users] = 1.0
    scale = torch.diag(adjacency.sum(1).clamp_min(1.0).rsqrt())
    normalised = scale @ adjacency @ scale
    start = torch.cat([model.user, model.item])
    expected = sum(torch.linalg.matrix_power(normalised, power) @ start for power in range(layers + 1)) / (layers + 1)
    found = torch.cat(model.propagate())
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)

    weights = rows(9, n_users + n_items, 4)
    gradients = [
        torch.autograd.grad((weights * value).sum(), [model.user, model.item], retain_graph=True)
        for value in (found, expected)
    ]
    for ours, dense in zip(*gradients, strict=True):
        assert torch.allclose(ours, dense, rtol=1e-12, atol=1e-14)


def test_initial_values_have_streams_of_their_own() -> None:
    """The same seed gives both models, and HAKG, the same user vectors; a wider catalogue leaves them as they were."""
    none = torch.empty(0, 3, dtype=torch.int64)
    graphs = (
        graph_from_arrays(torch.tensor([[0, 0]]), none, [], n_users=10, n_items=n_items, n_entities=n_items)
        for n_items in (20, 30)
    )
    small, wide = (BPRMF(graph, BPRMFSettings(dim=8), seed=1) for graph in graphs)
    assert torch.equal(small.user, wide.user)
    assert not torch.equal(small.user[:10], small.item[:10])
    bound = (6.0 / (10 + 8)) ** 0.5
    assert 0.8 * bound < small.user.abs().max() <= bound
