"""``hakg evaluate`` measures the full ranking of a trained run beside popularity and chance."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import ResultPath, table_path, write_json, write_tables
from .part_vectors import is_one_of_several, parts_option, refuse_parts, vectors_by_parts, write_own_vectors
from .preprocess import by_table, copied_options
from .progress import stages
from .report import counted, number_of, table
from .runs import OpenedRun, device_option, list_length, open_run
from .several import KeepsArguments, given_scorer, one_device, processes_option

if TYPE_CHECKING:
    from hakg_dgl import Dataset, Evaluation
    from hakg_dgl.ranking.topk import Scorer


_FORMS = ("delimiter", "encoding", "no_header", "decimal")
"""Options about how the later log is written."""


@copied_options(*_FORMS)
@click.command(
    "evaluate",
    cls=KeepsArguments,
    epilog="\b\nExamples:\n"
    "  hakg evaluate runs/demo\n"
    "  hakg evaluate runs/demo --k 10 --k 50 --no-groups --json metrics.json --per-user users.csv\n"
    "  hakg evaluate runs/last-fm --processes 4\n"
    "  hakg evaluate runs/demo --also map --also auc --also coverage\n"
    "  hakg evaluate runs/shop --interactions next-week.csv --user-col customer --item-col sku\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@click.option(
    "--split", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Split to measure."
)
@click.option(
    "--k", "ks", type=list_length(), multiple=True, default=(20,), show_default=True, help="List length; repeatable."
)
@click.option(
    "--json",
    "json_file",
    type=ResultPath(dash=True),
    metavar="FILE",
    help="Also write everything as JSON ('-': print that instead).",
)
@click.option("--per-user", type=table_path(), help="Also write every user's metrics (.csv, .parquet or .jsonl).")
@click.option(
    "--among",
    type=click.Choice(["all", "cold"]),
    default="all",
    show_default=True,
    help="Items that are ranked: 'cold' are those nobody is known to have.",
)
@click.option(
    "--groups/--no-groups", default=True, show_default=True, help="Also measure by user activity and item popularity."
)
@click.option(
    "--also",
    type=click.Choice(["map", "auc", "diversity", "novelty", "coverage"]),
    multiple=True,
    help="Also measure: mean average precision, area under the ROC curve, how unlike the items of a list are by their "
    "facts, how little known they are, how much of the catalogue is listed. Repeatable.",
)
@click.option(
    "--sampled",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Rank the relevant items among N other sampled items, for comparison with tables that do; "
    "it may order models wrongly.",
)
@click.option(
    "--interactions",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Measure on this later log instead of the test split (a table; repeatable).",
)
@click.option("--user-col", default="user", metavar="COLUMN", help="Later log: column of the user (default 'user').")
@click.option("--item-col", default="item", metavar="COLUMN", help="Later log: column of the item (default 'item').")
@click.option(
    "--rating-col", metavar="COLUMN", help="Later log: column of the rating, where the data set has a threshold."
)
@processes_option("Rank by N processes of this machine, on the CPU; the numbers are those of one.")
@parts_option
@device_option
def evaluate_command(
    run: Path, data: Path | None, split: str, ks: tuple[int, ...], json_file: Path | None, per_user: Path | None,
    among: str, groups: bool, also: tuple[str, ...], sampled: int | None, interactions: tuple[Path, ...],
    user_col: str, item_col: str, rating_col: str | None, processes: int, parts: Path | None, device: str, **form: Any,
) -> None:  # fmt: skip
    """Measure how well the model of RUN ranks.

    Every item is ranked for every user (with --among cold, every item without known interactions). Items a user is
    known to have are masked: training items, and for the test split validation items too. Popularity and random rank
    under the same masks. docs/evaluation.md defines every number.

    With --interactions, the later interactions of users and items that the run knows are the relevant ones, and what it
    was trained and validated on is masked.
    """
    from hakg_dgl.errors import ConfigError
    from hakg_dgl.ranking.evaluation import Evaluator, cold_items
    from hakg_dgl.ranking.together import Together
    from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer
    from hakg_dgl.training.loading import open_scorer

    _refuse_idle_options(interactions, split)
    device = one_device(processes, device)
    if parts is not None and is_one_of_several():
        write_own_vectors(run, data, parts)
        return
    refuse_parts(parts, processes)
    with stages(3) as begin:
        begin("loading")
        opened = open_run(run, data, instead=_INSTEAD)
        if opened.protocol == "published" and split == "valid":
            raise ConfigError(f"{run}: protocol 'published' trains on the validation split; evaluate the test split")
        dataset, later = _with_later_log(opened, interactions, user_col, item_col, rating_col, form)
        seed = opened.folder.settings.run.seed
        candidates = cold_items(dataset, split) if among == "cold" else None
        evaluator = Evaluator(
            dataset, split, sorted(set(ks)), groups=groups, per_user=per_user is not None, candidates=candidates,
            also=also, sampled=sampled, sample_seed=seed, keep_overlap=opened.folder.settings.training.keep_overlap,
        )  # fmt: skip
        begin("model")
        with ExitStack() as held:
            held.enter_context(vectors_by_parts(parts, processes))
            ranked = held.enter_context(Together(evaluator, processes, partial(open_scorer, run, opened.data_path)))
            results = {"model": ranked(_scorer(opened, device, split))}
            begin("yardsticks")
            results["popularity"] = ranked(PopularityScorer(dataset, evaluator.mask))
            results["random"] = ranked(RandomScorer(dataset.n_users, dataset.n_items, seed))
    for why in ranked.lost:
        click.echo(f"Note: {why}", err=True)
    if later is not None:
        split = "later"
        results = {name: replace(result, split=split) for name, result in results.items()}
    if per_user is not None:
        write_tables([_with_original_ids(results["model"], dataset)], per_user)
    if json_file is not None:
        measured = {name: result.to_dict() for name, result in results.items()}
        about = {**opened.about(), "split": split, "among": among, **({} if later is None else {"later": later})}
        write_json({**about, **measured}, json_file)
    if str(json_file) != "-":  # files first: what is printed says that all was written
        results_notes = _behind_popularity(results)
        notes = [*opened.notes, *([] if later is None else ["\n".join(_remarks(later, dataset, rating_col))])]
        notes += [SAMPLED.format(n=sampled)] if sampled is not None else []
        click.echo("\n\n".join([*filter(None, notes), *_tables(results, groups, cold=among == "cold"), *results_notes]))


def _scorer(opened: OpenedRun, device: str, split: str) -> Scorer:
    """What the model of the run ranks by; the model itself is let go."""
    from hakg_dgl.errors import ConfigError
    from hakg_dgl.training.loading import model_splits

    scorer: Scorer | None = given_scorer()
    if scorer is not None:
        splits = model_splits(opened.folder)
    else:
        trained = opened.load(device)
        scorer, splits = trained.model.scorer(), trained.splits
    if split in splits:
        raise ConfigError(
            f"{opened.folder.path}: its model was trained again on train and validation (refit); evaluate the test "
            "split, or read the validation metrics of the selection in result.json"
        )
    return scorer


_INSTEAD = "'hakg evaluate RUN --interactions FILE' measures the run on a later log."
SAMPLED = (
    "Relevant items are ranked among {n:,} sampled items of each user. Compare with tables that do the same only: such "
    "numbers are higher, and may order models otherwise."
)


def _refuse_idle_options(interactions: tuple[Path, ...], split: str) -> None:
    """Raise UsageError for options that would do nothing."""
    ctx = click.get_current_context()
    if interactions and split != "test":
        raise click.UsageError("--interactions is measured in place of the test split: leave --split out")
    for name in ("user_col", "item_col", "rating_col", *_FORMS):
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and not interactions:
            raise click.UsageError(f"--{name.replace('_', '-')} is about --interactions: give that too")


def _with_later_log(
    opened: OpenedRun,
    interactions: tuple[Path, ...],
    user_col: str,
    item_col: str,
    rating_col: str | None,
    form: dict[str, Any],
) -> tuple[Dataset, dict[str, Any] | None]:
    """The data set with the later log as its test split and what is told of the log; as it is where there is none."""
    if not interactions:
        return opened.dataset, None
    from hakg_dgl.data.later_log import read_later_log

    log = read_later_log(
        interactions, opened.dataset, user_col=user_col, item_col=item_col, rating_col=rating_col,
        delimiter=by_table("delimiter", form["delimiter"]), encoding=by_table("encoding", form["encoding"]),
        no_header=form["no_header"], decimal=form["decimal"],
    )  # fmt: skip
    return log.dataset, {"files": [str(path) for path in interactions], "report": dict(log.report)}


def _remarks(later: Mapping[str, Any], dataset: Dataset, rating_col: str | None) -> list[str]:
    """Counts of what was left out of the later log."""
    lines = counted(later["report"])
    least = dataset.options.get("rating_threshold")
    if least is not None and rating_col is None:
        lines.append(f"the data set has ratings of {least:g} or more; --rating-col leaves out others here too")
    return lines


def _behind_popularity(results: dict[str, Evaluation]) -> list[str]:
    """A remark if the same list for everybody, of the most popular items, is as good as the model's."""
    metric = f"ndcg@{results['model'].ks[0]}"
    ours, theirs = (results[name].metrics[metric] for name in ("model", "popularity"))
    if theirs is None or ours is None or theirs < ours or not theirs:
        return []
    return [
        f"Popularity ranks as well as the model or better ({metric} {theirs:.4f}, model {ours:.4f}). With few "
        "interactions a user this may be all that can be learnt; otherwise train longer (--epochs), see with hakg info "
        "what facts there are, and compare other models (hakg benchmark DATA --out STUDY)."
    ]


def _tables(results: dict[str, Evaluation], groups: bool, *, cold: bool) -> list[str]:
    """All metrics of each scorer, and then some of them by group, at the first cut."""
    model = results["model"]
    masked = f"; items of {' and '.join(model.mask)} masked" if model.mask else ""
    among = f"; {number_of(model.n_candidates, 'cold items')} ranked" if cold else ""
    measured = f"{number_of(model.n_users, 'users')}, {number_of(model.n_relevant, 'relevant items')}"
    heading = f"{model.split}: {measured}{masked}{among}"
    rows: list[dict[str, Any]] = [
        {"metric": metric, **{name: result.metrics[metric] for name, result in results.items()}}
        for metric in model.metrics
    ]
    parts = [f"{heading}\n{table(rows)}"]
    if groups:
        k = model.ks[0]
        for kind, counts, metrics in (
            ("user_activity", ["n_users"], ["recall", "ndcg"]),
            ("item_popularity", ["n_items", "n_relevant"], ["recall", "share"]),
        ):
            parts += [_group_table(results, kind, counts, f"{metric}@{k}") for metric in metrics]
        parts += [_novelty_table(results, f"{metric}@{k}") for metric in ("recall", "ndcg", "share")]
    return parts


def _novelty_table(results: dict[str, Evaluation], metric: str) -> str:
    """A metric for all items, those with and those without interactions before the split."""
    rows = []
    for same_group in zip(*((result.groups or {})["item_novelty"] for result in results.values()), strict=True):
        first = same_group[0]
        row = {"group": first["group"], "items": first["n_items"], "relevant": first["n_relevant"]}
        rows.append(row | {name: group[metric] for name, group in zip(results, same_group, strict=True)})
    return f"{metric} of warm and cold items\n{table(rows)}"


def _group_table(results: dict[str, Evaluation], kind: str, counts: list[str], metric: str) -> str:
    rows = []
    for same_group in zip(*((result.groups or {})[kind] for result in results.values()), strict=True):
        first = same_group[0]
        row: dict[str, Any] = {"group": first["group"], "interactions": f"{first['min_train']}-{first['max_train']}"}
        row |= {count.removeprefix("n_"): first[count] for count in counts}
        rows.append(row | {name: group[metric] for name, group in zip(results, same_group, strict=True)})
    return f"{metric} by {kind.replace('_', ' ')}\n{table(rows)}"


def _with_original_ids(result: Evaluation, dataset: Dataset) -> Any:
    assert result.per_user is not None
    users = dataset.users["original_id"].to_numpy()[result.per_user["user"].to_numpy()]
    return result.per_user.assign(user=users)
