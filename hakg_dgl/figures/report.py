"""One HTML page with all there is to say about a run; nothing in it is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hakg_dgl.data.cards import list_cards, load_card
from hakg_dgl.data.dataset import Dataset
from hakg_dgl.data.shared_items import unnamed_entities
from hakg_dgl.data.summary import summary
from hakg_dgl.figures.ablation_section import ablation_section
from hakg_dgl.figures.explanation import draw
from hakg_dgl.figures.markup import Markup, element, escaped, listed, pairs, table
from hakg_dgl.figures.pictures import Picture, pictures
from hakg_dgl.figures.style import inline_svg, require_matplotlib
from hakg_dgl.figures.subject import Subject
from hakg_dgl.insight.explain import Explainer, Explanation, introduced
from hakg_dgl.models.settings import Settings
from hakg_dgl.ranking.evaluation import Evaluation
from hakg_dgl.ranking.lists import recommend

_TOP = 5
_HEADLINE = ("recall@20", "ndcg@20", "hit@20")
_RELATION_COLUMNS = ("name", "triples", "items_per_attribute", "attributes_per_item", "hierarchy", "hierarchical")


def report_page(
    subject: Subject,
    *,
    notes: Iterable[str] = (),
    ablation: str | Path | None = None,
    examples: int = 3,
    begin: Callable[[str], None] = lambda step: None,
) -> str:
    """The page as text.

    Parameters
    ----------
    subject
        The run.
    notes
        What must be said about its numbers, at the top.
    ablation
        Folder of a study on the same data set by ``hakg ablate``, to show its results.
    examples
        Users to show recommendations for.
    begin
        Called with the name of each step when it begins.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is missing.
    DataError
        If the study cannot be read, or is on another data set.
    """
    require_matplotlib()
    study = None if ablation is None else ablation_section(ablation, subject.dataset)
    begin("pictures")
    drawn = {picture.name: picture for picture in pictures(subject)}
    begin("tables")
    sections: dict[str, list[Markup]] = {
        "Data": _data(subject),
        "Settings": _settings(subject.settings),
        "Training": [*_figure(drawn, "curves"), *_circumstances(subject)],
        "Metrics": [*_metrics(subject.evaluations), *_figure(drawn, "groups")],
    }
    if study is not None:
        sections["Ablation"] = study
    hierarchy = [part for name in ("disk", "depth", "popularity", "relations") for part in _figure(drawn, name)]
    if hierarchy:
        sections["Hierarchy"] = hierarchy
    begin("examples")
    sections["Examples"] = _examples(subject, examples)
    return _page(subject, list(notes), sections)


def _page(subject: Subject, notes: list[str], sections: Mapping[str, list[Markup]]) -> str:
    title = f"{subject.dataset.name}: run {subject.folder.path.name} ({subject.settings.kind})"
    anchors = {name: name.lower() for name in sections}
    body = [
        element("h1", title),
        element("p", _lead(subject), class_="soft"),
        *(element("p", note, class_="note") for note in notes),
        _headline(subject),
        element("nav", *(element("a", name, href=f"#{anchor}") for name, anchor in anchors.items())),
    ]
    for name, parts in sections.items():
        body.append(element("section", element("h2", name), *parts, id=anchors[name]))
    template = (resources.files("hakg_dgl.figures") / "report.html").read_text(encoding="utf-8")
    before, after = template.replace("__TITLE__", escaped(title)).split("__BODY__")
    return before + "\n".join(body) + after


def _lead(subject: Subject) -> str:
    counts = subject.dataset
    return (
        f"{counts.n_users:,} users, {counts.n_items:,} items, {counts.n_entities:,} entities, "
        f"{counts.n_relations:,} relations. " + f"Model {subject.settings.kind}."
    )


def _headline(subject: Subject) -> Markup:
    if not subject.evaluations:
        return element("p", "No split is left to measure on: the model has seen them all, or they are empty.")
    first = subject.evaluations["model"]
    boxes = [element("div", element("b", f"{first.metrics[name]:.4f}"), f"{name}, {first.split}") for name in _HEADLINE]
    return element("div", *boxes, class_="big")


def _figure(drawn: Mapping[str, Picture], name: str) -> list[Markup]:
    if name not in drawn:
        return []
    picture = drawn[name]
    caption = element("figcaption", picture.caption)
    svg = Markup(inline_svg(picture.figure, name))
    return [element("h3", picture.title), element("figure", svg, caption, id=f"picture-{name}")]


# --- data and settings ------------------------------------------------------------------------------------------------


def _data(subject: Subject) -> list[Markup]:
    about = summary(subject.dataset)
    facts: dict[str, Any] = {
        "name": about["name"],
        **about["counts"],
        "density": f"{about['density']:.2%}",
        "split": about["split_strategy"],
        "training interactions a user": _spread(about["user_degree"]),
        "training interactions an item": _spread(about["item_degree"]),
        "items in the knowledge graph": about["linked_items"],
        **_unnamed(subject.dataset),
        "cold items of the test split": about["cold_items"],
        "digest": about["digest"][:16],
    }
    facts |= {what.replace("_", " "): count for what, count in about["report"].items() if count}
    parts = [pairs(facts)]
    if about["name"] in list_cards():
        card = load_card(about["name"])
        parts += [element("p", card.title), element("p", f"Terms: {card.terms}"), listed(card.citation)]
    if subject.dataset.sources:
        rows = [{"file": name, **dict(about)} for name, about in subject.dataset.sources.items()]
        parts.append(element("details", element("summary", "Files it was made from"), table(rows)))
    relations = sorted(about["relations"], key=lambda row: -row["triples"])
    shown = table(relations[:200], _RELATION_COLUMNS)
    parts.append(element("details", element("summary", f"Relations ({len(relations):,})"), shown))
    return parts


def _unnamed(dataset: Dataset) -> dict[str, str]:
    """How many entities beside the items have an id alone, where there are any."""
    unnamed, others = int(unnamed_entities(dataset).sum()), dataset.n_entities - dataset.n_items
    return {"entities without a name": f"{unnamed:,} of {others:,}, beside the items"} if unnamed else {}


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


def _settings(settings: Settings) -> list[Markup]:
    changed = changed_settings(settings)
    rows = [{"setting": key, "value": _written(now), "default": _written(was)} for key, (now, was) in changed.items()]
    rest = {
        f"{section}.{key}": _written(value)
        for section, values in settings.to_dict().items()
        for key, value in values.items()
        if key not in changed
    }
    first = table(rows) if rows else element("p", "All settings are the defaults.")
    return [
        element("h3", "Different from the defaults"),
        first,
        element("details", element("summary", f"The others ({len(rest)})"), pairs(rest)),
    ]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _circumstances(subject: Subject) -> list[Markup]:
    if not subject.folder.result_file.exists():
        return []
    result = subject.folder.result
    keys = ("protocol", "best_epoch", "epochs_run", "stopped", "seconds", "device")
    return [pairs({key.replace("_", " "): _plain(result.get(key)) for key in keys if result.get(key) is not None})]


def _plain(value: Any) -> Any:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value


# --- metrics ----------------------------------------------------------------------------------------------------------


def _metrics(evaluations: Mapping[str, Evaluation]) -> list[Markup]:
    if not evaluations:
        return [element("p", "No split is left to measure on.")]
    first = evaluations["model"]
    masked = f"; items of {' and '.join(first.mask)} are masked" if first.mask else ""
    rows = [
        {"metric": name, **{of: found.metrics[name] for of, found in evaluations.items()}} for name in first.metrics
    ]
    about = f"{first.split.capitalize()} split: {first.n_users:,} users, {first.n_relevant:,} relevant items{masked}."
    parts = [element("p", about), table(rows)]
    for kind, metrics in (("user_activity", ("recall", "ndcg")), ("item_popularity", ("recall", "share"))):
        for metric in metrics:
            name = f"{metric}@{first.ks[0]}"
            parts += [element("h3", f"{name} by {kind.replace('_', ' ')}"), _group_table(evaluations, kind, name)]
    return parts


def _group_table(evaluations: Mapping[str, Evaluation], kind: str, metric: str) -> Markup:
    rows = []
    count = "n_users" if kind == "user_activity" else "n_items"
    for same in zip(*((found.groups or {})[kind] for found in evaluations.values()), strict=True):
        row = {"group": same[0]["group"], "interactions": f"{same[0]['min_train']:,}–{same[0]['max_train']:,}"}
        row[count.removeprefix("n_")] = same[0][count]
        rows.append(row | {of: group[metric] for of, group in zip(evaluations, same, strict=True)})
    return table(rows)


# --- examples ---------------------------------------------------------------------------------------------------------


def _examples(subject: Subject, count: int) -> list[Markup]:
    """Lists of a few users between the least and the most active, and why the first item is there."""
    dataset = subject.dataset
    users = _example_users(dataset.pairs("train")[:, 0], dataset.n_users, count)
    if not len(users):
        return [element("p", "No user has a training interaction.")]
    lists = recommend(subject.scorer, users, _TOP, seen=dataset.positives())
    explainer = Explainer(subject.model, dataset) if subject.model.abilities.explains else None
    parts = [
        element(
            "p",
            "Users at equal steps of activity, and the best items that they are not known to have.",
            "" if explainer is not None else " This model does not take its scores apart.",
        )
    ]
    degree = np.bincount(dataset.pairs("train")[:, 0], minlength=dataset.n_users)
    for user in users.tolist():
        mine = lists[lists["user"] == user]
        names = [_label(dataset.items.iloc[item]) for item in mine["item"]]
        rows = [
            {"rank": int(rank), "item": name, "score": Markup(f"{score:.4f}")}
            for rank, name, score in zip(mine["rank"], names, mine["score"], strict=True)
        ]
        heading = f"{introduced('User', _label(dataset.users.iloc[user]))}: {degree[user]:,} training interactions"
        parts += [element("h3", heading), table(rows)]
        if explainer is not None and len(mine):
            parts += _explained(explainer(user, int(mine["item"].iloc[0])), f"example-{user}")
    return parts


def _example_users(users: np.ndarray[Any, Any], n_users: int, count: int) -> np.ndarray[Any, Any]:
    degree = np.bincount(users, minlength=n_users)
    active = np.argsort(degree, kind="stable")[(degree == 0).sum() :]
    if not len(active):
        return active
    return active[np.unique(np.round(np.linspace(0.1, 0.9, count) * (len(active) - 1)).astype(np.int64))]


def _label(row: Any) -> str:
    name, original = row["name"], row["original_id"]
    return str(original if name == original else f"{name} ({original})")


def _explained(explanation: Explanation, name: str) -> list[Markup]:
    about = explanation.to_dict(_TOP)
    past = [
        {"past item": _label({"name": row["item_name"], "original_id": row["item_id"]}), **_amount(row)}
        for row in about["past_items"]["rows"]
    ]
    rest, own = about["past_items"]["others"], about["user_own"]
    if rest["count"]:
        past.append({"past item": f"{rest['count']:,} others", **_amount(rest)})
    past.append({"past item": "the user's own parameters", **_amount(own)})
    facts = [
        {
            "strongest facts of the item": ("← " if row["inverse"] else "") + row["relation"],
            "entity": _label({"name": row["entity_name"], "original_id": row["entity_id"]}),
            "also of": "; ".join(row["also_of"]["names"]) or None,
            **_amount(row),
        }
        for row in about["facts"]["rows"]
    ]
    svg = Markup(inline_svg(draw(explanation, items=_TOP, paths=_TOP), name))
    return [
        element("p", f"Why {about['item']['name']}: where its score of {explanation.score:.4f} comes from"),
        table({"part of the score": row["component"], **_amount(row)} for row in about["components"]),
        table(past),
        *([table(facts)] if facts else []),
        element("figure", svg),
    ]


def _amount(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row["share"]
    return {"contribution": row["contribution"], "share": Markup("–") if share is None else Markup(f"{share:.1%}")}
