"""
Programs of Debian's that some tests need. Without one these are skipped; with ``MEDIA_CALLBACKS_REQUIRE_TOOLS`` they
fail, as in CI, where all are installed.
"""

import os
import shutil
from typing import NoReturn

import pytest

# Read when the module is loaded: tests run without variables of this name.
_ARE_REQUIRED = bool(os.environ.get("MEDIA_CALLBACKS_REQUIRE_TOOLS"))
# Debian has some where only root looks.
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def find_tool(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def need_tool(name: str, *, package: str | None = None) -> str:
    """
    Its path.

    Args:
        package: Of Debian's, where it has another name.
    """
    return find_tool(name) or go_without(f"needs {name}: apt-get install {package or name}")


def go_without(reason: str) -> NoReturn:
    """What the test needs is not there."""
    if _ARE_REQUIRED:
        pytest.fail(f"MEDIA_CALLBACKS_REQUIRE_TOOLS is set, and this {reason}")
    pytest.skip(reason)
