"""Models by name: those of this package, and those that other packages declare.

A package adds a model by an entry point of the group ``hakg_dgl.models``, whose name is the model's and whose value is
its class, a :class:`~hakg_dgl.models.recommender.Recommender`::

    [project.entry-points."hakg_dgl.models"]
    toy = "toy_package.model:Toy"

Names are known without importing a model.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from hakg_dgl.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from hakg_dgl.models.recommender import Recommender

GROUP = "hakg_dgl.models"
DEFAULT_MODEL = "hakg"
BUILT_IN = {
    "hakg": "hakg_dgl.models.hakg:HAKG",
    "popularity": "hakg_dgl.models.popularity:Popularity",
    "item-knn": "hakg_dgl.models.item_knn:ItemKNN",
    "ease": "hakg_dgl.models.ease:EASE",
    "bpr-mf": "hakg_dgl.models.bpr_mf:BPRMF",
    "lightgcn": "hakg_dgl.models.lightgcn:LightGCN",
    "rp3beta": "hakg_dgl.models.rp3beta:RP3Beta",
    "hgcf": "hakg_dgl.models.hgcf:HGCF",
    "cfkg": "hakg_dgl.models.cfkg:CFKG",
    "cke": "hakg_dgl.models.cke:CKE",
    "kgin": "hakg_dgl.models.kgin:KGIN",
    "kgat": "hakg_dgl.models.kgat:KGAT",
    "kgnn-ls": "hakg_dgl.models.kgnn_ls:KGNNLS",
    "ckan": "hakg_dgl.models.ckan:CKAN",
    "lkgr": "hakg_dgl.models.lkgr:LKGR",
    "hyper-know": "hakg_dgl.models.hyper_know:HyperKnow",
    "kgcl": "hakg_dgl.models.kgcl:KGCL",
    "kgrec": "hakg_dgl.models.kgrec:KGRec",
    "facts-profile": "hakg_dgl.models.facts_profile:FactsProfile",
    "ease-facts": "hakg_dgl.models.ease_facts:EASEFacts",
    "ease+facts": "hakg_dgl.models.beside_facts:EASEBesideFacts",
    "item-knn+facts": "hakg_dgl.models.beside_facts:ItemKNNBesideFacts",
    "rp3beta+facts": "hakg_dgl.models.beside_facts:RP3BetaBesideFacts",
    "bpr-mf+facts": "hakg_dgl.models.beside_facts:BPRMFBesideFacts",
    "lightgcn+facts": "hakg_dgl.models.beside_facts:LightGCNBesideFacts",
    "hgcf+facts": "hakg_dgl.models.beside_facts:HGCFBesideFacts",
}
"""Name -> ``module:class``."""


_REGISTERED: dict[str, type[Recommender]] = {}
"""What :func:`register_model` was given."""


def model_names() -> tuple[str, ...]:
    """All names, those of this package first."""
    return (*BUILT_IN, *sorted({*_of_other_packages(), *_REGISTERED} - set(BUILT_IN)))


class UnknownModelError(ConfigError):
    """No model has this name: it is misspelt, or of a package that is not installed."""


def model_class(name: str) -> type[Recommender]:
    """The class of a model.

    Raises
    ------
    UnknownModelError
        If there is no model of this name.
    ConfigError
        If two packages declare it, or what is declared is not a model.
    MissingDependencyError
        If the package that declares it cannot be imported.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Recommender] = getattr(import_module(module), attribute)
        return found
    if name in _REGISTERED:
        return _REGISTERED[name]
    declared = _of_other_packages().get(name, [])
    if not declared:
        raise UnknownModelError(f"there is no model {name!r}; the models are {', '.join(model_names())}")
    if len({point.value for point in declared}) > 1:
        values = ", ".join(sorted(point.value for point in declared))
        raise ConfigError(f"model {name!r} is declared by several packages ({values}): uninstall all but one")
    return _loaded(declared[0])


def register_model(model: type[Recommender]) -> type[Recommender]:
    """Make a model known by its name in this process, for programs and notebooks; usable as a decorator.

    Commands do not see it: declare an entry point for those.

    Raises
    ------
    ConfigError
        If the name is that of a model of this package.
    """
    if model.name in BUILT_IN:
        raise ConfigError(f"there is a model {model.name!r} already: choose another name")
    _REGISTERED[model.name] = model
    return model


def models_that(ability: str) -> tuple[str, ...]:
    """Names of the models with an ability: a field of :class:`~hakg_dgl.models.recommender.Abilities`."""
    return tuple(name for name in model_names() if getattr(model_class(name).abilities, ability))


def _of_other_packages() -> dict[str, list[EntryPoint]]:
    """Name -> the entry points of that name; names of this package's models are never those of others."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _loaded(point: EntryPoint) -> type[Recommender]:
    from hakg_dgl.models.recommender import Recommender

    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"model {point.name!r} is declared as {point.value}, which cannot be imported: {error}\n"
            "Fix or uninstall that package."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Recommender)):
        raise ConfigError(
            f"model {point.name!r} is declared as {point.value}, which is not a subclass of "
            "hakg_dgl.models.recommender.Recommender"
        )
    if found.name != point.name:
        raise ConfigError(f"{point.value} is declared as model {point.name!r}, but calls itself {found.name!r}")
    return found
