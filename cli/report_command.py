"""``hakg report`` writes one HTML page on a run."""

from __future__ import annotations

from pathlib import Path

import click

from .files import ResultPath, write_text_file
from .progress import stages
from .runs import device_option, open_run


@click.command(
    "report",
    epilog="\b\nExamples:\n"
    "  hakg report runs/demo --out report.html\n"
    "  hakg report runs/demo --out report.html --ablation studies/demo --examples 5\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=ResultPath(".html", ".htm"), required=True, help="File to write (.html).")
@click.option(
    "--values", type=click.Choice(["parameters", "output"]), default="parameters", show_default=True,
    help="Embeddings to show: as trained, or after propagation.",
)  # fmt: skip
@click.option(
    "--examples", type=click.IntRange(0, 100), default=3, show_default=True, help="Users to show recommendations for."
)
@click.option(
    "--ablation", type=click.Path(path_type=Path, file_okay=False), metavar="STUDY",
    help="Also show the study that hakg ablate wrote there.",
)  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def report_command(
    run: Path, out: Path, values: str, examples: int, ablation: Path | None, data: Path | None, device: str
) -> None:  # fmt: skip
    """Write one HTML page on RUN, with metrics and pictures.

    The file holds everything it shows and fetches nothing. docs/figures.md describes its parts.
    """
    from hakg_dgl.figures.report import report_page
    from hakg_dgl.figures.style import require_matplotlib
    from hakg_dgl.figures.subject import Subject
    from hakg_dgl.training.circumstances import choose_device

    require_matplotlib()
    with stages(4) as begin:
        begin("loading")
        opened = open_run(run, data)
        subject = Subject(opened.folder, opened.dataset, values, choose_device(device))
        page = report_page(subject, notes=opened.notes, ablation=ablation, examples=examples, begin=begin)
    write_text_file(page, out)
    for note in opened.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"Wrote {out}")
