"""The tables of docs/models.md against the classes."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

from hakg_dgl.models.registry import BUILT_IN, model_class
from hakg_dgl.models.settings import Settings

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
OWN_PAGE = ("hakg", "popularity", "item-knn", "ease", "bpr-mf", "lightgcn", "facts-profile", "ease-facts")
"""Models that other pages describe."""


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table whose header begins with this text, without header and rule."""
    (found,) = re.findall(rf"^\| {re.escape(heading)}.*\n\|[-:|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


def of_abilities() -> list[list[str]]:
    """The table of abilities by the classes."""
    table = []
    for name in BUILT_IN:
        model = model_class(name)
        hints = typing.get_type_hints(model.sections.loss)
        losses = typing.get_args(hints.get("ranking_loss", None))
        able = model.abilities
        marks = (able.facts, able.explains, able.folds_in_users, able.new_items, able.distributed)
        cells = ["yes" if mark else "–" for mark in marks]
        table.append([f"`{name}`", *cells, ", ".join(f"`{loss}`" for loss in losses) or "–"])
    return table


def test_the_table_of_abilities_is_what_the_classes_declare() -> None:
    expected = "\n".join("| " + " | ".join(row) + " |" for row in of_abilities())
    assert rows("`--model` | facts") == of_abilities(), f"write\n{expected}"


def test_every_model_of_the_field_is_described() -> None:
    described = [row[0].strip("`") for row in rows("`--model` | paper")]
    assert described == [name for name in described if name in BUILT_IN]
    assert {*described} == {name for name in BUILT_IN if name not in OWN_PAGE and not name.endswith("+facts")}


def test_the_published_presets_are_written_down_as_they_are() -> None:
    written: dict[str, dict[str, Any]] = {}
    for name, text in rows("`--model` | `--preset published`"):
        for keys, value in re.findall(r"((?:`\w+`(?: and )?)+) (`[^`]+`|[\d.]+)", text):
            found = Settings.resolve(overrides=[f"kind={name.strip('`')}", f"{keys.split('`')[1]}={value.strip('`')}"])
            for key in re.findall(r"\w+", keys.replace(" and ", " ")):
                written.setdefault(name.strip("`"), {})[key] = found.values()[keys.split("`")[1]]
    expected = {
        name: dict(model_class(name).presets["published"])
        for name in BUILT_IN
        if name != "hakg" and "published" in model_class(name).presets
    }
    assert written == expected
