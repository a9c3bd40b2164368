"""What a benchmark trains: the chosen models with their settings, what is searched of each, and where it lies."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hakg_dgl.data.dataset import Dataset
from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import ClosedFormRecommender
from hakg_dgl.models.registry import model_class, model_names
from hakg_dgl.models.settings import Settings
from hakg_dgl.studies.search_space import SearchSpace
from hakg_dgl.studies.study import PlannedRun

ALL = "all"
LOSS = "ranking_loss"
"""The setting of which ``NAME:LOSS`` gives the value."""
_NOT_TO_BE_SET = {
    "kind": "--models names the models",
    "seed": "the best settings of each model are trained with the seeds 1, 2, ...; --seeds says how many",
    "protocol": "a benchmark selects on the validation split",
}
"""Settings that a benchmark decides itself, and how."""


@dataclass(frozen=True)
class Budget:
    """How long the settings of each model are searched on each data set.

    Attributes
    ----------
    trials
        The number of trials, None for no limit.
    seconds
        The time after which no trial begins, None for no limit.
    """

    trials: int | None
    seconds: float | None

    @property
    def tunes(self) -> bool:
        """Whether anything is searched at all."""
        return self.trials != 0

    def __str__(self) -> str:
        trials = [] if self.trials is None else [f"{self.trials} trial{'' if self.trials == 1 else 's'}"]
        seconds = [] if self.seconds is None else [f"{self.seconds:g} seconds"]
        return " or ".join([*trials, *seconds])


@dataclass(frozen=True)
class Contender:
    """A model of a benchmark.

    Attributes
    ----------
    name
        Its name, with its loss if that is not the model's default: ``kgin:bpr``.
    settings
        What it is trained with where nothing is searched; None if the model cannot be used.
    space
        What is searched, None if nothing is.
    reason
        Why the model cannot be used, None if it can.
    """

    name: str
    settings: Settings | None
    space: SearchSpace | None = None
    reason: str | None = None

    @property
    def solved(self) -> bool:
        """Whether the model is solved for in closed form, which draws nothing by chance."""
        return self.settings is not None and issubclass(self.settings.model_class, ClosedFormRecommender)

    @property
    def loss(self) -> str:
        """The ranking loss that it is trained by, in a word or two."""
        if self.settings is None:
            return "–"
        return str(self.settings.values().get(LOSS, "closed form" if self.solved else "its own"))


@dataclass(frozen=True)
class Part:
    """A model on a data set, and where its tuning and its runs lie.

    Attributes
    ----------
    dataset
        What it is trained on.
    data_path
        Where the data set lies, None if it is not on disk.
    contender
        The model.
    folder
        The folder of its tuning and its runs.
    """

    dataset: Dataset
    data_path: Path | None
    contender: Contender
    folder: Path

    @property
    def title(self) -> str:
        """The model and the data set, for people."""
        return f"{self.contender.name} on {self.dataset.name}"

    @property
    def tuning(self) -> Path:
        """The folder of the search for its settings."""
        return self.folder / "tuning"

    @property
    def best_file(self) -> Path:
        """What the search came to, written at its end."""
        return self.folder / "best.json"

    @property
    def best(self) -> dict[str, Any] | None:
        """The content of :attr:`best_file`, None if the search has not ended."""
        try:
            found = json.loads(self.best_file.read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and isinstance(found.get("settings"), dict) else None

    def runs(self, seeds: int, *, tuned: bool) -> list[PlannedRun]:
        """The runs with the best settings; empty while these are not known.

        Parameters
        ----------
        seeds
            How many there are of a model that draws by chance.
        tuned
            Whether the best settings are searched where there is something to search.
        """
        settings, name = self.contender.settings, self.contender.name
        if settings is not None and tuned and self.contender.space is not None:
            best = self.best
            settings = None if best is None else settings.replace(best["settings"])
        if settings is None:
            return []
        return [
            PlannedRun(name, name, seed, self.folder / f"seed-{seed}", settings.replace({"seed": seed}))
            for seed in range(1, 1 + (1 if self.contender.solved else seeds))
        ]


def chosen_names(wanted: Iterable[str]) -> tuple[str, ...]:
    """The wanted models in the order of the registry.

    Parameters
    ----------
    wanted
        Names of models; ``all`` stands for every model that there is. ``NAME:LOSS`` is the model trained by another
        ``ranking_loss`` than its default, and ``all:LOSS`` every model that allows this one.

    Raises
    ------
    ConfigError
        If there is no model of a name, it does not allow the loss, or none is wanted.
    """
    known, names = model_names(), [str(name).partition(":")[::2] for name in wanted]
    for name, _ in names:
        if name not in (*known, ALL):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the models are {', '.join(known)}"
            raise ConfigError(f"there is no model {name!r}{hint}")
    if not names:
        raise ConfigError(f"name at least one model, or {ALL!r}; the models are {', '.join(known)}")
    every = [loss for name, loss in names if name == ALL]
    chosen = {name: [own for each, own in names if each == name] for name in known}
    found = []
    for name in known:
        of_model = [_with_loss(name, loss) for loss in chosen[name]]
        of_model += [text for loss in every if (text := _with_loss_if_allowed(name, loss)) is not None]
        found += sorted(set(of_model), key=lambda text: (":" in text, text))
    if not found:
        raise ConfigError(f"no model allows {LOSS} = {' or '.join(map(repr, every))}")
    return tuple(found)


def _with_loss(name: str, loss: str) -> str:
    """``NAME:LOSS``, or the name alone for its default loss; ConfigError if the model does not allow the loss."""
    if not loss:
        return name
    settings = Settings(name)
    if LOSS not in settings.by_section():
        raise ConfigError(f"{name}:{loss}: model {name!r} has no {LOSS} to choose")
    try:
        other = settings.replace({LOSS: loss})
    except ConfigError as error:
        raise ConfigError(f"{name}:{loss}: {error}") from error
    return name if other == settings else f"{name}:{loss}"


def _with_loss_if_allowed(name: str, loss: str) -> str | None:
    """As :func:`_with_loss`; None if the model does not allow the loss, or cannot be used."""
    try:
        return _with_loss(name, loss)
    except Exception:  # a model of another package may raise anything; it is reported where all models are wanted
        return None


def contenders(names: Sequence[str], overrides: Mapping[str, Any]) -> tuple[Contender, ...]:
    """The models with their settings; each override goes to the models that read it.

    A model that cannot be used, such as one of a package that cannot be imported, is there with the reason.

    Raises
    ------
    ConfigError
        If no model reads one of the overrides, a model does not allow its value, or the benchmark decides it itself.
    """
    for key in overrides:
        if (why := _NOT_TO_BE_SET.get(_bare(key))) is not None:
            raise ConfigError(f"{key}: cannot be set in a benchmark: {why}")
    if LOSS in map(_bare, overrides) and (own := [name for name in names if ":" in name]):
        raise ConfigError(f"{LOSS} is given by --set and by {own[0]}; give it once")
    found = tuple(_contender(name, overrides) for name in names)
    readers = [contender.settings.by_section() for contender in found if contender.settings is not None]
    for key in overrides:
        if not any(_bare(key) in known for known in readers):
            raise ConfigError(_unread(key, sorted({name for known in readers for name in known})))
    return found


def require_data(datasets: Sequence[Dataset]) -> None:
    """Raise ConfigError for no data set, one that is given twice, two of one name, or one without a split."""
    if not datasets:
        raise ConfigError("name at least one data set")
    digests: set[str] = set()
    names: set[str] = set()
    for dataset in datasets:
        if dataset.digest in digests:
            raise ConfigError(f"data set {dataset.name!r} is given twice; name it once")
        if folder_name(dataset.name) in names:
            raise ConfigError(
                f"two data sets have the name {dataset.name!r}, and the report could not tell them apart; "
                "make a benchmark for each"
            )
        digests.add(dataset.digest)
        names.add(folder_name(dataset.name))
        for split in ("valid", "test"):
            if not len(dataset.pairs(split)):
                raise ConfigError(
                    f"data set {dataset.name!r} has no {split} interactions, which a benchmark needs; "
                    f"preprocess again with a larger --{split}"
                )


def folder_name(name: str) -> str:
    """The name of a data set or a contender as that of a folder."""
    return re.sub(r"[^\w+-]", "_", name) or "_"


def _contender(name: str, overrides: Mapping[str, Any]) -> Contender:
    model, _, loss = name.partition(":")
    overrides = {**overrides, LOSS: loss} if loss else overrides
    try:
        model_class(model)
        settings = Settings(model)
    except Exception as error:  # what a model of another package raises is its own affair
        return Contender(name, None, reason=reason_of(error))
    known = settings.by_section()
    own = {key: value for key, value in overrides.items() if _bare(key) in known}
    try:
        settings = settings.replace(own)
    except ConfigError as error:
        raise ConfigError(f"model {model!r}: {error}") from error
    try:
        return Contender(name, settings, _space(settings, {_bare(key) for key in own}))
    except Exception as error:
        return Contender(name, None, reason=reason_of(error))


def _space(settings: Settings, fixed: set[str]) -> SearchSpace | None:
    """The model's own space without the settings that are fixed; None if nothing is left of it."""
    if not settings.model_class.search_space(settings.values()):
        return None
    whole = SearchSpace.default(settings).dimensions
    left = {key: dimension for key, dimension in whole.items() if key not in fixed}
    return SearchSpace(left) if left else None


def reason_of(error: Exception) -> str:
    """An error as the reason of a failure."""
    return f"{type(error).__name__}: {str(error).strip()}"


def _bare(key: str) -> str:
    return key.rpartition(".")[2]


def _unread(key: str, known: Sequence[str]) -> str:
    """What to say of an override that no chosen model reads."""
    near = difflib.get_close_matches(_bare(key), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the settings that they read are {', '.join(known)}"
    return f"{key}: none of the chosen models reads this setting{hint}"
