"""Text of source files: decoded, with one kind of line end, and shown in messages."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hakg_dgl.errors import DataError

HEADER_LIMIT = 2**16
"""Bytes of a header line; a longer one is not a header."""

WHOLE = "Check that it was downloaded or written completely."


def empty_file(path: Path) -> DataError:
    """The error for a file without content."""
    return DataError("the file is empty", path=path, remedy=WHOLE)


def refuse_empty(path: Path, data: bytes) -> None:
    """Raise DataError for a file that holds blanks at most."""
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise empty_file(path)


_MAGIC = {
    b"BZh": ("compressed by bzip2", ".bz2"),
    b"\xfd7zXZ": ("compressed by xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", ".zst"),
    b"\x1f\x8b": ("compressed by gzip", ".gz"),
    b"PAR1": ("a Parquet file", ".parquet"),
}
"""First bytes of files that are not text -> what they are, and the suffix that says so."""

_OTHERS = {
    b"\xd0\xcf\x11\xe0": ("a spreadsheet or document of an old kind", "Save it as CSV."),
    b"SQLite format 3\0": ("a database of SQLite", "Export the table as CSV."),
    b"ARROW1": ("a Feather file", "Save it as Parquet."),
    b"\x89HDF": ("an HDF5 file", "Save the table as Parquet or CSV."),
    b"\x93NUMPY": ("an array of NumPy", "Save it as CSV."),
    b"\x80\x04": ("a pickle, which could run code and is not read", "Save it as Parquet or CSV."),
    b"\x80\x05": ("a pickle, which could run code and is not read", "Save it as Parquet or CSV."),
    b"%PDF": ("a PDF", "Give a table."),
}
"""First bytes of files that are not tables -> what they are, and what to do."""

_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)\b", re.IGNORECASE)


def header_line(path: Path, data: bytes) -> str:
    """The first line of a text file that names its columns."""
    refuse_empty(path, data)
    decoded(path, data)
    page = _PAGE.match(data.removeprefix(codecs.BOM_UTF8))
    if page:
        what = "XML" if page[1].lower() == b"?xml" else "a web page"
        problem = f"is {what}, not a table"
        raise DataError(problem, path=path, line=1, remedy="Was a page downloaded in place of the file? Give a table.")
    header = normalised(data[: HEADER_LIMIT + 1]).partition(b"\n")[0]
    remedy = "The first line names the columns."
    if len(header) > HEADER_LIMIT - len(codecs.BOM_UTF8):
        raise DataError(f"a header of more than {HEADER_LIMIT:,} bytes", path=path, line=1, remedy=remedy)
    if not header.strip():
        raise DataError("the header is blank", path=path, line=1, remedy=remedy)
    return header.decode("utf-8")


def recoded(path: Path, data: bytes, encoding: str) -> bytes:
    """Text in an encoding as UTF-8.

    Raises
    ------
    DataError
        If it is not in this encoding.
    """
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if wide and data and b"\0" not in data[:4096] and data[:1] not in b"\xff\xfe":
        problem = f"is not {encoding}: text in it would have zero bytes, and there are none"
        raise DataError(problem, path=path, line=1, remedy="Give the encoding that it was written in.")
    try:
        return data.decode(encoding).encode("utf-8")
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise DataError(
            f"is not {encoding}: {str(error).partition(':')[2].strip() or error}",
            path=path,
            line=data[:at].count(b"\n") + 1,
            remedy="Give the encoding that it was written in.",
        ) from error


def decoded(path: Path, data: bytes) -> str:
    """Text of a file; UTF-16 and binary files are named as such."""
    _refuse_magic(path, data)
    return checked_utf8(path, data)


def _refuse_magic(path: Path, data: bytes) -> None:
    """Raise DataError if the first bytes are those of a file that is not text."""
    for magic, (what, suffix) in _MAGIC.items():
        if data.startswith(magic) and (magic not in (b"BZh", b"PAR1") or b"\0" in data[:4096]):
            raise DataError(f"is {what}, not text", path=path, remedy=f"End its name in {suffix}, or unpack it.")
    for magic, (what, remedy) in _OTHERS.items():
        if data.startswith(magic):
            raise DataError(f"is {what}, not text", path=path, remedy=remedy)
    if data.startswith(b"PK\x03\x04"):
        remedy = "End the name of an archive in .zip; save a spreadsheet as CSV."
        raise DataError("is a zip archive or a spreadsheet, not text", path=path, remedy=remedy)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("UTF-16 text, not UTF-8", path=path, remedy="Convert it: iconv -f utf-16 -t utf-8 OLD > NEW")


def checked_utf8(path: Path, data: bytes, lines: int = 0) -> str:
    """UTF-8 text without NUL bytes; ``lines`` is how many lines stand before it in the file.

    Raises
    ------
    DataError
        If it is something else; the message names the line.
    """
    try:
        text = data.decode("utf-8-sig")
        at, problem = data.find(b"\0"), "a NUL byte"
        remedy = "Save it as UTF-8 text: this is UTF-16, binary or damaged."
    except UnicodeDecodeError as error:
        at, problem = error.start, f"byte {data[error.start : error.start + 1]!r} is not UTF-8"
        remedy = "Convert it, for example from Latin-1: iconv -f latin1 -t utf-8 OLD > NEW"
        text = ""
    if at >= 0:
        line = lines + normalised(data[:at]).count(b"\n") + 1
        raise DataError(problem, path=path, line=line, remedy=remedy)
    return text


def normalised(data: bytes) -> bytes:
    """Without a byte order mark, and with ``\\n`` as the only line end (as Python reads text)."""
    return normalised_ends(data.removeprefix(codecs.BOM_UTF8))


def normalised_ends(data: bytes) -> bytes:
    """With ``\\n`` as the only line end."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def cleaned_pieces(path: Path, pieces: Iterable[bytes], encoding: str | None = None) -> Iterator[bytes]:
    """The pieces of a text file as UTF-8 with ``\\n`` as the only line end and without a byte order mark, checked.

    Raises
    ------
    DataError
        As :func:`decoded` and :func:`recoded` do.
    """
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    lines, held, first = 0, b"", True
    for piece, last in _with_last(pieces):
        if encoding is None:
            data = held + piece
            # a letter may go on in the next piece, and so may a line end
            cut = len(data) if last else len(data) - _unfinished(data)
            data, held = data[:cut], data[cut:]
        else:
            try:
                data = held + decoder.decode(piece, last).encode("utf-8")
            except UnicodeError as error:
                what = str(error).partition(":")[2].strip() or error
                at = error.start if isinstance(error, UnicodeDecodeError) else 0
                line = lines + piece[:at].count(b"\n") + 1
                remedy = "Give the encoding that it was written in."
                raise DataError(f"is not {encoding}: {what}", path=path, line=line, remedy=remedy) from error
            cut = len(data) - (data.endswith(b"\r") and not last)
            data, held = data[:cut], data[cut:]
        if first:
            _refuse_magic(path, data)
        checked_utf8(path, data, lines)
        text = normalised(data) if first else normalised_ends(data)
        first = first and not data
        lines += text.count(b"\n")
        yield text


def _with_last(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last."""
    before: bytes | None = None
    for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    yield before or b"", True


def _unfinished(data: bytes) -> int:
    """Bytes at the end that may belong to what follows: of a letter of several bytes, or of a line end."""
    if data.endswith(b"\r"):
        return 1
    for back in range(1, min(4, len(data) + 1)):
        if data[-back] & 0xC0 == 0xC0:  # the first byte of a letter
            size = 2 if data[-back] < 0xE0 else 3 if data[-back] < 0xF0 else 4
            return back if back < size else 0
        if data[-back] < 0x80:
            return 0
    return 0


def counted(count: int, what: str) -> str:
    """A number and what it counts, in the plural where that is right."""
    return f"{count} {what}{'s' * (count != 1)}"


def shown(value: bytes | str) -> str:
    """A value for a message: quoted, and cut to a readable length."""
    text = value[:200].decode("utf-8", errors="replace") if isinstance(value, bytes) else value[:200]
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:56] + "...'"
