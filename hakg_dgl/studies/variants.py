"""Which models an ablation study compares: their names, and the settings in which each differs from the full one."""

from __future__ import annotations

from collections.abc import Iterable

from hakg_dgl.errors import ConfigError
from hakg_dgl.models.recommender import Variant
from hakg_dgl.models.settings import Settings

FULL = "full"
TABLES = ("ablation", "depth")
"""The study's tables: the model without its parts, and by the number of layers."""


def variants_of(settings: Settings) -> tuple[Variant, ...]:
    """The full model and the variants that its class declares."""
    return (Variant(FULL, "full model", {}), *settings.model_class.variants)


def chosen_variants(settings: Settings, only: Iterable[str] = ()) -> list[Variant]:
    """The variants to train with these settings, the full model first.

    Parameters
    ----------
    settings
        The settings of the full model; variants that do not differ from it are left out.
    only
        The names of the wanted variants; by default, all are wanted. The full model is trained in the place of a
        variant that does not differ from it.

    Raises
    ------
    ConfigError
        If there is no variant of a name.
    """
    all_variants = variants_of(settings)
    by_name = {variant.name: variant for variant in all_variants}
    wanted = list(only)
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise ConfigError(f"there is no variant {unknown[0]!r}; the variants are {', '.join(by_name)}")
    models = {variant.name: FULL if is_full(variant, settings) else variant.name for variant in all_variants}
    names = {models[name] for name in wanted or by_name}
    return [variant for variant in all_variants if variant.name in names]


def is_full(variant: Variant, settings: Settings) -> bool:
    """Whether a variant of the model with these settings is that model itself."""
    return settings.replace(variant.overrides) == settings


def shown_in(table: str, settings: Settings) -> dict[str, str]:
    """Label -> name of the runs that a table shows, the full model among them by its own label or its depth."""
    depth = {"ablation": "", "depth": f"L = {settings.model.layers}"}[table]
    rows: dict[str, str] = {}
    for variant in variants_of(settings):
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
