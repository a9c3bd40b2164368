"""What happens once, before the first step of a training: the graph, the orders of its edges, the terms in closed form.

    python benchmarks/before_steps.py --device cuda

of a generated graph, or of a data set. Seconds are of the clock, and of the process's processors; on a GPU its work is
waited for. The terms are solved for in the way that the package takes on the device; ``--way`` names another one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measure import describe_machine, duration, machine_facts, markdown, write_results

from hakg_dgl.data.dataset import Dataset, load_dataset
from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.graph.heterograph import build_graph
from hakg_dgl.graph.matrices import fact_matrix
from hakg_dgl.graph.packed import PackedGraph
from hakg_dgl.layers import spectrum
from hakg_dgl.layers.item_item import fact_spectrum, interaction_spectrum
from hakg_dgl.models.hakg import HAKGSettings
from hakg_dgl.training.circumstances import choose_device


class Stopwatch:
    """What each of some works took, on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.taken: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of the work."""
        clock, processors = time.perf_counter(), time.process_time()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - clock
        self.taken[name] = {"seconds": seconds, "processor_seconds": time.process_time() - processors}
        return result


def orders(packed: PackedGraph) -> None:
    """Sort edges by each of their ends."""
    _ = packed.interactions.by_col, packed.knowledge.pairs.by_col, packed.knowledge.by_relation


def timed(dataset: Dataset, device: torch.device, ranks: tuple[int, int]) -> dict[str, dict[str, float]]:
    """What each work before the first step takes."""
    watch = Stopwatch(device)
    graph = watch("graph", lambda: build_graph(dataset).to(device))
    packed = watch("edges joined", lambda: graph.packed)
    watch("orders of edges", lambda: orders(packed))
    watch("items by items", lambda: interaction_spectrum(packed.interactions, ranks[0]))
    facts = watch("facts of items", lambda: fact_matrix(graph))
    watch("items by facts", lambda: fact_spectrum(facts, ranks[1], device))
    return watch.taken


def main(argv: Sequence[str] | None = None) -> None:
    default = HAKGSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder that `hakg preprocess` wrote; default: a generated graph")
    parser.add_argument("--like", default="last-fm", help="name of a dataset card, whose sizes are taken")
    parser.add_argument("--scale", type=float, default=1.0, help="times these sizes")
    parser.add_argument("--ranks", type=int, nargs=2, default=[default.linear_rank, default.facts_rank])
    parser.add_argument("--way", choices=["dense", "arpack", "blocks"], help="how terms are solved for")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where to write the numbers; a bare name goes to benchmarks/results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    print(f"{describe_machine(machine_facts(device))}\n", flush=True)
    if arguments.data is None:
        dataset = preprocess(generate_like(arguments.like, arguments.scale), PreprocessOptions(valid=0.0))
    else:
        dataset = load_dataset(arguments.data)
    chosen = spectrum.way if arguments.way is None else lambda n, r, device: arguments.way
    with patch.object(spectrum, "way", chosen):
        found = timed(dataset, device, tuple(arguments.ranks))
    rows = [[name, duration(took["seconds"]), duration(took["processor_seconds"])] for name, took in found.items()]
    print(markdown(["work", "time", "processor time"], rows))
    if arguments.json is not None:
        write_results(arguments.json, {"way": arguments.way, "taken": found}, device)


if __name__ == "__main__":
    main()
