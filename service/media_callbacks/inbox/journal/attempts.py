"""
What a journal remembers of attempts to drain its records, so that none of them holds up the others: also one that ends
the process whenever it is tried. Plain files in the journal's directory, no threads.

``tried`` names the records that are just being tried, by digests, with how often each was; it is flushed before they
are. So the next start knows which of them may have ended this life, and tries each of these alone. ``*.aside`` is a
record that was tried too often; the number in its name grows before each further attempt.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

_TRIED_LINE = re.compile(r"([0-9a-f]{32}) ([0-9]{1,9})")
_ASIDE_NAME = re.compile(r"([0-9a-f]{32})\.([0-9]{1,9})\.aside")


def digest_of(payload: bytes) -> str:
    """What a record is known by here."""
    return hashlib.sha256(payload).hexdigest()[:32]


class Attempts:
    """
    Args:
        path: The journal's directory, which is locked.

    Attributes:
        aside: How often each record that was set aside was tried, by digest.
        size: Of the files of these, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""
        self.aside: dict[str, int] = {}
        self.size = 0

    def open(self) -> dict[str, int]:
        """
        Returns:
            How often each record was tried that was being tried when an earlier life ended, by digest.

        Raises:
            OSError: The directory can't be read.
        """
        self.aside, self.size, self._written = {}, 0, ""
        for path in self._path.iterdir():
            if name := _ASIDE_NAME.fullmatch(path.name):
                # Twice there only after a power failure, in the middle of a change of name.
                self.aside[name[1]] = max(int(name[2]), self.aside.get(name[1], 0))
                self.size += path.stat().st_size
        try:
            self._written = (self._path / "tried").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return {}
        # A line that was torn by a power failure was not tried yet.
        return {
            match[1]: int(match[2]) for line in self._written.splitlines() if (match := _TRIED_LINE.fullmatch(line))
        }

    def note(self, tried: Mapping[str, int]) -> None:
        """
        What is tried from now on, and how often that was, this time included.

        Raises:
            OSError: It can't be written, and must not be tried.
        """
        text = "".join(f"{digest} {count}\n" for digest, count in tried.items() if count)
        if text == self._written:
            return
        path = self._path / "tried"
        self._written = "?"
        if not text:
            path.unlink(missing_ok=True)
        else:
            self._write(path, text.encode("ascii"))
        self._written = text

    def set_aside(self, digest: str, payload: bytes, attempts: int) -> None:
        """
        Keep a record apart from the others; durable when it returns.

        Raises:
            OSError: It can't be written.
        """
        self._write(self._name(digest, attempts), payload)
        if digest not in self.aside:
            self.size += len(payload)
        self.aside[digest] = attempts

    def take(self, digest: str) -> bytes:
        """
        A record that was set aside, to be tried once more, which is noted.

        Raises:
            OSError: It can't be read, or the attempt can't be noted.
        """
        attempts = self.aside[digest]
        path = self._name(digest, attempts + 1)
        self._name(digest, attempts).replace(path)
        self.aside[digest] = attempts + 1
        self._flush_names()
        return path.read_bytes()

    def forget(self, digest: str) -> None:
        """
        A record that was set aside has been stored.

        Raises:
            OSError: It is there still.
        """
        path = self._name(digest, self.aside[digest])
        size = path.stat().st_size
        path.unlink()
        del self.aside[digest]
        self.size -= size

    def _name(self, digest: str, attempts: int) -> Path:
        return self._path / f"{digest}.{attempts}.aside"

    def _write(self, path: Path, data: bytes) -> None:
        # Under another name first: what is there before is whole until all that comes after is.
        part = path.with_name("part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._flush_names()

    def _flush_names(self) -> None:
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
