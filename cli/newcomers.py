"""Options for items and users that a run was not trained on, and the model and the users that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .preprocess import by_table
from .report import counted
from .runs import OpenedRun

if TYPE_CHECKING:
    from hakg_dgl import Dataset, NewItems, NewUsers
    from hakg_dgl.data.readers.table_form import TableForm
    from hakg_dgl.training.loading import TrainedModel

NEWER_DATA = (
    "Users, items and interactions that the run does not know need no other data set: give them with --new-users, "
    "--new-items and --new-interactions. 'hakg update RUN --interactions LOG --out RUN2' trains on with them."
)
"""What to do with what a run was not trained on."""

_FILES = click.Path(path_type=Path)


@dataclass(frozen=True)
class Newcomers:
    """Files of items and users that a run was not trained on, and how they are read."""

    items: tuple[Path, ...]
    users: tuple[Path, ...]
    interactions: tuple[Path, ...]
    user_col: str
    item_col: str
    unknown_items: str
    forms: Mapping[str, TableForm]

    @property
    def any_users(self) -> bool:
        """Whether there is a file of users."""
        return bool(self.users or self.interactions)

    def read_items(self, dataset: Dataset) -> NewItems | None:
        """The new items, None without a file of them."""
        from hakg_dgl.data.new_items import read_new_items

        form = self.forms["new_items"]
        return read_new_items(self.items, dataset, item_col=self.item_col, form=form) if self.items else None

    def read_users(self, dataset: Dataset) -> NewUsers:
        """The users of all files, in the numbers of the data set with the new items."""
        from hakg_dgl.data.id_files import read_new_users

        return read_new_users(
            [*self.users, *self.interactions], dataset,
            user_col=self.user_col, item_col=self.item_col, unknown_items=self.unknown_items,  # type: ignore[arg-type]
            forms=[self.forms["new_users"]] * len(self.users)
            + [self.forms["new_interactions"]] * len(self.interactions),
        )  # fmt: skip

    def notes(self, files: Sequence[Path], report: Any) -> list[str]:
        """What was found in files, a sentence each."""
        names = ", ".join(map(str, files))
        return [f"{names}: {line}." for line in counted(report)]


def newcomer_options(*others: str) -> Callable[[Any], Any]:
    """Add the options for new items and users to a command, which gets them as parameters of :class:`Newcomers`.

    ``date_order`` and ``decimal`` are copied from ``hakg preprocess`` beside them.

    Parameters
    ----------
    others
        Further options of the command that take a table, whose form options are about too.
    """
    tables = (*NEWCOMER_TABLES, *others)
    names = ", ".join(name.replace("_", "-") for name in tables)
    options = [
        click.option("--new-items", "new_items", type=_FILES, multiple=True, metavar="FILE",
                     help="Table of items that the data set does not have, a row an item; repeatable."),
        click.option("--new-users", "new_users", type=_FILES, multiple=True, metavar="FILE",
                     help="Table of users with interactions, attributes or both, known or new; repeatable."),
        click.option("--new-interactions", "new_interactions", type=_FILES, multiple=True, metavar="FILE",
                     help="Table of newer interactions, which add to what is known of their users; repeatable."),
        click.option("--unknown-items", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
                     help="What to do with items of files that the data set does not have."),
        click.option("--user-col", default="user", show_default=True, help="Column of users in files."),
        click.option("--item-col", default="item", show_default=True, help="Column of items in files."),
        click.option("--no-header", multiple=True,
                     type=click.Choice(["all", *(name.replace("_", "-") for name in tables)]),
                     help="This table has no header; its columns are called 1, 2 and so on. Repeatable."),
        click.option("--delimiter", multiple=True, metavar="[TABLE=]CHAR",
                     help=f"What separates values, of all tables or of one of {names} (default: as the file looks)."),
        click.option("--encoding", multiple=True, metavar="[TABLE=]NAME",
                     help="Encoding of text (default utf-8), of all tables or of one, likewise."),
    ]  # fmt: skip

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


NEWCOMER_TABLES = ("new_items", "new_users", "new_interactions")


def newcomers(options: dict[str, Any], **others: Any) -> Newcomers:
    """The options of :func:`newcomer_options`, taken out of those of a command.

    Parameters
    ----------
    others
        What the command was given for the further options that take a table.

    Raises
    ------
    click.UsageError
        If an option is about a table that is not given.
    """
    given = {**{name: options[name] for name in NEWCOMER_TABLES}, **others}
    return Newcomers(
        items=options.pop("new_items"),
        users=options.pop("new_users"),
        interactions=options.pop("new_interactions"),
        user_col=options.pop("user_col"),
        item_col=options.pop("item_col"),
        unknown_items=options.pop("unknown_items"),
        forms=_forms(options, given),
    )


def _forms(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, TableForm]:
    """How each table is written; options that are about none that is given are refused."""
    from hakg_dgl.data.readers.table_form import forms_of

    tables = tuple(given)
    about = {name: by_table(name, options.pop(name), tables) or {} for name in ("delimiter", "encoding")}
    headerless = tuple(name.replace("-", "_") for name in options.pop("no_header"))
    written = {name: options.pop(name) for name in ("date_order", "decimal")}
    asked: dict[str, Iterable[str]] = {**about, "no-header": headerless}
    asked |= {name: ("all",) for name in written if written[name]}
    for option, named in asked.items():
        flag = f"--{option.replace('_', '-')}"
        for table in named:
            if table != "all" and not given[table]:
                raise click.UsageError(f"{flag} is about --{table.replace('_', '-')}, which is not given")
        if named and not any(given.values()):
            raise click.UsageError(f"{flag} is about tables, and none is given: leave it out")
    forms = forms_of(
        tables, headerless=headerless, delimiter=about["delimiter"], encoding=about["encoding"],
        date_order=written["date_order"], decimal=written["decimal"],
    )  # fmt: skip
    if "items" in forms:  # no catalogue, whose options have other names
        forms["items"] = dataclasses.replace(forms["items"], table=None)
    return forms


def load_with(opened: OpenedRun, new: NewItems | None, device: str) -> tuple[TrainedModel, Dataset]:
    """The best model of a run with new items, and the data set that its numbers are those of."""
    from hakg_dgl.training.circumstances import choose_device
    from hakg_dgl.training.loading import load_trained

    trained = load_trained(opened.folder.path, opened.dataset, device=choose_device(device), new_items=new)
    return trained, opened.dataset if new is None else new.dataset
