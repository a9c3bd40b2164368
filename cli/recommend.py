"""``hakg recommend`` lists the best items of users by their original ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import table_path, write_tables
from .progress import bar, stages
from .report import counted, shown, table
from .runs import OpenedRun, device_option, list_length, open_run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from hakg_dgl import Dataset
    from hakg_dgl.ranking.topk import Scorer, UserItems

_ROWS_AT_ONCE = 1 << 17
"""Number of rows that are written at once; row groups of Parquet are best at about this size."""
_EMPTY = "every item that may be listed is known already. Add --include-seen to list those too."
_USERS_NAMED = 3
"""Number of users without a list that a note names."""


@click.command(
    "recommend",
    epilog="\b\nExamples:\n"
    "  hakg recommend runs/demo --user user_7 --user user_8 --k 5\n"
    "  hakg recommend runs/demo --k 50 --out lists.parquet\n"
    "  hakg recommend runs/demo --user user_7 --where made_by=maker_3\n"
    "  hakg recommend runs/demo --new-users visitors.csv --out lists.csv\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--user", "user_ids", multiple=True, metavar="ID", help="Original id of a user; repeatable.")
@click.option("--k", type=list_length(), default=20, show_default=True, help="Length of the lists.")
@click.option(
    "--out",
    type=table_path(),
    help="Write the lists (.csv, .parquet or .jsonl), of all users unless --user names some.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.option("--include-seen", is_flag=True, help="List items that the user is known to have (in any split) too.")
@click.option(
    "--item", "item_ids", multiple=True, metavar="ID", help="Choose among these items only, by id or name; repeatable."
)
@click.option(
    "--items", "item_file", type=click.Path(path_type=Path), help="File of items to choose among (.txt or a table)."
)
@click.option(
    "--where", multiple=True, metavar="REL=ENTITY", help="List only items with this fact, by name or id; repeatable."
)
@click.option("--new-users", type=click.Path(path_type=Path), help="Table of interactions of users to fold in.")
@click.option(
    "--unknown-items", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
    help="What to do with items of --new-users that the data set does not have.",
)  # fmt: skip
@click.option("--user-col", default="user", show_default=True, help="Column of --new-users.")
@click.option("--item-col", default="item", show_default=True, help="Column of --new-users and --items.")
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def recommend_command(
    run: Path, user_ids: tuple[str, ...], k: int, out: Path | None, as_json: bool, include_seen: bool,
    item_ids: tuple[str, ...], item_file: Path | None, where: tuple[str, ...], new_users: Path | None,
    data: Path | None, device: str, **reading: Any,
) -> None:  # fmt: skip
    """List the best items of users, by the model of RUN.

    Columns: user, rank, item, name of the item, score; user and item are original ids. Without --include-seen, a user
    is never recommended an item that the user has in any split. With --new-users, the lists are those of the users in
    that file, who need no training. docs/recommending.md says how.
    """
    import numpy as np

    from hakg_dgl.ranking.lists import iter_recommendations

    if not user_ids and out is None and not as_json and new_users is None:
        raise click.UsageError("name users (--user ID), or a file for the lists of all (--out lists.csv)")
    if out is not None and as_json:
        raise click.UsageError("--json prints, --out writes a file: give one of them (--out lists.jsonl for JSON)")
    with stages(1) as begin:
        begin("loading")
        opened = open_run(run, data)
        dataset = opened.dataset
        candidates = _candidates(dataset, item_ids, item_file, where, reading["item_col"])
        if new_users is None:
            ids, users, seen, scorer, notes = _trained_users(opened, user_ids, device)
        else:
            ids, users, seen, scorer, notes = _folded_users(opened, user_ids, new_users, reading, device)
    for note in [*opened.notes, *notes]:
        click.echo(f"Note: {note}", err=True)
    length = min(k, dataset.n_items if candidates is None else len(candidates))
    blocks = iter_recommendations(scorer, users, length, None if include_seen else seen, candidates)
    waiting = np.zeros(len(ids), dtype=bool)
    waiting[users] = True
    named = _with_original_ids(_served(blocks, waiting), ids, dataset)
    if out is not None:
        rows = write_tables(_joined(named), out)
        click.echo(f"Wrote {out}: {rows:,} rows, {len(users):,} users")
    else:
        for block in named:
            _print(block, as_json)
    _report_empty([shown(user) for user in ids[waiting]], on_stdout=out is None and not as_json)


def _candidates(
    dataset: Dataset, ids: Sequence[str], file: Path | None, where: Sequence[str], item_col: str
) -> np.ndarray | None:
    """Items that may be listed: the named ones, in the file or as options, for which all conditions hold."""
    import numpy as np

    from hakg_dgl.data.id_files import read_item_ids
    from hakg_dgl.errors import DataError
    from hakg_dgl.ranking.candidates import items_where, known_items

    found = None
    if ids or file is not None:
        found = known_items(dataset, [*ids, *([] if file is None else read_item_ids(file, item_col=item_col))])
    if where:
        having = items_where(dataset, *where)
        found = having if found is None else np.intersect1d(found, having)
        if not len(found):
            raise DataError(
                f"of the items named none has {' and '.join(where)}", remedy="Name other items, or no condition."
            )
    return found


_Users = tuple["np.ndarray", "np.ndarray", "UserItems", "Scorer", list[str]]
"""Original ids of a scorer's users, the chosen users, the items that all have, the scorer, and notes."""


def _trained_users(opened: OpenedRun, wanted: Sequence[str], device: str) -> _Users:
    import numpy as np

    dataset = opened.dataset
    ids = dataset.users["original_id"].to_numpy()
    users = _numbers(ids, dataset.users["name"], wanted)
    trained = opened.load(device)
    known = np.diff(dataset.positives(*trained.splits)[0])[users]
    untrained = int((known == 0).sum())
    note = f"{untrained:,} of these users have no training interaction: their lists mean little."
    return ids, users, dataset.positives(), trained.model.scorer(), [note] if untrained else []


def _folded_users(opened: OpenedRun, wanted: Sequence[str], file: Path, reading: dict[str, Any], device: str) -> _Users:
    from hakg_dgl.data.id_files import read_new_users
    from hakg_dgl.training.circumstances import choose_device
    from hakg_dgl.training.loading import load_fold_in

    fold = load_fold_in(opened.folder.path, opened.dataset, device=choose_device(device))
    new = read_new_users(file, opened.dataset, **reading)
    ids = new.ids.to_numpy()
    users = _numbers(ids, new.ids.to_series(), wanted)
    return ids, users, new.lists, fold.scorer(*new.lists), [f"{file}: {line}." for line in counted(new.report)]


def _numbers(ids: np.ndarray, names: pd.Series[str], wanted: Sequence[str]) -> np.ndarray:
    """The users with these original ids, without repeats; all users if none is named."""
    import numpy as np
    import pandas as pd

    from hakg_dgl.data.id_maps import IdMap

    if not wanted:
        return np.arange(len(ids))
    known = IdMap(pd.Index(ids), names)
    return np.array([known.index(user, "user") for user in dict.fromkeys(wanted)])


def _served(blocks: Iterator[pd.DataFrame], waiting: np.ndarray) -> Iterator[pd.DataFrame]:
    """Pass blocks on and count them on a bar; users who get an item are no longer marked as waiting."""
    with bar(total=int(waiting.sum()), unit="user") as progress:
        for block in blocks:
            waiting[block["user"].to_numpy()] = False
            progress.update(int((block["rank"] == 1).sum()))
            yield block


def _with_original_ids(blocks: Iterator[pd.DataFrame], users: np.ndarray, dataset: Dataset) -> Iterator[pd.DataFrame]:
    """Blocks with original ids and the names of the items."""
    items, names = dataset.items["original_id"].to_numpy(), dataset.items["name"].to_numpy()
    for block in blocks:
        item = block["item"].to_numpy()
        yield block.assign(user=users[block["user"].to_numpy()], item=items[item], name=names[item])[
            ["user", "rank", "item", "name", "score"]
        ]


def _report_empty(users: Sequence[str], *, on_stdout: bool) -> None:
    """Say for which users nothing is left, in place of their lists or beside the file or the JSON lines."""
    if on_stdout:
        for user in users:
            click.echo(f"User {user}\nNothing is left to list: {_EMPTY}\n")
    elif users:
        named = ", ".join(users[:_USERS_NAMED]) + (", ..." if len(users) > _USERS_NAMED else "")
        click.echo(f"Note: Nothing is left to list for {named} ({len(users):,} in all): {_EMPTY}", err=True)


def _joined(blocks: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The same rows in larger blocks; with many items, a block has the lists of few users."""
    import pandas as pd

    waiting: list[pd.DataFrame] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def _print(lists: pd.DataFrame, as_json: bool = False) -> None:
    if as_json:
        lines = lists.to_json(orient="records", lines=True, force_ascii=False)
        click.echo(lines if len(lists) else "", nl=False)  # pandas makes an empty line of an empty table
        return
    for user, rows in lists.groupby("user", sort=False):
        scores = [f"{score:.4f}" for score in rows["score"]]  # as many digits in all rows
        width = max(map(len, scores))
        rows = rows.assign(score=[score.rjust(width) for score in scores])
        click.echo(f"User {shown(user)}\n{table(rows.drop(columns='user').to_dict('records'))}\n")
