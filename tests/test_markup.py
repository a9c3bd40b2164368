"""Pages from templates: what a value looks like, and that every value is escaped once."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from hakg_dgl.figures import markup
from hakg_dgl.figures.markup import NumberText, Table, table, written


def html(of: Table) -> str:
    """The table, as the macro of the pages writes it."""
    template = markup._environment().get_template("parts.html.jinja")
    return str(template.module.table(of))  # type: ignore[attr-defined]


def test_values_are_written_in_one_way() -> None:
    assert [written(value) for value in (None, float("nan"), True, 12345, 0.5, 1234.5)] == [
        "–", "–", "yes", "12,345", "0.5000", "1,234.5",
    ]  # fmt: skip
    assert written("a\x00b\nc") == "a?b\nc"


def test_text_is_escaped_once_and_markup_is_not() -> None:
    shown = html(table([{"<a>": "<b> & '\"", "b": Markup("<i>x</i>")}]))
    assert "<th>&lt;a&gt;</th>" in shown
    assert "<td>&lt;b&gt; &amp; &#39;&#34;</td>" in shown
    assert "<td><i>x</i></td>" in shown


def test_numbers_stand_to_the_right() -> None:
    shown = html(table([{"n": 1, "text": "t"}, {"n": None, "text": "7"}]))
    assert '<td class="n">1</td>' in shown
    assert '<td class="n">–</td>' in shown
    assert "<td>t</td>" in shown
    assert "<td>7</td>" in shown, "text that looks like a number is text"


def test_shares_stand_to_the_right_as_numbers_do() -> None:
    assert table([{"share": NumberText("12.5%")}, {"share": NumberText("–")}]).numeric == {"share"}
    assert table([{"share": NumberText("x%")}]).numeric == frozenset()


def test_a_value_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        markup.page("report.html.jinja")
