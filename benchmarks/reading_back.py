"""Memory and time of the commands that read a run back: ``hakg evaluate``, ``recommend`` and ``export``.

    python benchmarks/reading_back.py --json reading_back.json
    python benchmarks/reading_back.py --model lightgcn --commands evaluate --processes 1 2 4

A graph of Last-FM's size is generated, and a run with a model as it is before training: as one file, and as the files
that several processes write. Each command runs as a process, or several, of one thread each. While it runs the memory
of all of its processes is looked at: the peak of each (``VmHWM``, with the pages of mapped files that it has touched),
and the most of all together, where what they share counts once (``Pss``). Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import describe_machine, duration, gigabytes, machine_facts, markdown, write_results

from hakg_dgl.data.dataset import load_dataset
from hakg_dgl.data.edge_blocks import SavedEdges
from hakg_dgl.data.owners import hash_owners
from hakg_dgl.data.part_writing import write_parts
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.models.recommender import GradientRecommender
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.model_file import piece_name, save_model, save_model_index
from hakg_dgl.training.run_folder import RunFolder
from hakg_dgl.training.sharded_state import digest_of, shard_name
from hakg_dgl.training.trainee import build_model

COMMANDS = ("evaluate", "recommend", "export")
PAUSE = 0.05
"""Seconds between two looks at the processes."""


def make_runs(arguments: argparse.Namespace, settings: Settings, folder: Path) -> None:
    """A data set, its parts, and a run as one file and one as several files, with the tensors of an untrained model."""
    preprocess(generate_like(arguments.like, arguments.scale), PreprocessOptions()).save(folder / "data")
    edges = SavedEdges(folder / "data")
    for n in arguments.processes:
        if n > 1:
            write_parts(edges, hash_owners(edges, n), folder / f"parts-{n}", method="hash")
    dataset = load_dataset(folder / "data")
    model = build_model(dataset, settings, torch.device("cpu"), ("train", "valid"))
    assert isinstance(model, GradientRecommender)
    about = {"epoch": 1, "settings": settings.to_dict(), "splits": ["train", "valid"]}
    one, several = RunFolder(folder / "one"), RunFolder(folder / "several")
    for each in (one, several):
        each.create(settings, dataset, folder / "data")
    tensors = model.tensors()
    save_model(one, tensors, about)
    tables = {name for name, axes in model.axes().items() if isinstance(axes[0], str)}
    save_in_files(several, tensors, tables, about, arguments.files)


def save_in_files(
    folder: RunFolder, tensors: dict[str, torch.Tensor], tables: set[str], about: dict[str, Any], n: int
) -> None:
    """Write a model as ``n`` processes do."""
    names = [shard_name("model", 1, rank, n) for rank in range(n)]
    bounds = {name: [rank * len(tensors[name]) // n for rank in range(n + 1)] for name in tables}
    pieces: list[dict[str, torch.Tensor]] = [{} for _ in names]
    pieces[0] = {name: value for name, value in tensors.items() if name not in tables}
    for name, limits in bounds.items():
        for rank, (first, end) in enumerate(itertools.pairwise(limits)):
            pieces[rank][piece_name(name, first, end)] = tensors[name][first:end].clone()
    where = {piece: file for file, held in zip(names, pieces, strict=True) for piece in held}
    for file, held in zip(names, pieces, strict=True):
        folder.save_tensors(folder.path / file, held, {"epoch": 1})
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    files = {file: digest_of(folder.path / file) for file in names}
    save_model_index(folder, files, where, bounds, total, about)


def arguments_of(command: str, run: Path, processes: int, out: Path, parts: Path | None = None) -> list[str]:
    """Of ``hakg``."""
    more = ["--processes", str(processes)] if processes > 1 else []
    more += ["--parts", str(parts)] if parts is not None else []
    if command == "evaluate":
        return ["evaluate", str(run), "--device", "cpu", "--json", str(out / "metrics.json"), *more]
    if command == "recommend":
        return ["recommend", str(run), "--device", "cpu", "--shards", "8", "--out", str(out / "lists.parquet"), *more]
    return ["export", str(run), "--device", "cpu", "--out", str(out / "vectors")]


def watched(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command; seconds, the peak of each of its processes, and the most memory of all together."""
    began, peaks, together = time.perf_counter(), dict[int, int](), 0
    line = [sys.executable, "-m", "hakg_dgl.cli", *arguments]
    with subprocess.Popen(
        line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            numbers = _family(process.pid)
            together = max(together, sum(_shared_out(number) for number in numbers))
            for number in numbers:
                peaks[number] = max(peaks.get(number, 0), _field(number, "status", "VmHWM"))
            time.sleep(PAUSE)
        said = process.stderr.read() if process.stderr is not None else ""
    if process.returncode:
        raise SystemExit(f"hakg {' '.join(arguments)} ended with {process.returncode}: {said}")
    first = peaks.pop(process.pid, 0)
    return {
        "seconds": time.perf_counter() - began, "first_peak_bytes": first,
        "others_peak_bytes": max(peaks.values(), default=0), "together_bytes": together,
    }  # fmt: skip


def _family(number: int) -> list[int]:
    """A process and those that it started."""
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return [number]
    return [number, *(each for child in children for each in _family(int(child)))]


def _field(number: int, file: str, name: str) -> int:
    """A size of a process in bytes; 0 where it has gone."""
    try:
        lines = Path(f"/proc/{number}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _shared_out(number: int) -> int:
    return _field(number, "smaps_rollup", "Pss")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", default="last-fm", help="which sizes to generate")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--model", default="hakg")
    parser.add_argument("--files", type=int, default=2, help="of the run of several files")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    device, rows = torch.device("cpu"), list[dict[str, Any]]()
    print(f"{describe_machine(machine_facts(device))}; load {os.getloadavg()[0]:.1f}\n", flush=True)
    fixed = {"device": "cpu"} | ({"linear_weight": [0.0], "facts_weight": [0.0]} if arguments.model == "hakg" else {})
    settings = Settings.resolve(overrides=[f"kind={arguments.model}", *arguments.overrides]).replace(fixed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: what this one holds would count as memory of those that it starts.
        maker = multiprocessing.get_context("spawn").Process(target=make_runs, args=(arguments, settings, folder))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit("the runs could not be made")
        runs = {"one file": folder / "one", f"{arguments.files} files": folder / "several"}
        ways = [(n, by_parts) for n in arguments.processes for by_parts in ((False, True) if n > 1 else (False,))]
        for command, (form, run), (n, by_parts) in itertools.product(arguments.commands, runs.items(), ways):
            if command == "export" and n > 1:
                continue
            parts = folder / f"parts-{n}" if by_parts else None
            with tempfile.TemporaryDirectory() as out:
                found = watched(arguments_of(command, run, n, Path(out), parts))
            rows.append({"command": command, "run": form, "processes": n, "by_parts": by_parts, **found})
            print(table(rows[-1:]), flush=True)
    print("\n" + table(rows))
    if arguments.json:
        write_results(
            arguments.json, {"rows": rows, "settings": settings.to_dict(), "load": os.getloadavg()[0]}, device
        )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    header = ["command", "run of", "processes", "peak of the first", "of the others, at most", "all together", "time"]
    lines = [
        [
            row["command"], row["run"], f"{row['processes']}{', by parts' * row['by_parts']}",
            gigabytes(row["first_peak_bytes"]),
            gigabytes(row["others_peak_bytes"]) if row["processes"] > 1 else "-", gigabytes(row["together_bytes"]),
            duration(row["seconds"]),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(header, lines)


if __name__ == "__main__":
    main()
