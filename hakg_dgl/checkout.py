"""The commit that the installed code is of, where it can be told from files alone: git is never run."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1, or SHA-256 in repositories that use it


def commit() -> str | None:
    """Commit of this package: of the checkout that it runs from, or of the address that pip installed it from.

    Returns
    -------
    str or None
        The full hash in hexadecimal digits. None where it is unknown: in a wheel, in a copy of the sources, and after
        ``pip install .``, whose folder may have moved on since. Changes that are not committed do not show.
    """
    source = Path(__file__).resolve().parents[1]
    if _is_our_source(source):
        return commit_of_checkout(source)
    return _commit_that_pip_noted()


def commit_of_checkout(folder: Path) -> str | None:
    """Commit that is checked out in a folder, read from the files under its ``.git``.

    Parameters
    ----------
    folder
        The top folder of a checkout, of a linked worktree or of a submodule.

    Returns
    -------
    str or None
        The full hash, or None if the folder is not a checkout, has no commit yet, or cannot be read.
    """
    try:
        git = _git_folder(folder)
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        found = _resolve(git, head.removeprefix("ref:").strip()) if head.startswith("ref:") else head
    except (OSError, UnicodeDecodeError):
        return None
    return found if found is not None and _HASH.fullmatch(found) else None


def _is_our_source(folder: Path) -> bool:
    """Whether the folder is this project's, and not one that holds a copy of the package."""
    try:
        described = (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(r'^name = "hakg_dgl"$', described, re.MULTILINE) is not None


def _git_folder(folder: Path) -> Path:
    """The folder that holds HEAD; in a worktree or a submodule ``.git`` is a file that names it."""
    git = folder / ".git"
    if git.is_file():
        return folder / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    return git


def _resolve(git: Path, reference: str) -> str | None:
    """Hash of a reference such as ``refs/heads/main``, from a file of its own or from ``packed-refs``."""
    folders = [git]
    shared = git / "commondir"  # a worktree keeps its branches with the first checkout
    if shared.is_file():
        folders.append(git / shared.read_text(encoding="utf-8").strip())
    for folder in folders:
        if (folder / reference).is_file():
            return (folder / reference).read_text(encoding="utf-8").strip()
        packed = folder / "packed-refs"
        if packed.is_file():
            for line in packed.read_text(encoding="utf-8").splitlines():
                found, _, name = line.partition(" ")
                if name == reference:
                    return found
    return None


def _commit_that_pip_noted() -> str | None:
    """Commit in ``direct_url.json``, which pip writes beside a package that it installed from a repository."""
    try:
        noted = distribution("hakg_dgl").read_text("direct_url.json")
        found = json.loads(noted)["vcs_info"]["commit_id"] if noted else None
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and _HASH.fullmatch(found) else None
