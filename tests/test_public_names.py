"""The public names: one table, loaded on first use; and the README's program."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hakg_dgl

REPOSITORY = Path(__file__).resolve().parents[1]


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module of the imports under ``if TYPE_CHECKING``."""
    tree = ast.parse((REPOSITORY / "hakg_dgl" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_and_users_see_the_same_names_from_the_same_modules() -> None:
    homes = {name: f"hakg_dgl.{module}" for name, module in hakg_dgl._HOME_OF.items()}
    assert names_for_type_checkers() == homes
    assert sorted(hakg_dgl.__all__) == sorted(homes)


@pytest.mark.parametrize("name", hakg_dgl.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(hakg_dgl, name)
    assert value is getattr(sys.modules[f"hakg_dgl.{hakg_dgl._HOME_OF[name]}"], name)
    assert value.__doc__
    assert name in dir(hakg_dgl)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hakg_dgl' has no attribute 'nonsense'"):
        hakg_dgl.nonsense  # noqa: B018


def test_importing_the_package_is_light() -> None:
    code = "import hakg_dgl, sys; hakg_dgl.__version__; print(*{'torch', 'dgl', 'pandas', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_the_program_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    quick = program.replace('"epochs": 30', '"epochs": 1, "dim": 8, "negatives": 8')
    assert quick != program
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'ndcg@10'" in printed
    assert printed.count("\n") >= 12  # two lines of metrics, and a table of ten recommendations
