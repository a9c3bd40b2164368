"""What a search may change: a range or a list of choices for each setting, from TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings, section_names
from hakg_dgl.settings.section import shown_value
from hakg_dgl.settings.toml import read_toml

if TYPE_CHECKING:
    import optuna

_FIXED = {
    "kind": "each kind of model has settings of its own; make a study for each",
    "seed": "a seed chosen by its validation metric is luck, not a setting",
    "protocol": "a search selects on the validation split",
    "keep_overlap": "it says what is counted, not how well a model ranks",
    "select_by": "trials are compared by it",
    "refit": "trials select on the validation split and stop there; `hakg train` refits the best",
    "device": "it is not a property of the model",
    "tensorboard": "trials write no event files",
}
"""Settings that are the same in all trials, and why."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are.

    Attributes
    ----------
    low, high
        The ends.
    log
        Whether to draw the logarithm evenly, for settings that matter by their magnitude.
    step
        The distance between the numbers that are tried. Default: any number between, or 1 for whole ones.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: optuna.Trial, key: str) -> float:
        """A number of the range, drawn by the trial's sampler."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def nearest(self, value: Any) -> float:
        """The number of the range that is nearest to a value; of a list of values, to the middle one of those in it."""
        if isinstance(value, tuple):
            inside = [each for each in sorted(value) if self.low <= each <= self.high] or sorted(value)
            value = inside[len(inside) // 2]
        value = min(max(value, self.low), self.high)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if self.step is None:
            return round(value) if whole else float(value)
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        found = low + round((Decimal(str(value)) - low) / step) * step
        return int(found) if whole else float(found)

    def holds(self, value: Any) -> bool:
        """Whether a value is in the range; of a list of values, of which training chooses one, whether any is."""
        values = value if isinstance(value, tuple) else (value,)
        return any(self.nearest(each) == each for each in values)

    def to_dict(self) -> dict[str, Any]:
        """The range as a file has it."""
        rest = {"log": True} if self.log else {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **rest}


@dataclass(frozen=True)
class Choice:
    """Some values, without an order.

    Attributes
    ----------
    values
        At least two, all different; lists as tuples.
    """

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """A value, drawn by the trial's sampler, which knows the values by their JSON texts."""
        texts = {json.dumps(value): value for value in self.values}
        return texts[trial.suggest_categorical(key, list(texts))]

    def nearest(self, value: Any) -> Any:
        """The value itself, or the first one if it is not among them."""
        return value if self.holds(value) else self.values[0]

    def holds(self, value: Any) -> bool:
        """Whether the value is among them."""
        return value in self.values

    def to_dict(self) -> list[Any]:
        """The choice as a file has it."""
        return [list(value) if isinstance(value, tuple) else value for value in self.values]


@dataclass(frozen=True)
class SearchSpace:
    """The settings a search may change.

    Attributes
    ----------
    dimensions
        Bare key of a setting -> its :class:`Range` or :class:`Choice`, at least one.
    """

    dimensions: Mapping[str, Range | Choice]

    @classmethod
    def load(cls, file: str | Path, settings: Settings | None = None) -> SearchSpace:
        """The space in a TOML file; see :meth:`from_dict`.

        Raises
        ------
        ConfigError
            If the space is wrong; the message names the file and the key.
        """
        values = read_toml(file)
        try:
            return cls.from_dict(values, settings)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], settings: Settings | None = None) -> SearchSpace:
        """The space of ``{"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "layers": [1, 2, 3], ...}``.

        Parameters
        ----------
        values
            Keys as in settings: ``lr``, ``training.lr``, or in a table ``training``. A mapping with ``low`` and
            ``high``, and ``log = true`` or a ``step`` if wanted, is a range of numbers; a list is a choice.
        settings
            The settings that stay fixed; every end and every choice must fit to them.

        Raises
        ------
        ConfigError
            For an unknown key, a value that the setting does not allow, or a range or choice that cannot be read.
        """
        settings = settings or Settings()
        dimensions: dict[str, Range | Choice] = {}
        for key, value in _flatten(values):
            name = key.rpartition(".")[2]
            if name in dimensions:
                raise ConfigError(f"{key}: is there twice")
            if name in _FIXED:
                raise ConfigError(f"{key}: cannot be searched: {_FIXED[name]}")
            dimensions[name] = _dimension(key, value, settings)
        if not dimensions:
            raise ConfigError(
                "there is nothing to search; write for example: lr = { low = 1e-4, high = 1e-2, log = true }"
            )
        return cls(dimensions)

    @classmethod
    def default(cls, settings: Settings | None = None) -> SearchSpace:
        """The space that the settings' model declares, searched when no other is given.

        Raises
        ------
        ConfigError
            If the model has no settings to search.
        """
        settings = settings or Settings()
        space = settings.model_class.search_space(settings.values())
        if not space:
            raise ConfigError(f"kind = {settings.kind!r}: this model has no settings to search")
        return cls.from_dict(space, settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and TOML; :meth:`from_dict` reads them back to an equal space."""
        return {key: dimension.to_dict() for key, dimension in self.dimensions.items()}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A value for each setting, drawn by the trial's sampler."""
        return {key: dimension.suggest(trial, key) for key, dimension in self.dimensions.items()}

    def values_of(self, settings: Settings) -> dict[str, Any]:
        """What settings have for what is searched; a list of one number, where numbers are searched, as the number."""
        values = {key: settings.values()[key] for key in self.dimensions}
        return {
            key: value[0]
            if isinstance(self.dimensions[key], Range) and isinstance(value, tuple) and len(value) == 1
            else value
            for key, value in values.items()
        }

    def given(self, settings: Settings) -> dict[str, Any] | None:
        """Where settings as they are lie in the space, as a trial's parameters; None if they lie outside.

        In the space that the model declares all settings lie, at the nearest place: it says where to search, not what
        is allowed. So does a list of values, of which training chooses one.
        """
        values = self.values_of(settings)
        inside = all(dimension.holds(values[key]) for key, dimension in self.dimensions.items())
        if not inside and self != _declared(settings):
            return None
        nearest = {key: dimension.nearest(values[key]) for key, dimension in self.dimensions.items()}
        return {
            key: json.dumps(value) if isinstance(self.dimensions[key], Choice) else value
            for key, value in nearest.items()
        }

    def places(self, values: Mapping[str, Any]) -> bool:
        """Whether each setting's value is one of the space, and not a list of values to choose from."""
        return all(
            not (isinstance(dimension, Range) and isinstance(values[key], (list, tuple)))
            and dimension.holds(_plain(values[key]))
            for key, dimension in self.dimensions.items()
        )

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's parameters as values of settings, in the order of the space."""
        return {
            key: _plain(json.loads(params[key])) if isinstance(dimension, Choice) else params[key]
            for key, dimension in self.dimensions.items()
            if key in params
        }


def _declared(settings: Settings) -> SearchSpace | None:
    """The space that the settings' model declares, None if it declares none."""
    declared = settings.model_class.search_space(settings.values())
    return SearchSpace.from_dict(declared, settings) if declared else None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    sections = section_names()
    for key, value in values.items():
        if key in sections and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _dimension(key: str, value: Any, settings: Settings) -> Range | Choice:
    if isinstance(value, Mapping):
        return _range(key, value, settings)
    if not isinstance(value, list):
        _accepted(key, value, settings)
        raise ConfigError(
            f"{key} = {value!r}: is one value, not a search; fix it with --set, or give a list or a range"
        )
    values = tuple(_accepted(key, each, settings) for each in value)
    if len(values) < 2 or len({json.dumps(each) for each in values}) < len(values):
        raise ConfigError(f"{key} = {value!r}: a list of choices has at least two values, all different")
    return Choice(values)


def _range(key: str, given: Mapping[str, Any], settings: Settings) -> Range:
    if unknown := sorted(set(given) - {"low", "high", "log", "step"}):
        _accepted(key, 0, settings, only_key=True)
        raise ConfigError(f"{key}: there is no {unknown[0]!r} in a range; it has low, high, log and step")
    if missing := [end for end in ("low", "high") if end not in given]:
        raise ConfigError(f"{key}: the range has no {missing[0]!r}")
    low, high = (_accepted(f"{key}", given[end], settings) for end in ("low", "high"))
    low, high = (end[0] if isinstance(end, tuple) and len(end) == 1 else end for end in (low, high))
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, (int, float)):
            raise ConfigError(f"{key}: {name} = {given[name]!r} is not a number; give a list of choices instead")
    if not low < high:
        raise ConfigError(f"{key}: low = {low!r} is not below high = {high!r}")
    log, step = given.get("log", False), given.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"{key}: log = {log!r} must be true or false")
    if log and low <= 0:
        raise ConfigError(f"{key}: low = {low!r} has no logarithm; it must be above 0, or log = false")
    if log and step is not None:
        raise ConfigError(f"{key}: log and step exclude each other")
    return Range(low, high, log, None if step is None else _step(key, step, low, high))


def _step(key: str, step: Any, low: float, high: float) -> float:
    whole = isinstance(low, int)
    if isinstance(step, bool) or not isinstance(step, int if whole else (int, float)):
        raise ConfigError(f"{key}: step = {step!r} must be a {'whole ' if whole else ''}number")
    if not 0 < step <= high - low:
        raise ConfigError(f"{key}: step = {shown_value(step)} must be above 0, and at most high - low")
    # In decimals, as the sampler counts: 0.3 is three steps of 0.1, which it is not in binary.
    low_exact, high_exact, step_exact = (Decimal(str(number)) for number in (low, high, step))
    try:
        fits = not (high_exact - low_exact) % step_exact
    except InvalidOperation as error:  # more steps than there are digits
        raise ConfigError(f"{key}: step = {step!r} is too small for the range") from error
    if not fits:
        raise ConfigError(f"{key}: high = {high!r} is not a whole number of steps of {step!r} above low = {low!r}")
    return step if whole else float(step)


def _accepted(key: str, value: Any, settings: Settings, *, only_key: bool = False) -> Any:
    """The value as the setting takes it, such as a float for 1; ConfigError if it does not."""
    name = key.rpartition(".")[2]
    if isinstance(value, Mapping):
        raise ConfigError(f"{key} = {value!r}: is not a value of a setting")
    try:
        changed = settings.replace({key: value})
    except OverflowError as error:
        raise ConfigError(f"{key} = {value!r}: is too large") from error
    except ConfigError:
        if only_key and name in settings.by_section():
            return None
        raise
    return changed.values()[name]
