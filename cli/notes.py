"""Shows remarks of the library about pictures as notes on stderr."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def font_notes() -> Iterator[None]:
    """Show warnings of missing letters as notes, one for each package to install; pass other warnings on."""
    from hakg_dgl.figures.fonts import MissingGlyphsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MissingGlyphsWarning)
        yield
    shown = set()
    for warning in caught:
        said = warning.message
        if not isinstance(said, MissingGlyphsWarning):
            warnings.warn_explicit(said, warning.category, warning.filename, warning.lineno)
        elif said.package not in shown:
            shown.add(said.package)
            click.echo(f"Note: {said}", err=True)
