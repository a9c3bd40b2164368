"""Dataset cards: what a public data set is, where its files lie, and what is known of its contents.

A card is one TOML file in the folder ``datasets/`` (installed as ``hakg_dgl.datasets``). The publishers of these files
forbid redistribution and commercial use, so the package ships the cards alone;
:func:`~hakg_dgl.data.downloads.fetch` brings the files from where they were released, or from a mirror of yours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hakg_dgl.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable


@dataclass(frozen=True)
class CardFile:
    """One file of a data set.

    Attributes
    ----------
    name
        Name it gets on disk: a plain name, no path.
    url
        Where it was released, http or https.
    git_blob
        Its git object id: SHA-1 of ``b"blob <size>\\0"`` followed by the content, 40 hexadecimal digits. It pins the
        size as well as the content.
    bytes
        Size where known.
    """

    name: str
    url: str
    git_blob: str
    bytes: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise ConfigError(f"a card names the file {self.name!r}; allowed are letters, digits and _ . - (no path)")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"a card gives {self.name} the address {self.url!r}; it must be http or https")
        if not re.fullmatch(r"[0-9a-f]{40}", self.git_blob):
            raise ConfigError(f"a card gives {self.name} the git blob {self.git_blob!r}; it must be 40 hex digits")
        if self.bytes is not None and self.bytes < 0:
            raise ConfigError(f"a card gives {self.name} the size {self.bytes}; it must not be negative")


@dataclass(frozen=True)
class DatasetCard:
    """What is known of a public data set.

    Attributes
    ----------
    name, title
        Short name (``last-fm``) and a line of description.
    files
        What to fetch.
    layout
        Format of the files, as the readers call it (``kgat``).
    terms, citation, notes
        Terms of use, publications to cite, and what is odd about the files.
    counts
        Sizes as published, for those that are known: ``users``, ``items``, ``entities`` (items included),
        ``relations`` (without inverses), ``triples``, ``interactions``, ``train``, ``test`` (distinct pairs).
    published_settings
        Hyper-parameters of the published experiments, by setting name.
    """

    name: str
    title: str
    files: tuple[CardFile, ...]
    layout: str = "kgat"
    terms: str = ""
    citation: tuple[str, ...] = ()
    notes: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    published_settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CountMismatch:
    """A size that differs from the card's."""

    what: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.what}: the card says {self.expected:,}, the data has {self.found:,}"


def list_cards() -> list[str]:
    """Names of the data sets that have a card, sorted."""
    names = (entry.name for entry in resource_folder().iterdir())
    return sorted(name[: -len(".toml")] for name in names if name.endswith(".toml") and name != "demo.toml")


def load_card(name: str) -> DatasetCard:
    """The card of a data set.

    Raises
    ------
    ConfigError
        If there is none of that name; the message lists those that exist.
    """
    if name not in list_cards():
        raise ConfigError(f"there is no dataset card {name!r}; the cards are {', '.join(list_cards())}")
    values = read_resource(f"{name}.toml")
    files = tuple(CardFile(**entry) for entry in values.pop("files"))
    return DatasetCard(files=files, citation=tuple(values.pop("citation", ())), **values)


def check_counts(card: DatasetCard, counts: Mapping[str, int]) -> list[CountMismatch]:
    """Compare a data set's sizes with those of its card.

    Parameters
    ----------
    counts
        Sizes by name, as in ``dataset.json``; names the card does not know, and names missing here, are passed over.
        ``valid`` counts as ``train``, since the published files know no validation split.

    Returns
    -------
    list of CountMismatch
        In the order of the card; empty if all agree. To be reported, not an error: publications count differently.
    """
    found = {what: int(count) for what, count in counts.items()}
    if "train" in found:
        found["train"] += found.get("valid", 0)
    return [
        CountMismatch(what, expected, found[what])
        for what, expected in card.counts.items()
        if what in found and found[what] != expected
    ]


def resource_folder() -> Traversable:
    """The folder of cards and generator settings: installed, or in a source tree beside the package."""
    try:
        return resources.files("hakg_dgl.datasets")
    except ModuleNotFoundError:
        beside = Path(__file__).resolve().parents[2] / "datasets"
        if not beside.is_dir():
            raise ConfigError(
                f"the dataset cards are missing (looked in {beside}); install the package again"
            ) from None
        return beside


def read_resource(name: str) -> dict[str, Any]:
    """Parse a TOML file of :func:`resource_folder`.

    Raises
    ------
    ConfigError
        If the file is missing or is not TOML.
    """
    try:
        return tomllib.loads((resource_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} of the package's datasets cannot be read: {error}; install it again") from error
