"""What a training step takes on a GPU, on generated graphs of the sizes of Last-FM and Yelp2018.

    python benchmarks/gpu.py --json gpu.json

The hinge with L 3, batch 4096, 400 negatives and d 64, and the package's default objective, the softmax, at its
default size. For each graph prints Markdown: the time of a step by stage, of a step of both objectives with and
without a CUDA graph, and of an epoch, peak memory, what a step launches and how many bytes that moves (launches.py
says what of it is an estimate), the yardstick's step in the same run where it fits in memory, and how much of the
time the bytes that a step must move would take at the speed of a copy. Stages are timed one by one, with a wait after
each, so together they take longer than a step does. Without a GPU this ends with exit code 2; ``--tiny --device cpu``
runs its code on graphs so small that the numbers mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from launches import launches_of
from measure import (
    copy_bandwidth,
    describe_machine,
    duration,
    free_memory,
    gigabytes,
    machine_facts,
    markdown,
    median_seconds,
    peak_memory,
    write_results,
)
from naive import NaiveObjective
from stages import stage_rows, stage_table
from training_step import (
    add_options,
    batches_of,
    endless_batches,
    naive_memory,
    objective_of,
    optimizer_of,
    resolve,
    step,
)

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.doctor import examine
from hakg_dgl.kernels.choice import choose_cuda_graphs, explain_backend, explain_cuda_graphs
from hakg_dgl.training.steps import WARM_UP_STEPS, Step, make_step
from hakg_dgl.training.trainer import Trainer

GRAPHS = ("last-fm", "yelp2018")
TINY = {"users": 60, "items": 90, "entities": 300, "relations": 5, "triples": 700, "train": 900, "test": 200}
SETTINGS = ("layers=3", "batch_size=4096", "negatives=400", "dim=64")
DEFAULTS = ("linear_weight=0.0",)
"""Of the package's default objective; its linear term is solved for before the first step, in minutes at this size."""
STEPS = 20
"""Steps that are timed together, as in training, where the loss is read every few steps."""
MUST, AIM = 0.010, 0.003
"""Seconds that a step at Last-FM's size may take on an H200."""


def train_for(step: Step, batches: Any, steps: int) -> None:
    """Training steps that read nothing back."""
    for _ in range(steps):
        step.gradients(*next(batches))
        step.update()


def measure_steps(trainer: Trainer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak memory of a step, one operator after the other, and seconds as a CUDA graph where it can be."""
    device, steps = torch.device(arguments.device), 1 if arguments.tiny else STEPS
    batches, size = endless_batches(trainer), batches_of(trainer).largest
    found: dict[str, Any] = {}
    problem = explain_cuda_graphs(trainer.settings.model.kernels, device)
    for captured in (False, True):
        if captured and problem is not None:
            found["captured"] = {"left_out": problem}
            continue
        generators = objective_of(trainer).generators
        objective, optimizer = objective_of(trainer), optimizer_of(trainer)
        graphs = choose_cuda_graphs(captured, trainer.settings.model.kernels, device)
        step = make_step(objective, optimizer, size, generators, device, graphs=graphs)
        train_for(step, batches, WARM_UP_STEPS + 1)  # compiles and records
        seconds = median_seconds(lambda: train_for(step, batches, steps), arguments.repeats, device) / steps  # noqa: B023
        if captured:
            found["captured"] = {"step_seconds": seconds}
        else:
            found |= {"step_seconds": seconds, "peak_bytes": peak_memory(device)}
    return found


def fresh_trainer(dataset: Dataset, arguments: argparse.Namespace, preset: str, settings: Sequence[str]) -> Trainer:
    """A trainer, with the device's peak memory counted from here."""
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return Trainer(dataset, resolve(preset, [*settings, *arguments.overrides], arguments.device))


def measure_graph(name: str, dataset: Dataset, arguments: argparse.Namespace, bandwidth: float) -> dict[str, Any]:
    """Everything about one graph, but for the yardstick."""
    device = torch.device(arguments.device)
    trainer = fresh_trainer(dataset, arguments, "default", DEFAULTS)
    default = measure_steps(trainer, arguments) | {"launches": launches_of(trainer)}
    trainer = fresh_trainer(dataset, arguments, name, SETTINGS)
    found = {"graph": name, "default": default} | measure_steps(trainer, arguments)
    found["launches"] = launches_of(trainer)
    stages, seconds = stage_rows(trainer, arguments.repeats, bandwidth), fastest(found)
    moved = {key: sum(row[f"{key}_s"] for row in stages) / seconds for key in ("least", "gathered")}
    found |= {
        "steps_an_epoch": len(batches_of(trainer)),
        "epoch_seconds": seconds * len(batches_of(trainer)),
        "share_of_bandwidth": moved, "stages": stages,
    }  # fmt: skip
    return found | {"naive": measure_naive(trainer, arguments.naive_steps, device)}


def fastest(steps: dict[str, Any]) -> float:
    """Seconds of the step in the faster of its two forms."""
    return float(min(steps["step_seconds"], steps["captured"].get("step_seconds", steps["step_seconds"])))


def measure_naive(trainer: Trainer, repeats: int, device: torch.device) -> dict[str, Any]:
    """The yardstick's step on the same data, settings and device, where it fits."""
    needed, free = naive_memory(trainer), free_memory(device)
    if repeats < 1 or needed > free:
        why = "as asked" if repeats < 1 else f"it needs about {gigabytes(needed)}, {gigabytes(free)} are free"
        return {"left_out": why}
    batches, yardstick = endless_batches(trainer), NaiveObjective(objective_of(trainer))
    seconds = median_seconds(lambda: step(trainer, yardstick, next(batches)), repeats, device)
    return {"step_seconds": seconds, "peak_bytes": peak_memory(device)}


def step_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each graph and objective: the step in both of its forms."""
    header = ["graph", "objective", "step", "as a CUDA graph", "step / CUDA graph", "peak memory"]
    lines = []
    for row in rows:
        for objective, steps in (("hinge", row), ("default (softmax)", row["default"])):
            seconds, captured = steps["step_seconds"], steps["captured"].get("step_seconds")
            lines.append([
                row["graph"], objective, duration(seconds),
                duration(captured) if captured else "left out", f"{seconds / captured:.3g}x" if captured else "",
                gigabytes(steps["peak_bytes"]),
            ])  # fmt: skip
    why = rows[0]["captured"].get("left_out")
    return markdown(header, lines) + (f"\n\n- CUDA graphs are left out: {why}." if why else "")


def launch_table(rows: Sequence[dict[str, Any]], bandwidth: float) -> str:
    """A row for each graph and objective: what a step launches, and the bytes that its operators take and return."""
    header = ["graph", "objective", "operators", "Triton's kernels", "launches", "bytes (estimate)", "at copy speed"]
    lines = []
    for row in rows:
        for objective, steps in (("hinge", row), ("default (softmax)", row["default"])):
            found = steps["launches"]
            profiled, total = found["profiled"], found["operators"] + found["kernels"]
            lines.append([
                row["graph"], objective, str(found["operators"]), str(found["kernels"]),
                f"{total} (estimate)" if profiled is None else str(profiled),
                gigabytes(found["bytes_estimate"]), duration(found["bytes_estimate"] / bandwidth),
            ])  # fmt: skip
    return markdown(header, lines)


def summary(rows: Sequence[dict[str, Any]], tiny: bool) -> str:
    """A row a graph, of the hinge and the faster form of its step."""
    header = ["graph", "step", "epoch", "peak memory", "yardstick's step", "yardstick / hakg_dgl"]
    header += ["share of bandwidth, at least", "with gathers", "met"]
    lines = []
    for row in rows:
        seconds, slow = fastest(row), row["naive"].get("step_seconds")
        met = "aim" if seconds <= AIM else "must" if seconds <= MUST else "**missed**"
        lines.append([
            row["graph"], duration(seconds), duration(row["epoch_seconds"]), gigabytes(row["peak_bytes"]),
            duration(slow) if slow else row["naive"]["left_out"], f"{slow / seconds:.3g}x" if slow else "",
            *(f"{row['share_of_bandwidth'][key]:.0%}" for key in ("least", "gathered")),
            met if row["graph"] == "last-fm" and not tiny else "",
        ])  # fmt: skip
    return markdown(header, lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--naive-steps", type=int, default=2, help="steps of the yardstick to time; 0 for none")
    parser.add_argument("--tiny", action="store_true", help="graphs so small that the numbers mean nothing")
    parser.add_argument("--json", type=Path, help="where to write the numbers; a bare name goes to benchmarks/results")
    add_options(parser)
    parser.set_defaults(device="cuda")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error(
            "these graphs are for a GPU: add --tiny to run the code on a CPU; benchmarks/speed.py measures CPUs"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, f"no GPU: PyTorch {torch.__version__} finds no CUDA device (hakg doctor says more)\n")
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    choice = explain_backend(device)
    print(f"{describe_machine(machine_facts(device))}\nkernels = auto is {choice.name}: {choice.reason}\n", flush=True)
    bandwidth = copy_bandwidth(device, 1 << (22 if arguments.tiny else 30))
    rows = []
    for name in arguments.graphs:
        dataset = preprocess(generate_like(TINY if arguments.tiny else name), PreprocessOptions(valid=0.0))
        rows.append(measure_graph(name, dataset, arguments, bandwidth))
        size = f"{dataset.n_users:,} users, {dataset.n_items:,} items, {len(dataset.triples):,} triples"
        print(f"Stages of a training step, {name} ({size}):\n\n{stage_table(rows[-1]['stages'])}\n", flush=True)
    print(f"{step_table(rows)}\n\n{launch_table(rows, bandwidth)}\n\n{summary(rows, arguments.tiny)}\n")
    print(f"- Copy bandwidth: {bandwidth / 1e9:.1f} GB/s, reading and writing counted.")
    if arguments.json is not None:
        values = {"doctor": examine(), "copy_bandwidth": bandwidth, "graphs": rows}
        write_results(arguments.json, values, device)


if __name__ == "__main__":
    main()
