"""``hakg train`` trains a model on a data set."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hakg_dgl.models.registry import model_names
from hakg_dgl.settings.run import Device
from hakg_dgl.settings.training import Protocol

from .failures import NOTHING, Failure, after_interrupt, stopping_gently
from .processes import in_processes
from .progress import epochs as epochs_bar
from .progress import say
from .report import table
from .runs import protocol_notes
from .several import KeepsArguments

if TYPE_CHECKING:
    from hakg_dgl import RunFolder, Settings


PRESETS = (
    "Named settings of the model to start from; of hakg: default, fast, released, paper, alibaba-ifashion, yelp2018, "
    "last-fm."
)


@click.command(
    "train",
    cls=KeepsArguments,
    epilog="\b\nExamples:\n"
    "  hakg train data/demo --out runs/demo\n"
    "  hakg train data/last-fm --out runs/last-fm --preset last-fm --set batch_size=8192 --device cuda\n"
    "  hakg train data/demo --out runs/demo --resume\n"
    "  hakg train data/demo --model ease --out runs/demo-ease\n",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the run.")
@click.option("--model", "kind", type=click.Choice(model_names()), help="Which model; hakg by default.")
@click.option("--preset", metavar="NAME", help=PRESETS)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, on top of the preset.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting, on top of both; repeatable."
)
@click.option("--epochs", type=int, help="Most epochs; the same as --set epochs=N.")
@click.option("--seed", type=int, help="Seed of initialisation, batches, negatives and dropout.")
@click.option("--device", type=click.Choice(get_args(Device)), help="auto: a GPU if there is one.")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), help="bf16: propagation gathers bfloat16 rows.")
@click.option(
    "--protocol",
    type=click.Choice(get_args(Protocol)),
    help="published: train on train and validation, select on test, to compare with published tables only.",
)
@click.option(
    "--keep-overlap",
    is_flag=True,
    help="With --protocol published: test pairs that are also in train count as relevant, as they did there.",
)
@click.option("--tensorboard", is_flag=True, help="Also write event files to RUN/tensorboard.")
@click.option(
    "--mlflow",
    "store",
    metavar="STORE",
    help="Also write the finished run into this store of MLflow: a folder, or a URI such as sqlite:///mlflow.db.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Train hakg, lightgcn or bpr-mf by N processes of this machine; torchrun starts them on several.",
)
@click.option(
    "--parts",
    type=click.Path(path_type=Path, file_okay=False),
    help="With several processes: what 'hakg partition DATA' wrote. Each but the first reads its part alone.",
)
@click.option("--resume", is_flag=True, help="Continue the run in OUT, with its settings; --epochs may be raised.")
@click.option("--overwrite", is_flag=True, help="Train anew if OUT already holds a run; that run is lost.")
def train_command(
    data: Path, out: Path, preset: str | None, config: Path | None, assignments: tuple[str, ...], resume: bool,
    overwrite: bool, store: str | None, processes: int | None, parts: Path | None, **settings_given: Any,
) -> None:  # fmt: skip
    """Train on DATA, keep the best model in OUT.

    Stops when the validation split shows no better ranking. OUT holds config.toml (every setting and its value),
    metrics.jsonl (a line an epoch), result.json, model.safetensors and what --resume needs. A model in closed form,
    such as item-knn and ease, tries every choice of its settings, a line each, and keeps the best one.
    """
    from hakg_dgl.distributed.group import in_group, is_first, started_again
    from hakg_dgl.distributed.shards import shard_class
    from hakg_dgl.models.settings import Settings
    from hakg_dgl.training.mlflow_log import log_to_mlflow, require_mlflow
    from hakg_dgl.training.run_folder import RunFolder

    folder = RunFolder(out)
    if started_again() and folder.exists():  # with the same command line
        resume, overwrite = True, False
    if store is not None:
        require_mlflow()
    if is_first():
        _refuse_occupied(folder, resume, overwrite)
    if resume and not preset and not config and folder.exists():
        config = folder.config_file
    given = {key: value for key, value in settings_given.items() if value is not None and value is not False}
    overrides = [f"{key}={str(value).lower()}" for key, value in given.items()]
    settings = Settings.resolve(preset=preset or "default", file=config, overrides=[*assignments, *overrides])
    if processes is not None and not in_group():
        shard_class(settings.kind)
        _require_parts(parts, processes)
        after_interrupt(lambda: _to_go_on(data, out) if folder.exists() else NOTHING)
        in_processes(processes)
        return
    if parts is not None and not in_group():
        raise click.UsageError("--parts is for several processes: add --processes N, or start them with torchrun")
    result = _trained(settings, data, parts, out, resume)
    if is_first():
        _show(result, out)
        if store is not None:
            click.echo(f"Wrote run {log_to_mlflow(out, store)} into {store}")


def _to_go_on(data: Path, out: Path) -> str:
    return f"Continue with: hakg train {shlex.quote(str(data))} --out {shlex.quote(str(out))} --resume"


def _require_parts(parts: Path | None, processes: int) -> None:
    from hakg_dgl.data.parts import Parts
    from hakg_dgl.distributed.loading import require_one_part_each

    if parts is not None:
        require_one_part_each(Parts(parts).n_parts, processes)


def _trained(settings: Settings, data: Path, parts: Path | None, out: Path, resume: bool) -> dict[str, Any]:
    """Train, alone or as one of several processes; the content of ``result.json``."""
    from hakg_dgl.data.dataset import Dataset, load_dataset
    from hakg_dgl.distributed.group import in_group, joined, require_alike
    from hakg_dgl.distributed.loading import load_own
    from hakg_dgl.distributed.trainer import DistributedTrainer
    from hakg_dgl.training.circumstances import choose_device
    from hakg_dgl.training.trainer import make_trainer

    dataset: Dataset
    with ExitStack() as group:
        make: Callable[..., Any] = make_trainer
        if in_group():
            group.enter_context(joined(choose_device(settings.run.device)))
            dataset, owners = load_own(data, parts)
            require_alike(dataset, settings)
            make = partial(DistributedTrainer, owners=owners)
        else:
            dataset = load_dataset(data)
        progress = group.enter_context(epochs_bar(settings.training.select_by))
        trainer = make(dataset, settings, run=out, data_path=data, on_progress=progress)
        after_interrupt(_to_go_on(data, out))
        for warning in trainer.warnings:
            say(warning)
        with stopping_gently(trainer.interrupt):
            result: dict[str, Any] = trainer.fit(resume=resume)
    return result


def _show(result: dict[str, Any], out: Path) -> None:
    for note in protocol_notes(result["note"]):
        click.echo(note + "\n")
    splits = {split: values for split, values in result["metrics"].items() if values}
    metrics = dict.fromkeys(name for values in splits.values() for name in values)
    rows = ({"metric": name, **{split: splits[split].get(name) for split in splits}} for name in metrics)
    click.echo(table(rows, ["metric", *splits]))
    click.echo(
        f"\n{_best(result)} ({result['stopped']}), "
        f"{result['seconds']:,.1f} s on {result['device']}\nWrote {out}. Next: hakg evaluate {out}"
    )


def _best(result: dict[str, Any]) -> str:
    """The selected epoch, or the selected settings of a model that has no epochs."""
    number, n, selected = result["best_epoch"], result["epochs_run"], result.get("selected")
    beside = _listed(result.get("chosen", {}))
    if selected is None:
        return f"Best epoch {number} of {n}" + (f", with {beside}" if beside else "")
    chosen = ", ".join(filter(None, (_listed(selected), beside)))
    return f"Best of {n} choices: {chosen}" if chosen else "Nothing to choose"


def _listed(values: dict[str, float]) -> str:
    """``a = 1, b = 0.5``."""
    return ", ".join(f"{key} = {value:g}" for key, value in values.items())


def _refuse_occupied(folder: RunFolder, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise click.UsageError("--resume continues the run in OUT, --overwrite starts anew: give one of them")
    if resume or not folder.path.exists():
        return
    if not folder.exists() and folder.holds_other_files():
        raise Failure(f"{folder.path}: holds something else than a run; choose another folder, or empty it yourself")
    if folder.exists() and not overwrite:
        raise Failure(
            f"{folder.path}: holds a run already\n"
            "Add --resume to continue it, --overwrite to train anew, or choose another folder."
        )
