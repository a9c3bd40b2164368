"""``hakg export`` writes a model's vectors, and the ids that they belong to, for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from .progress import stages
from .runs import device_option, open_run


@click.command("export", epilog="\b\nExample:\n  hakg export runs/demo --out vectors/demo\n")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write; it is written whole or not at all.",
)
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def export_command(run: Path, out: Path, data: Path | None, device: str) -> None:
    """Write embeddings and ids of RUN for other programs.

    Files are Parquet and NumPy; docs/export.md lists them. Inner products of the ranking vectors rank as the model
    does, so a nearest-neighbour index can serve them. An earlier export in the folder is replaced, nothing else is.
    """
    from hakg_dgl.insight.export import export, refuse_foreign

    with stages(2) as begin:
        begin("loading")
        refuse_foreign(out)
        opened = open_run(run, data)
        model = opened.load(device).model
        begin("writing")
        about = {"kind": model.name, **model.about_vectors()}
        manifest = export(model, opened.dataset, out, about={"model": about})
    for note in opened.notes:
        click.echo(f"Note: {note}", err=True)
    counts = ", ".join(f"{count:,} {table}" for table, count in manifest["counts"].items())
    click.echo(f"Wrote {out}: {len(manifest['files']):,} files of {counts}")
