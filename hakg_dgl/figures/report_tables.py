"""Tables of the report: the data set, the settings, the training and the metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hakg_dgl.data.cards import list_cards, load_card
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.shared_items import unnamed_entities
from hakg_dgl.data.summary import summary
from hakg_dgl.figures.markup import Table, table
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluation
from hakg_dgl.training.run_folder import RunFolder

_MOST_RELATIONS = 200
_RELATION_COLUMNS = ("name", "triples", "items_per_attribute", "attributes_per_item", "hierarchy", "hierarchical")
_CIRCUMSTANCES = ("protocol", "best_epoch", "epochs_run", "stopped", "seconds", "device")
_BY_GROUP = (("user_activity", ("recall", "ndcg")), ("item_popularity", ("recall", "share")))


def data_tables(dataset: Dataset) -> dict[str, Any]:
    """``facts`` by name, ``card`` (None without one), ``files`` (None without any), ``relations``, ``n_relations``."""
    about = summary(dataset)
    facts: dict[str, Any] = {
        "name": about["name"],
        **about["counts"],
        "density": f"{about['density']:.2%}",
        "split": about["split_strategy"],
        "training interactions a user": _spread(about["user_degree"]),
        "training interactions an item": _spread(about["item_degree"]),
        "items in the knowledge graph": about["linked_items"],
        **unnamed(dataset),
        "cold items of the test split": about["cold_items"],
        "digest": about["digest"][:16],
    }
    facts |= {what.replace("_", " "): count for what, count in about["report"].items() if count}
    relations = sorted(about["relations"], key=lambda row: -row["triples"])
    files = [{"file": name, **dict(source)} for name, source in dataset.sources.items()]
    return {
        "facts": facts,
        "card": load_card(about["name"]) if about["name"] in list_cards() else None,
        "files": table(files) if files else None,
        "relations": table(relations[:_MOST_RELATIONS], _RELATION_COLUMNS),
        "n_relations": f"{len(relations):,}",
    }


def unnamed(dataset: Dataset) -> dict[str, str]:
    """How many entities beside the items have an id alone; empty if all of them have names."""
    count, others = int(unnamed_entities(dataset).sum()), dataset.n_entities - dataset.n_items
    return {"entities without a name": f"{count:,} of {others:,}, beside the items"} if count else {}


def _spread(degree: Mapping[str, float]) -> str:
    if not degree:
        return "none"
    return f"{degree['min']:,.0f} to {degree['max']:,.0f}, median {degree['median']:,.0f}, mean {degree['mean']:,.1f}"


def changed_settings(settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings that the kind of model reads and that are not its defaults: key -> (value, default)."""
    defaults = Settings(settings.kind).to_dict()
    return {
        key: (value, defaults[section][key])
        for section, values in settings.to_dict().items()
        for key, value in values.items()
        if value != defaults[section][key] and key != "kind"
    }


def setting_tables(settings: Settings) -> dict[str, Any]:
    """``changed``, a table of settings that are not the defaults (None if all are), and ``rest`` by name."""
    changed = changed_settings(settings)
    rows = [
        {"setting": key, "value": _as_in_toml(now), "default": _as_in_toml(was)} for key, (now, was) in changed.items()
    ]
    rest = {
        f"{section}.{key}": _as_in_toml(value)
        for section, values in settings.to_dict().items()
        for key, value in values.items()
        if key not in changed
    }
    return {"changed": table(rows) if rows else None, "rest": rest}


def _as_in_toml(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def circumstances(folder: RunFolder) -> dict[str, Any]:
    """How a run was trained and on what; empty until it has a result."""
    if not folder.result_file.exists():
        return {}
    result = folder.result
    found = {key.replace("_", " "): result.get(key) for key in _CIRCUMSTANCES}
    return {name: _on_one_line(value) for name, value in found.items() if value is not None}


def _on_one_line(value: Any) -> Any:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value


def metric_tables(evaluations: Mapping[str, Evaluation]) -> dict[str, Any] | None:
    """``about`` (text), ``whole`` (a row a metric, a column a scorer) and ``groups`` (title -> table).

    It is None if nothing was evaluated.
    """
    if not evaluations:
        return None
    first = evaluations["model"]
    masked = f"; items of {' and '.join(first.mask)} are masked" if first.mask else ""
    rows = [
        {"metric": name, **{of: found.metrics[name] for of, found in evaluations.items()}} for name in first.metrics
    ]
    groups = {
        f"{metric}@{first.ks[0]} by {kind.replace('_', ' ')}": _group_table(
            evaluations, kind, f"{metric}@{first.ks[0]}"
        )
        for kind, metrics in _BY_GROUP
        for metric in metrics
    }
    about = f"{first.split.capitalize()} split: {first.n_users:,} users, {first.n_relevant:,} relevant items{masked}."
    return {"about": about, "whole": table(rows), "groups": groups}


def _group_table(evaluations: Mapping[str, Evaluation], kind: str, metric: str) -> Table:
    rows = []
    count = "n_users" if kind == "user_activity" else "n_items"
    for same in zip(*((found.groups or {})[kind] for found in evaluations.values()), strict=True):
        row = {"group": same[0]["group"], "interactions": f"{same[0]['min_train']:,}–{same[0]['max_train']:,}"}
        row[count.removeprefix("n_")] = same[0][count]
        rows.append(row | {of: group[metric] for of, group in zip(evaluations, same, strict=True)})
    return table(rows)
