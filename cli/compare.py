"""``hakg compare`` compares groups of runs and says which differences may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import ResultPath, write_json, write_text_file
from .progress import bar, stages
from .report import shown, table
from .runs import OpenedRun, device_option, open_run

if TYPE_CHECKING:
    from hakg_dgl import Comparison, Dataset, Evaluation
    from hakg_dgl.ranking.evaluation import Evaluator
    from hakg_dgl.ranking.run_groups import RunCard

_FORMATS = {".md": "markdown", ".tex": "latex", ".json": "json"}
_YARDSTICKS = ("popularity", "random")


@click.command(
    "compare",
    epilog="\b\nExamples:\n"
    "  hakg compare runs/paper-* runs/released-*\n"
    "  hakg compare --label HAKG=runs/a,runs/b --label EASE=runs/ease --against EASE --metric ndcg@10\n"
    "  hakg compare runs/* --yardsticks --out table.tex\n",
)
@click.argument("run", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=RUN,RUN", help="Put these runs in one group; repeatable."
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("recall@20", "ndcg@20"),
    show_default=True,
    help="Metric to compare, such as ndcg@20, map@10, diversity@20, novelty@20 or auc; repeatable.",
)
@click.option(
    "--split", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Split to measure."
)
@click.option("--against", metavar="NAME", help="The group the others are compared with; by default the best.")
@click.option(
    "--test", type=click.Choice(["t", "wilcoxon"]), default="t", show_default=True, help="Test beside the bootstrap."
)
@click.option(
    "--resamples",
    type=click.IntRange(100, 1_000_000),
    default=10_000,
    show_default=True,
    help="Resamples of the bootstrap.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=2020, show_default=True, help="Seed of the resamples."
)
@click.option("--yardsticks", is_flag=True, help="Compare with popularity and random too.")
@click.option("--mixed-protocols", is_flag=True, help="Allow 'published' beside 'validation'; every output says so.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *_FORMATS.values()]),
    help="Format of the output; by default, the name of the file tells it.",
)
@click.option("--out", type=ResultPath(), metavar="FILE", help="Write to this file (.md, .tex, .json, or text).")
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def compare_command(
    run: tuple[Path, ...], labels: tuple[str, ...], metrics: tuple[str, ...], split: str, against: str | None,
    test: Any, resamples: int, seed: int, yardsticks: bool, mixed_protocols: bool, form: str | None, out: Path | None,
    data: Path | None, device: str,
) -> None:  # fmt: skip
    """Compare runs: means over seeds, intervals, significance.

    Runs whose settings differ in nothing but the seed are one group. Each group is compared, user by user, with one of
    them: by a paired bootstrap and a paired test, corrected for the number of comparisons (Holm). docs/comparing.md
    defines every number.
    """
    from hakg_dgl.ranking.comparison import compare, needed_for, require_group
    from hakg_dgl.ranking.evaluation import Evaluator
    from hakg_dgl.ranking.run_groups import group_runs

    ks, also = needed_for(metrics)
    opened = _open(_labelled(run, labels), data, split)
    groups, notes = group_runs([card for card, _ in opened], mixed_protocols=mixed_protocols)
    for name in _YARDSTICKS if yardsticks else ():
        if name in groups:
            raise click.UsageError(f"--yardsticks adds a group {name!r}, and there is one: name yours with --label")
    require_group(against, [*groups, *(_YARDSTICKS if yardsticks else ())])
    keep = bool(opened[0][0].flat_settings.get("keep_overlap"))  # all runs have the same
    evaluator = Evaluator(opened[0][1].dataset, split, ks, per_user=True, also=also, keep_overlap=keep)
    measured = _measured(groups, {card.name: run for card, run in opened}, evaluator, metrics, device)
    if yardsticks:
        seeds = {card.flat_settings["seed"] for card, _ in opened}
        measured |= _yardsticks(evaluator, opened[0][1].dataset, sorted(seeds), metrics)
    with stages(1) as begin:
        begin("resampling")
        found = compare(measured, metrics, against=against, test=test, resamples=resamples, seed=seed, notes=notes)
    form = form or _FORMATS.get("" if out is None else out.suffix, "table")
    if form == "json":
        write_json({**found.to_dict(), "data": opened[0][1].about()["data"], "runs": _about(groups)}, out or Path("-"))
    elif out is None:
        click.echo(_text(found, form), nl=False)
    else:
        write_text_file(_text(found, form), out)
    if out is not None:
        click.echo(f"Wrote {out}: {len(found.groups)} groups, {sum(len(group.runs) for group in found.groups)} runs")


def _labelled(runs: Sequence[Path], labels: Sequence[str]) -> list[tuple[Path, str | None]]:
    """Every run with its label; runs of ``--label`` may also be named as arguments."""
    named: list[tuple[Path, str | None]] = []
    for item in labels:
        label, _, places = item.partition("=")
        if not label.strip() or not all(place.strip() for place in places.split(",")):
            example = "such as EASE=runs/ease-1,runs/ease-2"
            raise click.BadParameter(f"{item!r}: write a name and its runs, {example}", param_hint="'--label'")
        named += [(Path(place.strip()), label.strip()) for place in places.split(",")]
    taken = {path.resolve() for path, _ in named}
    if not runs and not named:
        raise click.UsageError("name the runs to compare: hakg compare RUN RUN")
    return [*((path, None) for path in runs if path.resolve() not in taken), *named]


def _open(runs: Sequence[tuple[Path, str | None]], data: Path | None, split: str) -> list[tuple[RunCard, OpenedRun]]:
    """Open every run with the data set of the first run, which is read once."""
    from hakg_dgl.ranking.run_groups import RunCard
    from hakg_dgl.training.loading import model_splits
    from hakg_dgl.training.run_folder import RunFolder

    opened: list[tuple[RunCard, OpenedRun]] = []
    for path, label in runs:
        run = replace(opened[0][1], folder=RunFolder(path)) if opened and path.is_dir() else open_run(path, data)
        about = {key: str(run.folder.about["data"][key]) for key in ("name", "digest")}
        card = RunCard(str(path), run.folder.settings.to_dict(), about, tuple(run.notes), label)
        opened.append((card, run))
        _refuse_seen(str(path), split, model_splits(run.folder))
    return opened


def _measured(
    groups: Mapping[str, Sequence[RunCard]],
    opened: Mapping[str, OpenedRun],
    evaluator: Evaluator,
    metrics: Sequence[str],
    device: str,
) -> dict[str, dict[str, Evaluation]]:
    """Evaluate one run after the other; returns label -> name -> evaluation."""
    measured: dict[str, dict[str, Evaluation]] = {label: {} for label in groups}
    with bar([(label, card.name) for label, cards in groups.items() for card in cards], unit="run") as todo:
        for label, name in todo:
            todo.set_description_str(name)
            run = opened[name]
            trained = run.load(device)
            # Once more, as a refit may have ended since the run was opened.
            _refuse_seen(name, evaluator.split, trained.splits)
            measured[label][name] = _slim(evaluator(trained.model.scorer()), metrics)
    return measured


def _refuse_seen(run: str, split: str, seen: Sequence[str]) -> None:
    """Refuse to measure a model on a split that it was trained on."""
    from hakg_dgl.errors import ConfigError

    if split in seen:
        raise ConfigError(f"{run}: its model was trained on the validation split too; compare on the test split")


def _yardsticks(
    evaluator: Evaluator, dataset: Dataset, seeds: Sequence[int], metrics: Sequence[str]
) -> dict[str, dict[str, Evaluation]]:
    """Evaluate popularity once, and chance with every seed of the runs."""
    from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer

    chance = {f"random {seed}": RandomScorer(dataset.n_users, dataset.n_items, seed) for seed in seeds}
    return {
        "popularity": {"popularity": _slim(evaluator(PopularityScorer(dataset, evaluator.mask)), metrics)},
        "random": {name: _slim(evaluator(scorer), metrics) for name, scorer in chance.items()},
    }


def _slim(result: Evaluation, metrics: Sequence[str]) -> Evaluation:
    """The evaluation without columns that are not needed, because many runs of many users are held at once."""
    assert result.per_user is not None
    return replace(result, per_user=result.per_user[["user", *dict.fromkeys(metrics)]].copy())


def _text(found: Comparison, form: str) -> str:
    from hakg_dgl.ranking import comparison_text as text

    if form == "markdown":
        return text.to_markdown(found)
    if form == "latex":
        return text.to_latex(found)
    parts = [f"Note: {shown(note)}" for note in found.notes]
    parts += [f"{text.heading(found)}\n{table(text.means_rows(found))}"]
    if found.differences:
        parts += [f"{shown(text.differences_heading(found))}\n{table(text.differences_rows(found))}"]
    return "\n\n".join(parts) + "\n"


def _about(groups: Mapping[str, Sequence[RunCard]]) -> list[dict[str, Any]]:
    """A description of each run, for JSON."""
    return [
        {"run": card.name, "group": label, "notes": list(card.notes), "settings": card.settings}
        for label, cards in groups.items()
        for card in cards
    ]
