"""``hakg export`` writes a model's vectors, and the ids that they belong to, for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .part_vectors import is_one_of_several, parts_option, refuse_parts, vectors_by_parts, write_own_vectors
from .progress import stages
from .runs import OpenedRun, device_option, open_run
from .several import KeepsArguments, given_scorer, one_device, processes_option

if TYPE_CHECKING:
    from hakg_dgl import Recommender
    from hakg_dgl.ranking.topk import EmbeddingScorer

PROGRAMS = ("faiss", "hnswlib", "onnx")
"""Those of hakg_dgl.insight.program_files, which is not imported for a help text; a test compares."""


@click.command(
    "export",
    cls=KeepsArguments,
    epilog="\b\nExamples:\n"
    "  hakg export runs/demo --out vectors/demo\n"
    "  hakg export runs/demo --to faiss --out demo.faiss\n"
    "  hakg export runs/large --out vectors/large --processes 4 --parts data/large-4\n"
    "  hakg export runs/demo --to onnx --out demo.onnx\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write, whole or not at all; with --to a file, beside which the ids lie.",
)
@click.option(
    "--to",
    "program",
    type=click.Choice(PROGRAMS),
    help="Write one file for this program: an index of items (faiss, hnswlib), or a graph from users to lists (onnx).",
)
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@processes_option("With --parts: compute the vectors by N processes.")
@parts_option
@device_option
def export_command(
    run: Path, out: Path, program: str | None, data: Path | None, processes: int, parts: Path | None, device: str
) -> None:
    """Write embeddings and ids of RUN for other programs.

    Files are Parquet and NumPy; docs/export.md lists them. Inner products of the ranking vectors rank as the model
    does, so a nearest-neighbour index can serve them. An earlier export in the folder is replaced, nothing else is.
    With --to, the ranking is written as a file that a program reads as it is. With --parts, no process holds the whole
    model, and of its vectors those that rank are written.
    """
    from hakg_dgl.insight.export import refuse_foreign

    if parts is not None and is_one_of_several():
        write_own_vectors(run, data, parts)
        return
    if processes > 1 and parts is None:
        raise click.UsageError("--processes is for --parts, what 'hakg partition DATA' wrote: add it")
    refuse_parts(parts, processes)
    device = one_device(processes, device)
    with ExitStack() as held, stages(2) as begin:
        begin("loading")
        if program is None:
            refuse_foreign(out)
        opened = open_run(run, data)
        held.enter_context(vectors_by_parts(parts, processes))
        model, more = _vectors(opened, device)
        begin("writing")
        about = {"model": {"kind": opened.folder.settings.kind, **more}}
        told = _tables(model, opened, out, about) if program is None else _file(program, model, opened, out, about)
    for note in opened.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(told)


def _vectors(opened: OpenedRun, device: str) -> tuple[Recommender | EmbeddingScorer, dict[str, Any]]:
    """The model, or the vectors of the processes of the parts; and what the manifest says of them."""
    shared = given_scorer()
    if shared is not None:
        return shared, {}
    model = opened.load(device).model
    return model, model.about_vectors()


def _tables(model: Recommender | EmbeddingScorer, opened: OpenedRun, out: Path, about: Mapping[str, Any]) -> str:
    from hakg_dgl.insight.export import export

    manifest = export(model, opened.dataset, out, about=about)
    counts = ", ".join(f"{count:,} {table}" for table, count in manifest["counts"].items())
    return f"Wrote {out}: {len(manifest['files']):,} files of {counts}"


def _file(
    program: str, model: Recommender | EmbeddingScorer, opened: OpenedRun, out: Path, about: Mapping[str, Any]
) -> str:
    from hakg_dgl.insight.program_files import export_to

    found = export_to(program, model, opened.dataset, out, about=about)
    counts = ", ".join(f"{count:,} {table}" for table, count in found["counts"].items())
    more = ""
    if "recall" in found:
        recall = found["recall"]
        more = f"\nWith ef = {found['ef']} it finds {recall['value']:.1%} of the {recall['cut']} best items"
    return f"Wrote {out}: {program}, {counts}; ids in {out.name}.items.parquet, {out.name}.users.parquet{more}"
