"""Figures of studies as files; they need Matplotlib, an optional dependency (extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hakg_dgl.atomic_files import replace_file
from hakg_dgl.errors import MissingDependencyError

SUFFIXES = (".png", ".svg")


def require_matplotlib() -> None:
    """Raise MissingDependencyError if Matplotlib cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"figures need Matplotlib, which cannot be imported ({error}): pip install 'hakg_dgl[plot]', "
            "and give the command again"
        ) from error


def save_figure(figure: Any, path: Path) -> Path:
    """Write PNG and SVG, and return the place of the SVG; the same figure gives the same files."""
    from matplotlib import rc_context

    for suffix in SUFFIXES:
        undated: dict[str, Any] = {"metadata": {"Date": None}} if suffix == ".svg" else {}

        def write(temporary: Path, suffix: str = suffix, undated: dict[str, Any] = undated) -> None:
            with rc_context({"svg.hashsalt": "hakg", "svg.fonttype": "none"}):  # a fixed salt, since ids are random
                figure.savefig(temporary, format=suffix[1:], dpi=160, **undated)

        replace_file(path.with_name(path.name + suffix), write)
    return path.with_name(path.name + SUFFIXES[-1])
