"""The gate to DGL, each case in an interpreter of its own: what an import finds cannot be undone in this one."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from with_dgl import dgl_or_skip

from hakg_dgl.errors import MissingDependencyError

dgl_or_skip()

from hakg_dgl.graph import dgl_gate  # noqa: E402
from hakg_dgl.graph.dgl_gate import DGL_INFO, dgl, dgl_has_cuda  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = "libgraphbolt_pytorch_2.99.0.so"


def run_python(code: str, *paths: Path, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a new interpreter, ``paths`` first on its path; a variable given as None is unset."""
    variables = {**os.environ, "DGLBACKEND": None, **environment}
    variables["PYTHONPATH"] = os.pathsep.join(map(str, (*paths, REPOSITORY, REPOSITORY / "hakg_dgl" / "graph")))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
    )


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    """Write files of the given texts below ``folder``."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


# A DGL and a PyTorch reduced to what the gate looks at; the gate is imported by its bare name, so that nothing else
# of the package meets them.
REPORT = "from dgl_gate import DGL_INFO; print(DGL_INFO.version, len(DGL_INFO.shims), *DGL_INFO.shims)"
FAKE_DGL = {
    "torch/__init__.py": "__version__ = '2.99.0+cu124'\n",
    "dgl/__init__.py": "from . import graphbolt\n__version__ = '2.4.0.th24.cu124'\n",
    "dgl/_ffi/libinfo.py": (
        "import os\ndef find_lib_path():\n    return [os.path.join(os.path.dirname(__file__), '..', 'libdgl.so')]\n"
    ),
    "dgl/graphbolt/__init__.py": "from torchdata.datapipes.iter import IterDataPipe\ninside = True\n",
    f"dgl/graphbolt/{LIBRARY}": "",
}
FAKE_TORCHDATA = {"torchdata/__init__.py": "", "torchdata/datapipes/iter.py": "class IterDataPipe: pass\n"}


linux = pytest.mark.skipif(sys.platform != "linux", reason="the name of the library is Linux's")


@pytest.mark.skipif(not DGL_INFO.shims, reason="this DGL imports without help")
def test_the_plain_import_fails_where_the_gate_gets_through() -> None:
    assert "dgl.graphbolt" in sys.modules
    plain = run_python("import dgl")
    assert plain.returncode != 0
    assert "graphbolt" in plain.stderr


@linux
def test_an_intact_dgl_is_left_alone(tmp_path: Path) -> None:
    fake = write_tree(tmp_path, FAKE_DGL | FAKE_TORCHDATA)
    result = run_python(f"{REPORT}; import dgl.graphbolt; print(dgl.graphbolt.inside)", fake)
    assert result.stdout.split() == ["2.4.0.th24.cu124", "0", "True"], result.stderr


@linux
@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (f"dgl/graphbolt/{LIBRARY}", f"DGL has no {LIBRARY}"),
        ("torchdata/datapipes/iter.py", "torchdata.datapipes is not installed"),
    ],
)
def test_each_missing_precondition_is_supplied_and_named(tmp_path: Path, missing: str, reason: str) -> None:
    fake = write_tree(tmp_path, {name: text for name, text in (FAKE_DGL | FAKE_TORCHDATA).items() if name != missing})
    result = run_python(REPORT, fake)
    assert result.stdout == f"2.4.0.th24.cu124 1 empty dgl.graphbolt: {reason}\n", result.stderr


@linux
def test_a_library_that_does_not_load_is_replaced_too(tmp_path: Path) -> None:
    broken = {"dgl/graphbolt/__init__.py": "raise ImportError('Cannot load Graphbolt C++ library')\n"}
    result = run_python(REPORT, write_tree(tmp_path, FAKE_DGL | broken))
    assert result.stdout == "2.4.0.th24.cu124 1 empty dgl.graphbolt: Cannot load Graphbolt C++ library\n", result.stderr


def test_the_stand_in_says_why_it_is_empty() -> None:
    if not DGL_INFO.shims:
        pytest.skip("this DGL imports without help")
    with pytest.raises(AttributeError, match=r"dgl\.graphbolt\.ItemSampler is not available: .*"):
        _ = sys.modules["dgl.graphbolt"].ItemSampler


CAUGHT = """
from hakg_dgl.errors import HakgError
try:
    import dgl_gate
except HakgError as error:
    print(type(error).__name__, error)
"""
HIDE = """
import sys
import torch
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


def test_without_dgl_the_message_names_both_routes(tmp_path: Path) -> None:
    hide = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
    torch_alone = write_tree(tmp_path, {"torch/__init__.py": FAKE_DGL["torch/__init__.py"]})
    result = run_python(hide + CAUGHT, torch_alone)
    assert result.stdout.startswith("MissingDependencyError DGL is not installed\n"), result.stderr
    assert "pip install -c constraints.txt" in result.stdout
    assert "conda env create -f environment.yml" in result.stdout


@pytest.mark.parametrize(("python", "named"), [((3, 12), None), ((3, 13), "3.13"), ((3, 14), "3.14")])
def test_a_python_without_a_wheel_is_named(python: tuple[int, int], named: str | None) -> None:
    message = dgl_gate._absent(python)
    assert message.startswith("DGL is not installed")
    assert ("wheel" in message) == (named is not None)
    if named is not None:
        assert f"no wheel for Python {named}: what needs DGL needs Python 3.12 or older" in message


@pytest.mark.parametrize("hidden", [["packaging", "setuptools"], ["networkx"]], ids=" ".join)
def test_a_missing_need_of_dgl_is_named(hidden: list[str]) -> None:
    result = run_python(HIDE.format(hidden=hidden) + CAUGHT)
    assert f"MissingDependencyError DGL cannot be imported without {hidden[0]}" in result.stdout, result.stderr


def test_an_incomplete_dgl_is_reported(tmp_path: Path) -> None:
    libinfo = {"dgl/_ffi/libinfo.py": "def find_lib_path():\n    raise RuntimeError('Cannot find the files.')\n"}
    result = run_python(CAUGHT, write_tree(tmp_path, FAKE_DGL | FAKE_TORCHDATA | libinfo))
    assert "is incomplete: Cannot find the files." in result.stdout, result.stderr


def test_another_backend_is_refused(tmp_path: Path) -> None:
    result = run_python(CAUGHT, write_tree(tmp_path, FAKE_DGL), DGLBACKEND="tensorflow")
    assert result.stdout.startswith("ConfigError DGLBACKEND is 'tensorflow'"), result.stderr


@pytest.mark.parametrize("backend", [None, ""])
def test_the_import_is_quiet_and_writes_nothing_at_home(tmp_path: Path, backend: str | None) -> None:
    home = tmp_path / "home"
    home.write_text("a file, so that nothing can be made below it")
    result = run_python("import hakg_dgl.graph.dgl_gate", HOME=str(home), DGLDEFAULTDIR=None, DGLBACKEND=backend)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_dgl_imported_before_is_kept(tmp_path: Path) -> None:
    bare = write_tree(tmp_path, FAKE_DGL | {"dgl/__init__.py": "__version__ = '9'\n"})
    assert run_python(f"import dgl; {REPORT}", bare).stdout == "9 0\n"


def test_info_describes_this_dgl() -> None:
    assert DGL_INFO.version == dgl.__version__
    assert (DGL_INFO.location / "__init__.py").is_file()
    assert all(shim.startswith("empty dgl.graphbolt: ") for shim in DGL_INFO.shims)


def test_cuda_needs_both_a_gpu_and_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    dgl_has_cuda.cache_clear()
    assert dgl_has_cuda() in ({True, False} if torch.cuda.is_available() else {False})
    if not torch.cuda.is_available():

        def graph_of_a_cpu_build(_: object) -> types.SimpleNamespace:
            def to(_: str) -> None:
                raise dgl.DGLError("Device API cuda is not enabled")

            return types.SimpleNamespace(to=to)

        dgl_has_cuda.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(dgl_gate.dgl, "graph", graph_of_a_cpu_build)
        assert dgl_has_cuda() is False
    dgl_has_cuda.cache_clear()


def test_the_error_is_an_import_error_too() -> None:
    assert issubclass(MissingDependencyError, ImportError)


# What the package uses of DGL, on the DGL at hand.


@pytest.fixture
def graph() -> dgl.DGLGraph:
    """Two users and three items; item 2 has no user."""
    edges = ([0, 0, 1], [0, 1, 1])
    return dgl.heterograph(
        {("user", "interacts", "item"): edges, ("item", "interacted_by", "user"): edges[::-1]},
        num_nodes_dict={"user": 2, "item": 3},
    )


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    dtype: torch.dtype = request.param
    return dtype


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=dtype, generator=generator).requires_grad_()


def assert_same_with_gradients(actual: torch.Tensor, expected: torch.Tensor, *inputs: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected)
    weight = torch.rand(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(9))
    gradients = [torch.autograd.grad((value * weight).sum(), inputs) for value in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_sddmm_and_spmm_agree_with_dense(graph: dgl.DGLGraph, dtype: torch.dtype) -> None:
    edges = graph["interacts"]
    users, items, weight = random(2, 4, dtype=dtype), random(3, 4, dtype=dtype, seed=1), random(3, 1, dtype=dtype)
    u, i = edges.edges()
    assert_same_with_gradients(
        dgl.ops.u_dot_v(edges, users, items), (users[u] * items[i]).sum(-1, keepdim=True), users, items
    )
    assert_same_with_gradients(dgl.ops.gsddmm(edges, "mul", users, items), users[u] * items[i], users, items)
    dense = torch.zeros(3, 2, dtype=dtype).index_put((i, u), weight[:, 0])
    assert_same_with_gradients(dgl.ops.gspmm(edges, "mul", "sum", users, weight), dense @ users, users, weight)


def test_update_functions_by_edge_type(graph: dgl.DGLGraph, dtype: torch.dtype) -> None:
    users, items = random(2, 4, dtype=dtype), random(3, 4, dtype=dtype, seed=1)

    def message(edges: dgl.udf.EdgeBatch) -> dict[str, torch.Tensor]:
        return {"m": edges.src["h"] * edges.dst["h"].tanh()}

    def largest(nodes: dgl.udf.NodeBatch) -> dict[str, torch.Tensor]:
        return {"out": nodes.mailbox["m"].amax(1)}

    with graph.local_scope():
        graph.ndata["h"] = {"user": users, "item": items}
        graph.multi_update_all(
            {"interacts": (message, dgl.function.mean("m", "out")), "interacted_by": (message, largest)}, "sum"
        )
        to_items, to_users = graph.nodes["item"].data["out"], graph.nodes["user"].data["out"]
    assert "h" not in graph.nodes["user"].data
    gate = items.tanh()
    expected = torch.stack([users[0] * gate[0], users.mean(0) * gate[1], torch.zeros(4, dtype=dtype)])
    assert_same_with_gradients(to_items, expected, users, items)
    gate = users.tanh()
    expected = torch.stack([torch.maximum(items[0] * gate[0], items[1] * gate[0]), items[1] * gate[1]])
    assert_same_with_gradients(to_users, expected, users, items)


def test_a_mapping_from_edge_type_to_layer(graph: dgl.DGLGraph) -> None:
    layer = dgl.nn.HeteroGraphConv(
        {name: dgl.nn.GraphConv(4, 2, allow_zero_in_degree=True) for name in ("interacts", "interacted_by")}
    )
    out = layer(graph, {"user": torch.ones(2, 4), "item": torch.ones(3, 4)})
    assert {name: tuple(value.shape) for name, value in out.items()} == {"user": (2, 2), "item": (3, 2)}
