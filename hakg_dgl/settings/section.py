"""Sections of settings: frozen dataclasses that check every value where they are made.

A field's annotation says all that is checked: its type, the choices of a ``Literal``, and with
``Annotated[float, Range(0.0, 1.0)]`` the range of a number, or of each number of a tuple.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hakg_dgl.errors import ConfigError

_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_WANTED_IN_LIST = {int: "whole numbers", float: "numbers", str: "names"}


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes.

    Attributes
    ----------
    low, high
        The ends; ``low`` is included.
    open_high
        Whether ``high`` is left out.
    """

    low: float
    high: float
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


@dataclass(frozen=True)
class TrainingOnly:
    """Marks a setting that has no say in how a trained model ranks, such as a dropout rate or the kernels."""


class Section:
    """Base of all sections: checks each field against its annotation.

    Subclasses are frozen dataclasses with a default for every field.

    Raises
    ------
    ConfigError
        When it is made with a value of the wrong type or out of range; the message names the setting, the value and
        what is allowed.
    """

    def __post_init__(self) -> None:
        for key, expected in annotations_of(type(self)).items():
            object.__setattr__(self, key, checked(key, getattr(self, key), expected))

    @classmethod
    def setting_keys(cls) -> tuple[str, ...]:
        """Names of the settings, in order."""
        return tuple(annotations_of(cls))

    @classmethod
    def decisive_keys(cls) -> tuple[str, ...]:
        """Names of the settings that decide how a trained model ranks: those not marked :class:`TrainingOnly`."""
        return tuple(key for key, hint in annotations_of(cls).items() if _mark(hint, TrainingOnly) is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, tuples as lists, for TOML and JSON."""
        values = {key: getattr(self, key) for key in self.setting_keys()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


_ANNOTATIONS: dict[type[Section], dict[str, Any]] = {}
"""What :func:`annotations_of` found before."""


def annotations_of(section: type[Section]) -> dict[str, Any]:
    """Key -> annotation of every setting of a section, in order."""
    if section not in _ANNOTATIONS:
        hints = typing.get_type_hints(section, include_extras=True)
        fields = dataclasses.fields(section)  # type: ignore[arg-type]
        _ANNOTATIONS[section] = {field.name: hints[field.name] for field in fields}
    return _ANNOTATIONS[section]


def shown_value(value: object) -> str:
    """A setting's value for a message."""
    try:
        return repr(value)
    except ValueError:  # TOML's 0xFFF... may be longer than Python writes in decimal
        return "a number of thousands of digits"


def _as_written(choice: object) -> str:
    return str(choice).lower() if isinstance(choice, bool) else repr(choice)


def checked(key: str, value: Any, annotation: Any) -> Any:
    """The value as the setting holds it: whole numbers become floats, one value a tuple, where such are expected.

    Raises
    ------
    ConfigError
        If the type is another one, or the value is not allowed.
    """
    allowed = _mark(annotation, Range)
    expected = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    value = _of_type(key, value, expected)
    if typing.get_origin(expected) is Literal:
        choices = typing.get_args(expected)
        same_type = (choice for choice in choices if type(choice) is type(value))  # 1 is no True
        _require(value in same_type, key, value, "one of " + ", ".join(map(_as_written, choices)))
    elif isinstance(value, tuple):
        within = allowed is None or all(number in allowed for number in value)
        wanted = "a list with at least one name" if allowed is None else f"a number in {allowed}, or a list of such"
        _require(len(value) > 0 and within, key, list(value), wanted)
    elif allowed is not None:
        _require(value in allowed, key, value, f"in {allowed}")
    return value


def _mark(annotation: Any, mark: type[Any]) -> Any:
    """What an ``Annotated`` type holds of a class, None if there is nothing."""
    if typing.get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in annotation.__metadata__ if isinstance(extra, mark)), None)


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{key} = {shown_value(value)} is not allowed: it must be {allowed}")


def _of_type(key: str, value: Any, expected: Any) -> Any:
    origin = typing.get_origin(expected)
    if origin is Literal:
        return value
    if origin is tuple:
        element = typing.get_args(expected)[0]
        try:
            return tuple(_of_type(key, v, element) for v in (value if isinstance(value, (list, tuple)) else (value,)))
        except ConfigError as error:
            raise ConfigError(f"{key} = {shown_value(value)}: must be a list of {_WANTED_IN_LIST[element]}") from error
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{key}: a whole number of {value.bit_length():,} bits is too large") from error
    if isinstance(value, bool) != (expected is bool) or not isinstance(value, expected):
        raise ConfigError(f"{key} = {shown_value(value)}: must be {_WANTED[expected]}")
    if expected is float and value != value:
        raise ConfigError(f"{key} = nan: must be a number")
    return value
