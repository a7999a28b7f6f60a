"""``media-callbacks completion SHELL``: a script with which a shell completes commands, options and their words."""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from media_callbacks.commands.console.parser import CommandParser


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "source <(media-callbacks completion bash)",
        "source <(media-callbacks completion zsh)",
        "media-callbacks completion fish | source",
    )
    parser.description = "To have it always, put the line into ~/.bashrc, ~/.zshrc (after compinit) or config.fish."
    parser.add_argument("shell", choices=tuple(SCRIPTS), metavar="SHELL", help=", ".join(SCRIPTS))
    parser.set_defaults(run=lambda arguments: run(arguments, parser.parent or parser))


def run(arguments: argparse.Namespace, root: CommandParser) -> int:
    print(SCRIPTS[arguments.shell](dict(read_words(root))), end="")
    return 0


@dataclass(frozen=True, slots=True)
class Words:
    """
    What may follow a command.

    Attributes:
        first: Its subcommands or the words of its first positional argument, with their help.
        options: With their help.
        values: The words of options that have some; None for a file's name, or a text of any kind.
    """

    first: Mapping[str, str]
    options: Mapping[str, str]
    values: Mapping[str, tuple[str, ...] | None]


def read_words(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, Words]]:
    """By command, with the names above it: ``""``, ``events``, ``events list``."""
    if isinstance(parser, CommandParser):
        # Commands of an extra that is not installed are completed by their names alone.
        with suppress(ModuleNotFoundError):
            parser.load()
    first: dict[str, str] = {}
    options: dict[str, str] = {}
    values: dict[str, tuple[str, ...] | None] = {}
    below: Mapping[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        words = tuple(map(str, action.choices or ()))
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            below = action.choices
            helps = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
            first |= {name: helps.get(name, "") for name in below}
        elif not action.option_strings:
            first = first or dict.fromkeys(words, "")
        else:
            for option in action.option_strings:
                options[option] = _in_one_line(action.help or "")
                if action.nargs != 0:
                    values[option] = words or None
    yield path, Words(first, options, values)
    for name, command in below.items():
        yield from read_words(command, f"{path} {name}".strip())


def _in_one_line(text: str) -> str:
    """Without what a shell would take for its own."""
    return re.sub(r"[^\w .,;()/=-]", "", " ".join(text.split()).replace("%%", "%"))[:70]


def write_bash(commands: Mapping[str, Words]) -> str:
    cases = "".join(
        f"    {_quote(path)}) words={_quote(' '.join([*words.first, *words.options]))} ;;\n"
        for path, words in commands.items()
    )
    of_options = "".join(
        f"    {_quote(f'{path} {option}'.strip())}) words={_quote(' '.join(known))} ;;\n"
        if known
        else f'    {_quote(f"{path} {option}".strip())}) COMPREPLY=($(compgen -f -- "$word")); return ;;\n'
        for path, words in commands.items()
        for option, known in words.values.items()
    )
    paths = " | ".join(_quote(path) for path in commands if path)
    return f"""\
_media_callbacks() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} path= each words=
  for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$each" in
    {paths}) path="${{path:+$path }}$each" ;;
    esac
  done
  case "${{path:+$path }}$before" in
{of_options}  esac
  if [ -z "$words" ]; then
    case "$path" in
{cases}    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -F _media_callbacks media-callbacks
"""


def write_zsh(commands: Mapping[str, Words]) -> str:
    # What bash has, by the layer that zsh has for it.
    return f"autoload -U +X bashcompinit && bashcompinit\n{write_bash(commands)}"


def write_fish(commands: Mapping[str, Words]) -> str:
    lines = ["complete -c media-callbacks -f"]
    for path, words in commands.items():
        names = path.split()
        below = [name for name in words.first if f"{path} {name}".strip() in commands]
        seen = [f"__fish_seen_subcommand_from {name}" for name in names]
        absent = [f"not __fish_seen_subcommand_from {' '.join(below)}"] if below else []
        when = f"complete -c media-callbacks -n {_quote('; and '.join([*seen, *absent]) or 'true')}"
        lines += [f"{when} -a {_quote(name)} -d {_quote(_in_one_line(text))}" for name, text in words.first.items()]
        for option, text in words.options.items():
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            known = words.values.get(option, ())
            value = f" -x -a {_quote(' '.join(known))}" if known else " -r -F" if known is None else ""
            lines.append(f"{when} {flag}{value} -d {_quote(text)}")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return f"'{text}'"


SCRIPTS: Mapping[str, Callable[[Mapping[str, Words]], str]] = {"bash": write_bash, "zsh": write_zsh, "fish": write_fish}
