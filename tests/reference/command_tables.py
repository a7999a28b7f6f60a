"""Every command with what it takes, as its parser has it."""

import argparse
import re
import textwrap
from collections.abc import Iterator

from media_callbacks.__main__ import COMMANDS, build_parser
from media_callbacks.commands.console.parser import CommandParser

Subcommands = argparse._SubParsersAction
Lines = Iterator[str]


def render() -> str:
    lines: list[str] = []
    for name, text in COMMANDS.items():
        lines += _command(_load(_subcommands(build_parser()).choices[name]), text)
    return "\n".join(lines).strip("\n")


def _load(parser: CommandParser) -> CommandParser:
    """With its options, which are there else when it parses."""
    parser.load()
    return parser


def _subcommands(parser: argparse.ArgumentParser) -> Subcommands:  # type: ignore[type-arg]
    (found,) = [action for action in parser._actions if isinstance(action, Subcommands)]
    return found


def _command(parser: CommandParser, text: str) -> Lines:
    inner = [action for action in parser._actions if isinstance(action, Subcommands)]
    if inner:
        helps = {action.dest: action.help for action in inner[0]._choices_actions}
        for name, command in inner[0].choices.items():
            yield from _command(_load(command), helps[name] or "")
        return
    yield f"## {parser.prog.removeprefix('media-callbacks ')}"
    yield f"\n{_sentence(text)}"
    yield f"\n```text\n{_usage(parser)}\n```"
    if parser.description:
        yield "\n" + textwrap.fill(_shown(parser.description), 120, break_on_hyphens=False)
    for group in parser._action_groups:
        rows = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if rows:
            yield f"\n| {_title(group.title)} | |"
            yield "|---|---|"
            yield from (f"| {_names(action)} | {_shown(action.help or '')}{_choices(action)} |" for action in rows)
    yield "\nFor example:\n\n```text"
    yield from parser.examples
    yield "```\n"


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            word = _value(action)
            words.append({"?": f"[{word}]", "*": f"[{word} ...]"}.get(str(action.nargs), word))
        elif action.required:
            words.append(f"{action.option_strings[-1]} {_value(action)}")
    return " ".join([*words, "[OPTION ...]"])


def _value(action: argparse.Action) -> str:
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))


def _names(action: argparse.Action) -> str:
    takes = "" if action.nargs == 0 else f" [{_value(action)}]" if action.nargs == "?" else f" {_value(action)}"
    if not action.option_strings:
        return f"`{_value(action)}`"
    return ", ".join(f"`{name}{takes}`" for name in action.option_strings)


def _choices(action: argparse.Action) -> str:
    if action.choices is None:
        return ""
    words = ", ".join(f"`{choice}`" for choice in action.choices)
    # Where they are many, the help names them.
    if action.metavar is not None and action.help:
        return ""
    return f": {words}" if action.help else words


def _title(title: str | None) -> str:
    return {"positional arguments": "argument"}.get(title or "", (title or "options").partition(" (")[0])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _shown(text: str) -> str:
    # The backquotes of a word like `serve` are Markdown's already.
    return re.sub(r"(?<!`)(<[a-z-]+>|\*)", r"`\1`", text.replace("%%", "%")).replace("|", "\\|")
