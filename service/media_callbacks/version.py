"""Which version this is: what the metadata of the installed distribution says, where ``pyproject.toml`` put it."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def read_version() -> str:
    """0 for a copy of the code that is not installed."""
    try:
        return version("media-callbacks")
    except PackageNotFoundError:
        return "0"
