"""Help texts: an example everywhere, what they list is what there is, and nothing heavy is loaded to print them."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import hakg_dgl
from hakg_dgl.checkout import commit
from hakg_dgl.data.cards import list_cards
from hakg_dgl.data.splits import STRATEGIES
from hakg_dgl.models.hakg import HAKG

cli = pytest.importorskip("hakg_dgl.cli", reason="python -m pip install -e .")
COMMANDS = sorted(cli.main.commands)


def help_of(*command: str) -> str:
    result = CliRunner().invoke(cli.main, [*command, "--help"], prog_name="hakg")
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_of_the_command(name: str) -> None:
    text = help_of(name)
    assert "Example" in text
    assert f"hakg {name} " in text.partition("Example")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_name_options_that_exist(name: str) -> None:
    command = cli.main.commands[name]
    options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    used = {word for word in str(command.epilog).split() if word.startswith("--")}
    assert used <= options


def test_the_first_help_lists_every_command_with_a_whole_sentence() -> None:
    lines = help_of().splitlines()
    for name in COMMANDS:
        (line,) = (line for line in lines if line.strip().startswith(f"{name} "))
        assert line.endswith(".")
        assert not line.endswith("...")


def test_help_lists_the_cards_splits_and_presets_there_are() -> None:
    text = "".join(help_of("preprocess").split())  # wrapped anywhere
    assert all(card in text for card in list_cards())
    assert all(strategy in text for strategy in STRATEGIES)
    assert "ofhakg:" + ",".join(HAKG.presets) in "".join(help_of("train").split())


def test_every_option_is_explained() -> None:
    options = [p for command in cli.main.commands.values() for p in command.params if isinstance(p, click.Option)]
    assert [option.opts for option in options if not option.help] == []


def test_arguments_go_by_the_names_of_the_documentation() -> None:
    arguments = [p for command in cli.main.commands.values() for p in command.params if isinstance(p, click.Argument)]
    assert {argument.name for argument in arguments} <= {"source", "data", "run"}


def test_version() -> None:
    result = CliRunner().invoke(cli.main, ["--version"])
    expected = f"hakg_dgl {hakg_dgl.__version__} (commit {commit() or 'unknown'})"
    assert (result.exit_code, result.output.strip()) == (0, expected)


def test_help_of_all_commands_loads_neither_torch_nor_dgl_nor_pandas() -> None:
    code = (
        "import sys\n"
        "from hakg_dgl.cli import main\n"
        f"for args in {[['--help'], *([name, '--help'] for name in COMMANDS)]!r}:\n"
        "    main(args, standalone_mode=False)\n"
        "print(*{'torch', 'dgl', 'pandas', 'numpy', 'triton'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("command", "given", "found"), [("train", None, "PASSIVE"), ("train", "ACTIVE", "ACTIVE"), ("serve", None, "None")]
)
def test_threads_sleep_while_they_wait_unless_told_otherwise(command: str, given: str | None, found: str) -> None:
    code = (
        "import os\n"
        "from hakg_dgl.cli import main\n"
        f"main([{command!r}, '--help'], standalone_mode=False)\n"
        "print(os.environ.get('OMP_WAIT_POLICY'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    program = [sys.executable, "-c", code]
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == found
