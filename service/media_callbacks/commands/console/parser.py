"""Commands and their subcommands, each in a module that is loaded when it is asked for."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """
    Args:
        module: Its ``add_options`` says what the command takes and what runs.
    """

    def __init__(self, *, module: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._module = module

    def add_commands(self, package: str, commands: Mapping[str, str], *, dest: str, metavar: str) -> None:
        """Commands with their help. Each is a module of the package."""
        choices = self.add_subparsers(dest=dest, required=True, metavar=metavar)
        for name, text in commands.items():
            choices.add_parser(name, help=text, module=f"{package}.{name}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # The parser above calls this for the one that the arguments name.
        if self._module is not None:
            module, self._module = self._module, None
            import_module(module).add_options(self)
        return super().parse_known_args(args, namespace)
