"""Settings: frozen dataclasses, presets and TOML.

One :class:`Settings` holds five sections. Keys are unique over the sections, so ``--set lr=0.001`` and
``--set training.lr=0.001`` mean the same. Values are checked where they are made; a wrong one raises
:class:`~hakg_dgl.errors.ConfigError` naming the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import tomli_w

from hakg_dgl.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


TOML_BYTES, TOML_DOTS = 2**17, 500
"""A TOML file may have this many bytes, and a line of it this many dots: the parser takes quadratic time on dots."""


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{key} = {shown_value(value)} is not allowed: it must be {allowed}")


def shown_value(value: object) -> str:
    """A setting's value for a message."""
    try:
        return repr(value)
    except ValueError:  # TOML's 0xFFF... may be longer than Python writes in decimal
        return "a number of thousands of digits"


def _require_range(settings: object, low: float, high: float, *keys: str, open_high: bool = False) -> None:
    bracket = ")" if open_high else "]"
    for key in keys:
        value = getattr(settings, key)
        inside = low <= value and (value < high if open_high else value <= high)
        _require(inside, key, value, f"in [{low:g}, {high:g}{bracket}")


def _require_choice(settings: object, key: str, annotation: Any) -> None:
    allowed = typing.get_args(annotation)
    _require(getattr(settings, key) in allowed, key, getattr(settings, key), "one of " + ", ".join(map(repr, allowed)))


class _Section:
    """Checks each field against its annotation where the section is made."""

    def __post_init__(self) -> None:
        for name, expected in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, _coerce(name, getattr(self, name), expected))


Kind = Literal["hakg", "popularity", "item-knn", "ease", "bpr-mf", "lightgcn"]
Formulation = Literal["released", "paper"]
Geometry = Literal["poincare", "euclidean"]
Score = Literal["fused", "separate", "inner"]
Ranking = Literal["hinge", "softmax"]
Kernels = Literal["auto", "readable", "torch", "dgl", "triton"]
Precision = Literal["float32", "bf16"]
AngleMask = Literal["step", "edge"]
AngleDirection = Literal["auto", "both", "attribute"]
AnglePairs = Literal["items", "all"]
Device = Literal["auto", "cpu", "cuda"]
Protocol = Literal["validation", "published"]
Similarity = Literal["cosine", "jaccard"]


@dataclass(frozen=True)
class ModelSettings(_Section):
    """The model: what is computed from the graph.

    Attributes
    ----------
    kind
        ``hakg``, or one of the baselines, which read of this section ``dim`` (bpr-mf, lightgcn) and ``layers``
        (lightgcn) alone; what else they read is in :class:`BaselineSettings`.
    formulation
        ``released`` (the authors' code) or ``paper`` (the published equations).
    dim, layers
        Embedding size d and number of propagation layers L.
    geometry
        ``poincare``, or ``euclidean`` for the ablation in which messages are translations ``e_t + w_r``.
    curvature
        c of the Poincaré ball of curvature -c.
    degree_exponent
        α: what is sent along an interaction is divided by the sender's number of interactions to the power α. 0 is the
        published mean, 0.5 the symmetric normalisation of LightGCN.
    gate
        Off: users aggregate the mean of both item embeddings instead of their gated sum.
    dual_item_embeddings
        Off: items have the knowledge embedding only.
    score
        ``fused``: cosine(u, e_i + v_i); ``separate``: cos(u, e_i) + cos(u, v_i), which is what the hinge trains;
        ``inner``: the inner product of u with the mean of e_i and v_i.
    linear_weight, linear_l2, linear_rank
        Weight of the linear item-item term in the score (0: none), λ of its closed form and the singular vectors it
        uses; see :func:`~hakg_dgl.layers.item_item.item_item_factors`.
    kg_edge_dropout, interaction_dropout, message_dropout
        Rates: the share of KG edges, of interactions and of layer output coordinates dropped in a training step.
    kernels
        ``auto`` picks the fastest that works here; ``readable`` is the per-edge-type reference.
    precision
        ``bf16``: tables that propagation gathers rows of are bfloat16; sums, parameters and losses stay float32.
    """

    kind: Kind = "hakg"
    formulation: Formulation = "paper"
    dim: int = 128
    layers: int = 2
    geometry: Geometry = "poincare"
    curvature: float = 1.0
    degree_exponent: float = 0.25
    gate: bool = True
    dual_item_embeddings: bool = True
    score: Score = "inner"
    linear_weight: float = 8.0
    linear_l2: float = 400.0
    linear_rank: int = 256
    kg_edge_dropout: float = 0.5
    interaction_dropout: float = 0.5
    message_dropout: float = 0.1
    kernels: Kernels = "auto"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, annotation in (
            ("kind", Kind), ("formulation", Formulation), ("geometry", Geometry), ("score", Score),
            ("kernels", Kernels), ("precision", Precision),
        ):  # fmt: skip
            _require_choice(self, key, annotation)
        _require_range(self, 1, 4096, "dim")
        _require_range(self, 1, 16, "layers")
        _require_range(self, 0.0, 1.0, "kg_edge_dropout", "interaction_dropout", "message_dropout", open_high=True)
        _require_range(self, 1e-4, 1e4, "curvature")
        _require_range(self, 0.0, 2.0, "degree_exponent")
        _require_range(self, 0.0, 1e6, "linear_weight")
        _require_range(self, 1e-3, 1e9, "linear_l2")
        _require_range(self, 1, 4096, "linear_rank")
        if self.precision == "bf16" and self.kernels == "readable":
            raise ConfigError(
                "precision = 'bf16' is not for kernels = 'readable', the reference: leave one of them out"
            )


@dataclass(frozen=True)
class LossSettings(_Section):
    """The two losses.

    Attributes
    ----------
    ranking_loss
        ``softmax``: cross-entropy of each positive among the candidates, on the score; ``hinge``: the published
        contrastive loss with a margin, on both cosines.
    temperature, candidates
        Of the softmax: what scores are divided by, and the items a batch's positives compete with, drawn anew each
        step; all items where the catalogue has no more.
    negatives, margin
        Of the hinge: negatives per positive, and the cosine above which one counts.
    gate_l2
        Weight of the squares of the gate's matrices in the loss.
    angle_weight
        Weight of the angle loss; 0 switches it off.
    angle_pairs
        ``items``: items below their attributes, as published; ``all``: attributes below attributes too, where
        relations order them (:func:`~hakg_dgl.data.dataset.attribute_tree`).
    angle_direction
        ``both``: both directions of every item-attribute edge, as the released code has it; ``attribute``: only the
        attribute is an apex, as published; ``auto``: that of the formulation.
    angle_dropout
        Share of coordinates left out of the angle loss in a training step.
    angle_mask
        ``step`` draws the left-out coordinates once a step (fast), ``edge`` once an edge (the released code).
    aperture
        K of the cones.
    hierarchical_relations
        ``["all"]``, ``["auto"]`` (estimated from the graph) or names of relations the angle loss uses.
    """

    ranking_loss: Ranking = "softmax"
    temperature: float = 1.0
    candidates: int = 4096
    negatives: int = 200
    margin: float = 0.6
    gate_l2: float = 1e-3
    angle_weight: float = 0.1
    angle_pairs: AnglePairs = "all"
    angle_direction: AngleDirection = "auto"
    angle_dropout: float = 0.5
    angle_mask: AngleMask = "step"
    aperture: float = 0.1
    hierarchical_relations: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice(self, "ranking_loss", Ranking)
        _require_choice(self, "angle_mask", AngleMask)
        _require_choice(self, "angle_direction", AngleDirection)
        _require_choice(self, "angle_pairs", AnglePairs)
        _require_range(self, 0.0, 1e3, "gate_l2")
        _require_range(self, 1e-3, 1e3, "temperature")
        _require_range(self, 1, 10_000_000, "candidates")
        _require_range(self, 1, 100_000, "negatives")
        _require_range(self, -1.0, 1.0, "margin")
        _require_range(self, 0.0, 1e3, "angle_weight")
        _require_range(self, 0.0, 1.0, "angle_dropout", open_high=True)
        _require_range(self, 1e-6, 1.0, "aperture")
        _require(
            len(self.hierarchical_relations) > 0,
            "hierarchical_relations", self.hierarchical_relations, "['all'], ['auto'] or names of relations",
        )  # fmt: skip


@dataclass(frozen=True)
class TrainingSettings(_Section):
    """The optimisation.

    Attributes
    ----------
    lr, lr_schedule
        Adam's learning rate, and how it changes: ``constant``, or ``cosine`` down to a hundredth over the epochs.
    batch_size
        Interactions a step.
    epochs, eval_every, patience
        Most epochs; epochs between evaluations; evaluations without a better one before training stops.
    select_by
        The metric that picks the checkpoint, for example ``ndcg@20`` or ``recall@20``.
    protocol
        ``validation`` selects on the validation split; ``published`` trains on train and validation together and
        selects on the test split, as the published experiments did.
    refit
        Under protocol ``validation``: once the best epoch is known, train afresh on train and validation together for
        as many epochs, so that the model left behind has seen all that is known of its users.
    """

    lr: float = 2e-3
    lr_schedule: Literal["constant", "cosine"] = "constant"
    batch_size: int = 2048
    epochs: int = 200
    eval_every: int = 1
    patience: int = 10
    select_by: str = "ndcg@20"
    protocol: Protocol = "validation"
    refit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice(self, "protocol", Protocol)
        _require_choice(self, "lr_schedule", Literal["constant", "cosine"])
        _require_range(self, 1e-8, 100.0, "lr")
        _require_range(self, 1, 10_000_000, "batch_size", "epochs", "eval_every", "patience")
        metric, _, k = self.select_by.partition("@")
        _require(
            metric in ("recall", "ndcg", "precision", "hit", "mrr") and k.isdecimal() and len(k) < 7 and int(k) > 0,
            "select_by", self.select_by, "a metric and a cut below a million, such as 'ndcg@20' or 'recall@10'",
        )  # fmt: skip


@dataclass(frozen=True)
class RunSettings(_Section):
    """Where and how it runs: seed, device and numeric type.

    Attributes
    ----------
    cuda_graphs
        Record a training step once as a CUDA graph and play it again for each batch; needs ``kernels = triton`` on
        CUDA.
    """

    seed: int = 2020
    device: Device = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    cuda_graphs: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice(self, "device", Device)
        _require_choice(self, "dtype", Literal["float32", "float64"])
        _require_range(self, 0, 2**63 - 1, "seed")


@dataclass(frozen=True)
class BaselineSettings(_Section):
    """What the baselines need and HAKG does not. Of a list of values the one that selects best is kept.

    Attributes
    ----------
    neighbours, shrinkage, similarity
        Of item-knn: neighbours kept for each item, h that draws the similarity of rare items towards 0, and which
        similarity. Every number of neighbours is tried with every shrinkage.
    ease_l2
        Of EASE: weights of the L2 term.
    weight_decay
        Of bpr-mf and lightgcn: weight of the L2 term of the embeddings in a batch.
    """

    neighbours: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)
    shrinkage: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0, 50.0)
    similarity: Similarity = "cosine"
    ease_l2: tuple[float, ...] = (25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice(self, "similarity", Similarity)
        _require_range(self, 0.0, 1e3, "weight_decay")
        for key, low, high in (("neighbours", 1, 100_000), ("shrinkage", 0.0, 1e6), ("ease_l2", 1e-3, 1e9)):
            values = getattr(self, key)
            _require(
                len(values) > 0 and all(low <= value <= high for value in values),
                key, list(values), f"a number in [{low:g}, {high:g}], or a list of such",
            )  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All settings of a run; see the sections for their meaning."""

    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    run: RunSettings = field(default_factory=RunSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)

    @classmethod
    def resolve(
        cls,
        *,
        preset: str = "default",
        file: str | Path | None = None,
        overrides: Iterable[str] | Mapping[str, Any] = (),
    ) -> Settings:
        """Settings from a preset, then a TOML file, then overrides (``key=value`` strings or a mapping).

        Below all of them are the defaults, and :data:`KIND_DEFAULTS` of the kind of model that comes out. A file that
        lacks nothing but settings of :data:`BEFORE` is that of a run saved before they were there, and means that run.

        Raises
        ------
        ConfigError
            For an unknown preset or key, a value of the wrong type or out of range, or an unreadable file.
        """
        given, parsed = _preset(preset), _parse_overrides(overrides)
        read = {} if file is None else read_toml(file)

        def over(settings: Settings) -> Settings:
            settings = settings.replace(given)
            try:
                settings = settings.replace(_as_saved(read))
            except ConfigError as error:
                raise ConfigError(f"{file}: {error}") from error
            return settings.replace(parsed)

        settings = over(cls())
        defaults = KIND_DEFAULTS.get(settings.model.kind)
        return over(cls().replace(defaults)) if defaults else settings

    def replace(self, values: Mapping[str, Any]) -> Settings:
        """A copy with the given keys changed; keys as ``lr``, ``training.lr`` or nested ``{"training": {...}}``."""
        sections: dict[str, dict[str, Any]] = {}
        for key, value in _flatten(values):
            section, name = _locate(key)
            sections.setdefault(section, {})[name] = _coerce(key, value, _TYPES[section][name])
        return dataclasses.replace(
            self, **{name: dataclasses.replace(getattr(self, name), **changes) for name, changes in sections.items()}
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dictionary, tuples as lists, for TOML and JSON."""
        return {
            section: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
            for section, values in dataclasses.asdict(self).items()
        }

    def of_its_kind(self) -> dict[str, dict[str, Any]]:
        """:meth:`to_dict` without the settings that the kind of model does not read."""
        read = settings_read_by(self.model.kind)
        return {
            section: {key: value for key, value in values.items() if key in read}
            for section, values in self.to_dict().items()
        }

    def to_toml(self) -> str:
        """The settings as a TOML document that :meth:`resolve` reads back to an equal value."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Inverse of :meth:`to_dict`, also of one saved before a setting was there (:data:`BEFORE`).

        Raises
        ------
        ConfigError
            For an unknown key, or a value of the wrong type or out of range.
        """
        return cls().replace({key: BEFORE[key] for key in BEFORE if key in _missing(values)}).replace(values)


_SECTIONS = {f.name: f.default_factory for f in fields(Settings)}
_TYPES: dict[str, dict[str, Any]] = {name: typing.get_type_hints(section) for name, section in _SECTIONS.items()}

_HINGE = {"ranking_loss": "hinge", "linear_weight": 0.0, "dim": 64, "layers": 3, "lr": 1e-3, "refit": False}
_PLAIN = {"degree_exponent": 0.0, "gate_l2": 0.0, "angle_pairs": "items", "angle_weight": 0.005, "batch_size": 4096}
_RELEASED = {**_HINGE, **_PLAIN, "formulation": "released", "score": "fused", "negatives": 200, "margin": 0.6}
_PUBLISHED = {**_RELEASED, "select_by": "recall@20", "epochs": 1000, "eval_every": 5, "patience": 20}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "released": _RELEASED,
    "paper": {**_RELEASED, "formulation": "paper", "score": "separate"},
    "alibaba-ifashion": {**_PUBLISHED, "lr": 1e-4, "layers": 3, "negatives": 200, "margin": 0.6},
    "yelp2018": {**_PUBLISHED, "lr": 5e-4, "layers": 2, "negatives": 400, "margin": 0.8},
    "last-fm": {**_PUBLISHED, "lr": 1e-4, "layers": 3, "negatives": 400, "margin": 0.7},
}
"""Named settings: ``default``; ``released`` as the released code was run on small data sets; ``paper``, the published
equations and loss, scored by what that loss trains; the published hyper-parameters of the three data sets of the
publication (its section 5.1.4 and the released code's scripts)."""


_LONG = {"batch_size": 4096, "epochs": 1000, "eval_every": 5, "patience": 40}
KIND_DEFAULTS: dict[str, dict[str, Any]] = {
    "bpr-mf": {**_LONG, "dim": 128, "lr": 2e-3, "weight_decay": 0.02},
    "lightgcn": {**_LONG, "dim": 128, "layers": 3, "lr": 5e-3, "weight_decay": 2e-3},
}
"""What a kind of model has in place of the defaults; docs/baselines.md says what was searched on validation."""

_READ_BY: dict[str, set[str]] = {
    "popularity": set(),
    "item-knn": {"neighbours", "shrinkage", "similarity"},
    "ease": {"ease_l2"},
    "bpr-mf": {"dim", "weight_decay"},
    "lightgcn": {"dim", "layers", "weight_decay"},
}

BEFORE: dict[str, Any] = {"degree_exponent": 0.0, "gate_l2": 0.0, "angle_pairs": "items", "cuda_graphs": False}
"""What was computed before these settings were there: what a run means that was saved without them."""


def setting_keys() -> dict[str, str]:
    """Every key with its section, in order: ``{"formulation": "model", ...}``."""
    return {name: section for section, hints in _TYPES.items() for name in hints}


def settings_read_by(kind: str) -> frozenset[str]:
    """Keys of the settings that can make a difference to a model of this kind; of the others it does not know.

    Closed forms have no epochs, so of the section training they read what selects and on which splits.
    """
    sections = setting_keys()
    if kind == "hakg":
        return frozenset(key for key, section in sections.items() if section != "baseline")
    by_gradient = kind in KIND_DEFAULTS
    training = {key for key, section in sections.items() if section == "training"}
    run = {key for key, section in sections.items() if section == "run"}
    return frozenset(
        {"kind", "kernels"} | _READ_BY[kind] | run | (training if by_gradient else {"select_by", "protocol", "refit"})
    )


def _missing(values: Mapping[str, Any]) -> set[str]:
    """Bare keys of the settings that are not given."""
    return set(setting_keys()) - {key.rpartition(".")[2] for key, _ in _flatten(values)}


def _as_saved(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """All settings of a run saved before some of them were there; other values as they are."""
    missing = _missing(values)
    return {**values, **{key: BEFORE[key] for key in missing}} if missing <= BEFORE.keys() else values


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read, is far longer than settings are, or is not TOML.
    """
    file = Path(path)
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe or a device may have no end
            raise ConfigError(f"{path}: is no plain file; write the settings to a file, and give that")
        if file.is_file() and file.stat().st_size > TOML_BYTES:
            raise ConfigError(f"{path}: is longer than {TOML_BYTES:,} bytes, which settings never are; check the path")
        return _parse_toml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or what its parser lets through
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def _parse_toml(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > TOML_DOTS:
            raise ValueError(f"line {number} has more than {TOML_DOTS} dots; put long lists over several lines")
    return tomllib.loads(text)


def _parse_overrides(overrides: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed: dict[str, Any] = {}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {item!r}: write it as key=value, for example lr=0.001")
        key, text = key.strip(), text.strip()
        try:
            document = _parse_toml(f"value = {text}")
        except (ValueError, RecursionError) as error:
            if text.startswith(("[", "{", '"', "'")):
                raise ConfigError(f"--set {item!r}: {text} is not valid TOML: {error}") from error
            document = {"value": text}  # a bare word: formulation=paper needs no quotes
        if len(document) > 1:
            raise ConfigError(f"--set {item!r}: one setting each, please")
        parsed.pop(key, None)  # the last of equal keys wins, whatever stands between
        parsed[key] = document["value"]
    return parsed


def _flatten(values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in _SECTIONS:
                raise ConfigError(f"there is no section {key!r}; the sections are {', '.join(_SECTIONS)}")
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _locate(key: str) -> tuple[str, str]:
    section, separator, name = key.rpartition(".")
    known = setting_keys()
    if not separator:
        section = known.get(name, "")
    if name not in known or known[name] != section:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the settings are {', '.join(known)}"
        raise ConfigError(f"there is no setting {key!r}{hint}")
    return section, name


def _coerce(key: str, value: Any, expected: Any) -> Any:
    """Check ``value`` against the annotation; integers are accepted for floats, one value for a tuple of such."""
    origin = typing.get_origin(expected)
    if origin is tuple:
        (element, _) = typing.get_args(expected)
        try:
            return tuple(_coerce(key, v, element) for v in (value if isinstance(value, (list, tuple)) else (value,)))
        except ConfigError as error:
            wanted = {str: "names", int: "whole numbers", float: "numbers"}[element]
            raise ConfigError(f"{key} = {shown_value(value)}: must be a list of {wanted}") from error
    if origin is Literal:
        return value
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{key}: a whole number of {value.bit_length():,} bits is too large") from error
    if isinstance(value, bool) != (expected is bool) or not isinstance(value, expected):
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[expected]
        raise ConfigError(f"{key} = {shown_value(value)}: must be {wanted}")
    if expected is float and value != value:
        raise ConfigError(f"{key} = nan: must be a number")
    return value
