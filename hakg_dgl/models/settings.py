"""All settings of a run: the sections of the model that is trained, from presets, TOML and assignments."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import Recommender, Sections
from hakg_dgl.models.registry import DEFAULT_MODEL, model_class, model_names
from hakg_dgl.settings.section import Section, annotations_of, checked
from hakg_dgl.settings.toml import parse_assignments, read_toml

KIND = "kind"
"""The key, of section ``model``, that names the model."""
DEFAULT_PRESET = "default"


@dataclass(frozen=True, init=False)
class Settings:
    """All settings of a run.

    The model's class declares the sections: a setting is there if the model reads it. Keys are unique over the
    sections, so ``lr=0.001`` and ``training.lr=0.001`` mean the same.

    Parameters
    ----------
    kind
        Name of the model.
    model, loss, training, run
        Its sections; the model's defaults if None.

    Raises
    ------
    ConfigError
        If there is no such model, or a section is not one of the model's.

    Examples
    --------
    >>> Settings().replace({"lr": 0.001, "loss": {"angle_weight": 0.0}})
    >>> Settings("ease").model.ease_l2
    """

    kind: str
    model: Any
    loss: Any
    training: Any
    run: Any

    def __init__(
        self,
        kind: str = DEFAULT_MODEL,
        model: Section | None = None,
        loss: Section | None = None,
        training: Section | None = None,
        run: Section | None = None,
    ) -> None:
        object.__setattr__(self, "kind", kind)
        given = {"model": model, "loss": loss, "training": training, "run": run}
        for name, section in model_class(kind).sections.items():
            value = section() if given[name] is None else given[name]
            if not isinstance(value, section):
                raise ConfigError(f"section {name!r} of model {kind!r} is a {section.__name__}, not {value!r}")
            object.__setattr__(self, name, value)

    @classmethod
    def resolve(
        cls,
        *,
        preset: str = DEFAULT_PRESET,
        file: str | Path | None = None,
        overrides: Iterable[str] | Mapping[str, Any] = (),
    ) -> Settings:
        """Settings from a preset, then a TOML file, then overrides (``key=value`` strings or a mapping).

        Below all of them are the defaults of the model that ``kind`` names.

        Raises
        ------
        ConfigError
            For an unknown preset, a setting that does not exist or that the model does not read, a value of the wrong
            type or out of range, or an unreadable file.
        """
        given = dict(overrides) if isinstance(overrides, Mapping) else parse_assignments(overrides)
        read = {} if file is None else read_toml(file)
        named = _kind_in(given)
        try:
            kind = named or _kind_in(read) or DEFAULT_MODEL
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        settings = cls(kind).replace(_preset(kind, preset))
        try:
            settings = settings.replace(read, kind=kind)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        return settings.replace(given, kind=kind)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Inverse of :meth:`to_dict`; settings that are not there have the model's defaults.

        Raises
        ------
        ConfigError
            For a setting that does not exist, or a value of the wrong type or out of range.
        """
        return cls(_kind_in(values) or DEFAULT_MODEL).replace(values)

    @property
    def model_class(self) -> type[Recommender]:
        """The class of the model."""
        return model_class(self.kind)

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Names and sections, in the order of files."""
        return ((name, getattr(self, name)) for name, _ in self.model_class.sections.items())

    def by_section(self) -> dict[str, str]:
        """Every setting that the model reads with its section, in order; ``kind`` is not among them."""
        return self.model_class.sections.by_key()

    def values(self) -> dict[str, Any]:
        """Every setting that the model reads with its value, in order."""
        return {key: getattr(getattr(self, section), key) for key, section in self.by_section().items()}

    def replace(self, values: Mapping[str, Any], *, kind: str | None = None) -> Settings:
        """A copy with the given keys changed; keys as ``lr``, ``training.lr`` or nested ``{"training": {...}}``.

        Parameters
        ----------
        values
            The new values. ``kind``, if there, must be that of these settings.
        kind
            What ``kind`` among the values is taken as, where something stronger has chosen the model.

        Raises
        ------
        ConfigError
            As :meth:`resolve`; other kinds have other settings, so ``kind`` cannot be changed.
        """
        changes: dict[str, dict[str, Any]] = {}
        for key, value in _flatten(values):
            if key in (KIND, f"model.{KIND}"):
                if (kind or value) != self.kind:
                    raise ConfigError(
                        f"kind = {value!r}: these are settings of {self.kind!r}; make those of another model with "
                        f"Settings({value!r}) or Settings.resolve"
                    )
                continue
            section, name = self._located(key)
            hint = annotations_of(type(getattr(self, section)))[name]
            changes.setdefault(section, {})[name] = checked(key, value, hint)
        sections: dict[str, Any] = dict(self.sections())
        sections |= {name: dataclasses.replace(sections[name], **new) for name, new in changes.items()}
        return Settings(self.kind, **sections)

    def idle(self) -> list[str]:
        """Settings with a value other than the default that others switch off, a sentence each."""
        now, defaults = self.values(), Settings(self.kind).values()
        return [
            f"The setting {key} = {now[key]!r} does nothing: it is read {when}"
            for key, when in self.model_class.idle_settings(now).items()
            if now[key] != defaults[key]
        ]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary, tuples as lists, for TOML and JSON; sections without settings are left out."""
        plain = {name: section.to_dict() for name, section in self.sections()}
        plain["model"] = {KIND: self.kind, **plain["model"]}
        return {name: values for name, values in plain.items() if values}

    def to_toml(self) -> str:
        """The settings as a TOML document that :meth:`resolve` reads back to an equal value."""
        return tomli_w.dumps(self.to_dict())

    def _located(self, key: str) -> tuple[str, str]:
        """Section and name of a setting that the model reads."""
        section, separator, name = key.rpartition(".")
        known = self.by_section()
        if known.get(name) is None or (separator and known[name] != section):
            raise ConfigError(_unknown(self.kind, key))
        return known[name], name


def section_names() -> tuple[str, ...]:
    """Names of the sections of all models."""
    return tuple(field.name for field in dataclasses.fields(Sections))


def _preset(kind: str, name: str) -> Mapping[str, Any]:
    presets = model_class(kind).presets
    if name == DEFAULT_PRESET:
        return presets.get(name, {})
    if name not in presets:
        own = ", ".join((DEFAULT_PRESET, *(preset for preset in presets if preset != DEFAULT_PRESET)))
        owners = [other for other in model_names() if other != kind and name in model_class(other).presets]
        whose = f"; it is a preset of {', '.join(owners)}" if owners else ""
        raise ConfigError(f"there is no preset {name!r} of model {kind!r}{whose}; its presets are {own}")
    return presets[name]


def _kind_in(values: Mapping[str, Any]) -> str | None:
    """The model that values name, None if they do not."""
    found = [value for key, value in _flatten(values) if key in (KIND, f"model.{KIND}")]
    if not found:
        return None
    if not isinstance(found[-1], str):
        raise ConfigError(f"kind = {found[-1]!r} is not allowed: it must be one of {', '.join(model_names())}")
    model_class(found[-1])  # refuses an unknown one
    return found[-1]


def _flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if not isinstance(value, Mapping):
            yield key, value
        elif key in section_names():
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            raise ConfigError(f"there is no section {key!r}; the sections are {', '.join(section_names())}")


def _unknown(kind: str, key: str) -> str:
    """What to say of a setting that a model does not read."""
    name, known = key.rpartition(".")[2], model_class(kind).sections.by_key()
    if name in known:
        return f"there is no setting {key!r}; did you mean {name!r}?"
    reads = f"the settings it reads are {', '.join((KIND, *known))}"
    others = [other for other in model_names() if name in model_class(other).sections.by_key()]
    if others:
        return f"model {kind!r} does not read {name!r}, which is a setting of {', '.join(others)}; {reads}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else f" of model {kind!r}; {reads}")
