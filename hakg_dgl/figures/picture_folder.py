"""The folder of ``hakg plot``: the pictures of a run as files, and the page to explore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hakg_dgl.atomic_files import write_text
from hakg_dgl.errors import DataError
from hakg_dgl.figures.interactive import interactive_page
from hakg_dgl.figures.pictures import NAMES, Picture, pictures
from hakg_dgl.figures.style import DPI, save_figure
from hakg_dgl.figures.subject import Subject
from hakg_dgl.models.positions import Positions

KINDS = ("png", "svg")
PAGE = "hierarchy.html"


def draw_pictures(
    subject: Subject,
    out: str | Path,
    *,
    kinds: Sequence[str] = KINDS,
    page: bool = True,
    dpi: int = DPI,
    beside: Mapping[str, Positions] | None = None,
) -> list[Picture]:
    """Write all pictures of a run to a folder, and the interactive page where the run has positions.

    Parameters
    ----------
    subject, beside
        See :func:`~hakg_dgl.figures.pictures.pictures`.
    out
        The folder; files that an earlier call wrote are replaced or removed.
    kinds
        Kinds of files: ``png``, ``svg`` or both.
    page
        Whether to write :data:`PAGE` too.
    dpi
        Dots per inch.

    Returns
    -------
    list of Picture

    Raises
    ------
    DataError
        If ``out`` holds other files.
    MissingDependencyError
        If Matplotlib is missing.
    OSError
        If the folder cannot be written.
    """
    out = Path(out)
    refuse_foreign(out)
    drawn = list(pictures(subject, beside))
    files = {out / f"{picture.name}.{kind}": picture.figure for picture in drawn for kind in kinds}
    text = interactive_page(subject.positions, subject.dataset) if page and subject.positions is not None else None
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, figure in files.items():
            save_figure(figure, file, dpi=dpi)
        if text is not None:
            write_text(out / PAGE, text)
        for name in _ours() - {file.name for file in files} - ({PAGE} if text is not None else set()):
            (out / name).unlink(missing_ok=True)  # they are of an earlier run
    except OSError as error:
        error.filename = str(out)
        raise
    return drawn


def refuse_foreign(out: Path) -> None:
    """Raise DataError unless ``out`` is free or a folder that holds nothing but such pictures."""
    if not out.exists() and not out.is_symlink():
        return
    remedy = "Choose another place, or empty it yourself."
    if not out.is_dir() or out.is_symlink():
        problem = "is a link, which is not replaced" if out.is_symlink() else "exists and is not a folder"
        raise DataError(problem, path=out, remedy=remedy)
    if foreign := sorted({entry.name for entry in out.iterdir()} - _ours()):
        raise DataError(f"holds something else than pictures, such as {foreign[0]!r}", path=out, remedy=remedy)


def _ours() -> set[str]:
    return {PAGE, *(f"{name}.{kind}" for name in NAMES for kind in KINDS)}
