"""``hakg plot`` draws pictures of a run."""

from __future__ import annotations

from pathlib import Path

import click

from .notes import font_notes
from .progress import stages
from .runs import device_option, open_run


@click.command(
    "plot",
    epilog="\b\nExamples:\n"
    "  hakg plot runs/demo --out pictures\n"
    "  hakg plot runs/demo --out pictures --values output --format svg --beside runs/flat\n",
)
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write the pictures to."
)
@click.option(
    "--values", type=click.Choice(["parameters", "output"]), default="parameters", show_default=True,
    help="Embeddings to show: as trained, or after propagation.",
)  # fmt: skip
@click.option(
    "--format", "kinds", type=click.Choice(["png", "svg"]), multiple=True, default=("png", "svg"), show_default=True,
    help="Format of the pictures; repeatable.",
)  # fmt: skip
@click.option(
    "--beside", type=click.Path(path_type=Path, file_okay=False), multiple=True, metavar="RUN",
    help="Another run on the demo, to compare in the picture of its tree; repeatable.",
)  # fmt: skip
@click.option("--dpi", type=click.IntRange(20, 1200), default=150, show_default=True, help="Dots per inch.")
@click.option("--page/--no-page", default=True, show_default=True, help="Also write the interactive page.")
@click.option("--data", type=click.Path(path_type=Path), help="The data set, if it has moved since training.")
@device_option
def plot_command(
    run: Path, out: Path, values: str, kinds: tuple[str, ...], beside: tuple[Path, ...], dpi: int, page: bool,
    data: Path | None, device: str,
) -> None:  # fmt: skip
    """Draw what RUN has learned: hierarchy, training, groups.

    docs/figures.md says what each picture shows. Earlier pictures in the folder are replaced; a folder with anything
    else is refused.
    """
    from hakg_dgl.errors import ConfigError
    from hakg_dgl.figures.picture_folder import PAGE, draw_pictures, refuse_foreign
    from hakg_dgl.figures.style import require_matplotlib
    from hakg_dgl.figures.subject import Subject, require_positions
    from hakg_dgl.training.circumstances import choose_device

    require_matplotlib()
    refuse_foreign(out)
    with font_notes(), stages(2) as begin:
        begin("loading")
        opened = open_run(run, data)
        subject = Subject(opened.folder, opened.dataset, values, choose_device(device))
        others = {}
        for path in beside:
            if subject.tree is None:
                raise ConfigError(f"{run}: --beside compares runs on the demo, the only data set whose tree is known")
            require_positions(subject)
            other = Subject(open_run(path, data).folder, opened.dataset, values, choose_device(device))
            others[str(path)] = require_positions(other)
        begin("drawing")
        drawn = draw_pictures(subject, out, kinds=kinds, page=page, dpi=dpi, beside=others)
    for note in opened.notes:
        click.echo(f"Note: {note}", err=True)
    for picture in drawn:
        click.echo(f"{picture.name}: {picture.title}. {picture.caption}")
    pages = f" and {PAGE}" if page and subject.positions is not None else ""
    click.echo(f"Wrote {out}: {len(drawn)} pictures as {' and '.join(kinds)}{pages}")
