"""What a training step launches on a GPU and how many bytes that moves: counted there, estimated without one.

    python benchmarks/launches.py --objective softmax

counts on a CPU, on a tiny graph, the operators of a step of HAKG with the kernels and the fixed shapes that a GPU uses
(Triton's kernels in its interpreter, a launch each), and prints which lines of the package they come from, the most
first. Their number hardly depends on the size of the graph; their bytes are those of this graph.

On a GPU, ``gpu.py`` counts launches by PyTorch's profiler. Bytes are an estimate everywhere: the sizes of the tensors
that each operator or kernel takes and returns, each once. Rows that a kernel gathers again and again count once, and a
table of which it reads a few rows counts as a whole.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from measure import markdown
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
from hakg_dgl.data.random_graphs import generate_like
from hakg_dgl.layers import losses
from hakg_dgl.layers.sampling import NegativeSampler
from hakg_dgl.models.settings import Settings
from hakg_dgl.training.trainer import Trainer

NO_LAUNCH = (
    "view", "_unsafe_view", "slice.", "detach", "t.", "transpose", "unsqueeze", "squeeze", "expand", "select.", "alias",
    "empty", "new_empty", "as_strided", "split", "unbind", "permute", "_local_scalar_dense", "_reshape_alias",
)  # fmt: skip
"""Operators that make views or reserve memory, by the beginning of their names."""
TINY = {"users": 6, "items": 6, "entities": 10, "relations": 2, "triples": 14, "train": 16, "test": 2}
"""For Triton's interpreter, which takes about a millisecond a row."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators by name, and their bytes, but those that Triton's interpreter runs: of these, the kernels.

    Attributes
    ----------
    operators, moved
        Launches and bytes by operator; Triton's kernels are ``triton`` and the kernel's name.
    places
        Launches by the line of the package that asked for them, where ``places`` was set.
    """

    def __init__(self, *, places: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.places: Counter[str] | None = Counter() if places else None
        self._in_kernel = False

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = operator.name().removeprefix("aten::") + "."
        result = operator(*arguments, **(named or {}))
        if not self._in_kernel and not name.startswith(NO_LAUNCH):
            self._count(name.rstrip("."), [arguments, named, result])
        return result

    def _count(self, name: str, tensors: object) -> None:
        self.operators[name] += 1
        found = {id(x): x for x in tree_leaves(tensors) if isinstance(x, Tensor)}
        self.moved[name] += sum(x.numel() * x.element_size() for x in found.values())
        if self.places is not None:
            self.places[_place()] += 1

    def around(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """A kernel's launch that counts as one."""

        def counted(*arguments: Any, **named: Any) -> Any:
            self._count(f"triton {name}", [arguments, named])
            self._in_kernel = True
            try:
                return run(*arguments, **named)
            finally:
                self._in_kernel = False

        return counted

    @property
    def kernels(self) -> int:
        """Launches of Triton's kernels."""
        return sum(count for name, count in self.operators.items() if name.startswith("triton "))


def _place() -> str:
    """The line of the package that asks for an operator, or, in a backward pass, that asked for its forward one."""
    node: Any = torch._C._current_autograd_node()
    own = _own_lines("".join(traceback.format_stack(limit=40)))
    if own and (node is None or "backward" in own[-1]):
        return own[-1]
    written = "" if node is None else "".join(node.metadata.get("traceback_", []))
    forward = _own_lines(written)
    return f"backward of {forward[-1]}" if forward else "elsewhere"


def _own_lines(stack: str) -> list[str]:
    lines = [line.strip() for line in stack.splitlines() if "/hakg_dgl/" in line and line.strip().startswith("File")]
    return [line.partition("/hakg_dgl/")[2].replace('", line ', ":").replace(", in ", " ") for line in lines]


def triton_kernels() -> list[tuple[str, Any]]:
    """Triton's kernels of the package, each with its name."""
    import hakg_dgl.kernels.triton_backend  # noqa: F401
    from hakg_dgl.kernels.triton_kernels.products import combine_kernel

    own = [module for name, module in sys.modules.items() if name.startswith("hakg_dgl.kernels.triton_kernels.")]
    found = {id(x): (name, x) for module in own for name, x in vars(module).items() if type(x) is type(combine_kernel)}
    return list(found.values())


@contextmanager
def counting(*, places: bool = False, as_on_a_gpu: bool = False) -> Iterator[Launches]:
    """Count what is launched within, on a CPU with the shapes ``as_on_a_gpu`` or its own.

    Triton's kernels are found where it is installed.
    """
    launches = Launches(places=places)
    with ExitStack() as stack:
        if as_on_a_gpu:
            stack.enter_context(patch.object(losses, "in_fixed_shapes", lambda on: True))
            stack.enter_context(patch.object(NegativeSampler, "sample", NegativeSampler._sample_in_fixed_shapes))
        try:
            kernels = triton_kernels()
        except ImportError:
            kernels = []
        for name, kernel in kernels:
            # A kernel is compiled for its options, so it is the instance whose method is replaced.
            stack.enter_context(patch.object(kernel, "run", launches.around(name, kernel.run)))
        if places:  # each operator of a backward pass then knows the line of its forward one
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Anomaly Detection")
            stack.enter_context(torch.autograd.detect_anomaly(check_nan=False))
        stack.enter_context(launches)
        yield launches


def estimate(step: Callable[[], object], *, places: bool = False) -> Launches:
    """What a step launches, from its operators; the step before it sorts what all later ones use."""
    with counting(as_on_a_gpu=True):
        step()
    with counting(places=places, as_on_a_gpu=True) as launches:
        step()
    return launches


def counted_by_profiler(step: Callable[[], object]) -> int:
    """What a step launches on a GPU: its kernels, copies and fillings, as PyTorch's profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in seen.events())


def whole_step(trainer: Trainer) -> Callable[[], None]:
    """A training step on the first batch, without a graph."""
    each = trainer.trainee.passes[0]
    optimizer, batch = trainer.trainee.optimizers[each.optimizer], next(iter(each.batches))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        each.loss(*batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def launches_of(trainer: Trainer) -> dict[str, Any]:
    """Launches and bytes of a step without a graph, on the trainer's device, by kind.

    Returns
    -------
    dict
        ``operators``: number of PyTorch's operators that launch something, counted on any device, and ``kernels`` of
        Triton's; ``bytes_estimate``: sizes of what they take and return; and, of a GPU, ``profiled``: launches that
        PyTorch's profiler saw, None elsewhere.
    """
    step, on_gpu = whole_step(trainer), trainer.device.type == "cuda"
    found = estimate(step)
    return {
        "operators": found.operators.total() - found.kernels,
        "kernels": found.kernels,
        "bytes_estimate": found.moved.total(),
        "profiled": counted_by_profiler(step) if on_gpu else None,
    }


def place_table(launches: Launches, rows: int) -> str:
    """The lines from which most launches come."""
    assert launches.places is not None
    lines = [[place, str(count)] for place, count in launches.places.most_common(rows)]
    return markdown(["place", "launches"], lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=["hinge", "softmax"], default="hinge")
    parser.add_argument("--kernels", default="triton")
    parser.add_argument("--rows", type=int, default=40, help="places to show")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE", help="other settings")
    arguments = parser.parse_args(argv)
    if arguments.kernels == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
        parser.exit(2, "set TRITON_INTERPRET=1: this runs Triton's kernels on a CPU\n")
    torch.set_num_threads(1)
    small = ["dim=4", "negatives=4", "batch_size=8", "layers=2", "linear_weight=0.0", "protocol=published"]
    chosen = [f"ranking_loss={arguments.objective}", f"kernels={arguments.kernels}", "device=cpu"]
    settings = Settings.resolve(overrides=[*small, *chosen, *arguments.overrides])
    trainer = Trainer(preprocess(generate_like(TINY), PreprocessOptions(valid=0.0)), settings)
    launches = estimate(whole_step(trainer), places=True)
    total, moved = launches.operators.total(), launches.moved.total()
    print(f"{total} launches, of which {launches.kernels} of Triton's kernels, and {moved:,} bytes (estimates)\n")
    print(place_table(launches, arguments.rows))


if __name__ == "__main__":
    main()
