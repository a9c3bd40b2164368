"""``hakg recommend``: the best items of users, by their original ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .files import table_path, write_tables
from .progress import bar
from .report import shown, table
from .runs import device_option, list_length, open_run

if TYPE_CHECKING:
    import pandas as pd

    from hakg_dgl import Dataset


@click.command(
    "recommend",
    epilog="\b\nExamples:\n"
    "  hakg recommend runs/demo --user user_7 --user user_8 --k 5\n"
    "  hakg recommend runs/demo --k 50 --out lists.parquet\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--user", "user_ids", multiple=True, metavar="ID", help="Original id of a user; repeatable.")
@click.option("--k", type=list_length(), default=20, show_default=True, help="Length of the lists.")
@click.option("--out", type=table_path(), help="Write the lists (.csv, .parquet or .jsonl); by default of all users.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.option("--include-seen", is_flag=True, help="Also items the user is known to have (in any split).")
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def recommend_command(
    run: Path, user_ids: tuple[str, ...], k: int, out: Path | None, as_json: bool, include_seen: bool,
    data: Path | None, device: str,
) -> None:  # fmt: skip
    """List the best items of users, by the model of RUN.

    Columns: user, rank, item (both by original id), name of the item, score. Without --include-seen no item of the
    user's is recommended, whichever split it is in.
    """
    import numpy as np
    import pandas as pd

    from hakg_dgl.data.id_maps import IdMap
    from hakg_dgl.ranking.recommendation import iter_recommendations
    from hakg_dgl.training.trainer import training_splits

    if not user_ids and out is None and not as_json:
        raise click.UsageError("name users (--user ID), or a file for the lists of all (--out lists.csv)")
    if out is not None and as_json:
        raise click.UsageError("--json prints, --out writes a file: give one of them (--out lists.jsonl for JSON)")
    opened = open_run(run, data)
    dataset = opened.dataset
    known = IdMap(pd.Index(dataset.users["original_id"]), dataset.users["name"])
    users = (
        np.array([known.index(user, "user") for user in dict.fromkeys(user_ids)])
        if user_ids
        else np.arange(dataset.n_users)
    )
    untrained = int((np.diff(dataset.positives(*training_splits(opened.folder.settings))[0])[users] == 0).sum())
    notes = opened.notes
    if untrained:
        notes.append(f"{untrained:,} of these users have no training interaction: their lists mean little.")
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    seen = None if include_seen else dataset.positives()
    blocks = iter_recommendations(opened.scorer(device), users, min(k, dataset.n_items), seen)
    named = _with_original_ids(blocks, dataset, len(users))
    if out is not None:
        rows = write_tables(named, out)
        click.echo(f"Wrote {out}: {rows:,} rows, {len(users):,} users")
    elif as_json:
        for block in named:
            click.echo(block.to_json(orient="records", lines=True, force_ascii=False), nl=False)
    else:
        _print(pd.concat(list(named), ignore_index=True))


def _with_original_ids(blocks: Iterator[pd.DataFrame], dataset: Dataset, n_users: int) -> Iterator[pd.DataFrame]:
    """Blocks with original ids and the items' names, counted on a bar."""
    users, items = dataset.users["original_id"].to_numpy(), dataset.items["original_id"].to_numpy()
    names = dataset.items["name"].to_numpy()
    with bar(total=n_users, unit="user") as progress:
        for block in blocks:
            item = block["item"].to_numpy()
            progress.update(int((block["rank"] == 1).sum()))
            yield block.assign(user=users[block["user"].to_numpy()], item=items[item], name=names[item])[
                ["user", "rank", "item", "name", "score"]
            ]


def _print(lists: pd.DataFrame) -> None:
    for user, rows in lists.groupby("user", sort=False):
        click.echo(f"{shown(user)}\n{table(rows.drop(columns='user').to_dict('records'))}\n")
