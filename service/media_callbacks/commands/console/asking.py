"""Asking whoever sits at a terminal before something is done."""

import sys

from media_callbacks.commands.console.errors import AdminError


def is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, *, otherwise: str) -> None:
    """
    Raises:
        AdminError: The answer was no; ``otherwise`` says what follows.
    """
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AdminError(otherwise)
