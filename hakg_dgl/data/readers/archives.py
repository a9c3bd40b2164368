"""Files as they lie on disk: found, read with their digest, and taken out of an archive within bounds."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from hakg_dgl.data.readers.text import counted, shown
from hakg_dgl.errors import DataError

EXPANSION_RATIO, EXPANSION_FLOOR = 200, 64 * 2**20
"""An archive may expand to this many times its own size, or to 64 MiB: text compresses well below this."""

PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst")
"""Suffixes of packed files."""

_PIECE = 2**20
"""Bytes that are read at once where a file is not held whole."""

XZ_MEMORY = 2**27
"""Bytes that unpacking ``.xz`` may take beside what it gives: enough for its strongest preset, 9."""


class SourceFiles:
    """Reads files of one folder, compressed or not, and keeps their digests.

    Attributes
    ----------
    folder
        Where the files lie.
    digests
        File name -> SHA-256 and size, of the files read so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, Mapping[str, Any]] = {}

    def read(self, name: str) -> tuple[Path, bytes]:
        """Where the file of this name lies, and its contents, taken out of an archive.

        Raises
        ------
        DataError
            If there is none, or it cannot be read.
        """
        path = locate(self.folder, name)
        if path is None:
            raise DataError(
                f"there is no {name}", path=self.folder, remedy=f"Put {name} there (or {name}.gz, or {name}.zip)."
            )
        self.digests[path.name], data = read_file(path)
        return path, data


def existing_folder(folder: str | Path) -> Path:
    """The folder as a path; DataError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        problem, remedy = ("not a folder", "Name the folder") if folder.exists() else ("no such folder", "Name one")
        raise DataError(problem, path=folder, remedy=f"{remedy} that holds the files.")
    return folder


def locate(folder: Path, name: str) -> Path | None:
    """The file of this name, or its compressed form; None if there is neither."""
    for path in (folder / f"{name}{end}" for end in ("", *PACKED)):
        if os.path.lexists(path):
            _refuse_other_kinds(path)
            return path
    return None


def parts_of(folder: Path, stem: str, suffix: str) -> list[str]:
    """Names, without packing, of the parts ``STEM_1.txt``, ``STEM-part2.txt``, ``STEM.3.txt`` of a file, by number."""
    shape = re.compile(rf"{re.escape(stem)}[._-]?(?:part)?[._-]?(\d{{1,6}}){re.escape(suffix)}")
    found = {
        entry.name.removesuffix(next((end for end in PACKED if entry.name.endswith(end)), ""))
        for entry in folder.iterdir()
    }
    numbered = [(int(match[1]), match[0]) for match in map(shape.fullmatch, found) if match]
    return [name for _, name in sorted(numbered)]


def _refuse_other_kinds(path: Path) -> None:
    """Raise DataError for what is not a plain file: pipes and devices may have no end."""
    if os.path.lexists(path) and not path.is_file():
        what = "a folder" if path.is_dir() else "not a plain file" if path.exists() else "a link that leads nowhere"
        raise DataError(f"is {what}; a file is expected", path=path, remedy="Put the file there, or remove it.")


def read_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Digest and size on disk, and the contents, decompressed in memory within bounds."""
    try:
        _refuse_other_kinds(path)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", path=path, remedy="Check the path and its permissions."
        ) from error
    except MemoryError as error:
        problem = f"its {path.stat().st_size:,} bytes do not fit into memory"
        raise DataError(problem, path=path, remedy="Give a part of the data, or a machine with more memory.") from error
    on_disk = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    if path.suffix not in PACKED:
        return on_disk, raw
    limit = _limit(len(raw))
    with _archive_errors(path):
        stream, size = _open_archive(path, io.BytesIO(raw), len(raw))
        with stream:
            data = stream.read(limit + 1)
        if len(data) <= limit and size not in (None, len(data)):
            raise zipfile.BadZipFile(f"it says {size:,} bytes, and holds {len(data):,}")
    if len(data) > limit:
        raise _too_large(path, limit)
    return on_disk, data


def file_digest(path: Path) -> dict[str, Any]:
    """Digest and size of a file on disk, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with _reading_errors(path), path.open("rb") as handle:
        while piece := handle.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """The contents of a file in pieces of about ``size`` bytes, decompressed within bounds.

    Nothing but a piece is held in memory, but for ``.xz`` files, which are read whole.

    Raises
    ------
    DataError
        If it cannot be read, or is damaged, or expands to far more than its size.
    """
    with _reading_errors(path), path.open("rb") as handle:
        if path.suffix not in PACKED:
            while piece := handle.read(size):
                yield piece
            return
        on_disk = os.fstat(handle.fileno()).st_size
        limit, found = _limit(on_disk), 0
        raw = cast(BinaryIO, io.BytesIO(handle.read()) if path.suffix == ".xz" else handle)
        with _archive_errors(path):
            stream, said = _open_archive(path, raw, on_disk)
        with stream:
            while True:
                with _archive_errors(path):
                    piece = stream.read(size)
                found += len(piece)
                if found > limit:
                    raise _too_large(path, limit)
                if not piece:
                    break
                yield piece
        with _archive_errors(path):
            if said not in (None, found):
                raise zipfile.BadZipFile(f"it says {said:,} bytes, and holds {found:,}")


def _limit(size: int) -> int:
    """Bytes that an archive of this size may expand to."""
    return max(EXPANSION_FLOOR, EXPANSION_RATIO * size)


def _too_large(path: Path, limit: int) -> DataError:
    return DataError(f"expands to more than {limit:,} bytes", path=path, remedy="Unpack it yourself, if you trust it.")


@contextmanager
def _reading_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into DataError."""
    try:
        _refuse_other_kinds(path)
        yield
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", path=path, remedy="Check the path and its permissions."
        ) from error


@contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    """Turn what the libraries raise of damaged archives into DataError."""
    try:
        yield
    except DataError:
        raise
    # ValueError is raised for offsets that lie before the file
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, pa.ArrowException, EOFError, OSError, RuntimeError, ValueError,
        struct.error,
    ) as error:  # fmt: skip
        raise DataError(
            f"damaged, truncated or unsupported archive: {error}", path=path, remedy="Download it again, or unpack it."
        ) from error


_OTHER_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def _open_archive(path: Path, raw: BinaryIO, on_disk: int) -> tuple[BinaryIO, int | None]:
    """The one file in an archive of ``on_disk`` bytes, and its size if the archive says one."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw)), None
    if path.suffix == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(raw)), None
    if path.suffix == ".xz":
        return cast(BinaryIO, _Xz(raw)), None
    if path.suffix == ".zst":
        if not pa.Codec.is_available("zstd"):
            raise DataError("is packed by zstd, which this pyarrow does not read", path=path, remedy="Unpack it.")
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")), None
    archive = zipfile.ZipFile(raw)
    members = [m for m in archive.infolist() if not m.filename.endswith("/") and not m.filename.startswith("__MACOSX/")]
    names = [member.filename for member in members]
    if len(members) != 1:
        listed = f": {', '.join(map(shown, names[:4]))}{', ...' * (len(names) > 4)}" if names else ""
        raise DataError(
            f"holds {counted(len(members), 'file')}{listed}",
            path=path,
            remedy="An archive must hold exactly one file.",
        )
    place, kind = PurePosixPath(names[0].replace("\\", "/")), stat.S_IFMT(members[0].external_attr >> 16)
    what = _OTHER_KINDS.get(kind)
    if place.is_absolute() or ".." in place.parts or re.match("[A-Za-z]:", names[0]):
        what = "a place outside the archive"
    if not names[0]:
        what = "a file without a name"
    if what is not None:
        raise DataError(
            f"its member {shown(names[0])} is {what}", path=path, remedy="An archive must hold exactly one plain file."
        )
    if members[0].flag_bits & 1:
        raise DataError("is encrypted", path=path, remedy="Unpack it yourself.")
    if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA may ask for 4 GiB of memory
        problem = f"is packed by method {members[0].compress_type}; stored and deflated members are read"
        raise DataError(problem, path=path, remedy="Unpack it yourself, or pack it as others do.")
    if members[0].compress_size > on_disk:
        raise zipfile.BadZipFile(f"it says that {members[0].compress_size:,} bytes are packed in it")
    return cast(BinaryIO, archive.open(members[0])), members[0].file_size


class _Xz:
    """Unpacks ``.xz`` within :data:`XZ_MEMORY`, which ``lzma.LZMAFile`` has no option for."""

    def __init__(self, raw: BinaryIO) -> None:
        self._rest = raw.read()
        self._decoder: lzma.LZMADecompressor | None = None

    def __enter__(self) -> _Xz:
        return self

    def __exit__(self, *_: object) -> None:
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes of all streams in the file; fewer at its end."""
        data = b""
        while len(data) < size and (self._rest or self._decoder is not None):
            if self._decoder is None:
                self._decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
            data += self._decoder.decompress(self._rest, max_length=size - len(data))
            self._rest = b""  # the decompressor keeps what it has not used
            if self._decoder.eof:
                self._rest = self._decoder.unused_data.lstrip(b"\0")  # streams may be padded by zeros
                self._decoder = None
            elif self._decoder.needs_input and len(data) < size:
                raise EOFError("it ends within a stream")
        return data
