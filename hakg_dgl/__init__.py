"""Knowledge-aware recommendation in hyperbolic space on DGL heterographs.

The public names are listed in ``__all__`` and loaded on first use, so that ``import hakg_dgl`` imports neither DGL nor
PyTorch. ``hakg_dgl.errors`` holds all exceptions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hakg_dgl.data.cards import list_cards, load_card
    from hakg_dgl.data.dataset import Dataset, load_dataset
    from hakg_dgl.data.downloads import fetch
    from hakg_dgl.data.edge_blocks import SavedEdges
    from hakg_dgl.data.from_tables import from_tables
    from hakg_dgl.data.growth import grow
    from hakg_dgl.data.id_files import NewUsers, read_new_users
    from hakg_dgl.data.later_log import LaterLog, read_later_log
    from hakg_dgl.data.new_items import NewItems, read_new_items
    from hakg_dgl.data.owners import Owners, hash_owners, range_owners
    from hakg_dgl.data.part_writing import write_parts
    from hakg_dgl.data.parts import Part, Parts
    from hakg_dgl.data.preprocess import PreprocessOptions, preprocess
    from hakg_dgl.data.readers.kgat import read_kgat
    from hakg_dgl.data.readers.kgcn import read_kgcn
    from hakg_dgl.data.readers.raw import RawData
    from hakg_dgl.data.readers.recbole import read_recbole
    from hakg_dgl.data.readers.tables import read_tables
    from hakg_dgl.data.synthetic import generate_demo
    from hakg_dgl.errors import HakgError
    from hakg_dgl.estimator import Estimator
    from hakg_dgl.graph.dgl_graph import build_heterograph, from_dgl, to_dgl
    from hakg_dgl.graph.heterograph import HeteroGraph, build_graph
    from hakg_dgl.graph.metis import metis_owners
    from hakg_dgl.insight.explain import Explainer, explain
    from hakg_dgl.insight.explanation import Explanation
    from hakg_dgl.insight.export import export
    from hakg_dgl.insight.program_files import export_to
    from hakg_dgl.models.hakg import HAKG, HAKGLossSettings, HAKGSettings
    from hakg_dgl.models.recommender import Recommender
    from hakg_dgl.models.registry import model_class, model_names, register_model
    from hakg_dgl.models.settings import Settings
    from hakg_dgl.ranking.candidates import items_where
    from hakg_dgl.ranking.comparison import Comparison, compare
    from hakg_dgl.ranking.evaluation import Evaluation, cold_items, evaluate
    from hakg_dgl.ranking.fold_in import about_users
    from hakg_dgl.ranking.limits import at_most
    from hakg_dgl.ranking.lists import recommend, with_names
    from hakg_dgl.ranking.pairs import score_pairs
    from hakg_dgl.ranking.shards import write_shards
    from hakg_dgl.ranking.similar import Similarity, similar_items, similar_users
    from hakg_dgl.ranking.topk import EmbeddingScorer
    from hakg_dgl.ranking.yardsticks import PopularityScorer, RandomScorer
    from hakg_dgl.studies.ablation import AblationProgress, AblationStudy
    from hakg_dgl.studies.audit import AuditStudy
    from hakg_dgl.studies.benchmark import BenchmarkStudy
    from hakg_dgl.studies.benchmark_steps import BenchmarkProgress
    from hakg_dgl.studies.progress import RunsProgress
    from hakg_dgl.studies.search_space import SearchSpace
    from hakg_dgl.studies.tuning import Study, StudyProgress
    from hakg_dgl.training.closed_form import ClosedFormTrainer
    from hakg_dgl.training.loading import load_fold_in, load_model, load_scorer, load_trained
    from hakg_dgl.training.mlflow_log import log_to_mlflow
    from hakg_dgl.training.progress import Progress
    from hakg_dgl.training.run_folder import RunFolder
    from hakg_dgl.training.trainer import Trainer, make_trainer
    from hakg_dgl.training.update import make_updater

    __version__: str

_HOMES = {
    "studies.ablation": ("AblationProgress", "AblationStudy"),
    "studies.audit": ("AuditStudy",),
    "studies.progress": ("RunsProgress",),
    "models.settings": ("Settings",),
    "data.cards": ("list_cards", "load_card"),
    "data.dataset": ("Dataset", "load_dataset"),
    "data.downloads": ("fetch",),
    "data.from_tables": ("from_tables",),
    "data.growth": ("grow",),
    "data.id_files": ("NewUsers", "read_new_users"),
    "data.later_log": ("LaterLog", "read_later_log"),
    "data.new_items": ("NewItems", "read_new_items"),
    "data.edge_blocks": ("SavedEdges",),
    "data.owners": ("Owners", "hash_owners", "range_owners"),
    "data.part_writing": ("write_parts",),
    "data.parts": ("Part", "Parts"),
    "data.preprocess": ("PreprocessOptions", "preprocess"),
    "data.readers.kgat": ("read_kgat",),
    "data.readers.kgcn": ("read_kgcn",),
    "data.readers.raw": ("RawData",),
    "data.readers.recbole": ("read_recbole",),
    "data.readers.tables": ("read_tables",),
    "data.synthetic": ("generate_demo",),
    "errors": ("HakgError",),
    "estimator": ("Estimator",),
    "graph.dgl_graph": ("build_heterograph", "from_dgl", "to_dgl"),
    "graph.heterograph": ("HeteroGraph", "build_graph"),
    "graph.metis": ("metis_owners",),
    "insight.explain": ("Explainer", "explain"),
    "insight.explanation": ("Explanation",),
    "insight.export": ("export",),
    "insight.program_files": ("export_to",),
    "models.hakg": ("HAKG", "HAKGLossSettings", "HAKGSettings"),
    "models.recommender": ("Recommender",),
    "models.registry": ("model_class", "model_names", "register_model"),
    "ranking.yardsticks": ("PopularityScorer", "RandomScorer"),
    "ranking.candidates": ("items_where",),
    "ranking.comparison": ("Comparison", "compare"),
    "ranking.evaluation": ("Evaluation", "cold_items", "evaluate"),
    "ranking.fold_in": ("about_users",),
    "ranking.limits": ("at_most",),
    "ranking.lists": ("recommend", "with_names"),
    "ranking.pairs": ("score_pairs",),
    "ranking.shards": ("write_shards",),
    "ranking.similar": ("Similarity", "similar_items", "similar_users"),
    "ranking.topk": ("EmbeddingScorer",),
    "training.closed_form": ("ClosedFormTrainer",),
    "training.loading": ("load_fold_in", "load_model", "load_scorer", "load_trained"),
    "training.mlflow_log": ("log_to_mlflow",),
    "training.progress": ("Progress",),
    "training.run_folder": ("RunFolder",),
    "training.trainer": ("Trainer", "make_trainer"),
    "training.update": ("make_updater",),
    "studies.benchmark": ("BenchmarkStudy",),
    "studies.benchmark_steps": ("BenchmarkProgress",),
    "studies.search_space": ("SearchSpace",),
    "studies.tuning": ("Study", "StudyProgress"),
}
"""Module -> the public names it holds; a test keeps this, the imports above and ``__all__`` the same."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "HAKG",
    "AblationProgress",
    "AblationStudy",
    "AuditStudy",
    "BenchmarkProgress",
    "BenchmarkStudy",
    "ClosedFormTrainer",
    "Comparison",
    "Dataset",
    "EmbeddingScorer",
    "Estimator",
    "Evaluation",
    "Explainer",
    "Explanation",
    "HAKGLossSettings",
    "HAKGSettings",
    "HakgError",
    "HeteroGraph",
    "LaterLog",
    "NewItems",
    "NewUsers",
    "Owners",
    "Part",
    "Parts",
    "PopularityScorer",
    "PreprocessOptions",
    "Progress",
    "RandomScorer",
    "RawData",
    "Recommender",
    "RunFolder",
    "RunsProgress",
    "SavedEdges",
    "SearchSpace",
    "Settings",
    "Similarity",
    "Study",
    "StudyProgress",
    "Trainer",
    "about_users",
    "at_most",
    "build_graph",
    "build_heterograph",
    "cold_items",
    "compare",
    "evaluate",
    "explain",
    "export",
    "export_to",
    "fetch",
    "from_dgl",
    "from_tables",
    "generate_demo",
    "grow",
    "hash_owners",
    "items_where",
    "list_cards",
    "load_card",
    "load_dataset",
    "load_fold_in",
    "load_model",
    "load_scorer",
    "load_trained",
    "log_to_mlflow",
    "make_trainer",
    "make_updater",
    "metis_owners",
    "model_class",
    "model_names",
    "preprocess",
    "range_owners",
    "read_kgat",
    "read_kgcn",
    "read_later_log",
    "read_new_items",
    "read_new_users",
    "read_recbole",
    "read_tables",
    "recommend",
    "register_model",
    "score_pairs",
    "similar_items",
    "similar_users",
    "to_dgl",
    "with_names",
    "write_parts",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "0+unknown"
