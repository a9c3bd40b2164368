"""Verified, resumable downloads of the files of a dataset card."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

import requests

from hakg_dgl.data.cards import CardFile, DatasetCard
from hakg_dgl.errors import ConfigError, DownloadError

Progress = Callable[[str, int, "int | None"], None]
"""Called with file name, bytes so far and bytes in all (None while unknown)."""

_CHUNK = 1 << 14
_REDIRECTS = 5
_OVER_NETWORK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class DownloadLimits:
    """What a download may cost.

    Attributes
    ----------
    attempts
        Tries a file, where the connection fails or the server is busy; at least 1.
    backoff
        Seconds before the second try, doubled for each one after.
    timeout
        Seconds to wait for a connection, and for the next bytes.
    max_bytes
        Bound on a file whose size the card does not know; a server that sends more is refused.
    """

    attempts: int = 4
    backoff: float = 0.5
    timeout: float = 30.0
    max_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff < 0 or self.timeout <= 0 or self.max_bytes < 1:
            raise ConfigError(f"impossible download limits: {self}")


def git_blob_id(path: str | Path) -> str:
    """Git object id of a file, 40 hexadecimal digits: SHA-1 of ``b"blob <size>\\0"`` and the content, streamed.

    It guards against damage and mix-ups; git's SHA-1 is what the releases are pinned by.
    """
    with open(path, "rb") as handle:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(handle.fileno()).st_size, usedforsecurity=False)
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(
    card: DatasetCard,
    folder: str | Path,
    *,
    mirror: str | None = None,
    progress: Progress | None = None,
    limits: DownloadLimits | None = None,
) -> Path:
    """Bring the files of a card into a folder, each verified by its git blob id.

    A file that is there and verified is not fetched again. An interrupted download is kept as ``NAME.part`` and
    continued by the next call; a file gets its name when it is whole and verified, and a damaged one is deleted.
    Archives are left as they are: the readers open them. One call a folder at a time.

    Parameters
    ----------
    card
        What to fetch.
    folder
        Where to; made if missing. A file in it that has a card's file name but not its content is not overwritten.
    mirror
        Take the files from elsewhere: the address of a folder (http or https) or a folder on this machine. Looked up
        as ``MIRROR/CARD/FILE``, then ``MIRROR/FILE``.
    progress
        Called with file name, bytes so far, and bytes in all (None while unknown).
    limits
        Tries, waits and bounds.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    DownloadError
        Naming file, address, what went wrong and what to do.
    """
    folder, limits = Path(folder), limits or DownloadLimits()
    report: Progress = progress or (lambda name, done, total: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _Session() as session:
            # Offsets, lengths and digests are those of the file, so nobody may compress it on the way.
            session.headers.update({"Accept-Encoding": "identity", "User-Agent": "hakg_dgl"})
            for file in card.files:
                if _is_there(file, folder):
                    size = (folder / file.name).stat().st_size
                    report(file.name, size, size)
                else:
                    _bring(_Transfer(file, folder / f"{file.name}.part", session, report, limits), card, mirror)
    except requests.RequestException as error:
        raise DownloadError(f"{card.name}: {error}\n{_REMEDY}") from error
    except OSError as error:
        raise DownloadError(
            f"{card.name}: cannot write to {folder}: {error}\nFree some space, or choose another folder."
        ) from error
    return folder


_REMEDY = "Try again (what has arrived is kept), or give --mirror URL|DIR to take the files from elsewhere."


@dataclass(frozen=True)
class _Transfer:
    """One file on its way: into ``part``, then, verified, to its name."""

    file: CardFile
    part: Path
    session: _Session
    report: Progress
    limits: DownloadLimits

    @property
    def bound(self) -> int:
        return self.limits.max_bytes if self.file.bytes is None else self.file.bytes

    @property
    def validator(self) -> Path:
        """Sidecar of the part: which address, and which version of the file there, it came from."""
        return self.part.with_name(self.part.name + ".json")

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)

    def failure(self, source: str, problem: str, remedy: str = "") -> DownloadError:
        return DownloadError(f"{self.file.name} from {source}: {problem}\n{remedy or _REMEDY}")


class _Session(requests.Session):
    """Leaves redirects to :func:`_request`: requests reads their bodies to the end, however long, and any scheme."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Busy(Exception):
    """A failure that may pass: worth another try."""


class _NotFound(Exception):
    """The server has no such file, or says so of one that is not public."""


def _is_there(file: CardFile, folder: Path) -> bool:
    path = folder / file.name
    if not path.exists():
        return False
    found = git_blob_id(path) if path.is_file() else "something that is not a file"
    if found != file.git_blob:
        raise DownloadError(
            f"{path} exists but is not the file of the card: expected git blob {file.git_blob}, found {found}\n"
            "Remove it, or choose another folder; nothing was overwritten."
        )
    return True


def _bring(transfer: _Transfer, card: DatasetCard, mirror: str | None) -> None:
    """Fetch one file from its release or the mirror, verify it and give it its name."""
    file, part = transfer.file, transfer.part
    resumed = part.exists()
    if resumed and git_blob_id(part) == file.git_blob:
        return _finish(transfer)
    if mirror is not None and not _OVER_NETWORK.match(mirror):
        source = _copy(transfer, card, Path(mirror).expanduser())
    else:
        addresses = [file.url]
        if mirror is not None:
            base = mirror.rstrip("/")
            addresses = [f"{base}/{quote(card.name)}/{file.name}", f"{base}/{file.name}"]
        source = _download_first(transfer, addresses)
        if resumed and git_blob_id(part) != file.git_blob:
            # The beginning may be of another version of the file than the rest: once more, from the start.
            transfer.discard()
            source = _download_first(transfer, addresses)
    found, size = git_blob_id(part), part.stat().st_size
    if found != file.git_blob:
        with part.open("rb") as handle:
            page = handle.read(256).lstrip().startswith(b"<")
        transfer.discard()
        hint = "it looks like a web page, perhaps of a proxy; " if page else ""
        raise transfer.failure(
            source,
            f"this is not the file of the card: expected git blob {file.git_blob}, found {found} ({size:,} bytes)",
            f"The copy was deleted ({hint}a file cut short or changed at the source gives this too). {_REMEDY}",
        )
    return _finish(transfer)


def _finish(transfer: _Transfer) -> None:
    size = transfer.part.stat().st_size
    os.replace(transfer.part, transfer.part.with_name(transfer.file.name))
    transfer.discard()
    transfer.report(transfer.file.name, size, size)


def _copy(transfer: _Transfer, card: DatasetCard, mirror: Path) -> str:
    """Copy the file from a mirror folder to the part; returns where it was."""
    candidates = [mirror / card.name / transfer.file.name, mirror / transfer.file.name]
    for source in candidates:
        if source.is_file():
            transfer.report(transfer.file.name, 0, source.stat().st_size)
            try:
                transfer.discard()
                shutil.copyfile(source, transfer.part)
            except OSError as error:
                transfer.discard()
                raise transfer.failure(
                    str(source), f"cannot be copied: {error}", "Check space and permissions."
                ) from error
            return str(source)
    raise transfer.failure(
        str(mirror), "the mirror folder does not hold it", f"Looked for {candidates[0]} and {candidates[1]}."
    )


def _download_first(transfer: _Transfer, addresses: list[str]) -> str:
    """Download from the first address that has the file; returns it."""
    for address in addresses:
        try:
            _download(transfer, address)
            return address
        except _NotFound as error:
            answer = error
    raise transfer.failure(
        " and ".join(addresses), f"the server does not have it ({answer})", "Give --mirror URL|DIR that holds it."
    )


def _download(transfer: _Transfer, address: str) -> None:
    """Download to the part, with another try where the connection fails or the server is busy."""
    limits = transfer.limits
    for attempt in range(limits.attempts):
        if attempt:
            time.sleep(limits.backoff * 2 ** (attempt - 1))
        try:
            with _request(transfer, address) as response:
                _receive(transfer, address, response)
            return
        except (_Busy, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            last = error
    tries = "one try" if limits.attempts == 1 else f"{limits.attempts} tries"
    raise transfer.failure(address, f"no success in {tries}; the last: {last}") from last


def _request(transfer: _Transfer, address: str) -> requests.Response:
    """Ask for the file, or for what the part still lacks; follow redirects within http and https."""
    headers = {}
    offset = transfer.part.stat().st_size if transfer.part.exists() else 0
    if offset:
        headers["Range"] = f"bytes={offset}-"
        validator = _read_validator(transfer, address)
        if validator:
            headers["If-Range"] = validator
    url = address
    try:
        for _ in range(_REDIRECTS + 1):
            _refuse_scheme(transfer, address, url)
            response = transfer.session.get(
                url, headers=headers, stream=True, allow_redirects=False, timeout=transfer.limits.timeout
            )
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
    except ValueError as error:  # every kind of malformed address, in requests and below it
        raise transfer.failure(address, f"this is not a usable address: {error}", "Check it.") from error
    raise transfer.failure(address, f"more than {_REDIRECTS} redirects", "Check the address.")


def _refuse_scheme(transfer: _Transfer, address: str, url: str) -> None:
    allowed = ("https",) if urlsplit(address).scheme == "https" else ("http", "https")
    if urlsplit(url).scheme not in allowed:
        how = "the address has" if url == address else f"the server redirects to {url!r}, which has"
        raise transfer.failure(
            address, f"{how} a scheme that is not {' or '.join(allowed)}", "Give an http or https address, or a folder."
        )


def _receive(transfer: _Transfer, address: str, response: requests.Response) -> None:
    """Write a response to the part: appended for 206, from the start for 200."""
    part, status = transfer.part, response.status_code
    answer = f"{status} {HTTPStatus(status).phrase}" if status in list(HTTPStatus) else str(status)
    offset = part.stat().st_size if part.exists() else 0
    if status == 416 and offset:
        transfer.discard()  # longer than the file at the server, and not the card's file: of no use
        raise _Busy("the server's file is shorter than the part that had arrived (416)")
    if status in (403, 404, 410):
        raise _NotFound(answer)
    if status == 429 or status >= 500:
        raise _Busy(f"the server answers {answer}")
    if status not in (200, 206):
        raise transfer.failure(address, f"the server answers {answer}", "Check the address.")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise transfer.failure(address, "the server compresses the file though asked not to", "Use another mirror.")
    begin, total = _extent(response)
    if status == 206 and begin != offset:
        transfer.discard()
        raise _Busy(f"the server continues elsewhere than asked ({response.headers.get('Content-Range')!r})")
    if status == 200:
        transfer.discard()  # the server ignores ranges, or has another version of the file
        offset = 0
    if total is not None and total > transfer.bound:
        transfer.discard()
        raise _too_long(transfer, address)
    _write_validator(transfer, address, response)
    with part.open("ab") as handle:
        done = _write_body(transfer, address, response, handle, offset, total)
    if total is not None and done < total:
        raise _Busy(f"the connection ended after {done:,} of {total:,} bytes")


def _extent(response: requests.Response) -> tuple[int | None, int | None]:
    """Offset at which a body begins and size of the whole file, where the headers tell."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return None, None
        return int(match[1]), int(match[2]) + 1 if match[3] == "*" else int(match[3])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _write_body(
    transfer: _Transfer, address: str, response: requests.Response, handle: BinaryIO, done: int, total: int | None
) -> int:
    transfer.report(transfer.file.name, done, total)
    for chunk in response.iter_content(_CHUNK):
        done += len(chunk)
        if done > transfer.bound:
            transfer.discard()
            raise _too_long(transfer, address)
        handle.write(chunk)
        transfer.report(transfer.file.name, done, total)
    return done


def _too_long(transfer: _Transfer, address: str) -> DownloadError:
    return transfer.failure(
        address,
        f"the server sends more than {transfer.bound:,} bytes, the most this file can have; the copy was deleted",
        "This is not the file of the card: give --mirror URL|DIR to take it from elsewhere.",
    )


def _read_validator(transfer: _Transfer, address: str) -> str | None:
    """What ``If-Range`` needs; without it the range is asked for plainly, and the digest tells if the parts fit."""
    try:
        saved = json.loads(transfer.validator.read_text(encoding="utf-8"))
        return str(saved["validator"]) if saved["address"] == address else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_validator(transfer: _Transfer, address: str, response: requests.Response) -> None:
    tag = response.headers.get("ETag", "")
    # A weak tag may not stand in If-Range (RFC 9110, 13.1.5).
    validator = response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
    if validator:
        transfer.validator.write_text(json.dumps({"address": address, "validator": validator}), encoding="utf-8")
