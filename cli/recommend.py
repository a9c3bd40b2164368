"""``hakg recommend`` lists the best items of users by their original ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import table_path, write_tables
from .newcomers import NEWER_DATA, Newcomers, load_with, newcomer_options, newcomers
from .part_vectors import is_one_of_several, parts_option, refuse_parts, vectors_by_parts, write_own_vectors
from .preprocess import copied_options
from .progress import bar, stages
from .report import counted, number_of, shown, table
from .runs import OpenedRun, device_option, list_length, open_run
from .several import KeepsArguments, given_scorer, helpers, shared_vectors, still_wanted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from hakg_dgl import Dataset
    from hakg_dgl.ranking.limits import AtMost
    from hakg_dgl.ranking.topk import Scorer, UserItems

_ROWS_AT_ONCE = 1 << 17
"""Number of rows that are written at once; row groups of Parquet are best at about this size."""
_EMPTY = "every item that may be listed is known already. Add --include-seen to list those too."
_NONE_LEFT = "no other one may be listed."
_IDLE = ("out", "device", "data", "run", "processes")
"""Options that change nothing about the lists."""
_USERS_NAMED = 3
"""Number of users without a list that a note names."""
NEW_USER = "A user whom RUN does not know has a list by what they have or are: --new-users FILE."
_TEXT = ("user", "item", "similar", "name")
"""Columns of text; of the others, ranks are integers and scores are floats."""


@copied_options("date_order", "decimal")
@click.command(
    "recommend",
    cls=KeepsArguments,
    epilog="\b\nExamples:\n"
    "  hakg recommend runs/demo --user user_7 --user user_8 --k 5\n"
    "  hakg recommend runs/demo --k 50 --out lists.parquet --shards 16\n"
    "  hakg recommend runs/demo --k 50 --out lists.parquet --shards 64 --processes 4\n"
    "  hakg recommend runs/demo --user user_7 --where made_by=maker_3\n"
    "  hakg recommend runs/demo --user user_7 --at-most made_by=2 --not-in sold_out.txt\n"
    "  hakg recommend runs/demo --new-users visitors.csv --out lists.csv\n"
    "  hakg recommend runs/demo --new-interactions today.csv --new-items arrivals.csv\n"
    "  hakg recommend runs/demo --similar-to item_12\n"
    "  hakg recommend runs/demo --pairs pairs.csv --out scores.csv\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--user", "user_ids", multiple=True, metavar="ID", help="Original id of a user; repeatable.")
@click.option(
    "--similar-to", multiple=True, metavar="ITEM", help="List items like this one, by id or name; repeatable."
)
@click.option("--similar-to-user", multiple=True, metavar="ID", help="List users like this one; repeatable.")
@click.option(
    "--pairs", type=click.Path(path_type=Path), metavar="FILE", help="Score the pairs of users and items in it."
)
@click.option("--k", type=list_length(), default=20, show_default=True, help="Length of the lists.")
@click.option(
    "--out",
    type=table_path(folder=True),
    help="Write the lists (.csv, .parquet or .jsonl), of all users unless --user names some.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 99_999),
    metavar="N",
    help="Make --out a folder of N Parquet files; one that is stopped goes on when it is called again.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    metavar="P",
    help="Make the shards by P processes; the vectors of the run are in memory once.",
)
@parts_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.option("--include-seen", is_flag=True, help="List items that the user is known to have (in any split) too.")
@click.option(
    "--item", "item_ids", multiple=True, metavar="ID", help="Choose among these items only, by id or name; repeatable."
)
@click.option(
    "--items", "item_file", type=click.Path(path_type=Path), help="File of items to choose among (.txt or a table)."
)
@click.option("--not-in", type=click.Path(path_type=Path), metavar="FILE", help="File of items to leave out, likewise.")
@click.option(
    "--where",
    multiple=True,
    metavar="REL=ENTITY",
    help="List only items with this fact, by name or id, or below it; also REL<NUMBER and the like; repeatable.",
)
@click.option(
    "--at-most", multiple=True, metavar="REL=N", help="At most N items of a list with the same value; repeatable."
)
@newcomer_options("pairs", "items", "not_in")
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def recommend_command(
    run: Path, user_ids: tuple[str, ...], similar_to: tuple[str, ...], similar_to_user: tuple[str, ...],
    pairs: Path | None, k: int, out: Path | None, shards: int | None, processes: int, parts: Path | None,
    as_json: bool, include_seen: bool, data: Path | None, device: str, **options: Any,
) -> None:  # fmt: skip
    """List the best items of users, by the model of RUN.

    Columns: user, rank, item, name of the item, score; user and item are original ids. Without --include-seen, a user
    is never recommended an item that the user has in any split. With --new-users or --new-interactions, the lists are
    those of the users in these files, and need no training. docs/recommending.md says how.
    """
    new = newcomers(options, pairs=pairs, items=options["item_file"], not_in=options["not_in"])
    filters = _Filters(**options)
    asked = {"--similar-to": similar_to, "--similar-to-user": similar_to_user, "--pairs": pairs}
    _refuse_together(asked, {"--user": user_ids, "--include-seen": include_seen}, filters, new, shards)
    if shards is not None and (out is None or out.suffix != ".parquet"):
        raise click.UsageError("--shards writes a folder of Parquet files: name it (--out lists.parquet)")
    if processes > 1 and shards is None and parts is None:
        raise click.UsageError("--processes share the files of --shards: say how many (--shards N)")
    if parts is not None and (any(asked.values()) or new.any_users or new.items):
        raise click.UsageError("--parts is for the lists of users that the run knows, of its items: leave it out")
    refuse_parts(parts, processes)
    if parts is not None and is_one_of_several():
        write_own_vectors(run, data, parts)
        return
    if not any(asked.values()) and not user_ids and out is None and not as_json and not new.any_users:
        raise click.UsageError("name users (--user ID), or a file for the lists of all (--out lists.csv)")
    if out is not None and as_json:
        raise click.UsageError("--json prints, --out writes a file: give one of them (--out lists.jsonl for JSON)")
    if shards is None and out is not None and out.is_dir():
        raise click.UsageError(f"--out {out} is a folder: name a file, or give --shards for a folder of files")
    with stages(1) as begin:
        begin("loading")
        opened = open_run(run, data, instead=NEWER_DATA)
        if pairs is not None:
            lists, rows = _Lists.empty(), _scored_pairs(opened, pairs, new, device)
        else:
            rows = None
            with vectors_by_parts(parts, processes):
                lists = _lists(opened, user_ids, similar_to, similar_to_user, filters, new, device)
    for note in [*opened.notes, *lists.notes, *(rows[1] if rows else [])]:
        click.echo(f"Note: {note}", err=True)
    if rows is not None:
        _deliver_pairs(rows[0], out, as_json)
        return
    length = min(k, lists.scorer.n_items if lists.candidates is None else len(lists.candidates))
    if shards is not None and out is not None:
        with ExitStack() as held:
            scorer, shared = held.enter_context(shared_vectors(lists.scorer, processes))
            lists = _replace(lists, scorer=scorer)  # lets go of those that were loaded
            held.enter_context(helpers(processes, shared))
            _write_shards(lists, length, out, shards, include_seen, opened)
        return
    waiting = lists.waiting()
    named = lists.named(_served(lists.blocks(lists.users, length, include_seen), waiting))
    if out is not None:
        count = write_tables(_joined(named), out)
        click.echo(f"Wrote {out}: {number_of(count, 'rows')}, {number_of(len(lists.users), lists.of + 's')}")
    else:
        for block in named:
            _print(block, as_json, lists.of)
    reason = _EMPTY if lists.of == "user" and lists.second == "item" else _NONE_LEFT
    empty = [shown(each) for each in lists.ids[waiting]]
    _report_empty(empty, reason, lists.of, on_stdout=out is None and not as_json)


@dataclass(frozen=True)
class _Filters:
    """Options that say which items may be listed."""

    item_ids: tuple[str, ...]
    item_file: Path | None
    not_in: Path | None
    where: tuple[str, ...]
    at_most: tuple[str, ...]

    def given(self) -> dict[str, Any]:
        """Option -> what was given for it."""
        return {
            "--item": self.item_ids, "--items": self.item_file, "--not-in": self.not_in, "--where": self.where,
            "--at-most": self.at_most,
        }  # fmt: skip

    def candidates(self, dataset: Dataset, new: Newcomers, notes: list[str]) -> np.ndarray | None:
        """Items that may be listed, None for all: the named ones for which all conditions hold, without the others."""
        import numpy as np

        from hakg_dgl.errors import DataError
        from hakg_dgl.ranking.candidates import items_where, known_items, undecided

        found = None
        if self.item_ids or self.item_file is not None:
            found = known_items(dataset, self.item_ids) if self.item_ids else np.empty(0, dtype=np.int64)
            if self.item_file is not None:
                found = np.union1d(found, _items_of("items", self.item_file, dataset, new, notes))
        if self.where:
            having = items_where(dataset, *self.where)
            notes += [f"{line}." for line in undecided(dataset, *self.where)]
            found = having if found is None else np.intersect1d(found, having)
            if not len(found):
                raise DataError(
                    f"of the items named none has {' and '.join(self.where)}",
                    remedy="Name other items, or no condition.",
                )
        if self.not_in is not None:
            every = np.arange(dataset.n_items) if found is None else found
            found = np.setdiff1d(every, _items_of("not_in", self.not_in, dataset, new, notes))
            if not len(found):
                raise DataError("holds all items that may be listed", path=self.not_in, remedy="Leave some out of it.")
        return found

    def limits(self, dataset: Dataset) -> list[AtMost]:
        """The limits on values."""
        from hakg_dgl.ranking.limits import at_most

        return [at_most(dataset, text) for text in self.at_most]


def _items_of(table: str, file: Path, dataset: Dataset, new: Newcomers, notes: list[str]) -> np.ndarray:
    """Items of a file; with ``--unknown-items skip`` those that the data set does not have are counted in a note."""
    from hakg_dgl.data.id_files import read_item_ids
    from hakg_dgl.errors import DataError
    from hakg_dgl.ranking.candidates import known_items

    skipped: list[str] | None = [] if new.unknown_items == "skip" else None
    try:
        found = known_items(dataset, read_item_ids(file, item_col=new.item_col, form=new.forms[table]), skipped=skipped)
    except DataError as error:
        if error.path is not None:
            raise
        more = "" if skipped is not None else " Or skip them (--unknown-items skip)."
        raise DataError(error.problem, path=file, remedy=f"{error.remedy}{more}") from error
    if skipped:
        unknown = number_of(len(skipped), "items that are not in the data set")
        notes.append(f"{file}: {unknown} skipped, such as {shown(skipped[0])}.")
    return found


def _refuse_together(
    asked: dict[str, Any], of_users: dict[str, Any], filters: _Filters, new: Newcomers, shards: int | None
) -> None:
    """Raise UsageError for options of which one would not be read."""
    chosen = [name for name, value in asked.items() if value]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are different questions: give one of them")
    if chosen:
        others = dict(of_users)
        if chosen[0] != "--pairs":
            others |= {"--new-users": new.users, "--new-interactions": new.interactions}
        else:
            others["--shards"] = shards
        if chosen[0] != "--similar-to":
            others |= filters.given()
        idle = [name for name, value in others.items() if value]
        if idle:
            raise click.UsageError(f"{idle[0]} does nothing with {chosen[0]}: leave one of them out")
    reads = new.any_users or filters.item_file or filters.not_in or asked["--pairs"]
    if new.unknown_items == "skip" and not reads:
        raise click.UsageError("--unknown-items is about items of files, and none is given: leave it out")


@dataclass(frozen=True)
class _Lists:
    """What is to be listed for whom.

    ``ids`` are the original ids of all that a scorer numbers as users, ``users`` the chosen ones. ``of`` says what they
    are, ``second`` what is listed, whose ids and names are those of ``listed``.
    """

    ids: np.ndarray
    users: np.ndarray
    seen: UserItems | None
    scorer: Scorer
    listed: pd.DataFrame
    of: str = "user"
    second: str = "item"
    candidates: np.ndarray | None = None
    limits: list[AtMost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls) -> Any:
        """Nothing, where something else is asked for."""
        return cls(*[None] * 5)  # type: ignore[arg-type]

    def waiting(self) -> np.ndarray:
        """Which of ``ids`` have no list as yet."""
        import numpy as np

        marked = np.zeros(len(self.ids), dtype=bool)
        marked[self.users] = True
        return marked

    def blocks(self, users: np.ndarray, length: int, include_seen: bool) -> Iterator[pd.DataFrame]:
        """The lists of some users, block by block, in numbers."""
        from hakg_dgl.ranking.lists import iter_recommendations

        hidden = None if include_seen else self.seen
        yield from iter_recommendations(self.scorer, users, length, hidden, self.candidates, limits=self.limits)

    def named(self, blocks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Blocks with original ids, and the names of what is listed."""
        ids, names = self.listed["original_id"].to_numpy(), self.listed["name"].to_numpy()
        for block in blocks:
            place = block["item"].to_numpy()
            found = {self.of: self.ids[block["user"].to_numpy()], self.second: ids[place], "name": names[place]}
            yield block.drop(columns=["user", "item"]).assign(**found)[[self.of, "rank", self.second, "name", "score"]]


def _lists(
    opened: OpenedRun, user_ids: Sequence[str], similar_to: Sequence[str], similar_to_user: Sequence[str],
    filters: _Filters, new: Newcomers, device: str,
) -> _Lists:  # fmt: skip
    import numpy as np

    from hakg_dgl.ranking.candidates import known_items
    from hakg_dgl.ranking.similar import Similarity, oneself

    items = new.read_items(opened.dataset)
    notes = [] if items is None else new.notes(new.items, items.report)
    dataset = opened.dataset if items is None else items.dataset
    if similar_to_user:
        users = _numbers(dataset.users["original_id"].to_numpy(), dataset.users["name"], similar_to_user, hint="")
        scorer = given_scorer() or Similarity(load_with(opened, items, device)[0].model).user_scorer
        ids = dataset.users["original_id"].to_numpy()
        return _Lists(ids, users, oneself(len(ids)), scorer, dataset.users, "user", "similar", notes=notes)
    candidates, limits = filters.candidates(dataset, new, notes), filters.limits(dataset)
    if similar_to:
        asked = np.array([known_items(dataset, [item])[0] for item in dict.fromkeys(similar_to)])
        scorer = given_scorer() or Similarity(load_with(opened, items, device)[0].model).item_scorer
        ids = dataset.items["original_id"].to_numpy()
        found = _Lists(ids, asked, oneself(len(ids)), scorer, dataset.items, "item", "similar", notes=notes)
    else:
        ids, users, seen, scorer, more = _users(opened, dataset, items, user_ids, new, device)
        found = _Lists(ids, users, seen, scorer, dataset.items, notes=[*notes, *more])
    return _replace(found, candidates=candidates, limits=limits)


def _replace(lists: _Lists, **changes: Any) -> _Lists:
    from dataclasses import replace

    return replace(lists, **changes)


_Users = tuple["np.ndarray", "np.ndarray", "UserItems", "Scorer", list[str]]
"""Original ids of a scorer's users, the chosen users, the items that all have, the scorer, and notes."""


def _users(
    opened: OpenedRun, dataset: Dataset, items: Any, wanted: Sequence[str], new: Newcomers, device: str
) -> _Users:
    import numpy as np

    if new.any_users:
        return _folded_users(opened, dataset, items, wanted, new, device)
    ids = dataset.users["original_id"].to_numpy()
    users = _numbers(ids, dataset.users["name"], wanted)
    shared = given_scorer()
    if shared is not None:
        return ids, users, dataset.positives(), shared, []
    trained, _ = load_with(opened, items, device)
    known = np.diff(dataset.positives(*trained.splits)[0])[users]
    untrained = int((known == 0).sum())
    note = f"{untrained:,} of these users have no training interaction: their lists mean little."
    return ids, users, dataset.positives(), trained.model.scorer(), [note] if untrained else []


def _folded_users(
    opened: OpenedRun, dataset: Dataset, items: Any, wanted: Sequence[str], new: Newcomers, device: str
) -> _Users:
    import numpy as np

    from hakg_dgl.ranking.fold_in import about_users
    from hakg_dgl.training.loading import fold_in_of

    trained, _ = load_with(opened, items, device)
    fold = fold_in_of(trained.model, opened.folder.path)
    found = new.read_users(dataset)
    ids = found.ids.to_numpy()
    users = _numbers(ids, found.ids.to_series(), wanted, hint="")
    about = about_users(found)
    scorer = fold.scorer(*found.lists) if about is None else fold.scorer(*found.lists, about)
    notes = new.notes([*new.users, *new.interactions], found.report)
    nothing = np.diff(found.lists[0]) == 0
    for indptr, _ in found.facts.values():
        nothing &= np.diff(indptr) == 0
    if nothing[users].any():
        blank = number_of(int(nothing[users].sum()), "users")
        notes.append(f"{blank} without an item or attribute that the run knows: their scores say nothing of them.")
    return ids, users, found.lists, scorer, notes


def _scored_pairs(opened: OpenedRun, file: Path, new: Newcomers, device: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a file of pairs with the names of items and scores; notes."""
    from hakg_dgl.data.id_files import read_pairs
    from hakg_dgl.ranking.pairs import score_pairs

    items = new.read_items(opened.dataset)
    notes = [] if items is None else new.notes(new.items, items.report)
    dataset = opened.dataset if items is None else items.dataset
    ids, _, _, scorer, more = _users(opened, dataset, items, (), new, device)
    found = read_pairs(
        file,
        ids,
        dataset,
        user_col=new.user_col,
        item_col=new.item_col,
        skip=new.unknown_items == "skip",
        form=new.forms["pairs"],
    )
    scores = score_pairs(scorer, found.users, found.items)
    rows = found.rows.assign(name=dataset.items["name"].to_numpy()[found.items], score=scores)
    about = more if new.any_users else []
    return rows, [*notes, *about, *(f"{file}: {line}." for line in counted(found.report))]


def _deliver_pairs(rows: pd.DataFrame, out: Path | None, as_json: bool) -> None:
    if out is not None:
        click.echo(f"Wrote {out}: {number_of(write_tables([rows], out), 'pairs')}")
    elif as_json:
        click.echo(rows.to_json(orient="records", lines=True, force_ascii=False), nl=False)
    else:
        click.echo(table(rows.assign(score=[f"{score:.4f}" for score in rows["score"]]).to_dict("records")))


def _write_shards(lists: _Lists, length: int, out: Path, shards: int, include_seen: bool, opened: OpenedRun) -> None:
    """Write the lists as a folder of Parquet files, those that are there already apart."""
    import hashlib

    import pyarrow as pa

    from hakg_dgl.ranking.shards import write_shards
    from hakg_dgl.training.model_file import model_digest

    columns = (lists.of, "rank", lists.second, "name", "score")
    numeric = {"rank": pa.int64(), "score": pa.float64()}
    schema = pa.schema([(name, pa.string() if name in _TEXT else numeric[name]) for name in columns])
    ctx = click.get_current_context()
    given = {name: str(value) for name, value in ctx.params.items() if name not in _IDLE}
    about = {
        "data": opened.dataset.digest,
        "model": model_digest(opened.folder),
        "files": {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for value in ctx.params.values()
            for path in (value if isinstance(value, tuple) else (value,))
            if isinstance(path, Path) and path.is_file()
        },
        "options": given,
    }
    waiting = lists.waiting()
    done = write_shards(
        out, lists.users, shards,
        lambda users: lists.named(_served(lists.blocks(users, length, include_seen), waiting)), about, schema,
        go_on=still_wanted,
    )  # fmt: skip
    kept = f", {done.kept:,} of them were there already" if done.kept else ""
    made = f"{number_of(done.rows, 'rows')}, {number_of(done.users, lists.of + 's')} now"
    click.echo(f"Wrote {out}: {number_of(done.shards, 'files')}{kept}; {made}")


def _numbers(ids: np.ndarray, names: pd.Series[str], wanted: Sequence[str], hint: str = NEW_USER) -> np.ndarray:
    """The users with these original ids, without repeats; all users if none is named."""
    import numpy as np
    import pandas as pd

    from hakg_dgl.data.id_maps import IdMap
    from hakg_dgl.errors import DataError

    if not wanted:
        return np.arange(len(ids))
    known = IdMap(pd.Index(ids), names)
    try:
        return np.array([known.index(user, "user") for user in dict.fromkeys(wanted)])
    except DataError as error:
        raise DataError(error.problem, remedy=f"{error.remedy} {hint}".strip()) from error


def _served(blocks: Iterator[pd.DataFrame], waiting: np.ndarray) -> Iterator[pd.DataFrame]:
    """Pass blocks on and count them on a bar; users who get an item are no longer marked as waiting."""
    with bar(total=int(waiting.sum()), unit="user") as progress:
        for block in blocks:
            waiting[block["user"].to_numpy()] = False
            progress.update(int((block["rank"] == 1).sum()))
            yield block


def _report_empty(users: Sequence[str], reason: str, of: str, *, on_stdout: bool) -> None:
    """Say for which users nothing is left, in place of their lists or beside the file or the JSON lines."""
    if on_stdout:
        for user in users:
            click.echo(f"{of.capitalize()} {user}\nNothing is left to list: {reason}\n")
    elif users:
        named = ", ".join(users[:_USERS_NAMED]) + (", ..." if len(users) > _USERS_NAMED else "")
        click.echo(f"Note: Nothing is left to list for {named} ({len(users):,} in all): {reason}", err=True)


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


def _print(lists: pd.DataFrame, as_json: bool = False, of: str = "user") -> None:
    if as_json:
        lines = lists.to_json(orient="records", lines=True, force_ascii=False)
        click.echo(lines if len(lists) else "", nl=False)  # pandas makes an empty line of an empty table
        return
    for user, rows in lists.groupby(of, sort=False):
        scores = [f"{score:.4f}" for score in rows["score"]]  # as many digits in all rows
        width = max(map(len, scores))
        rows = rows.assign(score=[score.rjust(width) for score in scores])
        click.echo(f"{of.capitalize()} {shown(user)}\n{table(rows.drop(columns=of).to_dict('records'))}\n")
