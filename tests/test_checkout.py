"""The commit of the code, against what git itself says."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from hakg_dgl import checkout
from hakg_dgl.checkout import commit_of_checkout

ROOT = Path(__file__).resolve().parents[1]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, "-c", "commit.gpgsign=false", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@needs_git
def test_branches_packed_branches_detached_heads_and_worktrees(tmp_path: Path) -> None:
    first, linked = tmp_path / "first", tmp_path / "linked"
    first.mkdir()
    git(first, "init", "-q")
    assert commit_of_checkout(first) is None, "no commit yet"
    git(first, "commit", "-q", "--allow-empty", "-m", "one")
    one = git(first, "rev-parse", "HEAD")
    assert commit_of_checkout(first) == one
    git(first, "pack-refs", "--all")
    assert commit_of_checkout(first) == one
    git(first, "commit", "-q", "--allow-empty", "-m", "two")
    two = git(first, "rev-parse", "HEAD")
    assert commit_of_checkout(first) == two != one, "the branch's own file is newer than packed-refs"
    git(first, "worktree", "add", "-q", "-b", "side", str(linked), one)
    assert commit_of_checkout(linked) == one
    git(first, "checkout", "-q", "--detach", one)
    assert commit_of_checkout(first) == one


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none", "not a hash", "\xff" * 40])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, head: str) -> None:
    assert commit_of_checkout(tmp_path) is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode("latin-1"))
    assert commit_of_checkout(tmp_path) is None


@needs_git
def test_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    monkeypatch.setattr(checkout, "__file__", str(ROOT / "hakg_dgl" / "checkout.py"))
    assert checkout.commit() == git(ROOT, "rev-parse", "HEAD")


@needs_git
def test_the_repository_around_a_copy_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    monkeypatch.setattr(checkout, "__file__", str(tmp_path / "hakg_dgl" / "checkout.py"))
    assert checkout.commit() is None


@pytest.mark.parametrize(
    ("noted", "found"),
    [
        ({"url": "https://x.example/h", "vcs_info": {"vcs": "git", "commit_id": "a1" * 20}}, "a1" * 20),
        ({"url": "file:///somewhere", "dir_info": {}}, None),
        ([], None),
        (None, None),
    ],
)
def test_pip_notes_the_commit_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: object, found: str | None
) -> None:
    if noted is not None:
        (tmp_path / "direct_url.json").write_text(json.dumps(noted))
    monkeypatch.setattr(checkout, "distribution", lambda name: PathDistribution(tmp_path))
    monkeypatch.setattr(checkout, "__file__", str(tmp_path / "hakg_dgl" / "checkout.py"))
    assert checkout.commit() == found
