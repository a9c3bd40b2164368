"""``hakg partition`` writes a data set in parts, for training by several processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import write_json
from .progress import stages
from .report import table

if TYPE_CHECKING:
    from hakg_dgl.data.edge_blocks import SavedEdges
    from hakg_dgl.data.owners import Owners

_METHODS = ("metis", "hash", "range")


@click.command(
    "partition",
    epilog="\b\nExamples:\n"
    "  hakg partition data/demo --out data/demo-4 --parts 4\n"
    "  hakg partition data/demo --out data/demo-4 --parts 4 --method hash --compare\n",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the parts.")
@click.option("--parts", "n_parts", required=True, type=click.IntRange(1, 4096), metavar="N", help="How many parts.")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="metis",
    show_default=True,
    help="metis cuts few edges, needs DGL and holds the graph in memory; hash and range need neither.",
)
@click.option("--compare", is_flag=True, help="Tell what the other methods would cost, too.")
@click.option("--d", type=click.IntRange(1), default=64, show_default=True, help="Costs: numbers in a row.")
@click.option("--layers", type=click.IntRange(1), default=3, show_default=True, help="Costs: layers of a step.")
@click.option("--json", "as_json", is_flag=True, help="Print the costs as JSON.")
def partition_command(
    data: Path, out: Path, n_parts: int, method: str, compare: bool, d: int, layers: int, as_json: bool
) -> None:
    """Write a data set in parts, for several processes.

    Each part has its nodes, the edges that they receive, and its halo.

    The table has what the cut costs: rows that all parts receive before a layer, bytes that a step exchanges, and how
    even the parts are. docs/scale.md says what that means.
    """
    from hakg_dgl.data.edge_blocks import SavedEdges
    from hakg_dgl.data.owners import cut_costs
    from hakg_dgl.data.part_writing import refuse_others, write_parts
    from hakg_dgl.errors import ConfigError, MissingDependencyError

    refuse_others(out)
    edges = SavedEdges(data)
    notes, rows = [], []
    with stages(3 + 2 * compare) as begin:
        begin("reading")
        edges.verify()
        begin(f"finding owners by {method}")
        owners = _owners(method, edges, n_parts)
        begin(f"writing {out}")
        rows.append({"method": method, **write_parts(edges, owners, out, method=method, d=d, layers=layers)})
        for other in [name for name in _METHODS if name != method] if compare else []:
            begin(f"costs of {other}")
            try:
                rows.append({"method": other, **cut_costs(edges, _owners(other, edges, n_parts), d=d, layers=layers)})
            except (ConfigError, MissingDependencyError) as error:
                notes.append(f"{other} was left out: {error}")
    if as_json:
        write_json({"d": d, "layers": layers, "written": method, "costs": rows, "notes": notes}, Path("-"))
        return
    click.echo(table([_shown(row) for row in rows]))
    for note in notes:
        click.echo(f"  note: {note}")
    click.echo(f"Wrote {out}: {n_parts:,} parts by {method}")


def _owners(method: str, edges: SavedEdges, n_parts: int) -> Owners:
    from hakg_dgl.data.owners import hash_owners, range_owners

    if method == "metis":
        from hakg_dgl.graph.metis import metis_owners

        return metis_owners(edges, n_parts)
    return (hash_owners if method == "hash" else range_owners)(edges, n_parts)


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """A row of costs for people."""
    return {
        "method": row["method"],
        "rows a layer": f"{row['rows_a_layer']:,}",
        "largest halo": f"{row['largest_halo']:,}",
        "MB a step": f"{row['bytes_a_step'] / 1e6:,.1f}",
        "MB of one part": f"{row['largest_bytes_a_step'] / 1e6:,.1f}",
        "edges cut": f"{row['cut']:.1%}",
        "edges, largest / mean": f"{row['balance']:.2f}",
        "nodes of the largest": f"{row['nodes_max']:,}",
    }
