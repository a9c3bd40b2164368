"""A page for each command of ``hakg``, made from what click knows of it."""

from __future__ import annotations

import inspect
import re
import textwrap

import click


def names() -> list[str]:
    """Names of the commands, in the order of the help."""
    from hakg_dgl.cli import main

    return main.list_commands(click.Context(main, info_name="hakg"))


def command_pages() -> dict[str, str]:
    """Markdown of every command's page and of the page that lists them, by path in the site."""
    from hakg_dgl.cli import main

    context = click.Context(main, info_name="hakg")
    pages = {f"commands/{name}.md": _page(name, main.commands[name], context) for name in names()}
    return {"commands/index.md": _overview(main.commands), **pages}


def _overview(commands: dict[str, click.Command]) -> str:
    rows = [f"| [`hakg {name}`]({name}.md) | {_first_sentence(commands[name])} |" for name in names()]
    head = "# All commands\n\n[What they share](../commands.md): files, folders, exit codes, shell completion.\n"
    return "\n".join([head, "| command | what it does |", "|---|---|", *rows]) + "\n"


def _first_sentence(command: click.Command) -> str:
    return _cell(command.get_short_help_str(limit=1000))


def _page(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(["hakg", name, *command.collect_usage_pieces(context)])
    parts = [f"# hakg {name}", _prose(command.help or ""), f"```\n{usage}\n```", _examples(command), "## Options"]
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    rows = [_row(option, context) for option in options if not option.hidden]
    parts.append("\n".join(["| option | value | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _prose(text: str) -> str:
    """Paragraphs of a help text; one that click is told not to wrap becomes a block."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_block(p[1:]) if p.startswith("\b") else _escaped(p) for p in paragraphs)


def _block(text: str) -> str:
    return "```\n" + textwrap.dedent(text.strip("\n")) + "\n```"


def _examples(command: click.Command) -> str:
    lines = inspect.cleandoc((command.epilog or "").replace("\b\n", "")).splitlines()
    if not lines:
        return ""
    return f"## {lines[0].rstrip(':')}\n\n" + _block("\n".join(lines[1:]))


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return f"| {names} | {_value(option, context)} | {_meaning(option, context)} |"


def _value(option: click.Option, context: click.Context) -> str:
    if option.is_flag or option.count:
        return ""
    if isinstance(option.type, click.Choice) and option.metavar is None:
        return " ".join(f"`{choice}`" for choice in option.type.choices)
    return f"`{option.make_metavar(context).strip('[]') if option.metavar is None else option.metavar}`"


def _meaning(option: click.Option, context: click.Context) -> str:
    record = option.get_help_extra(context)
    notes = []
    if "default" in record:
        notes.append(f"Default: `{record['default']}`.")
    if "range" in record:
        notes.append(f"Range: `{record['range']}`.")
    if "required" in record:
        notes.append("**Required.**")
    return " ".join([_cell(option.help or ""), *notes])


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", r"\|")


def _escaped(text: str) -> str:
    """No Markdown in it; options are code."""
    text = re.sub(r"([\\`*_<>\[\]#])", r"\\\1", text)
    return re.sub(r"(?<![\w-])(--[a-z][\w-]*)", lambda m: f"`{m[1]}`".replace("\\", ""), text)
