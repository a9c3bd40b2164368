"""``hakg explain`` shows where the score of a user and an item comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .files import ResultPath, write_json
from .newcomers import NEWER_DATA, load_with, newcomer_options, newcomers
from .notes import font_notes
from .preprocess import copied_options
from .progress import stages
from .report import shown, table
from .runs import device_option, list_length, open_run


@copied_options("date_order", "decimal")
@click.command(
    "explain",
    epilog="\b\nExamples:\n"
    "  hakg explain runs/demo --user user_7 --item item_12\n"
    "  hakg explain runs/demo --user user_7 --item item_12 --top 5 --json why.json --picture why.svg\n"
    "  hakg explain runs/demo --new-users visitors.csv --user ann --item item_12\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--user", "user_id", required=True, metavar="ID", help="Original id of the user.")
@click.option("--item", "item_id", required=True, metavar="ID", help="Original id of the item, or its name.")
@click.option("--top", type=list_length(), default=10, show_default=True, help="Rows of each table.")
@click.option(
    "--json",
    "json_file",
    type=ResultPath(dash=True),
    metavar="FILE",
    help="Also write everything as JSON ('-': print that instead).",
)
@click.option("--picture", type=ResultPath(".svg", ".png", ".pdf"), help="Also draw it (.svg, .png or .pdf).")
@newcomer_options()
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def explain_command(
    run: Path, user_id: str, item_id: str, top: int, json_file: Path | None, picture: Path | None, data: Path | None,
    device: str, **options: Any,
) -> None:  # fmt: skip
    """Show where the score of a user and an item comes from.

    The command takes the score apart exactly: once by the user's past items, and once by the item's facts and users.
    Paths show what past items and the item share. With --new-users or --new-interactions, the user is one of these
    files. docs/explain.md defines every number.
    """
    import pandas as pd

    from hakg_dgl.data.id_maps import IdMap
    from hakg_dgl.figures.explanation import save_picture
    from hakg_dgl.figures.style import require_matplotlib
    from hakg_dgl.insight.explain import Explainer, require_explained
    from hakg_dgl.ranking.candidates import known_items

    new = newcomers(options)
    if new.unknown_items == "skip" and not new.any_users:
        raise click.UsageError("--unknown-items is about items of files, and none is given: leave it out")
    if picture is not None:
        require_matplotlib(instead="leave --picture out")
    with stages(2) as begin:
        begin("loading")
        opened = open_run(run, data, instead=NEWER_DATA)
        require_explained(opened.folder.settings.model_class)
        items = new.read_items(opened.dataset)
        dataset = opened.dataset if items is None else items.dataset
        found = new.read_users(dataset) if new.any_users else None
        ids = dataset.users if found is None else pd.DataFrame({"original_id": found.ids, "name": found.ids})
        user = IdMap(pd.Index(ids["original_id"]), ids["name"]).index(user_id, "user")
        user += 0 if found is None else dataset.n_users
        (item,) = known_items(dataset, [item_id]).tolist()
        begin("model")
        trained, _ = load_with(opened, items, device)
        chosen = None if found is None else found.only(user - dataset.n_users)
        explainer = Explainer(trained.model, dataset, new=chosen)
        explanation = explainer(user if chosen is None else dataset.n_users, item)
    for files, report in (
        (new.items, items and items.report),
        ([*new.users, *new.interactions], found and found.report),
    ):
        for note in new.notes(files, report) if report else []:
            click.echo(f"Note: {note}", err=True)
    about = explanation.to_dict(top)
    if str(json_file) != "-":
        click.echo("\n\n".join([*opened.notes, *_sections(about)]))
    if picture is not None:
        with font_notes():
            save_picture(explanation, picture)
    if json_file is not None:
        write_json({**opened.about(), **about}, json_file)


def _sections(about: dict[str, Any]) -> list[str]:
    from hakg_dgl.insight.explanation import introduced

    gate = about["gate"]
    heading = (
        f"{introduced('User', _named(about['user']))}, {introduced('item', _named(about['item']))}: "
        f"score {about['score']:.4f}, "
        f"rank {about['rank']:,} of {about['ranked_items']:,} items"
    )
    components = [{"part of the score": row["component"], **_amount(row)} for row in about["components"]]
    has_shares = about["components"][0]["share"] is not None
    if not has_shares:
        heading += "\nShares are left out: the score is near zero, since its parts cancel out."
    sections = [heading, table(components), _past_items(about)]
    if about["user_facts"]["all"]["count"]:
        sections.append(_item_side("facts and links of the user", about["user_facts"], _user_fact))
    if gate["collaborative_weight"]:
        sections.append(
            f"Gate: collaborative embeddings of the past items weigh {gate['collaborative_weight']:.0%} on average."
            + (
                f" Of the score, {_percent(gate['collaborative'])} come from them and "
                f"{_percent(gate['knowledge'])} from the knowledge embeddings."
            )
            * has_shares
        )
    why_none = about["without_facts"]
    sections.append(why_none or _item_side("facts of the item", about["facts"], _fact))
    if about["users"]["rows"] or "user" in about["paths"]:
        sections.append(_item_side("users of the item", about["users"], lambda row: _named(row, "user_")))
    paths = {kind: part for kind, part in about["paths"].items() if kind != "entity" or not why_none}
    return [*sections, table(_rest(about)), *_paths(paths), *_unnamed(about)]


def _rest(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for the parts of the item's side other than facts and users."""
    title = "rest of the item's side"
    rows = [{title: f"{row['component']}, own parameters", **_amount(row)} for row in about["item_own"]]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in about["other_terms"]:
        if row["via"] != "user fact":
            kinds.setdefault(f"{row['component']}, {_TERMS.get(row['via'], 'by past items')}", []).append(row)
    for name, terms in kinds.items():
        total = {key: sum(row[key] or 0.0 for row in terms) for key in ("contribution", "share")}
        has_shares = all(row["share"] is not None for row in terms)
        rows.append({title: name, **_amount(total if has_shares else {**total, "share": None})})
    if about["facts_of_users"]["count"]:
        rows.append({title: "facts of users about the item", **_amount(about["facts_of_users"])})
    return rows


def _unnamed(about: dict[str, Any]) -> list[str]:
    """A remark if the data set has no names for entities that were shown."""
    shown_ones = [(row["entity_id"], row["entity_name"]) for row in about["facts"]["rows"]]
    shown_ones += [(row["entity"]["id"], row["entity"]["name"]) for row in about["paths"]["entity"]["rows"]]
    without = [original for original, name in shown_ones if original == name]
    if not without:
        return []
    named = "not all" if len(without) < len(shown_ones) else "none"
    return [
        f"The data set names {named} of these entities: there are ids such as {shown(without[0])} alone. "
        "'also of' lists other items that have them, those most seen first."
    ]


_NO_WAYS = ("count", "contribution", "share")
_TERMS = {"beside": "by items that its users also have"}
"""Kinds of further terms on the item's side that do not come from the user's past items."""


def _past_items(about: dict[str, Any]) -> str:
    part = about["past_items"]
    every = [*part["rows"], part["others"]]
    ways = [way for way in part["others"] if way not in _NO_WAYS and any(row[way] for row in every)]
    gate = ["gate"] if any(row["gate"] is not None for row in part["rows"]) else []
    rows = [
        {"past item": _named(row, "item_"), **{name: row[name] for name in (*gate, *ways)}, **_amount(row)}
        for row in part["rows"]
        if ways
    ]
    if part["others"]["count"] and ways:
        rest = part["others"]
        rows.append({"past item": f"{rest['count']:,} others", **{way: rest[way] for way in ways}, **_amount(rest)})
    if about["user_facts"]["all"]["count"]:
        rows.append({"past item": "the user's facts and links", **_amount(about["user_facts"]["all"])})
    rows.append({"past item": "the user's own parameters", **_amount(about["user_own"])})
    return table(rows, ["past item", *gate, *ways, "contribution", "share"])


def _item_side(title: str, part: dict[str, Any], name: Any) -> str:
    rows = [{title: name(row), **_amount(row), **_also_of(row)} for row in part["rows"]]
    if part["others"]["count"]:
        rows.append({title: f"{part['others']['count']:,} others", **_amount(part["others"])})
        rows[-1] |= {"also of": ""} if "also of" in rows[0] else {}
    return table(rows or [{title: "none"}])


def _also_of(row: dict[str, Any]) -> dict[str, str]:
    """Other items with a row's entity: ``Star Wars; Fargo; 610 more``."""
    if "also_of" not in row:
        return {}
    count, names = row["also_of"]["items"], row["also_of"]["names"]
    more = [f"{count - len(names):,} more"] if count > len(names) else []
    return {"also of": "; ".join([*names, *more]) or "-"}


def _paths(kinds: dict[str, Any]) -> list[str]:
    sections = []
    for kind, part in kinds.items():
        title = {"entity": "paths over a shared entity", "user": "paths over a shared user"}[kind]
        rows = [{title: _path(row), **_amount(row), **_also_of(row)} for row in part["rows"]] or [{title: "none"}]
        every, few = part["all"], part["shown"]
        shown_ones = "This path makes" if few["count"] == 1 else f"These {few['count']:,} make"
        total = f"{shown_ones} up {_percent(few)} of the score, all {every['count']:,} {_percent(every)}."
        sections.append(table(rows) + (f"\n{total}" if few["share"] is not None and part["rows"] else ""))
    return sections


def _path(row: dict[str, Any]) -> str:
    start, end = _named(row["past_item"]), "the item"
    if "user" in row:
        from hakg_dgl.insight.explanation import introduced

        return f"{start} - {introduced('user', _named(row['user']))} - {end}"
    ours, theirs = row["past_fact"], row["item_fact"]
    return f"{start} {_arrow(ours)} {_named(row['entity'])} {_arrow(theirs, back=True)} {end}"


def _arrow(fact: dict[str, Any], *, back: bool = False) -> str:
    """The relation as an arrow from the triple's head to its tail; ``back``: read from the entity."""
    towards_right = fact["inverse"] == back
    return f"--{shown(fact['relation'])}->" if towards_right else f"<-{shown(fact['relation'])}--"


def _fact(row: dict[str, Any]) -> str:
    return f"{_arrow(row)} {_named(row, 'entity_')}"


def _user_fact(row: dict[str, Any]) -> str:
    from hakg_dgl.insight.explanation import introduced

    return f"{_arrow(row)} {introduced('user', _named(row)) if row['via'] == 'link' else _named(row)}"


def _named(row: dict[str, Any], prefix: str = "") -> str:
    name, original = row[f"{prefix}name"], row[f"{prefix}id"]
    return shown(original if name == original else f"{name} ({original})")


def _amount(row: dict[str, Any]) -> dict[str, Any]:
    return {"contribution": f"{row['contribution']:9.6f}", "share": f"{_percent(row):>7}"}


def _percent(row: dict[str, Any]) -> str:
    return "-" if row["share"] is None else f"{row['share']:.2%}"
