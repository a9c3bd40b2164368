"""Numbers and dates as people write them (``3,5``, ``1.299,00 €``, ``31/12/2024``), put plainly."""

from __future__ import annotations

import html
import re
from typing import Any, NamedTuple

import pandas as pd

from hakg_dgl.data.written_dates import DAY_MONTH_YEAR, date_parts, iso_texts, orders_of

DECIMALS = ("comma", "point")
"""What may stand before the decimals of a number."""

_GROUPS = "' \u00a0\u202f"
_COMMA = rf"[+-]?(?:\d+|[1-9]\d{{0,2}}(?:[.{_GROUPS}]\d{{3}})+)(?:,\d+)?|[+-]?,\d+"
_POINT = rf"[+-]?(?:\d+|[1-9]\d{{0,2}}(?:[,{_GROUPS}]\d{{3}})+)(?:\.\d+)?|[+-]?\.\d+"
_UNIT = (
    r"[A-Z]{0,3}[$€£¥₹₽₩₺₴₪฿]|USD|EUR|GBP|CHF|JPY|CNY|INR|BRL|CAD|AUD|NZD|PLN|CZK|SEK|NOK|DKK|TRY|KRW|MXN|ZAR|SGD|HKD|"
    r"RUB|UAH|HUF|RON|ILS|THB|kr\.?|zł|Kč|Ft|%"
)
_WITH_UNIT = rf"({_UNIT})?\s*([+-]?\d[\d.,{_GROUPS}]*|[+-]?[.,]\d+)\s*({_UNIT})?"
_TAG = r"</?[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>"
_MARKUP = rf"{_TAG}|&(?:[A-Za-z]{{2,8}}|#\d{{1,7}}|#x[0-9A-Fa-f]{{1,6}});"
_FIRST = 9
"""Values that are looked at before all are."""


class Plain(NamedTuple):
    """Texts, and what was done to them or hinders it, in words; None if they are as they were.

    ``sign`` is what was found to stand before decimals, one of :data:`DECIMALS`.
    """

    texts: pd.Series[Any]
    note: str | None = None
    unclear: bool = False
    sign: str | None = None


def plain_numbers(texts: pd.Series[Any], decimal: str | None = None) -> Plain:
    """Numbers with a point before the decimals and nothing between thousands; what is not a number stays as it is.

    Which sign stands before the decimals is what most of the values allow: ``3,5`` needs a comma, ``1,299.00`` a point.
    ``1,299`` allows both; where all values do, ``decimal`` must say it, otherwise they stay, and ``unclear`` is set.

    Parameters
    ----------
    texts
        Text, None or NaN where a value is missing.
    decimal
        One of :data:`DECIMALS`, or None.
    """
    present = texts.dropna().astype(str)
    if decimal != "comma" and pd.to_numeric(present, errors="coerce").notna().all():
        return Plain(texts)
    values = pd.Series(present.unique(), dtype=object).str.strip()
    read = pd.to_numeric(values, errors="coerce").notna()
    comma, point = values.str.fullmatch(_COMMA), values.str.fullmatch(_POINT) | read
    odd = values[~read & (comma | point)]
    if decimal is None and len(odd) and comma.all() and point.all() and odd.str.contains(",", regex=False).any():
        return Plain(texts, f"{odd.iloc[0]!r} may have a comma before decimals or between thousands", unclear=True)
    by_comma = decimal == "comma" or (decimal is None and comma.sum() > point.sum())
    fits = comma if by_comma else point
    plain = values.str.replace(f"[{_GROUPS}{'.' if by_comma else ','}]", "", regex=True)
    plain = plain.str.replace(",", ".", regex=False) if by_comma else plain
    changed = fits & (plain != values)
    if not changed.any():
        return Plain(texts)
    known = dict(zip(values[changed], plain[changed], strict=True))
    stripped = present.str.strip()
    found = texts.copy()
    found[present.index] = stripped.map(known).where(stripped.isin(known), present)
    first = next(iter(known))
    what = "decimal commas" if by_comma and "," in first else "marks between thousands"
    return Plain(found, f"numbers with {what}, such as {first!r}", sign="comma" if by_comma else "point")


def plainly(texts: pd.Series[Any], decimal: str | None = None, date_order: str | None = None) -> Plain:
    """A column of text with its numbers or dates put plainly, if all of its values are such.

    Tags and character references of HTML are taken out. Numbers may have a currency or ``%`` before or after them, the
    same in the whole column. Dates such as ``31/12/2024`` become ISO 8601 dates where a date of the column shows
    whether the day comes first, or ``date_order`` (``day-first``, ``month-first``) says it.
    """
    present = texts.dropna().astype(str)
    if present.str.contains(_MARKUP).any():
        bare = texts.map(_without_markup, na_action="ignore").astype(object)
        found = plainly(bare.where(bare.notna(), None), decimal, date_order)
        more = f"; {found.note}" if found.note else ""
        return Plain(found.texts, f"text without its markup{more}", found.unclear)
    values = pd.Series(present.unique(), dtype=object).str.strip()
    if not len(values) or not values.head(_FIRST).str.contains(r"\d").all() or _are_plain(values, decimal):
        return Plain(texts)
    if values.head(_FIRST).str.fullmatch(DAY_MONTH_YEAR).all():
        return _plain_dates(texts, values, date_order)
    if values.head(_FIRST).str.fullmatch(_WITH_UNIT).all():
        return _plain_amounts(texts, values, decimal)
    return Plain(texts)


def _without_markup(text: str) -> str | None:
    """Text without tags of HTML, and with letters in place of character references; None where nothing is left."""
    bare = re.sub(_TAG, " ", html.unescape(re.sub(_TAG, " ", str(text))))  # tags may be written as references
    return " ".join(bare.split()) or None


def _are_plain(values: pd.Series[Any], decimal: str | None) -> bool:
    return decimal != "comma" and bool(pd.to_numeric(values, errors="coerce").notna().all())


def _plain_amounts(texts: pd.Series[Any], values: pd.Series[Any], decimal: str | None) -> Plain:
    parts = values.str.extract(rf"^(?:{_WITH_UNIT})$")
    if parts[1].isna().any():
        return Plain(texts)
    units = (parts[0].fillna("") + parts[2].fillna("")).unique()
    if len(units) > 1:
        return Plain(texts, f"amounts in {len(units)} units, such as {values.iloc[0]!r}, are not read as numbers")
    bare = dict(zip(values, parts[1].str.strip(), strict=True)) if units[0] else {}
    cut = texts.map(lambda text: bare.get(str(text).strip(), text), na_action="ignore") if bare else texts
    found = plain_numbers(cut, decimal)
    left = pd.to_numeric(found.texts.dropna(), errors="coerce").isna()
    if found.unclear or left.any():
        return Plain(texts, found.note if found.unclear else None, found.unclear)
    if not units[0]:
        return found
    return Plain(found.texts, f"amounts in {units[0]}" + (f": {found.note}" if found.note else ""))


def _plain_dates(texts: pd.Series[Any], values: pd.Series[Any], date_order: str | None) -> Plain:
    parts = date_parts(values)
    if parts["first"].isna().any():
        return Plain(texts)
    may_be = [order for order in orders_of(parts) if date_order in (None, order)]
    if not may_be and date_order:
        may_be = [date_order]
    iso = iso_texts(parts, may_be[0]).str[:10] if len(may_be) == 1 else None
    if iso is None or pd.to_datetime(iso, errors="coerce", format="%Y-%m-%d").isna().any():
        either = " or the ".join(order.removesuffix("-first") for order in may_be)
        why = f"may have the {either} first" if len(may_be) > 1 else "do not all have the day, or the month, first"
        return Plain(texts, f"dates such as {values.iloc[0]!r} {why}", unclear=True)
    known = dict(zip(values, iso, strict=True))
    found = texts.map(lambda text: known[str(text).strip()], na_action="ignore")
    return Plain(found, f"dates with the {may_be[0].removesuffix('-first')} first")
