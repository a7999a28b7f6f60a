"""Commands and their subcommands, each in a module that is loaded when it is asked for."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

from media_callbacks.commands.console.output import printable
from media_callbacks.model.suggestions import closest, did_you_mean


class CommandParser(argparse.ArgumentParser):
    """
    What is wrong is told in one line, with what may have been meant.

    Attributes:
        examples: Command lines, for the end of the help.
        elsewhere: Options that it has not, with where that is set.

    Args:
        module: Its ``add_options`` says what the command takes and what runs.
        parent: The parser above, which tells the commands apart.
    """

    def __init__(self, *, module: str | None = None, parent: "CommandParser | None" = None, **options: Any) -> None:
        super().__init__(**options)
        self.parent = parent
        self.examples: Sequence[str] = ()
        self.elsewhere: Mapping[str, str] = {}
        self._given: Sequence[str] = ()
        self._module = module

    def add_commands(self, package: str, commands: Mapping[str, str], *, dest: str, metavar: str) -> None:
        """Commands with their help. Each is a module of the package."""
        choices = self.add_subparsers(dest=dest, required=True, metavar=metavar)
        for name, text in commands.items():
            choices.add_parser(name, help=text, module=f"{package}.{name}", parent=self)

    def load(self) -> None:
        """Have the options of the module, once."""
        if self._module is not None:
            module, self._module = self._module, None
            import_module(module).add_options(self)

    def format_help(self) -> str:
        examples = "".join(f"  {line}\n" for line in self.examples)
        return super().format_help() + (f"\nexamples:\n{examples}" if examples else "")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # The parser above calls this for the one that the arguments name.
        self.load()
        self._given = [*(sys.argv[1:] if args is None else args)]
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # Here, and not in the parser above, which does not know this one's options.
            self._refuse(unknown)
        return namespace, unknown

    def _refuse(self, unknown: list[str]) -> NoReturn:
        first = unknown[0].partition("=")[0]
        if not first.startswith("-"):
            self.error(f"expected no further argument, came {printable(first)}")
        hint = f"; {self.elsewhere[first]}" if first in self.elsewhere else self._suggest(first)
        self.error(f"{printable(first)}: there is no such option{hint}")

    def _suggest(self, option: str) -> str:
        # Without the hyphens, in which all are alike.
        known = [known.removeprefix("--") for known in self._option_string_actions if known.startswith("--")]
        match = closest(option.removeprefix("--"), known, cutoff=0.7)
        return f'; did you mean "--{match}"?' if match else ""

    def _may_be_known(self, word: str) -> bool:
        name = word.partition("=")[0]
        return not name.startswith("--") or any(option.startswith(name) for option in self._option_string_actions)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            message = f"expected one of {', '.join(known)}; came {printable(value)}{did_you_mean(value, known)}"
            raise argparse.ArgumentError(action, message)

    def error(self, message: str) -> NoReturn:
        if "required" in message and (mistyped := [word for word in self._given if not self._may_be_known(word)]):
            # What is missing may be what was mistyped.
            self._given = ()
            self._refuse(mistyped)
        commands = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
        if "required" in message and commands:
            message += f"; expected one of {', '.join(commands[0].choices)}"
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')} (see {self.prog} --help)\n")
