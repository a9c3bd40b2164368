"""Runs the notebooks of docs/notebooks/ from top to bottom and saves them with their outputs.

    python benchmarks/notebooks.py              all of them
    python benchmarks/notebooks.py --check      run nothing, and say what is wrong with the saved ones
    python benchmarks/notebooks.py FILE ...     some of them

Each runs in a kernel of this interpreter, on one thread, in an empty folder. What changes from run to run or from
machine to machine without a reason is not saved: times, names of kernels, colours that nobody can tell apart.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
SECONDS = 600
"""Most seconds that a cell may take, on a machine that is busy with other things too."""
COLOURS = 256
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|opt|var|work|mnt|srv|private|Users)/|\b[A-Z]:\\\\?\w")
_LARGEST_OUTPUT = 400_000


def executed(notebook: Any, *, seconds: int = SECONDS) -> Any:
    """A copy of a notebook that was run in a kernel of this interpreter; CellExecutionError if a cell raises.

    Parameters
    ----------
    notebook
        As ``nbformat.read`` gives it; it stays as it is.
    seconds
        The most that one cell may take.
    """
    import nbformat
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisInterpreter(KernelSpecManager):  # whatever kernels are installed for the user
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir="", **get_kernel_dict())

    copy = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as place:
        file = str(Path(place) / "kernel.json")
        kernels = ThisInterpreter()
        manager = AsyncKernelManager(
            kernel_name="python3", kernel_spec_manager=kernels, connection_file=file, transport="ipc"
        )
        (work := Path(place) / "work").mkdir()
        client = NotebookClient(
            copy, km=manager, timeout=seconds, startup_timeout=seconds, resources={"metadata": {"path": str(work)}}
        )
        client.owns_km = True  # so that it ends the kernel
        own = {"IPYTHONDIR": place, "JUPYTER_RUNTIME_DIR": place, "OMP_NUM_THREADS": "1"}
        client.execute(env={**os.environ, **own})
    return copy


def tidied(notebook: Any) -> Any:
    """The same notebook with what is worth saving: sources, outputs, and the digest of the code that gave them."""
    notebook["metadata"] = {**METADATA, "hakg_dgl": {"code": digest(notebook)}}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                sizes = {kind: about for kind, about in output["metadata"].items() if kind.startswith("image/")}
                output["metadata"] = sizes
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = _fewer_colours(output["data"]["image/png"])
    return notebook


def _fewer_colours(png: str) -> str:
    """A PNG in base64 with a palette, which is much smaller."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    few = image.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)  # without k-means rare colours fall together
    few.save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def digest(notebook: Any) -> str:
    """A digest of a notebook's code, without what a formatter changes."""
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    joined = "\0".join(source if isinstance(source, str) else "".join(source) for source in code)
    return hashlib.sha256(re.sub(r"[\s,()'\"]+", "", joined).encode()).hexdigest()[:16]


def problems(notebook: Any) -> list[str]:
    """What is wrong with a saved notebook; empty if it can be published as it is."""
    found = []
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells were not run once each, from top to bottom")
    if notebook["metadata"].get("hakg_dgl", {}).get("code") != digest(notebook):
        found.append("its code was changed after its outputs were made")
    outputs = [output for cell in cells for output in cell["outputs"]]
    if not outputs:
        found.append("it has no outputs")
    for output in outputs:
        if output["output_type"] == "error":
            found.append(f"a cell ended with {output['ename']}")
        if output.get("name") == "stderr":
            found.append(f"a cell wrote to stderr: {_text(output)[:80]!r}")
        if match := _MACHINE.search(_text(output)):
            found.append(
                f"an output holds a path of the machine: {_text(output)[match.start() : match.start() + 60]!r}"
            )
        if len(str(output)) > _LARGEST_OUTPUT:
            found.append(f"an output has {len(str(output)):,} characters")
    return found


def _text(output: Any) -> str:
    """The text of an output, in all its forms but pictures."""
    parts = [output.get("text", ""), *(text for kind, text in output.get("data", {}).items() if "image" not in kind)]
    return "\n".join(part if isinstance(part, str) else "".join(part) for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all of docs/notebooks/")
    parser.add_argument("--check", action="store_true", help="run nothing; say what is wrong with the saved notebooks")
    args = parser.parse_args()
    import nbformat

    wrong = 0
    for file in args.files or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        if not args.check:
            begun = time.perf_counter()
            notebook = tidied(executed(notebook))
            nbformat.validate(notebook)
            with file.open("w", encoding="utf-8") as handle:
                nbformat.write(notebook, handle)
            print(f"{file.name}: {time.perf_counter() - begun:.0f} s, {file.stat().st_size / 1e3:,.0f} kB", flush=True)
        for problem in (found := problems(notebook)):
            print(f"{file.name}: {problem}", file=sys.stderr)
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
