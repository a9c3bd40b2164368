"""``hakg preprocess`` makes a data set from raw data."""

from __future__ import annotations

import copy
import difflib
import glob
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failures import after_interrupt
from .progress import downloads, stages
from .report import counted, shown, sizes, table

if TYPE_CHECKING:
    from hakg_dgl import Dataset, RawData

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)

_TABLE_FILES = ("interactions", "triples", "links", "item_names", "items", "users", "user_facts", "user_links")
_TABLE_COLUMNS = {
    "user_col": "user",
    "item_col": "item",
    "rating_col": None,
    "timestamp_col": None,
    "split_col": None,
    "head_col": "head",
    "relation_col": "relation",
    "tail_col": "tail",
    "link_item_col": "item",
    "link_entity_col": "entity",
    "items_id_col": None,
    "users_id_col": None,
    "name_item_col": "item",
    "name_col": "name",
    "fact_user_col": "user",
    "fact_relation_col": "relation",
    "fact_entity_col": "entity",
    "link_user_col": "user",
    "friend_col": "friend",
    "link_relation_col": None,
}
_HELP = {
    "items_id_col": "column of the ids in --items (default: that of --item-col, or item, item_id or id).",
    "users_id_col": "column of the ids in --users (default: that of --user-col, or user, user_id or id).",
}
_TABLE_OF = {
    "items_id_col": "items", "users_id_col": "users", "head_col": "triples", "relation_col": "triples",
    "tail_col": "triples", "link_item_col": "links", "link_entity_col": "links", "name_item_col": "item_names",
    "name_col": "item_names", "fact_user_col": "user_facts", "fact_relation_col": "user_facts",
    "fact_entity_col": "user_facts", "link_user_col": "user_links", "friend_col": "user_links",
    "link_relation_col": "user_links", "facts": "items", "user_columns": "users",
}  # fmt: skip
"""Option -> the table that it is about, where that is not the interactions."""
_FORMS = ("delimiter", "encoding", "no_header", "date_order", "decimal")
_ATOMIC_COLUMNS = ("user_col", "item_col", "rating_col", "timestamp_col")
_USES = {"valid": "validate on, which 'hakg train' needs", "test": "test on"}
_COLUMNS = ("column", "kind", "facts", "entities", "why")
_READER_OPTIONS = {
    "tables": {*_TABLE_FILES, *_TABLE_COLUMNS, *_FORMS, "name", "facts", "user_columns"},
    "folder": {"format_", "name", "title_col", "facts", *_ATOMIC_COLUMNS},
    "card": {"mirror", "cache"},
    "demo": set[str](),
}
_ALL_READER_OPTIONS = set[str]().union(*_READER_OPTIONS.values())


def _table_options(command: Any) -> Any:
    """Add the options that name columns of tables."""
    for name, default in reversed(_TABLE_COLUMNS.items()):
        flag, what = "--" + name.replace("_", "-"), name.removesuffix("_col").replace("_", " ")
        usual = f"column of the {what}" + (f" (default {default!r})." if default else ", if there is one.")
        help_text = f"Tables: {_HELP.get(name, usual)}"
        command = click.option(flag, default=default, metavar="COLUMN", help=help_text)(command)
    return command


def _files(flag: str, what: str) -> Callable[[Any], Any]:
    """An option for a table, in one file or several."""
    text = f"Tables: {what} Repeatable; '*' in a name stands for several files."
    return click.option(flag, multiple=True, metavar="FILE", help=text)


@click.command(
    "preprocess",
    epilog="\b\nExamples:\n"
    "  hakg preprocess demo --out data/demo\n"
    "  hakg preprocess last-fm --out data/last-fm\n"
    "  hakg preprocess ml-100k/ --rating-threshold 4 --split temporal --out data/ml\n"
    "  hakg preprocess tables --interactions ratings.csv --triples facts.csv --links links.csv \\\n"
    "      --user-col who --item-col movie --out data/movies\n"
    "  hakg preprocess tables --interactions 'orders-*.csv' --items products.csv --item-col sku --out data/shop\n"
    "  hakg preprocess tables --interactions orders.csv --users customers.csv --user-columns age=bins \\\n"
    "      --split temporal-global --timestamp-col date --out data/shop\n"
    "  hakg preprocess tables --interactions ratings.dat --no-header interactions --triples kg.ttl --out data/films\n"
    "  hakg preprocess tables --interactions reviews.csv --triples facts.csv \\\n"
    "      --user-links friends.csv --out data/yelp\n",
)
@click.argument("source")
@click.option("--out", required=True, type=_FOLDER, help="Folder for the data set; replaced if it holds one.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["kgat", "kgcn", "recbole"]),
    help="Layout of the folder, if its files do not show it.",
)
@click.option("--name", help="Folder: data set to read, where there are several. Tables: what to call it.")
@click.option("--title-col", metavar="COLUMN", help="RecBole: column of NAME.item with the titles.")
@_files("--interactions", "who interacted with what (CSV, TSV, JSON lines or Parquet, perhaps packed).")
@_files("--triples", "the knowledge graph, as a table, N-Triples (.nt) or Turtle (.ttl).")
@_files("--items", "a row an item: its id, name and attributes, which become facts. All of them are items.")
@click.option(
    "--facts",
    multiple=True,
    metavar="COLUMN=KIND",
    help="Tables and RecBole: how to read a column of --items (NAME.item, NAME.user): values, list, path, "
    "bins, dates or out (default: by what it holds). Repeatable.",
)
@_files("--users", "a row a user: its id and attributes, which become facts of users.")
@click.option(
    "--user-columns",
    multiple=True,
    metavar="COLUMN=KIND",
    help="Tables: how to read a column of --users, as --facts for one of --items. Repeatable.",
)
@_files("--links", "which entity an item is. Without, ids of items are ids of entities.")
@_files("--item-names", "names of the items.")
@_files("--user-facts", "what is known of users, as triples; entities are named as in --triples.")
@_files("--user-links", "pairs of users, such as friends.")
@click.option(
    "--delimiter",
    multiple=True,
    metavar="[TABLE=]CHAR",
    help="Tables: what separates values, of all tables or of one: a character, comma, tab, semicolon, pipe, space or "
    "'::' (default: as the file looks), such as --delimiter interactions=semicolon. Repeatable.",
)
@click.option(
    "--encoding",
    multiple=True,
    metavar="[TABLE=]NAME",
    help="Tables: encoding of text (default utf-8), such as --encoding latin-1 or --encoding items=cp1252. Repeatable.",
)
@click.option(
    "--no-header",
    multiple=True,
    type=click.Choice(["all", *(name.replace("_", "-") for name in _TABLE_FILES)]),
    help="Tables: this table has no header; its columns are called 1, 2 and so on, such as --no-header interactions "
    "--user-col 1 --item-col 2. Repeatable.",
)
@click.option(
    "--date-order",
    type=click.Choice(["day-first", "month-first", "year-first"]),
    help="Tables: what 03/04/2024 or 03/04/24 means, where no date of the column shows it.",
)
@click.option(
    "--decimal",
    type=click.Choice(["comma", "point"]),
    help="Tables: what 1,299 means, where no number of the column shows it.",
)
@_table_options
@click.option("--mirror", metavar="URL|DIR", help="Card: take the files from elsewhere.")
@click.option(
    "--cache",
    type=_FOLDER,
    envvar="HAKG_CACHE",
    help="Card: where downloads are kept (default $HAKG_CACHE, or hakg_dgl in $XDG_CACHE_HOME or ~/.cache).",
)
@click.option(
    "--min-user-interactions", type=int, default=1, show_default=True, help="k-core: fewest interactions of a user."
)
@click.option(
    "--min-item-interactions", type=int, default=1, show_default=True, help="k-core: fewest interactions of an item."
)
@click.option("--rating-threshold", type=float, help="Lowest rating of an interaction that is a positive.")
@click.option("--min-entity-triples", type=int, default=1, show_default=True, help="Drop entities with fewer facts.")
@click.option("--min-relation-triples", type=int, default=1, show_default=True, help="Drop relations with fewer facts.")
@click.option(
    "--max-entity-triples", type=int, help="Drop hubs: entities, other than items, with more facts than this."
)
@click.option(
    "--max-hops", type=int, help="Drop facts further than this many hops from every item; 1 keeps facts of items alone."
)
@click.option("--drop-unlinked", is_flag=True, help="Drop interactions with items that the knowledge graph lacks.")
@click.option(
    "--split",
    type=click.Choice(["random", "temporal", "temporal-global", "leave-one-out", "cold-items", "given"]),
    help="How the test split is made (default: given where the source has one, otherwise random); 'temporal' holds out "
    "the latest of each user, 'temporal-global' the latest of all by one cut in time, 'cold-items' items with all of "
    "their interactions.",
)
@click.option(
    "--valid",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of training rows (cold-items: of items) for validation.",
)
@click.option(
    "--test",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of each user's rows (cold-items: of items) for testing.",
)
@click.option("--seed", type=int, default=2020, show_default=True, help="Seed of the splits, and of the demo.")
def preprocess_command(source: str, out: Path, **options: Any) -> None:
    """Read, check and convert raw data into a data set.

    SOURCE is a folder (KGAT/KGIN or KGCN layout, or RecBole atomic files), 'tables' (with --interactions, and for
    facts --items or --triples), 'demo' (generated on the spot), or the name of a dataset card, which is downloaded:
    last-fm, yelp2018, alibaba-ifashion, amazon-book. Write ./last-fm for a folder of that name.
    """
    from hakg_dgl.data.cards import list_cards
    from hakg_dgl.data.dataset import refuse_foreign
    from hakg_dgl.data.preprocess import PreprocessOptions, preprocess

    if not source:
        raise click.UsageError("SOURCE is empty")
    kind = source if source in ("tables", "demo") else "card" if source in list_cards() else "folder"
    _refuse_idle_options(source, kind)
    after_interrupt("Run the same command again; what has been downloaded is kept.")
    reading = {name: options.pop(name) for name in _ALL_READER_OPTIONS}
    settings = PreprocessOptions(**options)
    refuse_foreign(out)
    folder = _download(source, reading) if kind == "card" else Path(source)
    with stages(3) as begin:
        begin(f"reading {source}")
        tables = [_read(kind, folder, source, reading, settings.seed)]
        begin("filtering and splitting")
        dataset = preprocess(tables.pop(), settings)  # what was read may be large, and is not kept
        begin(f"writing {out}")
        dataset.save(out)
    counts = json.loads((out / "dataset.json").read_text(encoding="utf-8"))["counts"]
    click.echo(f"{shown(dataset.name)}: {sizes(counts)}")
    empty = [
        f"remark: no interaction is left to {use}; see --{split}" for split, use in _USES.items() if not counts[split]
    ]
    tell_columns(dataset)
    if not counts["triples"] and kind == "tables":
        empty.append("remark: nothing is known of the items; --items or --triples gives facts, and ease needs none")
    for line in [
        *notes_of(dataset),
        *counted(dataset.report),
        *empty,
        *(_remarks(source, counts) if kind == "card" else []),
    ]:
        click.echo(f"  {line}")
    click.echo(f"Wrote {out}. Next: hakg train {out} --out RUN")


def tell_columns(dataset: Dataset) -> None:
    """Print what was made of each column of the tables of items and users."""
    for option, whose in (("columns", "items"), ("user_columns", "users")):
        columns: Any = dataset.options.get(option)
        if columns:
            names = {"column": f"column of {whose}", "kind": "read as"}
            click.echo(table([{names.get(key, key): row[key] for key in _COLUMNS} for row in columns]) + "\n")


def notes_of(dataset: Dataset) -> list[str]:
    """What was decided while the tables were read."""
    noted: Any = dataset.options.get("notes", [])
    return [f"note: {shown(note)}" for note in noted]


def _expanded(option: str, patterns: tuple[str, ...]) -> list[Path] | None:
    """The files that names and patterns stand for, in order; None for none."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.exists() or not any(letter in pattern for letter in "*?["):
            found.append(path)
            continue
        matches = sorted(Path(match) for match in glob.glob(pattern))
        if not matches:
            raise click.UsageError(f"--{option.replace('_', '-')}: no file is called like {pattern!r}")
        found += matches
    return found or None


def _kinds(option: str, given: tuple[str, ...]) -> dict[str, str]:
    """Column -> kind."""
    kinds: dict[str, str] = {}
    for entry in given:
        column, separator, kind = entry.rpartition("=")
        if not separator or not column:
            raise click.UsageError(f"{option} takes COLUMN=KIND, such as price=bins, not {entry!r}")
        if kinds.get(column, kind) != kind:
            raise click.UsageError(f"{option}: column {column!r} is to be read as {kinds[column]} and as {kind}")
        kinds[column] = kind
    return kinds


def by_table(option: str, given: tuple[str, ...], tables: tuple[str, ...] = _TABLE_FILES) -> dict[str, str] | None:
    """Table, or 'all', -> value, from ``TABLE=VALUE`` or a value for all."""
    found: dict[str, str] = {}
    for entry in given:
        table, separator, value = entry.partition("=")
        table = table.replace("-", "_")
        if not separator or not value or table not in (*tables, "all"):
            table, value = "all", entry
        if found.get(table, value) != value:
            raise click.UsageError(f"--{option} is given twice for {table}: {found[table]!r} and {value!r}")
        found[table] = value
    return found or None


def _refuse_idle_options(source: str, kind: str) -> None:
    """Raise UsageError for options that would do nothing."""
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = str(parameter.name)
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name in _ALL_READER_OPTIONS - _READER_OPTIONS[kind]:
            homes = " or ".join(home for home, names in _READER_OPTIONS.items() if name in names)
            raise click.UsageError(f"{parameter.opts[0]} is an option for {homes}, and {source!r} is a {kind}")
    if kind == "tables" and not ctx.params["interactions"]:
        raise click.UsageError("SOURCE 'tables' needs --interactions")
    if kind == "tables":
        _refuse_options_of_tables_not_given(ctx)


def _refuse_options_of_tables_not_given(ctx: click.Context) -> None:
    """Raise UsageError for a column, a separator, an encoding or a missing header of a table that is not given."""
    for name, table_name in _TABLE_OF.items():
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and not ctx.params.get(table_name):
            option, whose = (f"--{text.replace('_', '-')}" for text in (name, table_name))
            raise click.UsageError(f"{option} is about a column of {whose}: give that too")
    named: dict[str, Any] = {
        "delimiter": by_table("delimiter", ctx.params["delimiter"]) or {},
        "encoding": by_table("encoding", ctx.params["encoding"]) or {},
        "no-header": dict.fromkeys(name.replace("-", "_") for name in ctx.params["no_header"]),
    }
    for option, about in named.items():
        for table_name in about:
            if table_name != "all" and not ctx.params[table_name]:
                flag = "--" + table_name.replace("_", "-")
                raise click.UsageError(f"--{option} is about {flag}, which is not given")


def _remarks(source: str, counts: dict[str, int]) -> list[str]:
    """Remarks of the card about its data set."""
    from hakg_dgl.data.cards import check_counts, load_card

    card = load_card(source)
    remarks = [f"remark: {mismatch}" for mismatch in check_counts(card, counts)]
    return [*remarks, *([f"terms: {card.terms}"] if card.terms else [])]


def _download(source: str, reading: dict[str, Any]) -> Path:
    """Download the files of a card to the cache."""
    from hakg_dgl.data.cards import load_card
    from hakg_dgl.data.downloads import fetch

    cache = reading["cache"] or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hakg_dgl"
    with downloads() as progress:
        return fetch(load_card(source), cache / source, mirror=reading["mirror"], progress=progress)


def _read(kind: str, folder: Path, source: str, reading: dict[str, Any], seed: int) -> RawData:
    from hakg_dgl.data.cards import list_cards, load_card
    from hakg_dgl.data.readers.detect import detect_format
    from hakg_dgl.data.readers.kgat import read_kgat
    from hakg_dgl.data.readers.kgcn import read_kgcn
    from hakg_dgl.data.readers.recbole import read_recbole
    from hakg_dgl.data.readers.tables import read_tables
    from hakg_dgl.data.synthetic import generate_demo
    from hakg_dgl.errors import ConfigError

    if kind == "demo":
        return generate_demo(seed=seed)
    if kind == "tables":
        files: dict[str, Any] = {name: _expanded(name, reading[name]) for name in _TABLE_FILES}
        columns = {name: reading[name] for name in (*_TABLE_COLUMNS, "name")}
        return read_tables(
            **files,
            **columns,
            facts=_kinds("--facts", reading["facts"]),
            user_columns=_kinds("--user-columns", reading["user_columns"]),
            delimiter=by_table("delimiter", reading["delimiter"]),
            encoding=by_table("encoding", reading["encoding"]),
            no_header=[name.replace("-", "_") for name in reading["no_header"]],
            date_order=reading["date_order"],
            decimal=reading["decimal"],
        )
    if not folder.exists() and os.sep not in source:
        known = ["tables", "demo", *list_cards()]
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f", nor one of {', '.join(known)}"
        raise ConfigError(f"SOURCE {source!r} is not a folder{hint}")
    layout = load_card(source).layout if kind == "card" else reading["format_"] or detect_format(folder)
    if layout == "recbole":
        return read_recbole(
            folder,
            name=reading["name"],
            title_column=reading["title_col"],
            facts=_kinds("--facts", reading["facts"]),
            **{name: reading[name] for name in _ATOMIC_COLUMNS},
        )
    for option in ("title_col", "facts", *_ATOMIC_COLUMNS):
        if reading[option] and reading[option] != _TABLE_COLUMNS.get(option):
            flag = "--" + option.replace("_", "-")
            raise ConfigError(
                f"{flag} is an option for RecBole atomic files, and this folder has the {layout.upper()} layout"
            )
    if layout == "kgcn":
        return read_kgcn(folder, name=reading["name"])
    return read_kgat(folder, name=source if kind == "card" else reading["name"])


def table_options(*others: str, without: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Add the options of this command that say which tables to read, and the others that are named."""
    return copied_options(*({*_READER_OPTIONS["tables"], *others} - set(without)))


def copied_options(*wanted: str) -> Callable[[Any], Any]:
    """Add some options of this command to another one."""

    def add(command: Any) -> Any:
        for parameter in reversed(preprocess_command.params):
            if parameter.name in wanted:
                of_command = copy.copy(parameter)
                if isinstance(of_command, click.Option):
                    text = (of_command.help or "").rpartition("Tables: ")[2]
                    of_command.help = text[:1].upper() + text[1:]
                command.params.insert(1, of_command)
        return command

    return add


def read_given_tables(options: dict[str, Any]) -> RawData:
    """Read the tables that the options of :func:`table_options` name; those options are taken out of the mapping."""
    if not options["interactions"]:
        raise click.UsageError("Missing option '--interactions'.")
    _refuse_options_of_tables_not_given(click.get_current_context())
    reading = {name: options.pop(name, None) for name in _READER_OPTIONS["tables"]}
    return _read("tables", Path(), "tables", reading, 0)
