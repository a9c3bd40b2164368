"""Steps played from a recording train as plain steps do; the recording itself only where there is a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_demo import small_demo, small_settings
from torch import Tensor, nn

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError, NumericalError
from hakg_dgl.kernels import choice
from hakg_dgl.kernels.choice import BackendChoice, choose_cuda_graphs, explain_cuda_graphs
from hakg_dgl.models.recommender import adam
from hakg_dgl.models.settings import Settings
from hakg_dgl.training import steps
from hakg_dgl.training.loop import Epoch, EpochSteps, run_epoch
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.steps import (
    WARM_UP_STEPS,
    CapturedStep,
    LossRing,
    PlainStep,
    Step,
    UnrecordableError,
    set_learning_rate,
)
from hakg_dgl.training.trainee import graph_choice
from hakg_dgl.training.trainer import Trainer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Repeated:
    """Records by remembering the step. As a graph does, each replay writes its loss to the same place."""

    def __init__(self) -> None:
        self.warmed, self.recorded, self.replayed = 0, 0, 0

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        self.warmed += 1
        return step()

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        place = torch.empty(())

        def replay() -> Tensor:
            nonlocal place
            self.replayed += 1
            loss = step()
            place = place.to(loss.dtype)
            return place.copy_(loss)

        return replay


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Repeated]:
    """Steps are recorded on a CPU too, by repeating them; the recorders in the order they were made."""
    made: list[Repeated] = []

    def make(*arguments: Any) -> Repeated:
        made.append(Repeated())
        return made[-1]

    monkeypatch.setattr(steps, "CUDARecorder", make)
    monkeypatch.setattr(choice, "explain_cuda_graphs", lambda kernels, device: None)
    return made


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return small_demo(valid=0.1)


def trained(dataset: Dataset, run: Path | None = None, *, resume: bool = False, **settings: Any) -> Trainer:
    it = Trainer(dataset, small_settings(**{"cuda_graphs": False} | settings), run=run)
    it.fit(resume=resume)
    return it


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# --- one step -----------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """A parameter, pulled towards each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, users: Tensor, positives: Tensor) -> Tensor:
        target = torch.stack([users.double().mean(), positives.double().mean()])
        return (self.x - target).square().sum()


def line_steps(sizes: list[int], recorder: Repeated | None) -> tuple[list[float], Tensor]:
    """Losses of steps over batches of these sizes, and the parameter after them."""
    model = Line()
    plain = PlainStep(model, adam(model.parameters(), 0.1, torch.device("cpu")))
    step = plain if recorder is None else CapturedStep(plain, max(sizes), recorder)
    losses = []
    for number, size in enumerate(sizes):
        users = torch.arange(size) + number
        losses.append(float(step.gradients(users, 2 * users)))
        step.update()
    return losses, model.x.detach()


@pytest.mark.parametrize("sizes", [[4] * 6, [4, 4, 2, 4, 4, 4, 2, 4], [2, 4], [4, 2]], ids=str)
def test_recorded_steps_are_the_plain_ones(sizes: list[int]) -> None:
    recorder = Repeated()
    losses, weights = line_steps(sizes, recorder)
    expected, expected_weights = line_steps(sizes, None)
    assert losses == expected
    assert torch.equal(weights, expected_weights)
    full = sizes.count(4)
    assert recorder.warmed == min(full, WARM_UP_STEPS)
    assert recorder.recorded == (full > WARM_UP_STEPS)
    assert recorder.replayed == max(0, full - WARM_UP_STEPS)


def test_a_plain_step_leaves_the_parameters_until_it_is_updated() -> None:
    model = Line()
    step = CapturedStep(PlainStep(model, adam(model.parameters(), 0.1, torch.device("cpu"))), 4, Repeated())
    short = torch.ones(3)
    step.gradients(short, short)
    assert not model.x.any()
    step.update()
    once = model.x.detach().clone()
    assert once.all()
    step.update()  # only once for each batch
    assert torch.equal(model.x, once)


def test_gradients_of_a_recording_are_made_anew() -> None:
    """A gradient that is there already would be added to in each replay."""
    model, seen = Line(), []

    class Looks(Repeated):
        def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
            seen.append(model.x.grad)
            return super().record(step)

    optimizer = adam(model.parameters(), 0.1, torch.device("cpu"))
    step = CapturedStep(PlainStep(model, optimizer), 2, Looks())
    for _ in range(WARM_UP_STEPS + 1):
        step.gradients(torch.ones(2), torch.ones(2))
    assert seen == [None]


def losses_of(step: Step) -> list[float]:
    """Losses of seven steps."""
    losses = []
    for batch in torch.arange(7.0 * 4).view(7, 4):
        losses.append(float(step.gradients(batch, batch)))
        step.update()
    return losses


class Refuses(Repeated):
    """Cannot record, as if the step asked the device for something."""

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        raise UnrecordableError("operation not permitted when stream is capturing")


def test_a_step_that_cannot_be_recorded_is_made_one_by_one_where_that_is_allowed() -> None:
    models = Line(), Line()
    plain, recorder = PlainStep(models[0], adam(models[0].parameters(), 0.1, torch.device("cpu"))), Refuses()
    inner = PlainStep(models[1], adam(models[1].parameters(), 0.1, torch.device("cpu")))
    step = CapturedStep(inner, 4, recorder, required=False)
    with pytest.warns(RuntimeWarning, match="operation not permitted") as warned:
        losses = losses_of(step)
    assert losses == losses_of(plain)
    assert torch.equal(models[0].x, models[1].x)
    assert (recorder.recorded, recorder.warmed, len(warned)) == (1, 7, 1)


def test_it_is_an_error_where_a_recording_is_required() -> None:
    model = Line()
    step = CapturedStep(PlainStep(model, adam(model.parameters(), 0.1, torch.device("cpu"))), 4, Refuses())
    with pytest.raises(ConfigError, match=r"cuda_graphs = true, but .* cannot be recorded .*not permitted"):
        losses_of(step)


# --- what surrounds it --------------------------------------------------------------------------------------------


def test_the_ring_keeps_what_is_overwritten_and_gives_it_once() -> None:
    ring, place = LossRing(3), torch.zeros((), dtype=torch.float64)
    assert ring.take() == []
    for first in (0, 10):
        for number in range(3):
            ring.append(place.fill_(first + number + 1e-12))
            assert len(ring) == number + 1
        assert ring.take() == [first + number + 1e-12 for number in range(3)]
        assert len(ring) == 0
    ring.append(place.fill_(7))
    assert ring.take() == [7.0]


def test_a_learning_rate_on_the_device_makes_the_same_steps() -> None:
    """A float32 tensor, as on CUDA, against the same number."""
    rates = [float(torch.tensor(rate, dtype=torch.float32)) for rate in (3e-3, 1e-4)]
    found = []
    for as_tensor in (False, True):
        model = Line()
        optimizer = adam(model.parameters(), rates[0], torch.device("cpu"))
        if as_tensor:
            optimizer.param_groups[0]["lr"] = torch.tensor(rates[0], dtype=torch.float32)
        for rate in rates:
            optimizer.load_state_dict(optimizer.state_dict())  # as when a run is resumed
            kept = optimizer.param_groups[0]["lr"]
            set_learning_rate(optimizer, rate)
            for batch in torch.arange(12.0).view(4, 3):
                optimizer.zero_grad()
                model(batch, 3 * batch).backward()
                optimizer.step()
        assert not as_tensor or optimizer.param_groups[0]["lr"] is kept  # a graph reads this very tensor
        assert isinstance(kept, torch.Tensor) == as_tensor
        found.append(model.x.detach())
    assert torch.equal(*found)


# --- in the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"ranking_loss": "hinge", "lr_schedule": "cosine"}, {"batch_size": 100_000, "cuda_graphs": True}]
)
def test_training_is_the_same_with_recorded_steps(
    settings: dict[str, Any], demo: Dataset, recorders: list[Repeated]
) -> None:
    epochs: dict[bool, list[float]] = {False: [], True: []}
    common: dict[str, Any] = {"cuda_graphs": "auto"} | settings
    plain = Trainer(
        demo, small_settings(**common | {"cuda_graphs": False}), on_progress=lambda p: epochs[False].append(p.loss)
    )
    record = Trainer(demo, small_settings(**common), on_progress=lambda p: epochs[True].append(p.loss))
    results = [plain.fit(), record.fit()]
    assert epochs[True] == epochs[False]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert same_weights(plain.model, record.model)
    (recorder,) = recorders
    assert recorder.recorded == 1
    full = len(record.trainee.passes[0].batches.pairs) // record.trainee.passes[0].batches.batch_size or 1
    assert recorder.warmed + recorder.replayed == full * results[1]["epochs_run"]


def test_a_refit_is_recorded_anew(demo: Dataset, recorders: list[Repeated]) -> None:
    record = trained(demo, cuda_graphs=True, refit=True)
    assert [recorder.recorded for recorder in recorders] == [1, 1]
    assert same_weights(record.model, trained(demo, refit=True).model)


def test_an_interrupted_run_goes_on_and_is_recorded_anew(
    demo: Dataset, recorders: list[Repeated], tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (3, 2):
            first.interrupt()

    settings = small_settings(cuda_graphs=True)
    first = Trainer(demo, settings, run=tmp_path, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = trained(demo, tmp_path, resume=True, cuda_graphs=True)
    assert [recorder.recorded for recorder in recorders] == [1, 1]
    assert recorders[1].warmed == WARM_UP_STEPS
    assert same_weights(second.model, trained(demo).model)


@pytest.mark.parametrize("then", [False, True])
def test_a_run_goes_on_with_recorded_steps_or_without(
    then: bool, demo: Dataset, recorders: list[Repeated], tmp_path: Path
) -> None:
    trained(demo, tmp_path, cuda_graphs=not then, epochs=3)
    resumed = trained(demo, tmp_path, resume=True, cuda_graphs=then, epochs=6)
    assert RunFolder(tmp_path).settings.run.cuda_graphs is then
    assert len(recorders) == 1
    assert same_weights(resumed.model, trained(demo, epochs=6).model)


def test_losses_of_a_gpu_are_read_every_few_steps(
    demo: Dataset, recorders: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    settings = small_settings(cuda_graphs=True, epochs=1, batch_size=8)
    each = Trainer(demo, settings, on_progress=lambda p: seen.append((p.step, p.loss)))
    each.fit()
    expected = dict(seen)
    seen.clear()
    some = Trainer(demo, settings, on_progress=lambda p: seen.append((p.step, p.loss)))
    n = len(some.trainee.passes[0].batches)
    assert n > 2 * steps.LOSSES_KEPT
    monkeypatch.setattr(EpochSteps, "reads_losses", False)  # as on any device that is not the CPU
    run_epoch(some.session, Epoch(1, 1, 0.01, 0.0))
    assert [step for step, _ in seen] == list(range(steps.LOSSES_KEPT, n, steps.LOSSES_KEPT))
    assert all(loss == expected[step] for step, loss in seen)


def test_a_loss_that_is_no_number_is_found_in_a_recorded_step(demo: Dataset, recorders: list[Repeated]) -> None:
    record = Trainer(demo, small_settings(cuda_graphs=True))
    objective, calls = record.trainee.passes[0].loss, []

    def spoiled(users: Tensor, positives: Tensor) -> Tensor:
        calls.append(len(users))
        return objective(users, positives) * (float("nan") if len(calls) == 7 else 1.0)

    record.trainee.passes = (dataclasses.replace(record.trainee.passes[0], loss=spoiled),)
    with pytest.raises(NumericalError, match="the loss became nan in epoch 2, step"):
        record.fit()


# --- where it can be ----------------------------------------------------------------------------------------------


def settings_of(**overrides: Any) -> Settings:
    return Settings.resolve(overrides={"cuda_graphs": True} | overrides)


@pytest.mark.parametrize(
    ("settings", "device", "problem"),
    [
        ({}, "cpu", "the device is 'cpu', and CUDA graphs need device = 'cuda'"),
        ({"kernels": "triton"}, "cpu", "device = 'cuda'"),
        ({"kernels": "dgl"}, "cuda", "kernels = 'dgl', and CUDA graphs need kernels = 'triton'"),
        ({"kernels": "readable"}, "cuda", "kernels = 'readable'"),
        ({"kernels": "auto"}, "cuda", "kernels = 'auto', which is 'torch' here"),
    ],
    ids=str,
)
def test_where_nothing_can_be_recorded_it_is_refused(
    settings: dict[str, Any], device: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "explain_backend", lambda device: BackendChoice("torch", ""))
    with pytest.raises(ConfigError, match=r"cuda_graphs = true, but .*; set cuda_graphs = auto or false") as refusal:
        graph_choice(settings_of(**settings), torch.device(device))
    assert problem in str(refusal.value)
    for left in ("auto", False):
        found = graph_choice(settings_of(**settings, **{"cuda_graphs": left}), torch.device(device))
        assert not found.recorded
        assert (problem if left else "cuda_graphs = false") in found.reason


def test_triton_on_cuda_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "explain_backend", lambda device: BackendChoice("triton", ""))
    assert explain_cuda_graphs("auto", "cuda") is None
    for kernels in ("triton", "auto"):
        for wanted, expected in ((True, (True, True)), ("auto", (True, False)), (False, (False, False))):
            found = graph_choice(settings_of(kernels=kernels, cuda_graphs=wanted), torch.device("cuda"))
            assert (found.recorded, found.required) == expected


def test_code_that_is_not_the_packages_is_recorded_only_when_that_is_asked_for() -> None:
    cuda = torch.device("cuda")
    left = choose_cuda_graphs("auto", "triton", cuda, own_code=True)
    assert not left.recorded
    assert "update functions of its own" in left.reason
    assert choose_cuda_graphs(True, "triton", cuda, own_code=True).recorded


def test_models_whose_steps_are_not_recorded_have_no_such_setting() -> None:
    assert not graph_choice(Settings("lightgcn"), torch.device("cuda")).recorded


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_trainer_on_a_cpu_refuses(demo: Dataset) -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need device = 'cuda'"):
        Trainer(demo, small_settings(cuda_graphs=True))


# --- on a GPU -----------------------------------------------------------------------------------------------------


@gpu
@pytest.mark.parametrize(
    "settings",
    [
        {"candidates": 20},
        {"candidates": 20, "formulation": "released", "layers": 3, "dim": 64},
        {"ranking_loss": "hinge"},
        {"ranking_loss": "hinge", "angle_mask": "edge", "dtype": "float64"},
        {"precision": "bf16", "refit": True},
        {"geometry": "euclidean", "kg_edge_dropout": 0.0, "interaction_dropout": 0.0},
        {"lr_schedule": "cosine", "gate": False},
        {"dual_item_embeddings": False, "angle_weight": 0.0},
    ],
    ids=str,
)
def test_a_graph_trains_number_by_number_as_steps_one_by_one(settings: dict[str, Any], demo: Dataset) -> None:
    pytest.importorskip("triton")
    common: dict[str, Any] = {"device": "cuda", "kernels": "triton", "epochs": 8} | settings
    plain, record = (trained(demo, cuda_graphs=flag, **common) for flag in (False, True))
    assert same_weights(plain.model, record.model)
    for name, generator in record.trainee.generators.items():
        assert torch.equal(generator.get_state(), plain.trainee.generators[name].get_state()), name


@gpu
def test_a_run_with_a_graph_is_interrupted_and_resumed(demo: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    common: dict[str, Any] = {"device": "cuda", "kernels": "triton", "cuda_graphs": True, "epochs": 6}

    def stop(progress: Progress) -> None:
        if progress.epoch == 3:
            first.interrupt()

    first = Trainer(demo, small_settings(**common), run=tmp_path, on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    assert same_weights(trained(demo, tmp_path, resume=True, **common).model, trained(demo, **common).model)


@gpu
@pytest.mark.parametrize("graphs", [True, False])
def test_a_run_goes_on_with_a_graph_or_without(graphs: bool, demo: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    common: dict[str, Any] = {"device": "cuda", "kernels": "triton"}
    trained(demo, tmp_path, cuda_graphs=not graphs, epochs=3, **common)
    resumed = trained(demo, tmp_path, resume=True, cuda_graphs=graphs, epochs=6, **common)
    assert same_weights(resumed.model, trained(demo, epochs=6, **common).model)


@gpu
def test_what_cannot_be_recorded_is_named(demo: Dataset) -> None:
    pytest.importorskip("triton")
    record = Trainer(demo, small_settings(device="cuda", kernels="triton", cuda_graphs=True))
    objective = record.trainee.passes[0].loss

    def waits(users: Tensor, positives: Tensor) -> Tensor:
        return objective(users, positives) * (1.0 + 0.0 * float(users[0]))

    record.trainee.passes = (dataclasses.replace(record.trainee.passes[0], loss=waits),)
    with pytest.raises(ConfigError, match="cannot be recorded"):
        record.fit()
