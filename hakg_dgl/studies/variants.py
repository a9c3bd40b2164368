"""Which models a study compares: names and the settings in which each differs from the full one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.settings import Settings

FULL = "full"
TABLES = ("ablation", "depth")
"""The study's tables: the model without its parts, and by the number of layers."""


@dataclass(frozen=True)
class Variant:
    """One model of a study.

    Attributes
    ----------
    name
        For commands and folders.
    label
        For people.
    overrides
        Settings in which it differs from the full model.
    table
        Where it is shown; the full model is in both.
    """

    name: str
    label: str
    overrides: Mapping[str, Any]
    table: str = "ablation"


VARIANTS = (
    Variant(FULL, "full model", {}),
    Variant("euclidean", "without hyperbolic geometry", {"geometry": "euclidean"}),
    Variant("no-angle", "without the angle loss", {"angle_weight": 0.0}),
    Variant("no-gate", "without the gate", {"gate": False}),
    Variant("no-dual", "without dual item embeddings", {"dual_item_embeddings": False}),
    Variant("no-linear", "without the linear item-item term", {"linear_weight": 0.0}),
    Variant("paper", "formulation of the paper", {"formulation": "paper"}),
    Variant("released", "formulation of the released code", {"formulation": "released"}),
    *(Variant(f"layers-{depth}", f"L = {depth}", {"layers": depth}, "depth") for depth in (1, 2, 3, 4)),
)
"""All of them. One whose settings are those of the full model is that model, and is not trained again."""


def chosen_variants(settings: Settings, only: Iterable[str] = ()) -> list[Variant]:
    """The variants to train with these settings, the full model first.

    Parameters
    ----------
    settings
        Of the full model; variants that do not differ from it are left out.
    only
        Names of those wanted; all, if there is none. One that is the full model stands for that.

    Raises
    ------
    ConfigError
        If there is no variant of a name.
    """
    by_name = {variant.name: variant for variant in VARIANTS}
    wanted = list(only)
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise ConfigError(f"there is no variant {unknown[0]!r}; the variants are {', '.join(by_name)}")
    models = {variant.name: FULL if is_full(variant, settings) else variant.name for variant in VARIANTS}
    names = {models[name] for name in wanted or by_name}
    return [variant for variant in VARIANTS if variant.name in names]


def is_full(variant: Variant, settings: Settings) -> bool:
    """Whether a variant of the model with these settings is that model itself."""
    return settings.replace(variant.overrides) == settings


def shown_in(table: str, settings: Settings) -> dict[str, str]:
    """Label -> name of the runs that a table shows, the full model among them by its own label or its depth."""
    depth = {"ablation": "", "depth": f"L = {settings.model.layers}"}[table]
    rows: dict[str, str] = {}
    for variant in VARIANTS:
        if variant.name == FULL:
            if table == "ablation" or not 1 <= settings.model.layers <= 4:
                rows[f"{variant.label} ({depth})" if depth else variant.label] = FULL
        elif variant.table == table:
            same = is_full(variant, settings)
            if table == "depth":
                rows[f"{variant.label} (full)" if same else variant.label] = FULL if same else variant.name
            elif not same:
                rows[variant.label] = variant.name
    return rows
