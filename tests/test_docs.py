"""The documentation against the code: links, names, settings, commands and examples."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import math
import re
import shlex
import sys
import types
import typing
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import click
import pytest
import torch
from hakg_dgl.cli import main
from with_dgl import dgl_or_skip

import hakg_dgl
from hakg_dgl.data.synthetic import DemoSettings
from hakg_dgl.errors import ConfigError
from hakg_dgl.geometry import guards
from hakg_dgl.kernels.aggregation import VECTORS_BEYOND
from hakg_dgl.models.hakg.settings import PRESETS
from hakg_dgl.models.registry import BUILT_IN
from hakg_dgl.models.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", ROOT / "datasets" / "README.md"]
FENCE = re.compile(r"^```(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TYPES = {int: "integer", float: "number", bool: "boolean", str: "text", tuple[str, ...]: "list of texts",
         tuple[int, ...]: "list of integers", tuple[float, ...]: "list of numbers"}  # fmt: skip

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block: what stands after the fence, its text, and the line of its first line."""

    info: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    return [Block(m[1].strip(), m[2], content.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(content)]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


# --- links and names ----------------------------------------------------------------------------------------------


def links(page: Path) -> list[tuple[str, str]]:
    """Texts and targets of the page's relative links."""
    found = re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(page))
    return [(text, target) for text, target in found if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them: lower case, punctuation dropped, blanks to hyphens."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for _, target in links(page):
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f"{page.name} links to what is not there"


def test_every_page_is_in_the_index() -> None:
    listed = {(ROOT / "docs" / target.partition("#")[0]).resolve() for _, target in links(ROOT / "docs" / "README.md")}
    missing = [page.name for page in DOCS if page.name != "README.md" and page not in listed]
    assert not missing, "add these to docs/README.md"


@pages
def test_code_that_is_linked_by_name_is_defined_there(page: Path) -> None:
    """A link such as [`HAKG.propagate`](../hakg_dgl/models/hakg.py): the file defines the last part of the name."""
    missing = []
    for text, target in links(page):
        name = re.fullmatch(r"`(?:\w+\.)*(\w+)`", text)
        if name is None or not target.endswith(".py"):
            continue
        source = (page.parent / target).read_text(encoding="utf-8")
        if not re.search(rf"^\s*(?:def|class) {name[1]}\b|^{name[1]}\b.*=", source, re.MULTILINE):
            missing.append(f"{text} in {target}")
    assert not missing


@pages
def test_modules_and_files_that_are_named_exist(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    for path in set(re.findall(r"`((?:hakg_dgl|cli|tests|benchmarks|datasets|docs)/[\w/.-]+\.\w+)`", content)):
        assert (ROOT / path).exists() or "NAME" in path, path
    for name in set(re.findall(r"`(hakg_dgl(?:\.\w+)+)", content)):
        module, _, attribute = name.rpartition(".")
        try:
            import_module(name)
        except ModuleNotFoundError:
            assert hasattr(import_module(module), attribute), name


def test_every_public_name_is_in_the_python_page() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")))
    missing = sorted(set(hakg_dgl.__all__) - named)
    assert not missing, "add these to the tables of docs/python-api.md"


def test_the_model_page_states_the_constants_as_they_are() -> None:
    content = " ".join(prose(ROOT / "docs" / "model.md").split())
    margins = [guards.ball_margin(dtype) for dtype in (torch.float32, torch.float64)]
    assert margins == [4e-3, 1e-5]
    assert "1 - 4e-3 in float32, 1 - 1e-5 in float64" in content
    assert (
        "above {:g} (float32) or {:g} (float64)".format(*(VECTORS_BEYOND[t] for t in (torch.float32, torch.float64)))
        in content
    )
    stated = (guards.NORM_FLOOR, guards.ROW_NORM_FLOOR, guards.ARTANH_MARGIN, guards.TANH_LIMIT, guards.ANGLE_MARGIN)
    assert stated == (1e-15, 1e-12, 1e-5, 15.0, 1e-6), "fix the table of guards in docs/model.md"


# --- settings -----------------------------------------------------------------------------------------------------

SETTINGS_PAGE = ROOT / "docs" / "settings.md"


def table(heading: str) -> list[dict[str, str]]:
    """Rows of the first table below a heading of docs/settings.md, by column."""
    _, *sections = re.split(rf"\n##+ {re.escape(heading)}\n", prose(SETTINGS_PAGE))
    assert sections, f"docs/settings.md needs a section '### {heading}' with the table of its settings"
    section = re.split(r"\n##", sections[0])[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def documented(kind: str = "hakg") -> dict[str, dict[str, str]]:
    """Every key of the tables of a model, with its row."""
    headings = SECTIONS if kind == "hakg" else (kind,)
    return {row["key"].strip("`"): row for heading in headings for row in table(heading)}


SECTIONS = ("model", "loss", "training", "run")
OTHERS = [kind for kind in BUILT_IN if kind not in ("hakg", "popularity", "facts-profile")]
KEYS = [(kind, key) for kind in ("hakg", *OTHERS) for key in documented(kind)]


def test_every_setting_is_documented_in_its_section() -> None:
    default = Settings()
    for section in SECTIONS:
        of_section = [key for key, name in default.by_section().items() if name == section]
        assert [row["key"].strip("`") for row in table(section)] == of_section, "in the order of the code"


@pytest.mark.parametrize("kind", OTHERS)
def test_what_another_model_reads_is_documented(kind: str) -> None:
    settings, general = Settings(kind), Settings().values()
    own = [
        key
        for key, section in settings.by_section().items()
        if section in ("model", "loss") or settings.values()[key] != general[key]
    ]
    assert list(documented(kind)) == own
    assert set(settings.by_section()) - set(own) <= set(general)


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_setting_is_documented_as_it_is(kind: str, key: str) -> None:
    settings, row = Settings(kind), documented(kind)[key]
    section = settings.by_section()[key]
    annotation = typing.get_type_hints(type(getattr(settings, section)))[key]
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    assert row["type"] == ("text" if choices else TYPES[annotation])
    written = re.sub(rf".*^{key} = (.*?)$.*", r"\1", one_line_lists(settings.to_toml()), flags=re.DOTALL | re.MULTILINE)
    assert row["default"] == f"`{written}`"
    assert row["meaning"]
    if choices:
        written_choices = (f"`{str(x).lower()}`" if isinstance(x, bool) else f'`"{x}"`' for x in choices)
        assert row["allowed"] == " ".join(written_choices)
    elif annotation in (int, float):
        check_range(kind, key, annotation, row["allowed"])


def one_line_lists(toml: str) -> str:
    return re.sub(r"\[\n\s*(.*?),?\n\]", lambda m: "[" + re.sub(r",\s+", ", ", m[1]) + "]", toml, flags=re.DOTALL)


def check_range(kind: str, key: str, number: type, allowed: str) -> None:
    """Both ends of a documented range are allowed (but for one that is only approached), and nothing beyond."""
    match = re.fullmatch(r"(\S+) to (below )?(\S+)", allowed)
    assert match is not None, f"write the range of {key} as '1 to 10' or '0 to below 1'"
    low, high = number(match[1]), number(match[3])
    below, above = (
        (low - 1, high + 1) if number is int else (math.nextafter(low, -math.inf), math.nextafter(high, math.inf))
    )
    good, bad = [low, high], [below, above]
    if match[2]:
        good, bad = [low, math.nextafter(high, low)], [below, high]
    for value in good:
        Settings(kind).replace({key: value})
    for value in bad:
        with pytest.raises(ConfigError):
            Settings(kind).replace({key: value})


def test_the_documented_metrics_are_those_that_can_select() -> None:
    forms = re.findall(r"`(\w+)@K`", documented()["select_by"]["allowed"])
    assert len(forms) == 6
    for name in forms:
        Settings().replace({"select_by": f"{name}@7"})


def test_presets_are_documented_as_they_are() -> None:
    rows = {row["preset"].strip("`"): re.findall(r"`([^`]+)`", row["changes"]) for row in table("Presets")}
    assert list(rows) == list(PRESETS)
    for name, changes in rows.items():
        assert {change.partition("=")[0] for change in changes} == set(PRESETS[name]), name
        assert Settings.resolve(overrides=changes) == Settings.resolve(preset=name), name


@pages
def test_settings_given_as_examples_are_valid(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    examples = [value for block in blocks(page) for value in re.findall(r"--set (\S+)", block.text)]
    examples += [
        code for code in re.findall(r"`([a-z_.]+=\S+?)`", content) if code.partition("=")[0] in Settings().by_section()
    ]
    for example in examples:
        (assignment,) = shlex.split(example)[:1]
        owners = [name for name in BUILT_IN if assignment.partition("=")[0] in Settings(name).by_section()]
        assert owners, assignment
        Settings.resolve(overrides=[f"kind={owners[0]}", assignment])


# --- commands -----------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[str]:
    """Command lines ``hakg ...`` of the blocks that are no program, continued lines joined, comments cut."""
    text = "".join(block.text for block in blocks(page) if not block.info.startswith(("python", "toml", "math")))
    lines = text.replace("\\\n", " ").splitlines()
    return [
        line.split("  #")[0].strip().removeprefix("$ ") for line in lines if re.match(r"(\$ )?hakg [a-z]", line.strip())
    ]


@pages
def test_commands_exist_and_have_the_options(page: Path) -> None:
    context = click.Context(main)
    for line in commands(page):
        _, name, *words = shlex.split(line)
        command = main.get_command(context, name)
        assert command is not None, line
        known = {"--help"} | {option for parameter in command.params for option in parameter.opts}
        unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
        assert not unknown, line


# --- examples -----------------------------------------------------------------------------------------------------

TINY = {"users": 40, "items": 60, "branching": (3, 2), "makers": 10, "years": 5, "mean_interactions": 12.0,
        "min_interactions": 8, "preferred_depths": (0.5, 0.5)}  # fmt: skip


OPTIONAL = ("faiss", "onnxruntime", "polars")  # packages that blocks may import, which the extra test has


def needs_network(block: Block) -> bool:
    return "fetch(" in block.text


def examples(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.info == "python"]


def shown_files(page: Path) -> dict[str, str]:
    """Files whose content the page shows: a block after a line that begins with the file's name."""
    content = page.read_text(encoding="utf-8")
    return dict(re.findall(r"^`(\w+\.csv)`[^\n]*\n\n```\n(.*?)^```", content, re.MULTILINE | re.DOTALL))


WITH_EXAMPLES = [page for page in DOCS if examples(page)]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=[page.name for page in WITH_EXAMPLES])
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, names shared, in a folder with the files that the page shows; the demo is a tiny one.

    No name is given, as a reader has none. Of a block that downloads only the imports are made; one marked
    ``python no-run`` is only compiled, below.
    """
    monkeypatch.chdir(tmp_path)
    for name, content in shown_files(page).items():
        Path(name).write_text(content, encoding="utf-8")
    tiny = dataclasses.replace(DemoSettings.load(), **TINY)  # type: ignore[arg-type]
    generate = hakg_dgl.generate_demo
    monkeypatch.setattr(hakg_dgl, "generate_demo", lambda: generate(tiny))
    torch.manual_seed(0)
    module = types.ModuleType("example")  # dataclasses look up the module that they are in
    monkeypatch.setitem(sys.modules, "example", module)
    names = module.__dict__
    names |= {"__builtins__": builtins}
    for block in examples(page):
        if "dgl_gate" in block.text:
            dgl_or_skip()
        for name in re.findall(rf"^import ({'|'.join(OPTIONAL)})$", block.text, re.MULTILINE):
            pytest.importorskip(name, reason=f"{name} is in the extra test: python -m pip install -e .[test]")
        # Empty lines in front, so that a traceback names the page and its line.
        tree = ast.parse("\n" * (block.line - 1) + block.text, filename=str(page))
        if needs_network(block):
            tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(tree, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_program_compiles_and_uses_public_names(page: Path) -> None:
    for block in blocks(page):
        if block.info.split(" ")[0] != "python":
            continue
        tree = ast.parse(block.text, filename=f"{page}, line {block.line}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hakg_dgl":
                assert node.attr in hakg_dgl.__all__, f"{page.name}: hakg_dgl.{node.attr}"
