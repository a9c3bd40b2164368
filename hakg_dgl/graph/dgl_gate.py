"""The only ``import dgl``: makes the plain import work where it would fail, and leaves an intact DGL alone.

The DGL 2.1.0 wheel cannot be imported beside a current PyTorch: ``import dgl`` imports ``dgl.graphbolt``, which wants
``torchdata.datapipes`` (gone from torchdata 0.10) and a compiled library for exactly the running PyTorch (the wheel's
newest is for 2.2.1). Heterographs, message passing, SDDMM, SpMM and sampling need neither. So this module looks at
those preconditions without importing DGL, and puts an empty ``dgl.graphbolt`` in place only when one of them fails;
:data:`DGL_INFO` says what was supplied and why. DGL's third trap, ``setuptools.extern`` (gone from setuptools 71), is
reached only where ``packaging`` is missing, and this package depends on ``packaging``.

Other modules write ``from hakg_dgl.graph.dgl_gate import dgl``.

Raises
------
MissingDependencyError
    At import, when DGL is absent or one of its own needs is; the message says what to install.
ConfigError
    At import, when ``DGLBACKEND`` names another framework than PyTorch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import torch

from hakg_dgl.errors import ConfigError, MissingDependencyError

__all__ = ["DGL_INFO", "HIDE", "DGLInfo", "dgl", "dgl_has_cuda"]

HIDE = "HAKG_WITHOUT_DGL"
"""Environment variable that makes an installed DGL count as missing, unless it is empty."""
_GRAPHBOLT = "dgl.graphbolt"
_GRAPHBOLT_LIBRARY = {"linux": "libgraphbolt_pytorch_{}.so", "darwin": "libgraphbolt_pytorch_{}.dylib"}
_TORCHDATA_IMPORT = re.compile(r"^\s*(?:from|import)\s+torchdata\.(\w+)", re.MULTILINE)
_PIP_NAME = {"yaml": "PyYAML", "setuptools": "packaging"}  # DGL turns to setuptools.extern when packaging is missing
_NEWEST_PYTHON = (3, 12)  # of DGL's wheels and conda builds; pyproject.toml asks for DGL up to there
_ROUTES = (
    "Install the tested set, from the repository's folder, with either\n"
    "  pip:    python -m pip install -c constraints.txt -e .   (DGL 2.1.0, CPU; Python 3.10 to 3.12)\n"
    "  conda:  conda env create -f environment.yml             (DGL 2.4.0, CUDA 12.4)\n"
    "docs/install.md has the details."
)


@dataclass(frozen=True)
class DGLInfo:
    """What was imported as DGL.

    Attributes
    ----------
    version
        DGL's own version string, for example ``2.1.0`` or ``2.4.0.th24.cu124``.
    location
        Folder of the package.
    shims
        What this module supplied to make the import work, a sentence each with the reason; empty for an intact DGL.
    """

    version: str
    location: Path
    shims: tuple[str, ...]


def _absent(python: tuple[int, int]) -> str:
    """The problem if there is no DGL; pip leaves it out on a Python that is newer than DGL's wheels."""
    if python <= _NEWEST_PYTHON:
        return "DGL is not installed"
    here, newest = (".".join(map(str, version)) for version in (python, _NEWEST_PYTHON))
    return f"DGL is not installed, and it has no wheel for Python {here}: what needs DGL needs Python {newest} or older"


def _missing(problem: str) -> MissingDependencyError:
    return MissingDependencyError(f"{problem}\n{_ROUTES}")


def _package_folder(name: str) -> Path | None:
    """Folder of a top-level package that could be imported, without importing it."""
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


def _library_folder(package: Path) -> Path:
    """Folder that DGL loads its compiled libraries from, as found by DGL's own rules (which read the environment)."""
    spec = importlib.util.spec_from_file_location("_hakg_dgl_libinfo", package / "_ffi" / "libinfo.py")
    assert spec is not None
    assert spec.loader is not None
    libinfo = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(libinfo)
        return Path(libinfo.find_lib_path()[0]).parent
    except (OSError, RuntimeError) as error:
        raise _missing(f"DGL in {package} is incomplete: {error}") from error


def _graphbolt_faults(package: Path, torch_version: str) -> list[str]:
    """What keeps this DGL's ``dgl.graphbolt`` from being imported; empty when nothing does."""
    folder = package / "graphbolt"
    if not folder.is_dir():
        return []
    faults = []
    sources = (path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    wanted = sorted({name for source in sources for name in _TORCHDATA_IMPORT.findall(source)})
    torchdata = _package_folder("torchdata") if wanted else None
    for name in wanted:
        if torchdata is None or not any((torchdata / entry).exists() for entry in (name, f"{name}.py")):
            faults.append(f"torchdata.{name} is not installed")
    library = _GRAPHBOLT_LIBRARY.get(sys.platform, "graphbolt_pytorch_{}.dll").format(torch_version.split("+")[0])
    if not (_library_folder(package) / "graphbolt" / library).exists():
        faults.append(f"DGL has no {library}")
    return faults


def _stand_in_for_graphbolt(reason: str) -> str:
    """Put an empty ``dgl.graphbolt`` in place; using it fails with the reason."""

    def fail(name: str) -> object:
        raise AttributeError(f"{_GRAPHBOLT}.{name} is not available: {reason}")

    module = types.ModuleType(_GRAPHBOLT, f"Empty stand-in: {reason}.")
    module.__spec__ = importlib.machinery.ModuleSpec(_GRAPHBOLT, loader=None)
    module.__dict__["__getattr__"] = fail
    sys.modules[_GRAPHBOLT] = module
    return f"empty {_GRAPHBOLT}: {reason}"


def _forget_dgl() -> None:
    """Drop what a failed import has left behind, so that the next attempt starts afresh."""
    for name in [name for name in sys.modules if name == "dgl" or name.startswith("dgl.")]:
        del sys.modules[name]


def _import_dgl(shims: tuple[str, ...]) -> tuple[str, ...]:
    """Import DGL and return the shims it took: those given, and one more where a library exists but does not load."""
    try:
        importlib.import_module("dgl")
    except ModuleNotFoundError as error:
        _forget_dgl()
        name = (error.name or "").split(".")[0]
        raise _missing(f"DGL cannot be imported without {_PIP_NAME.get(name, name)}: {error}") from error
    except (ImportError, OSError) as error:
        _forget_dgl()
        if shims or "graphbolt" not in str(error).lower():
            raise _missing(f"DGL is installed but cannot be loaded: {error}") from error
        return _import_dgl((_stand_in_for_graphbolt(str(error)),))
    return shims


def _open() -> tuple[str, ...]:
    """Check the preconditions of ``import dgl``, supply what is missing, import it; return what was supplied."""
    if os.environ.get(HIDE):
        raise _missing(f"DGL is hidden by the environment variable {HIDE}: unset it")
    if "dgl" in sys.modules:
        return ()
    # Unset, DGL would print to stderr and write ~/.dgl/config.json, which fails where home is read-only.
    backend = os.environ.get("DGLBACKEND") or "pytorch"
    if backend != "pytorch":
        raise ConfigError(f"DGLBACKEND is {backend!r}, but hakg_dgl needs 'pytorch': unset it, or set it to pytorch")
    os.environ["DGLBACKEND"] = backend
    package = _package_folder("dgl")
    if package is None:
        raise _missing(_absent(sys.version_info[:2]))
    faults = _graphbolt_faults(package, torch.__version__)
    return _import_dgl((_stand_in_for_graphbolt(", ".join(faults)),) if faults else ())


_shims = _open()
import dgl  # noqa: E402  (the preconditions come first)

DGL_INFO = DGLInfo(version=str(dgl.__version__), location=Path(dgl.__path__[0]), shims=_shims)


@functools.cache
def dgl_has_cuda() -> bool:
    """Whether DGL's own kernels run on the GPU here: a GPU is there, and DGL was built with CUDA.

    The wheel of DGL 2.1.0 is CPU-only, so with it the answer is no even where PyTorch has CUDA. Asked by moving a
    graph of one edge to the GPU, once.
    """
    if not torch.cuda.is_available():
        return False
    try:
        dgl.graph(([0], [0])).to("cuda")
    except dgl.DGLError:
        return False
    return True
