"""What is the same where DGL is not installed: everything but what asks for DGL, which is listed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_import_direction import REPOSITORY, imports_in, module_of, name_of, python_files

REPEATED = [
    line for line in (REPOSITORY / ".ci/repeated_without_dgl").read_text().splitlines() if not line.startswith("#")
]
GATE = "hakg_dgl.graph.dgl_gate"
ASK_INSIDE_FUNCTIONS = {
    "hakg_dgl/doctor.py", "hakg_dgl/graph/dgl_graph.py", "hakg_dgl/graph/metis.py", "hakg_dgl/kernels/choice.py",
    "hakg_dgl/layers/executors.py",
}  # fmt: skip
MADE_OF_DGL = {"hakg_dgl/kernels/dgl_backend.py", "hakg_dgl/layers/dgl_executor.py"}
REACHES_DGL = re.compile(
    r"with_dgl|dgl_gate|dgl_backend|dgl_executor|import dgl\b|--without-dgl|\b(?:to|from)_dgl\b|build_heterograph"
    r"|make_executor|metis|[\"'=](?:readable|dgl)\b"
)
THE_SAME = {
    "captured": "settings that are refused",
    "cli_help": "modules that are not imported",
    "compare": "a label of a run",
    "distributions": "what a distribution needs",
    "docs": "examples that need DGL are skipped",
    "import_direction": "the text of sources",
    "nothing_runs_code": "calls that no source may have",
    "packaging": "requirements",
    "public_names": "names, and modules that are not imported",
    "settings": "settings that are read and written",
    "triton_backend": "what is chosen for a GPU, with DGL's answer given by the test",
    "without_dgl": "the text of sources",
} | dict.fromkeys(
    ["aggregation", "benchmarks", "determinism", "edge_softmax", "losses", "pairwise_models", "parts", "products"],
    "what needs DGL is skipped, and the rest does not look for it",
)
"""Test files that name DGL but run the same lines of code without it, or none; why."""


def modules_that_import(name: str) -> dict[str, bool]:
    """File -> whether all its imports of a module stand inside functions."""
    found: dict[str, bool] = {}
    for path in python_files("hakg_dgl", "cli"):
        source = path.read_text(encoding="utf-8")
        if name.rpartition(".")[2] in source:  # most files need not be parsed
            at = [n for n, parts in imports_in(source, module_of(path)) if ".".join(parts).startswith(name)]
            if at:
                lines = source.splitlines()
                found[name_of(path)] = all(lines[n - 1].startswith(" ") for n in at)
    return found


def test_who_asks_for_dgl_is_known_and_their_tests_are_repeated_without_it() -> None:
    """A new module here needs its tests in .ci/repeated_without_dgl: without DGL it takes another way."""
    asking = modules_that_import(GATE)
    assert asking.keys() == ASK_INSIDE_FUNCTIONS | MADE_OF_DGL
    assert {file for file, inside in asking.items() if inside} == ASK_INSIDE_FUNCTIONS
    for name in ("hakg_dgl.kernels.dgl_backend", "hakg_dgl.layers.dgl_executor"):
        using = modules_that_import(name)
        assert using.keys() <= ASK_INSIDE_FUNCTIONS, name
        assert all(using.values()), name


def test_files_that_reach_dgl_are_repeated() -> None:
    assert sorted(set(REPEATED)) == REPEATED
    repeated = {line.partition("::")[0] for line in REPEATED}
    naming = {
        path.stem.removeprefix("test_")
        for path in (REPOSITORY / "tests").glob("test_*.py")
        if REACHES_DGL.search(path.read_text(encoding="utf-8"))
    }
    assert naming == repeated | THE_SAME.keys()
    assert not repeated & THE_SAME.keys()
    for line in REPEATED:
        name, _, test = line.partition("::")
        assert f"def {test}" in (REPOSITORY / f"tests/test_{name}.py").read_text(encoding="utf-8"), line


EVERY_MODEL = """
import sys
from pathlib import Path
from small_demo import small_demo
from test_model_contract import settings_of
from hakg_dgl.models.registry import BUILT_IN
from hakg_dgl.ranking.evaluation import evaluate
from hakg_dgl.training.loading import load_scorer
from hakg_dgl.training.trainer import make_trainer

dataset, folder = small_demo(), Path(sys.argv[1])
for name in BUILT_IN:
    settings = settings_of(name)
    if "epochs" in settings.by_section():
        settings = settings.replace({"epochs": 1})
    make_trainer(dataset, settings, run=folder / name).fit()
    evaluate(load_scorer(folder / name, dataset), dataset, ks=(20,))
    assert "dgl" not in sys.modules, name
print(len(BUILT_IN))
"""


@pytest.mark.slow
def test_no_model_imports_dgl_by_default(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_MODEL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
