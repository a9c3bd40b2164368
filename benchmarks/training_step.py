"""One training step on a data set: seconds and peak memory, in a process of its own.

    python benchmarks/training_step.py DATA --preset last-fm --repeats 5

DATA is a folder written by ``hakg preprocess``. Prints a line of JSON for the package and, with ``--naive``, one for
the yardstick. ``speed.py`` and ``scaling.py`` call :func:`in_subprocess`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from measure import free_memory, gigabytes, median_seconds, peak_memory
from naive import ROWS_PER_EDGE, NaiveObjective
from torch import Tensor

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.layers.sampling import EpochBatches
from hakg_dgl.models.hakg import HAKG
from hakg_dgl.models.hakg.objective import Objective
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.trainer import Trainer

WARM_UP = 2
"""Steps of a comparison that are not counted."""


def resolve(preset: str, overrides: Sequence[str], device: str, **more: Any) -> Settings:
    """Settings of a measurement: trained on all but the test split, so that no validation split is needed."""
    settings = Settings.resolve(preset=preset, overrides=list(overrides))
    return settings.replace({"device": device, "protocol": "published"} | more)


def endless_batches(trainer: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    """Full batches, epoch after epoch (or short ones, where the data hold no full one)."""
    size = min(batches_of(trainer).batch_size, len(batches_of(trainer).pairs))
    for batch in itertools.chain.from_iterable(itertools.repeat(batches_of(trainer))):
        if len(batch[0]) == size:
            yield batch


def model_of(trainer: Trainer) -> HAKG:
    """The HAKG that is trained."""
    assert isinstance(trainer.model, HAKG)
    return trainer.model


def objective_of(trainer: Trainer) -> Objective:
    """What its steps minimise."""
    objective = trainer.trainee.passes[0].loss
    assert isinstance(objective, Objective)
    return objective


def batches_of(trainer: Trainer) -> EpochBatches:
    """What its epochs go over."""
    batches = trainer.trainee.passes[0].batches
    assert isinstance(batches, EpochBatches)
    return batches


def optimizer_of(trainer: Trainer) -> torch.optim.Optimizer:
    """What changes its parameters."""
    return trainer.trainee.optimizers["all"]


def step(trainer: Trainer, loss_of: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> float:
    """One training step, as :class:`~hakg_dgl.training.trainer.Trainer` makes it; the loss."""
    optimizer_of(trainer).zero_grad(set_to_none=True)
    loss = loss_of(*batch)
    loss.backward()  # type: ignore[no-untyped-call]
    value = loss.item()
    optimizer_of(trainer).step()
    return value


def naive_memory(trainer: Trainer) -> int:
    """An estimate of the bytes that a step of the yardstick takes."""
    s, graph = trainer.settings, model_of(trainer).packed
    edges = graph.knowledge.n_edges * (1.0 - s.model.kg_edge_dropout) * s.model.layers
    negatives = s.training.batch_size * s.loss.negatives
    return int((ROWS_PER_EDGE * edges + 6 * negatives) * s.model.dim * model_of(trainer).user.element_size())


def measure(dataset: Dataset, settings: Settings, repeats: int, *, naive: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what the package needs for a step and then, if asked for, what the yardstick does."""
    device = choose_device(settings.run.device)
    before = peak_memory(device)
    trainer = Trainer(dataset, settings)
    batches, graph = endless_batches(trainer), model_of(trainer).packed
    about = {
        "n_users": graph.n_users,
        "n_items": graph.n_items,
        "n_entities": graph.n_entities,
        "n_edges": graph.knowledge.n_edges + graph.interactions.n_edges,
        "steps_an_epoch": len(batches_of(trainer)),
        "before_bytes": before,
        "ready_bytes": peak_memory(device),
    }
    time = median_seconds(lambda: step(trainer, objective_of(trainer), next(batches)), repeats, device)
    yield {"what": "package", "seconds": time, "peak_bytes": peak_memory(device)} | about
    if not naive:
        return
    needed, free = naive_memory(trainer), free_memory(device)
    if needed > free:
        yield {"what": "naive", "skipped": f"needs about {gigabytes(needed)}, {gigabytes(free)} are free"}
        return
    yardstick = NaiveObjective(objective_of(trainer))
    time = median_seconds(lambda: step(trainer, yardstick, next(batches)), max(1, repeats // 3), device)
    yield {"what": "naive", "seconds": time, "peak_bytes": peak_memory(device), "estimate_bytes": needed} | about


def compare(dataset: Dataset, one: Settings, other: Settings, repeats: int) -> dict[str, Any]:
    """Steps with either settings in turn: median processor seconds of each, and the median ratio of a pair.

    Processor time counts all threads, and other programs on the machine change it less than wall time.
    """
    trainers = [Trainer(dataset, settings) for settings in (one, other)]
    batches = [endless_batches(trainer) for trainer in trainers]
    spent: list[list[float]] = [[], []]
    for _ in range(WARM_UP + repeats):
        for trainer, source, seconds in zip(trainers, batches, spent, strict=True):
            start = process_time()
            step(trainer, objective_of(trainer), next(source))
            seconds.append(process_time() - start)
    first, second = (seconds[WARM_UP:] for seconds in spent)
    ratio = median(b / a for a, b in zip(first, second, strict=True))
    return {"what": "other", "cpu_seconds": [median(first), median(second)], "ratio": ratio}


def in_subprocess(folder: Path, options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run this file on a data set; its lines by ``what``. A process that died leaves ``{"died": its last words}``."""
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    outcome: dict[str, dict[str, Any]] = {line["what"]: line for line in lines}
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"ended with {done.returncode}; out of memory?"]
        outcome["died"] = {"what": "died", "skipped": words[-1]}
    return outcome


def options(arguments: argparse.Namespace, preset: str) -> list[str]:
    """Command line of this file from the arguments that the benchmarks share."""
    line = ["--preset", preset, "--device", arguments.device, "--repeats", str(arguments.repeats)]
    line += ["--threads", str(arguments.threads), "--set", *arguments.overrides]
    return line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Arguments that all speed benchmarks share."""
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median counts")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE", help="other settings")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="last-fm")
    parser.add_argument("--naive", action="store_true", help="also the yardstick, where it fits in memory")
    add_options(parser)
    parser.add_argument("--other", metavar="KEY=VALUE", help="compare with steps of another setting, in turn")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    settings = resolve(arguments.preset, arguments.overrides, arguments.device)
    if arguments.other:
        other = resolve(arguments.preset, [*arguments.overrides, arguments.other], arguments.device)
        print(json.dumps(compare(load_dataset(arguments.data), settings, other, arguments.repeats)))
        return
    for line in measure(load_dataset(arguments.data), settings, arguments.repeats, naive=arguments.naive):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
