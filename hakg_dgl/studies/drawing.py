"""What the figures of studies share: colours, plain axes, and files that repeat. Matplotlib is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.errors import MissingDependencyError

SUFFIXES = (".png", ".pdf", ".svg")
_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
BLUE, ORANGE, GREY, PALE, INK = "#2f6ea6", "#d9772b", "#7a7a7a", "#c9c9c9", "#404040"


def require_matplotlib() -> None:
    """Raise MissingDependencyError if Matplotlib, of the extra ``plot``, cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"figures need Matplotlib, which cannot be imported ({error}): pip install 'hakg_dgl[plot]', "
            "and give the command again"
        ) from error


def plain_axes(axes: Any) -> None:
    """Leave the axes without the lines above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def remove_figure(path: Path) -> None:
    """Remove the files that :func:`save_figure` wrote, if they are there."""
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def save_figure(figure: Any, path: Path) -> Path:
    """Write ``path`` as PNG, PDF and SVG; the place of the SVG. The same figure gives the same files."""
    from matplotlib import rc_context

    # A fixed salt, since ids are random; in PDF, fonts that printers take.
    options: Any = {"svg.hashsalt": "hakg", "svg.fonttype": "none", "pdf.fonttype": 42}
    for suffix in SUFFIXES:

        def write(temporary: Path, suffix: str = suffix) -> None:
            with rc_context(options):
                figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=_UNDATED.get(suffix))

        replace_file(path.with_name(path.name + suffix), write)
    return path.with_name(path.name + SUFFIXES[-1])
