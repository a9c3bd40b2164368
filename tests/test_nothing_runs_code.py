"""Nothing that is loaded can run code: no such loader in the package, and pickles under every name do nothing."""

from __future__ import annotations

import ast
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_input import SMALL, hakg, write

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "hakg_dgl").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])

MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "runpy",
    "code",
}
"""Their loaders run, or can run, what a file says."""

CALLS = {
    "eval", "exec", "compile", "__import__", "execfile",
    "load", "loads", "load_graphs", "load_info", "load_tensors", "read_pickle", "to_pickle", "fromfile", "memmap",
    "system", "popen", "literal_eval", "unpack_archive", "extractall", "load_library", "hub",
}  # fmt: skip
"""Names of functions that such code would call; those that stand there on purpose are in ``ALLOWED``."""

ALLOWED = {
    ("json", "loads"), ("json", "load"), ("tomllib", "loads"), ("re", "compile"), ("torch", "compile"),
    ("DemoSettings", "load"), ("SearchSpace", "load"), ("cls", "load"), ("tl", "load"), ("model", "eval"),
    ("platform", "system"), ("opened", "load"), ("run", "load"),
    ("safetensors_of_torch", "load"),
    ("point", "load"),  # a model of an installed package, found by its entry point
}  # fmt: skip
"""Owner and name of calls that read text only, are loaders of ours built on such, or are of another meaning."""

OWN = {"load_tensors"}
"""Methods of ours that are called by such a name: they read safetensors."""


def _calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield "", node.func.id, node
            elif isinstance(node.func, ast.Attribute):
                owner = node.func.value
                yield getattr(owner, "id", getattr(owner, "attr", "")), node.func.attr, node


def _problems(text: str) -> list[str]:
    """What in this source could load code from data."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in [*names, *module] if name.partition(".")[0] in MODULES]
    for owner, name, node in _calls(tree):
        if name in CALLS and (owner, name) not in ALLOWED and not (name in OWN and owner):
            found.append(f"line {node.lineno} calls {owner}.{name}")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if (keyword.arg, value) in {("allow_pickle", True), ("shell", True), ("weights_only", False)}:
                found.append(f"line {node.lineno} passes {keyword.arg}={value!r}")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_loads_code(source: Path) -> None:
    assert _problems(source.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import load",
        "import yaml\nyaml.load(f)",
        "torch.load('x')",
        "numpy.load('x', allow_pickle=True)",
        "np.save('x', v, allow_pickle=True)",
        "pd.read_pickle('x')",
        "dgl.load_graphs('x')",
        "dgl.data.utils.load_graphs('x')",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "tarfile.open('x').extractall()",
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert _problems(text)


# --- pickles under every name that commands read ----------------------------------------------------------------------


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def _torch_file(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"user": Malicious(mark)}, buffer)
    return buffer.getvalue()


def _numpy_file(mark: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Malicious(mark)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _zipped(mark: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Malicious(mark)))
    return buffer.getvalue()


def _yaml(mark: Path) -> bytes:
    return f"!!python/object/apply:os.mkdir ['{mark}']\n".encode()


MAKERS: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda mark: pickle.dumps(Malicious(mark)),
    "text pickle": lambda mark: pickle.dumps(Malicious(mark), protocol=0),
    "torch": _torch_file,
    "numpy": _numpy_file,
    "zip": _zipped,
    "yaml": _yaml,
}

DATA = [f"D/{table}.parquet" for table in ("interactions", "triples", "users", "items", "entities", "relations")]
TABLE_ARGS = ("preprocess", "tables", "--out", "out", "--interactions", "i.csv", "--triples", "t.parquet")
COMMANDS: list[tuple[str, tuple[str, ...]]] = [
    *((file, ("info", "D")) for file in [*DATA, "D/dataset.json"]),
    *((f"R/{file}", ("evaluate", "R", "--no-groups")) for file in ("run.json", "config.toml", "model.safetensors")),
    *(
        (f"R/{file}", ("train", "D", "--out", "R", "--resume"))
        for file in ("state.safetensors", "metrics.jsonl", "config.toml", "run.json")
    ),
    *(
        (f"src/{file}", ("preprocess", "src", "--out", "out"))
        for file in ("train.txt", "test.txt", "kg_final.txt", "item_list.txt", "train.txt.gz", "train.txt.zip")
    ),
    *((f"rec/x.{end}", ("preprocess", "rec", "--out", "out")) for end in ("inter", "kg", "link", "item")),
    *((file, TABLE_ARGS) for file in ("i.csv", "t.parquet")),
    ("c.toml", ("train", "D", "--out", "out", "--config", "c.toml", *SMALL)),
    ("s.toml", ("tune", "D", "--out", "out", "--search", "s.toml", "--trials", "1")),
]


@pytest.mark.parametrize(("file", "args"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_pickles_do_nothing(work: Path, file: str, args: tuple[str, ...]) -> None:
    write(work, {"i.csv": "user,item\na,b\n"})
    pq.write_table(pa.table({"head": ["b"], "relation": ["r"], "tail": ["c"]}), work / "t.parquet")
    atomic = {
        "x.inter": "user_id:token\titem_id:token\na\tb\n",
        "x.kg": "head_id:token\trelation_id:token\ttail_id:token\nx\ty\tz\n",
        "x.link": "item_id:token\tentity_id:token\nb\tx\n",
    }
    write(work / "rec", atomic)
    if file.endswith((".gz", ".zip")):
        (work / "src/train.txt").unlink()
    for kind, make in MAKERS.items():
        mark = work / f"mark of {kind}"
        (work / file).write_bytes(make(mark))
        result = hakg(*args)
        assert not mark.exists(), kind
        # of metrics, a last line without an end is one that a kill cut off: it is left out
        assert result.exit_code == 2 or file == "R/metrics.jsonl", f"{kind}: {result.output}"
        shutil.rmtree(work / "out", ignore_errors=True)
    assert pickle.loads(MAKERS["pickle"](work / "loaded")) is None  # that it would have
    assert (work / "loaded").exists()


def test_a_pickled_type_in_a_parquet_schema_does_nothing(work: Path) -> None:
    mark = work / "mark"
    extension = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Malicious(mark)),
    }
    field = pa.field("head", pa.string(), metadata=extension)
    schema = pa.schema([field, pa.field("relation", pa.string()), pa.field("tail", pa.string())])
    pq.write_table(pa.table({"head": ["b"], "relation": ["r"], "tail": ["c"]}, schema=schema), work / "t.parquet")
    write(work, {"i.csv": "user,item\na,b\n"})
    result = hakg(*TABLE_ARGS)
    assert result.exit_code in (0, 2), result.output
    assert not mark.exists()
