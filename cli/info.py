"""``hakg info`` describes a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .files import write_json
from .report import counted, number_of, shown, table

_RELATION_COLUMNS = (
    "name", "triples", "heads", "tails", "items_per_attribute", "attributes_per_item", "hierarchy", "hierarchical",
    "orders_attributes",
)  # fmt: skip


_USER_RELATION_COLUMNS = ("name", "to", "triples", "users", "others", "fan_in", "fan_out")


@click.command("info", epilog="\b\nExample:\n  hakg info data/demo\n  hakg info data/demo --json | jq .counts\n")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def info_command(data: Path, as_json: bool) -> None:
    """Describe a data set: sizes, degrees, relations.

    'hierarchical' marks the relations that hierarchical_relations = ["auto"] would give to the angle loss,
    'orders_attributes' those between attributes that angle_pairs = "all" adds to it.
    """
    from hakg_dgl.data.dataset import load_dataset
    from hakg_dgl.data.summary import summary

    about = summary(load_dataset(data))
    if as_json:
        write_json(about, Path("-"))
        return
    click.echo(f"{shown(about['name'])}  (split: {about['split_strategy']}, digest {about['digest'][:16]})\n")
    click.echo(table([about["counts"]]) + f"\ndensity {about['density']:.2%}\n")
    degrees = [
        {"training interactions of": kind, **{mark: f"{value:,.4g}" for mark, value in about[f"{kind}_degree"].items()}}
        for kind in ("user", "item")
    ]
    click.echo(table(degrees) + "\n")
    for line in _remarks(about):
        click.echo(line)
    relations = sorted(about["relations"], key=lambda row: -row["triples"])
    click.echo("\n" + table(relations, _RELATION_COLUMNS))
    if about["user_relations"]:
        users = sorted(about["user_relations"], key=lambda row: -row["triples"])
        click.echo("\nRelations of users:\n" + table(users, _USER_RELATION_COLUMNS))
    repairs = counted(about["report"])
    click.echo("\nWhile preprocessing:\n  " + "\n  ".join(repairs) if repairs else "\nNothing was repaired.")


def _remarks(about: dict[str, Any]) -> list[str]:
    counts, items = about["counts"], about["counts"]["items"]
    of_users = [
        f"{counts.get(f'user_{what}', 0):,} {what} of users; {about[f'users_with_{what}']:,} users have any"
        for what in ("facts", "links")
        if counts.get(f"user_{what}")
    ]
    return [
        f"{about['linked_items']:,} of {number_of(items, 'items')} occur in the knowledge graph",
        f"items without training interactions: {about['items_without_training']:,}, "
        f"of which in the test split: {about['cold_items']:,}",
        f"users without training interactions: {about['users_without_training']:,}",
        f"triples that lead from an entity to itself: {about['self_loops']:,}",
        f"entities that are neither item nor in a triple or a fact of a user: {about['isolated_entities']:,}",
        *of_users,
    ]
