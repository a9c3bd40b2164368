"""The package's speed against its targets and against the yardstick, on one machine, in one run.

    python benchmarks/speed.py                  # everything; minutes on two cores, most of them the yardstick's
    python benchmarks/speed.py --only epoch evaluation --data DATA
    python benchmarks/speed.py --device cuda --only large --json speed-gpu.json

Prints Markdown. Data are generated at the sizes of ml-100k and Last-FM, unless ``--data`` gives a folder in the KGAT
layout, or one that ``hakg preprocess`` wrote, for the sections epoch, evaluation and stages.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import measure
import naive
import torch
from measure import duration, gigabytes, markdown, median_seconds
from stages import stage_rows, stage_table
from training_step import (
    add_options,
    batches_of,
    endless_batches,
    in_subprocess,
    model_of,
    naive_memory,
    objective_of,
    options,
    resolve,
    step,
)

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.kgat_files import write_kgat
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.graph.heterograph import build_graph, pack
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluator
from hakg_dgl.ranking.topk import EmbeddingScorer
from hakg_dgl.training.circumstances import choose_device
from hakg_dgl.training.progress import Progress
from hakg_dgl.training.trainer import Trainer

ML_100K = {
    "users": 943, "items": 1598, "entities": 34628, "relations": 24, "triples": 91631, "train": 78050, "test": 19504,
}  # fmt: skip
TINY = {"users": 60, "items": 90, "entities": 300, "relations": 5, "triples": 700, "train": 900, "test": 200}
NO_VALIDATION = PreprocessOptions(valid=0.0)
K = 20


@dataclass(frozen=True)
class Target:
    """What the released code was measured to take elsewhere, and what the package must and would like to."""

    released: str
    must: float
    aim: float


TARGETS = {
    "epoch": Target("275 s", 8.0, 2.7),
    "evaluation": Target("6.1 s", 0.2, 0.06),
    "reading": Target("34 s, before its loops over edges", 6.0, 2.0),
    "memory": Target("20 GB for its negatives alone", 4e9, 2e9),
    "gpu step": Target("", 0.010, 0.003),
}
"""Seconds, or bytes for memory; epoch and evaluation on ml-100k with two CPU cores, the others at Last-FM's size."""


@dataclass
class Row:
    """A line of the table: seconds, or bytes where ``unit`` says so."""

    what: str
    package: float
    naive: float | None = None
    target: Target | None = None
    unit: str = "s"

    def cells(self) -> list[str]:
        shown = duration if self.unit == "s" else gigabytes
        yardstick = ["", shown(self.package), ""]
        if self.naive is not None:
            yardstick = [shown(self.naive), shown(self.package), f"{self.naive / self.package:.3g}x"]
        if self.target is None:
            return [self.what, "", *yardstick, "", "", ""]
        met = "aim" if self.package <= self.target.aim else "must" if self.package <= self.target.must else "**missed**"
        return [self.what, self.target.released, *yardstick, shown(self.target.must), shown(self.target.aim), met]


@dataclass
class Report:
    """What a section found."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


class Benchmark:
    """The sections, by name, and the data that they share."""

    sections = ("epoch", "evaluation", "reading", "large", "stages")

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.repeats = arguments, arguments.repeats
        self.device = choose_device(arguments.device)
        self.last_fm: str | dict[str, int] = TINY if arguments.tiny else "last-fm"
        self._small: Dataset | None = None

    def small(self) -> Dataset:
        """The data of ``--data``, or a graph of ml-100k's size."""
        if self._small is None:
            folder = self.arguments.data
            if folder is None:
                self._small = generated(TINY if self.arguments.tiny else ML_100K)
            elif (folder / "dataset.json").exists():
                self._small = load_dataset(folder)
            else:
                self._small = preprocess(read_kgat(folder), NO_VALIDATION)
        return self._small

    def settings(self, preset: str, **more: Any) -> Settings:
        return resolve(preset, self.arguments.overrides, self.arguments.device, **more)

    def target(self, name: str, dataset: Dataset | None = None) -> Target | None:
        """The target of this name, if what is measured is what the target is about: sizes, settings, device."""
        found = {} if dataset is None else {name: getattr(dataset, f"n_{name}") for name in list(ML_100K)[:4]}
        if dataset is not None:
            found |= {"triples": len(dataset.triples)}
            found |= {split: len(dataset.pairs(split)) for split in ("train", "test")}
        as_stated = (dataset is None and not self.arguments.tiny) or found == ML_100K
        on_device = (self.device.type == "cuda") == (name == "gpu step")
        return TARGETS[name] if as_stated and on_device and not self.arguments.overrides else None

    def epoch(self) -> Report:
        """Epochs of the trainer itself: those after the first and before the last, which is evaluated too."""
        times: list[float] = []

        def note(progress: Progress) -> None:
            if progress.step == progress.steps and not progress.metrics:
                times.append(progress.seconds)

        epochs = self.repeats + 2
        trainer = Trainer(
            self.small(), self.settings("released", epochs=epochs, eval_every=epochs), on_progress=note
        )  # fmt: skip
        trainer.fit()
        counted, steps = times[1:], len(batches_of(trainer))
        assert len(counted) == self.repeats
        report = Report(values={"epoch_seconds": counted, "steps": steps})
        per_step = self._naive_step(trainer, report)
        s = trainer.settings
        what = f"training epoch: {steps} steps, batch {s.training.batch_size}, {s.loss.negatives} negatives, "
        what += f"L {s.model.layers}, d {s.model.dim}"
        slow = None if per_step is None else per_step * steps
        report.rows.append(Row(what, statistics.median(counted), slow, self.target("epoch", self.small())))
        return report

    def _naive_step(self, trainer: Trainer, report: Report) -> float | None:
        n, steps = self.arguments.naive_steps, len(batches_of(trainer))
        needed, free = naive_memory(trainer), measure.free_memory(self.device)
        if n < 1 or needed > free:
            why = "as asked" if n < 1 else f"it needs about {gigabytes(needed)}, {gigabytes(free)} are free"
            report.notes.append(f"The yardstick's epoch was left out: {why}.")
            return None
        batches, yardstick = endless_batches(trainer), naive.NaiveObjective(objective_of(trainer))
        time = median_seconds(lambda: step(trainer, yardstick, next(batches)), n, self.device)
        report.notes.append(
            f"The yardstick's epoch is the median of {n} of its steps, {duration(time)}, times the {steps} of an epoch."
        )
        report.values["naive_step_seconds"] = time
        return time

    def evaluation(self) -> Report:
        """Propagation, ranking and metrics: from scratch, and with what is prepared once."""
        dataset = self.small()
        trainer = Trainer(dataset, self.settings("released"))
        vectors, evaluator = model_of(trainer).ranking_vectors(), Evaluator(dataset, "test", (K,))

        def median(run: Callable[[], object], repeats: int = self.repeats) -> float:
            return median_seconds(run, repeats, self.device)

        def scorer() -> EmbeddingScorer:
            return EmbeddingScorer(*model_of(trainer).ranking_vectors())

        first = median(lambda: Evaluator(dataset, "test", (K,))(scorer()))
        again = median(lambda: evaluator(scorer()))
        ranking = median(lambda: evaluator(EmbeddingScorer(*vectors)))
        yardstick, report = naive.NaiveObjective(objective_of(trainer)), Report()
        with torch.no_grad():
            propagation = median(yardstick.propagate, 1)
        looped = self._naive_ranking(vectors, evaluator, dataset, report)
        target, slow = self.target("evaluation", dataset), propagation + looped
        what = f"full-ranking evaluation, {len(evaluator.users)} users, {dataset.n_items} items"
        report.rows += [
            Row(what, first, slow, target),
            Row("the same, with what depends on the data alone prepared before", again, slow, target),
            Row("its ranking and metrics, without propagation", ranking, looped),
        ]
        return report

    def _naive_ranking(
        self, vectors: tuple[torch.Tensor, torch.Tensor], evaluator: Evaluator, dataset: Dataset, report: Report
    ) -> float:
        limit, n_users = int(self.arguments.naive_users), len(evaluator.users)
        found: dict[str, float] = {}
        users, items = (x.cpu() for x in vectors)
        time = measure.seconds(lambda: found.update(naive.evaluate(users, items, dataset, K, limit)), self.device)
        if limit < n_users:
            report.notes.append(f"The yardstick ranked {limit} of {n_users} users; its time is multiplied accordingly.")
            return time * n_users / limit
        metrics = evaluator(EmbeddingScorer(*vectors)).metrics
        difference = max(abs(metrics[name] - value) for name, value in found.items())
        report.notes.append(f"Largest difference of a metric between package and yardstick: {difference:.1e}.")
        return time

    def reading(self) -> Report:
        """A KGAT folder of Last-FM's size to the packed heterograph."""
        cpu, parts = torch.device("cpu"), {}
        with tempfile.TemporaryDirectory() as name:
            folder = write_kgat(generate_like(self.last_fm), name)
            raw = read_kgat(folder)
            dataset = preprocess(raw, NO_VALIDATION)
            graph = build_graph(dataset)
            for part, run in {
                "reading": lambda: read_kgat(folder),
                "checking, numbering": lambda: preprocess(raw, NO_VALIDATION),
                "heterograph": lambda: build_graph(dataset),
                "packed views": lambda: pack(graph),
            }.items():
                parts[part] = median_seconds(run, self.repeats, cpu)
            slow = median_seconds(lambda: naive.read_kgat(folder), 1, cpu, warm_up=0)
        what = f"reading {len(dataset.interactions):,} interactions and {len(dataset.triples):,} triples, "
        row = Row(f"{what}building the graph", sum(parts.values()), slow, self.target("reading"))
        table = markdown(["part of reading", "time"], [[part, duration(time)] for part, time in parts.items()])
        return Report([row], tables=[table], values={"parts": parts})

    def large(self) -> Report:
        """Steps at Last-FM's size, in a process of their own; its peak memory, reading the data set included."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "data"
            generated(self.last_fm).save(folder)
            flags = ["--naive"] if self.arguments.naive_steps else []
            found = in_subprocess(folder, [*options(self.arguments, "last-fm"), *flags])
        notes = [f"Last-FM's size, {line['what']}: {line['skipped']}." for line in found.values() if "skipped" in line]
        if "package" not in found:
            return Report(notes=notes, values=found)
        ours, slow = found["package"], found.get("naive", {})
        where = f"training at Last-FM's size, {self.device.type.upper()}"
        rows = [
            Row(f"step of {where}", ours["seconds"], slow.get("seconds"), self.target("gpu step")),
            Row(f"peak memory of {where}", ours["peak_bytes"], slow.get("peak_bytes"), self.target("memory"), "bytes"),
        ]
        grown = ", ".join(gigabytes(ours[key]) for key in ("before_bytes", "ready_bytes", "peak_bytes"))
        notes.append(f"Peak memory after reading the data set, with the model ready, and after the steps: {grown}.")
        epoch, steps = ours["seconds"] * ours["steps_an_epoch"], ours["steps_an_epoch"]
        notes.append(f"An epoch at Last-FM's size has {steps} steps, {duration(epoch)}.")
        return Report(rows, notes, values=found)

    def stages(self) -> Report:
        """Where a step's time goes, at both sizes, and how near it comes to the copy bandwidth."""
        bandwidth = measure.copy_bandwidth(self.device, 1 << (22 if self.arguments.tiny else 28))
        report = Report(notes=[f"Copy bandwidth: {bandwidth / 1e9:.1f} GB/s, reading and writing counted."])
        report.values["copy_bandwidth"] = bandwidth
        for preset in ("released", "last-fm"):
            dataset = self.small() if preset == "released" else generated(self.last_fm)
            rows = stage_rows(Trainer(dataset, self.settings(preset)), self.repeats, bandwidth)
            size = f"{dataset.n_users:,} users, {dataset.n_items:,} items, {len(dataset.triples):,} triples"
            report.tables.append(f"Stages of a training step ({size}):\n\n{stage_table(rows)}")
            report.values[preset] = rows
        return report


def generated(like: str | Mapping[str, int]) -> Dataset:
    """A random data set of these sizes, without a validation split."""
    return preprocess(generate_like(like), NO_VALIDATION)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="real data instead of generated ones, for the small sections")
    parser.add_argument("--only", nargs="+", choices=Benchmark.sections, default=list(Benchmark.sections))
    parser.add_argument("--naive-steps", type=int, default=2, help="steps of the yardstick to time; 0 for none")
    parser.add_argument("--naive-users", type=int, default=2000, help="most users that the yardstick ranks")
    parser.add_argument("--tiny", action="store_true", help="graphs so small that the numbers mean nothing")
    parser.add_argument("--json", type=Path, help="where to write the numbers; a bare name goes to benchmarks/results")
    add_options(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    benchmark = Benchmark(arguments)
    print(f"{measure.describe_machine(measure.machine_facts(benchmark.device))}\n", flush=True)
    reports: dict[str, Report] = {}
    for name in arguments.only:
        reports[name] = getattr(benchmark, name)()
        for table in reports[name].tables:
            print(f"{table}\n", flush=True)
    header = ["what", "released code", "yardstick", "hakg_dgl", "yardstick / hakg_dgl", "must", "aim", "met"]
    print(markdown(header, [row.cells() for report in reports.values() for row in report.rows]) + "\n")
    for note in (note for report in reports.values() for note in report.notes):
        print(f"- {note}")
    if arguments.json is not None:
        values = {name: {"rows": [asdict(row) for row in found.rows]} | found.values for name, found in reports.items()}
        measure.write_results(arguments.json, {"sections": values}, benchmark.device)


if __name__ == "__main__":
    main()
