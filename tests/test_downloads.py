"""Downloads from a real server on the loopback interface."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hakg_dgl.data import downloads
from hakg_dgl.data.cards import CardFile, DatasetCard
from hakg_dgl.data.downloads import DownloadLimits, fetch, git_blob_id
from hakg_dgl.data.readers.kgat import read_kgat
from hakg_dgl.errors import DownloadError

CONTENT = "".join(f"{user} {user * 7 % 1000} {user * 11 % 1000}\n" for user in range(40_000)).encode()
QUICK = DownloadLimits(attempts=3, backoff=0.01, timeout=2, max_bytes=1 << 21)


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Site:
    """What the server holds and how it behaves."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)  # answered first, one a request
    cuts: list[int] = field(default_factory=list)  # body bytes after which the connection closes, one a request
    ranges: bool = True
    shift: int = 0  # by which a range is answered wrongly
    etag: str | None = '"v1"'
    length: bool = True
    endless: bool = False
    encoding: str | None = None
    seen: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, Range, If-Range

    def card(self, *names: str, content: bytes = CONTENT) -> DatasetCard:
        files = (CardFile(name, f"{self.address}/release/{name}", blob_id(content)) for name in names)
        return DatasetCard("small", "a small one", tuple(files))


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def do_GET(self) -> None:
            wanted, condition = self.headers["Range"], self.headers["If-Range"]
            site.seen.append((self.path, wanted, condition))
            assert self.headers["Accept-Encoding"] == "identity"
            self.close_connection = True
            if site.statuses:
                return self.answer(site.statuses.pop(0), b"")
            if self.path in site.redirects:
                return self.answer(302, b"", {"Location": site.redirects[self.path]})
            if self.path not in site.files:
                return self.answer(404, b"<html>no such page</html>")
            content = site.files[self.path]
            headers = {"ETag": site.etag} if site.etag else {}
            if wanted and site.ranges and condition in (None, site.etag):
                begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                if begin >= len(content):
                    return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                begin += site.shift
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
                return self.answer(206, content[begin:], headers)
            return self.answer(200, content, headers)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if site.encoding:
                self.send_header("Content-Encoding", site.encoding)
            if site.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts and status in (200, 206) else None
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[:cut])
                while site.endless:
                    self.wfile.write(b"0 1 2\n" * 10_000)

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(files={"/release/train.txt": CONTENT})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def asked_from(site: Site, request: int, *, kept: int) -> int:
    """Offset asked for, which must keep all but the last incomplete chunk of what had arrived."""
    wanted = site.seen[request][1]
    assert wanted is not None
    offset = int(wanted.removeprefix("bytes=").removesuffix("-"))
    assert kept - downloads._CHUNK < offset <= kept
    return offset


def only_holds(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_git_blob_id_is_gits(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"what is up, doc?")
    assert git_blob_id(tmp_path / "f") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # example of the book Pro Git
    (tmp_path / "f").write_bytes(b"")
    assert git_blob_id(tmp_path / "f") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's well-known empty blob


# --- downloads that succeed -------------------------------------------------------------------------------------------


def test_download_and_no_second_one(site: Site, tmp_path: Path) -> None:
    site.files["/release/test.txt"] = CONTENT
    seen: list[tuple[str, int, int | None]] = []
    card = site.card("train.txt", "test.txt")
    folder = fetch(card, tmp_path / "a" / "b", limits=QUICK, progress=lambda *call: seen.append(call))
    assert (folder / "train.txt").read_bytes() == CONTENT
    assert only_holds(folder, "train.txt", "test.txt")
    steps = [done for name, done, total in seen if name == "train.txt" and total == len(CONTENT)]
    assert steps[0] == 0
    assert steps[-1] == len(CONTENT)
    assert steps == sorted(steps)
    assert len(steps) > 3
    assert len(site.seen) == 2
    fetch(card, folder, limits=QUICK, progress=lambda *call: seen.append(call))
    assert len(site.seen) == 2
    assert seen[-1] == ("test.txt", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', None])
def test_resumes_within_one_call(site: Site, tmp_path: Path, etag: str | None) -> None:
    site.cuts, site.etag = [100_000, 200_000], etag
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert only_holds(tmp_path, "train.txt")
    assert len(site.seen) == 3
    begin = asked_from(site, 1, kept=100_000)
    asked_from(site, 2, kept=begin + 200_000)
    strong = etag if etag == '"v1"' else None
    assert [condition for *_, condition in site.seen] == [None, strong, strong]


def test_resumes_in_a_later_call(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 100_000, 0]
    with pytest.raises(DownloadError, match="no success in 3 tries"):
        fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    arrived = (tmp_path / "train.txt.part").stat().st_size
    assert arrived > 180_000
    assert CONTENT.startswith((tmp_path / "train.txt.part").read_bytes())
    assert not (tmp_path / "train.txt").exists()
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert site.seen[-1][1] == f"bytes={arrived}-"
    assert only_holds(tmp_path, "train.txt")


def test_complete_part_needs_no_network(site: Site, tmp_path: Path) -> None:
    (tmp_path / "train.txt.part").write_bytes(CONTENT)
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert site.seen == []
    assert only_holds(tmp_path, "train.txt")


def test_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cuts = False, [100_000]
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    asked_from(site, 1, kept=100_000)


def test_file_changed_between_tries_starts_over(site: Site, tmp_path: Path) -> None:
    site.files["/release/train.txt"], site.cuts = CONTENT[::-1], [100_000, 0, 0]
    with pytest.raises(DownloadError):
        fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    site.files["/release/train.txt"], site.etag = CONTENT, '"v2"'
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    asked_from(site, -1, kept=100_000)
    assert site.seen[-1][2] == '"v1"'


def test_wrong_beginning_without_validator_starts_over(site: Site, tmp_path: Path) -> None:
    site.etag = None
    (tmp_path / "train.txt.part").write_bytes(b"something else entirely")
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in site.seen] == ["bytes=23-", None]


def test_part_longer_than_the_file_starts_over(site: Site, tmp_path: Path) -> None:
    (tmp_path / "train.txt.part").write_bytes(CONTENT + b"more")
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


def test_range_answered_with_another_range_starts_over(site: Site, tmp_path: Path) -> None:
    site.cuts, site.shift = [100_000], 5
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    asked_from(site, 1, kept=100_000)
    assert [wanted is None for _, wanted, _ in site.seen] == [True, False, True]


def test_busy_server_and_unknown_length(site: Site, tmp_path: Path) -> None:
    site.statuses, site.length = [503, 429], False
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


def test_redirect_within_http_is_followed(site: Site, tmp_path: Path) -> None:
    site.redirects = {"/release/train.txt": "/moved/train.txt", "/moved/train.txt": f"{site.address}/there"}
    site.files = {"/there": CONTENT}
    fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


# --- downloads that fail ----------------------------------------------------------------------------------------------


def failure(site: Site, folder: Path, **options: object) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(site.card("train.txt"), folder, limits=QUICK, **options)
    assert "train.txt" in str(caught.value)
    assert not (folder / "train.txt").exists()
    return str(caught.value)


@pytest.mark.parametrize("length", [True, False])
def test_wrong_content_is_deleted_and_reported(site: Site, tmp_path: Path, length: bool) -> None:
    other = CONTENT[:-1] + b"?"
    site.files["/release/train.txt"], site.length = other, length
    message = failure(site, tmp_path)
    for expected in (blob_id(CONTENT), blob_id(other), f"{site.address}/release/train.txt", "deleted", "--mirror"):
        assert expected in message
    assert only_holds(tmp_path)


def test_body_cut_short_by_a_server_that_gives_no_length(site: Site, tmp_path: Path) -> None:
    site.length, site.cuts = False, [1000]
    assert "1,000 bytes" in failure(site, tmp_path)
    assert only_holds(tmp_path)


def test_sign_in_page_is_recognised(site: Site, tmp_path: Path) -> None:
    site.files["/release/train.txt"] = b"\n<!DOCTYPE html><html>Welcome to the hotel</html>"
    assert "web page" in failure(site, tmp_path)


def test_truncated_zip_is_refused(site: Site, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kg_final.txt", CONTENT)
    whole = buffer.getvalue()
    site.files["/release/kg_final.txt.zip"] = whole[: len(whole) // 2]
    card = site.card("kg_final.txt.zip", content=whole)
    with pytest.raises(DownloadError, match=blob_id(whole)):
        fetch(card, tmp_path, limits=QUICK)
    assert only_holds(tmp_path)
    site.files["/release/kg_final.txt.zip"] = whole
    assert zipfile.ZipFile(fetch(card, tmp_path, limits=QUICK) / "kg_final.txt.zip").testzip() is None


@pytest.mark.parametrize("status", [404, 403, 400])
def test_missing_file_is_not_asked_for_again(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status]
    message = failure(site, tmp_path)
    assert str(status) in message
    assert f"{site.address}/release/train.txt" in message
    assert len(site.seen) == 1


def test_nobody_listens(site: Site, tmp_path: Path) -> None:
    site.address = "http://127.0.0.1:9"  # the discard port: nothing is there
    assert "no success in 3 tries" in failure(site, tmp_path)


def test_server_that_stays_busy(site: Site, tmp_path: Path) -> None:
    site.statuses = [500] * 3
    assert "500 Internal Server Error" in failure(site, tmp_path)
    assert len(site.seen) == QUICK.attempts


@pytest.mark.parametrize("target", ["file:///etc/hosts", "ftp://127.0.0.1/train.txt", "data:text/plain,0", "http://["])
def test_redirect_out_of_http_is_refused(site: Site, tmp_path: Path, target: str) -> None:
    site.redirects = {"/release/train.txt": target}
    assert "scheme" in (message := failure(site, tmp_path)) or "not a usable address" in message
    assert len(site.seen) == 1
    assert only_holds(tmp_path)


def test_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    file = CardFile("train.txt", "https://example.org/train.txt", "0" * 40)
    with downloads._Session() as session:
        transfer = downloads._Transfer(file, tmp_path / "train.txt.part", session, lambda *call: None, QUICK)
        with pytest.raises(DownloadError, match="not https"):
            downloads._refuse_scheme(transfer, file.url, "http://example.org/train.txt")


def test_redirect_without_end_is_refused(site: Site, tmp_path: Path) -> None:
    site.redirects = {"/release/train.txt": "/release/train.txt"}
    assert "redirects" in failure(site, tmp_path)
    assert len(site.seen) < 10


def test_redirect_with_endless_body_is_not_read(site: Site, tmp_path: Path) -> None:
    site.redirects, site.endless, site.length = {"/release/train.txt": "file:///x"}, True, False
    assert "scheme" in failure(site, tmp_path)


@pytest.mark.parametrize("length", [True, False])
def test_endless_body_is_refused(site: Site, tmp_path: Path, length: bool) -> None:
    site.endless, site.length = True, length
    if length:
        site.files["/release/train.txt"] = CONTENT * 4
    assert f"more than {QUICK.max_bytes:,} bytes" in failure(site, tmp_path)
    assert only_holds(tmp_path)


def test_size_of_the_card_is_the_bound(site: Site, tmp_path: Path) -> None:
    file = CardFile("train.txt", f"{site.address}/release/train.txt", blob_id(CONTENT), bytes=len(CONTENT) - 1)
    with pytest.raises(DownloadError, match="more than"):
        fetch(DatasetCard("small", "", (file,)), tmp_path, limits=QUICK)


def test_compressed_answer_is_refused(site: Site, tmp_path: Path) -> None:
    site.encoding = "gzip"
    assert "compresses" in failure(site, tmp_path)


def test_other_file_of_that_name_is_not_overwritten(site: Site, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("mine")
    with pytest.raises(DownloadError, match="nothing was overwritten"):
        fetch(site.card("train.txt"), tmp_path, limits=QUICK)
    assert (tmp_path / "train.txt").read_text() == "mine"
    assert site.seen == []


def test_folder_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot write to"):
        fetch(site.card("train.txt"), tmp_path / "file" / "below", limits=QUICK)


# --- mirrors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/mirror/small/train.txt", "/mirror/train.txt"])
def test_mirror_address(site: Site, tmp_path: Path, place: str) -> None:
    site.files = {place: CONTENT}
    fetch(site.card("train.txt"), tmp_path, mirror=f"{site.address}/mirror/", limits=QUICK)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert {path for path, *_ in site.seen} <= {"/mirror/small/train.txt", "/mirror/train.txt"}


def test_mirror_address_without_the_file_names_both_places(site: Site, tmp_path: Path) -> None:
    message = failure(site, tmp_path, mirror=f"{site.address}/mirror")
    assert "/mirror/small/train.txt" in message
    assert "/mirror/train.txt" in message


@pytest.mark.parametrize("below", ["small", "."])
def test_mirror_folder(site: Site, tmp_path: Path, below: str) -> None:
    place = tmp_path / "mirror" / below
    place.mkdir(parents=True)
    (place / "train.txt").write_bytes(CONTENT)
    fetch(site.card("train.txt"), tmp_path / "out", mirror=str(tmp_path / "mirror"), limits=QUICK)
    assert (tmp_path / "out" / "train.txt").read_bytes() == CONTENT
    assert only_holds(tmp_path / "out", "train.txt")
    assert site.seen == []


def test_mirror_folder_is_verified_too(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    assert "does not hold it" in failure(site, tmp_path / "out", mirror=str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "train.txt").write_bytes(CONTENT[:-5])
    assert blob_id(CONTENT) in failure(site, tmp_path / "out", mirror=str(tmp_path / "mirror"))
    assert only_holds(tmp_path / "out")
    assert only_holds(tmp_path / "mirror", "train.txt")


def test_mirror_of_another_scheme_is_refused(site: Site, tmp_path: Path) -> None:
    assert "scheme" in failure(site, tmp_path, mirror="ftp://127.0.0.1/x")
    assert site.seen == []


def test_fetched_folder_can_be_read(site: Site, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("kg_final.txt", "0 0 2\n1 0 2\n")
    contents = {"train.txt": b"0 0\n1 1\n", "test.txt": b"0 1\n", "kg_final.txt.zip": archive.getvalue()}
    site.files = {f"/release/{name}": content for name, content in contents.items()}
    files = tuple(CardFile(name, f"{site.address}/release/{name}", blob_id(c)) for name, c in contents.items())
    raw = read_kgat(fetch(DatasetCard("small", "", files), tmp_path, limits=QUICK))
    assert (len(raw.interactions), len(raw.triples)) == (3, 2)
