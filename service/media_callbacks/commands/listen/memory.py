"""
What ``listen`` keeps from one run to the next, in the user's folder for such: the secret that it signs with, and how
far it is, for each service and filter.
"""

import fcntl
import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_bytes

from media_callbacks.commands.console.errors import UsageError


def state_folder(environ: Mapping[str, str]) -> Path:
    """
    Source: "XDG Base Directory Specification", https://specifications.freedesktop.org/basedir-spec/latest/.

    Raises:
        UsageError: There can't be one.
    """
    given = environ.get("XDG_STATE_HOME", "")
    try:
        # A relative one is to be ignored.
        home = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
        folder = home / "media-callbacks" / "listen"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"expected a folder to keep how far this is ({error}); set XDG_STATE_HOME") from error
    return folder


def read_secret(folder: Path) -> tuple[str, str]:
    """
    The secret, which is made the first time, and where it is.

    Raises:
        UsageError: It can't be kept.
    """
    path = folder / "secret"
    try:
        with suppress(FileExistsError):
            _write_new(path, "whsec_" + b64encode(token_bytes(32)).decode())
        return path.read_text("utf-8").strip(), str(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot keep the secret in {path} ({error}); give one: --secret") from error


class Memory:
    """
    Attributes:
        place: Where to go on, as the feed is asked for it; empty when nothing was seen yet.
        seen: Ids of the events after it that were seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place: Mapping[str, str] = {}
        self.seen: set[str] = set()
        # What is not ours to read is as good as nothing.
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = json.loads(path.read_text("utf-8"))
            self.place = {str(name): str(value) for name, value in kept["place"].items()}
            self.seen = set(kept["seen"])

    def begin(self, place: Mapping[str, str]) -> None:
        self.place, self.seen = place, set()
        self._keep()

    def note(self, event_id: str) -> None:
        self.seen.add(event_id)
        self._keep()

    def _keep(self) -> None:
        # Whole or not at all, whenever this is killed.
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        _write_new(new, json.dumps({"place": self.place, "seen": sorted(self.seen)}))
        new.replace(self._path)


@contextmanager
def open_memory(folder: Path, url: str, wanted: Mapping[str, str]) -> Iterator[Memory]:
    """
    Raises:
        UsageError: Another one listens to the same.
    """
    about = json.dumps([url, sorted(wanted.items())]).encode("ascii")
    path = folder / f"{hashlib.sha256(about).hexdigest()[:16]}.json"
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another one listens to {url} with the same filter, and keeps how far it is") from error
        yield Memory(path)


def _write_new(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
