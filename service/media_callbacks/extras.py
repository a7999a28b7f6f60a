"""What only the extras of the distribution bring: who needs something of one that is not installed is told which."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, requires


def install_command(extra: str) -> str:
    """By its name, though no index has it: pip stays with the distribution that is installed, and adds the extra's."""
    return f"pip install 'media-callbacks[{extra}]'"


def explain_missing(extra: str) -> str | None:
    """
    A sentence about the extra when a package of it is not installed. None when all are, and for a copy of the code that
    is not installed itself, where nobody says what the extra has.
    """
    try:
        requirements = requires("media-callbacks") or []
    except PackageNotFoundError:
        return None
    for requirement in requirements:
        # Packages that depend on the kind of Python, too, are not looked for: they come with the others or not at all.
        named = re.fullmatch(rf"([A-Za-z0-9-]+)[^;]*; extra == '{extra}'", requirement)
        if named and not any(Distribution.discover(name=named[1])):
            return f"this needs the extra {extra}, of which {named[1]} is not installed: {install_command(extra)}"
    return None
