"""Trains for very many steps, also far too fast, and counts points outside the ball and numbers that are none.

    python benchmarks/long_training.py --steps 10000 --json long_training.json

On the demo with 60 users (or ``--data``), for each learning rate of ``--lr``. After every epoch the points of all
parameters, ``clip(exp_0(v))``, are computed: none may be further from the origin than the guard allows (4e-3 from the
edge in float32), and none may be NaN or infinite. Training may end earlier only by an error that names the step, the
norms and the settings to change, with finite weights kept. Exit code 1 if a point is outside or a number is none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from kill_resume import demo
from measure import describe_machine, machine_facts, markdown, write_results
from torch import Tensor
from training_step import model_of

from hakg_dgl import Settings, Trainer, load_dataset
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import NumericalError
from hakg_dgl.geometry.guards import max_norm
from hakg_dgl.models.hakg.settings import PRESETS
from hakg_dgl.training.progress import Progress


def count(points: Tensor, limit: float) -> dict[str, Any]:
    """Of points ``[n, d]``: how many are outside, at the edge, or none, and the largest norm over the limit."""
    ratio = points.double().norm(dim=1) / limit
    # The rows are rounded after they have been scaled to the limit.
    rounding = 4.0 * torch.finfo(points.dtype).eps
    return {
        "outside": int((ratio > 1.0 + rounding).sum()),
        "not_finite": int((~ratio.isfinite()).sum()),
        "at_edge": int(((ratio - 1.0).abs() <= rounding).sum()),
        "largest_point": float(ratio.nan_to_num(0.0).max()),
    }


def watch(dataset: Dataset, settings: Settings, steps: int) -> dict[str, Any]:
    """Train for this many steps; what was seen at the ends of the epochs, the worst of all of them."""
    batch, pairs = settings.training.batch_size, len(dataset.pairs("train"))
    epochs = -(-steps // -(-pairs // batch))
    long = {"epochs": epochs, "patience": epochs, "refit": False, "eval_every": max(1, epochs // 10)}
    worst = {"outside": 0, "not_finite": 0, "at_edge": 0, "largest_point": 0.0, "largest_tangent": 0.0}
    done, losses = [0], [0.0]

    def look(progress: Progress) -> None:
        done[0] += 1
        if progress.step < progress.steps:
            return
        losses[0] = progress.loss
        rule, model = model_of(trainer).rule, model_of(trainer)
        tables = [value.detach() for name, value in model.named_parameters() if not name.startswith("gate")]
        limit = max_norm(model.entity.dtype, c=rule.curvature, margin=rule.margin)
        found = count(torch.cat([rule.point(table) for table in tables]), limit)
        found["largest_tangent"] = max(float(table.norm(dim=1).max()) for table in tables)
        for name, value in found.items():
            worst[name] = max(worst[name], value)

    trainer = Trainer(dataset, settings.replace(long), on_progress=look)
    ended = "all steps done"
    try:
        trainer.fit()
    except NumericalError as error:
        ended = str(error)
        if not all(bool(value.isfinite().all()) for value in model_of(trainer).parameters()):
            worst["not_finite"] += 1  # what is kept must be good
    return {"steps": done[0], "loss": losses[0], "ended": ended, **worst}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--lr", nargs="+", type=float, default=[1.0, 100.0])
    parser.add_argument("--presets", nargs="+", default=["default", "released"], choices=list(PRESETS))
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "float64"])
    parser.add_argument("--data", type=Path, help="folder made by hakg preprocess; the demo by default")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the numbers (a bare name: into benchmarks/results)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(given.data or demo(Path(folder) / "data"))
    small = ["dim=8", "layers=2", "batch_size=160", "device=cpu"]
    rows: list[dict[str, Any]] = []
    for preset in given.presets:
        for dtype in given.dtypes:
            for lr in given.lr:
                began = time.perf_counter()
                values = [*small, f"dtype={dtype}", f"lr={lr}", *given.overrides]
                found = watch(dataset, Settings.resolve(preset=preset, overrides=values), given.steps)
                about = {"preset": preset, "dtype": dtype, "lr": lr, "seconds": time.perf_counter() - began}
                rows.append(about | found)
                print(rows[-1], file=sys.stderr, flush=True)
    header = ["preset", "dtype", "lr", "steps", "last loss", "longest tangent vector", "points at the guard",
              "points outside", "not finite", "ended"]  # fmt: skip
    cells = [
        [row["preset"], row["dtype"], f"{row['lr']:g}", f"{row['steps']:,}", f"{row['loss']:.3g}",
         f"{row['largest_tangent']:.3g}", str(row["at_edge"]), str(row["outside"]), str(row["not_finite"]),
         row["ended"].partition(".")[0]]
        for row in rows
    ]  # fmt: skip
    device = torch.device("cpu")
    print(f"{markdown(header, cells)}\n\n{describe_machine(machine_facts(device))}")
    if given.json is not None:
        write_results(given.json, {"runs": rows}, device)
    return 1 if any(row["outside"] or row["not_finite"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
