"""Dates as people write them (``31/12/2024``, ``03.02.26``, ``2/3/26 5:04 PM``), and which of their parts is which."""

from __future__ import annotations

from typing import Any

import pandas as pd

DATE_ORDERS = ("day-first", "month-first", "year-first")
"""What the first part of a date such as ``03/04/24`` may be; the year stands first or last."""

_CLOCK = r"(\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)\s*([AaPp]\.?[Mm]\.?)?"
DAY_MONTH_YEAR = rf"^\s*(\d{{1,2}})[./-](\d{{1,2}})[./-](\d{{4}}|\d{{2}})(?:[T ,]+{_CLOCK})?\s*$"
"""Dates of which day, month or a year of two digits comes first, with a time of the day or without."""

_YEAR_MONTH_DAY = rf"^\s*(\d{{4}})[./-](\d{{1,2}})[./-](\d{{1,2}})(?:[T ,]+{_CLOCK})?\s*$"
_FIRST_CENTURY = 69
"""Years of two digits from this one on belong to the 1900s, the others to the 2000s, as POSIX has it."""
_MANY_MORE = 3
"""A log has that many times as many different days of the month as years, at least."""

KNOWN = "Dates may look like 2026-01-31, 31/12/2026 or 31.12.26, with a time such as 17:04 or 5:04 PM behind them."
"""What to tell about a date that is not read."""


def date_parts(texts: pd.Series[Any]) -> pd.DataFrame:
    """The numbers of dates that do not begin with a year of four digits.

    Parameters
    ----------
    texts
        Text or missing values.

    Returns
    -------
    pandas.DataFrame
        ``first``, ``second``, ``third`` (float64), ``digits`` of the third part, ``padded`` (whether the first part has
        two digits), ``clock`` and ``half`` (text), a row for each text; NaN for what is no such date.
    """
    found = texts.astype("str").str.extract(DAY_MONTH_YEAR)
    numbers = {name: pd.to_numeric(found[at]).astype("float64") for at, name in enumerate(("first", "second", "third"))}
    return pd.DataFrame(
        {
            **numbers,
            "digits": found[2].str.len(),
            "padded": found[0].str.len() == 2,
            "clock": found[3],
            "half": found[4],
        }
    )


def orders_of(parts: pd.DataFrame) -> list[str]:
    """The orders of :data:`DATE_ORDERS` that all dates allow; several where nothing shows which it is.

    A year of two digits may stand first, if all dates allow it. Days of the month then take many more values than
    years, which tells the two apart; where they do not, both orders are possible.

    Parameters
    ----------
    parts
        What :func:`date_parts` found in the whole column, or each of its dates once.
    """
    first, second, third = parts["first"], parts["second"], parts["third"]
    found = [name for name, month in (("day-first", second), ("month-first", first)) if not (month > 12).any()]
    if len(found) == 2 and (first == second)[first.notna()].all():
        found = ["day-first"]  # either gives the same
    short = (parts["digits"] == 2) & parts["padded"]
    if not short[first.notna()].all() or (second > 12).any() or (third > 31).any() or (third == 0).any():
        return found
    if not found or (first == 0).any() or (first > 31).any():
        return ["year-first"]
    years, days = third.nunique(), first.nunique()
    if max(years, days) >= _MANY_MORE * min(years, days):
        return found if days > years else ["year-first"]
    return [*found, "year-first"]


def iso_texts(parts: pd.DataFrame, order: str) -> pd.Series[Any]:
    """Dates in ISO 8601, with their time of the day; a missing value for what is no date in this order.

    Parameters
    ----------
    parts
        Of :func:`date_parts`.
    order
        One of :data:`DATE_ORDERS`.
    """
    columns = {"day-first": (2, 1, 0), "month-first": (2, 0, 1), "year-first": (0, 1, 2)}[order]
    year, month, day = (parts[("first", "second", "third")[at]] for at in columns)
    short = parts["digits"] == 2
    if order == "year-first":
        year = year.where(short)  # four digits at the end are the year
    year = year.where(~short, year + 1900 + 100 * (year < _FIRST_CENTURY))
    return _digits(year, 4) + "-" + _digits(month, 2) + "-" + _digits(day, 2) + "T" + clocks(parts)


def clocks(parts: pd.DataFrame) -> pd.Series[Any]:
    """Times of the day as 24 hours have them, ``00:00:00`` where there is none; missing for what is no time."""
    hour = pd.to_numeric(parts["clock"].str.replace(r":.*", "", regex=True)).astype("float64")
    half = parts["half"].str.upper().str[0]
    wrong = half.notna() & ~hour.between(0, 12)
    shifted = hour.where(half.isna(), hour % 12 + 12.0 * (half == "P"))
    text = _digits(shifted.where(~wrong), 2) + ":" + parts["clock"].str.replace(r"^\d+:", "", regex=True)
    return text.where(parts["clock"].notna(), "00:00:00")


def year_first_texts(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Dates that begin with a year of four digits, such as ``2026/2/3 5:04 PM``, in ISO 8601; missing for others."""
    found = texts.astype("str").str.extract(_YEAR_MONTH_DAY)
    parts = pd.DataFrame({"clock": found[3], "half": found[4]})
    year, month, day = (pd.to_numeric(found[at]).astype("float64") for at in range(3))
    return _digits(year, 4) + "-" + _digits(month, 2) + "-" + _digits(day, 2) + "T" + clocks(parts)


def _digits(number: pd.Series[float], digits: int) -> pd.Series[Any]:
    return number.astype("Int64").astype("string").str.zfill(digits)
