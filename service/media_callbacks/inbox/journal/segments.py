"""
A journal of records in a directory: what ``JournaledStore`` keeps while its store is away. Plain files, no threads.

Segments are files ``<number>.journal``, ascending; records are appended to the last one, and a segment is removed when
all its records have been drained. A record is ``<length> <CRC-32> <payload>`` and a newline, length and checksum as
eight hexadecimal digits, the payload without newlines. So a record that was torn by a crash shows by its length, and
behind a damaged one the next newline leads on. A segment in which something can't be read is never removed but renamed
to ``<number>.corrupt``.

A segment begins with a newline: writing it shows that the disk takes writes. After every failed write or flush a new
segment is begun, because nobody knows what the kernel has kept of the old one beyond its last flush.
"""

import fcntl
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from media_callbacks.inbox.journal.attempts import Attempts
from media_callbacks.model.errors import Unusable
from media_callbacks.timing.limited_log import LimitedLog

# Space comes back in steps of this; also how much is read at once, and at most drained again after a crash.
SEGMENT_BYTES = 4 << 20
# Of the disk's space, never to be taken: others live there, too.
MIN_FREE_BYTES = 16 << 20
MIN_FREE_RATIO = 0.01
# As much as a usual receipt takes: with less room than that there is none.
_USUAL_RECORD_BYTES = 16 << 10
_HEAD = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ")
_HEAD_BYTES = 18
_NAME = re.compile(r"([0-9]{12})\.journal")
# While nothing can be written, each callback finds it out. Others may live on the disk that the log is on.
_FAILURE_TOLD_EVERY_S = 60.0

log = structlog.get_logger()


@dataclass(slots=True)
class _Segment:
    """
    Attributes:
        size: Up to where it is flushed, in bytes.
        through: How many records the journal had seen at its end.
    """

    path: Path
    size: int
    through: int
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Undrained:
    """
    The records of a segment that have not been drained.

    Attributes:
        end: Where the next page of this segment begins, in bytes.
        through: How many records the journal has seen up to there, damaged ones included.
    """

    number: int
    end: int
    through: int
    payloads: Sequence[bytes]


class Journal:
    """
    Not safe for several threads.

    Args:
        max_bytes: How large all segments together may become.

    Attributes:
        max_bytes: As given.
        appended: How many records there are and were since it was opened.
        size: Of all segments, in bytes.
        suspects: How often each record was tried that an earlier life did not live to see the end of, by digest.
        problem: Why the latest write failed; None when it did not.
    """

    def __init__(self, path: Path, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._path = path
        self.attempts = Attempts(path)
        self.max_bytes = max_bytes
        # Small in a small journal, so that a full one has room again soon.
        self._segment_bytes = max(min(segment_bytes, max_bytes // 8), 1)
        self._segments: dict[int, _Segment] = {}
        self._last_number = 0
        # The one that is appended to, open; it is the last of the segments.
        self._file: int | None = None
        self._lock: int | None = None
        self._folder: int | None = None
        self.appended = 0
        self.size = 0
        self.suspects: dict[str, int] = {}
        self.problem: str | None = None
        self._failures = LimitedLog(burst=1, every_s=_FAILURE_TOLD_EVERY_S)

    def open(self) -> None:
        """
        Raises:
            Unusable: The directory can't be used, or another instance uses it.
        """
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find_segments()
            self.suspects = self.attempts.open()
        except BlockingIOError as error:
            self.close()
            problem = f"{self._path} is in use by another instance; give each instance a directory of its own"
            raise Unusable([f"server.journal_path: {problem}"]) from error
        except OSError as error:
            self.close()
            problem = f"cannot use the directory {self._path}: {error.strerror}; the one above it must be writable"
            raise Unusable([f"server.journal_path: {problem}"]) from error

    def close(self) -> None:
        for descriptor in (self._file, self._folder, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._folder = self._lock = None

    def _find_segments(self) -> None:
        for path in sorted(self._path.iterdir()):
            if name := _NAME.fullmatch(path.name):
                number = self._last_number = int(name[1])
                data = path.read_bytes()
                pieces = list(_split(data))
                size = len(data)
                if pieces and pieces[-1].is_torn:
                    # It was being written when the service died, and so it was never acknowledged.
                    size = pieces[-1].offset
                    log.warning("journal_tail_cut", segment=path.name, offset=size, bytes=len(data) - size)
                    os.truncate(path, size)
                self.appended += sum(piece.is_record for piece in pieces)
                self.size += size
                self._segments[number] = _Segment(path, size, self.appended)

    # Writing

    def append(self, payloads: Sequence[bytes]) -> Sequence[str | None]:
        """
        Make records durable together.

        Returns:
            For each why it was not kept, or None when it is flushed.
        """
        room = self._room()
        kept: list[bytes] = []
        answers: list[str | None] = []
        for payload in payloads:
            record = b"%08x %08x %b\n" % (len(payload), zlib.crc32(payload), payload)
            if isinstance(room, str) or len(record) + 1 > room:
                answers.append(room if isinstance(room, str) else self._no_room())
            else:
                room -= len(record)
                kept.append(record)
                answers.append(None)
        try:
            # However many have gathered: a segment is what is read at once.
            for records in _portions(kept, self._segment_bytes):
                self._write(records)
        except OSError as error:
            self._give_up(error)
            # Those before may be there; their senders come again, and are duplicates.
            return [answer or self.problem for answer in answers]
        return answers

    def probe(self) -> str | None:
        """Why nothing can be appended just now; None when something can."""
        room = self._room()
        if isinstance(room, str) or room < _USUAL_RECORD_BYTES:
            return room if isinstance(room, str) else self._no_room()
        if self.problem is not None:
            try:
                self._begin_segment()
            except OSError as error:
                self._give_up(error)
        return self.problem

    def _room(self) -> int | str:
        """How many bytes may be written, or why none."""
        try:
            disk = os.statvfs(self._path)
        except OSError as error:
            return f"the journal's disk does not answer: {error.strerror}"
        free = disk.f_bavail * disk.f_frsize
        reserve = max(MIN_FREE_BYTES, int(disk.f_blocks * disk.f_frsize * MIN_FREE_RATIO))
        if free <= reserve:
            return f"the disk of the journal has {free} bytes left, and {reserve} are to stay free"
        return min(free - reserve, self.max_bytes - self.size - self.attempts.size)

    def _no_room(self) -> str:
        used = self.size + self.attempts.size
        return f"the journal is full: {used} bytes of server.journal_max_bytes = {self.max_bytes}"

    def _write(self, records: Sequence[bytes]) -> None:
        if self._file is None or self._segments[self._last_number].size >= self._segment_bytes:
            self._begin_segment()
        assert self._file is not None
        data = b"".join(records)
        _write_all(self._file, data)
        os.fsync(self._file)
        segment = self._segments[self._last_number]
        self.appended += len(records)
        segment.size += len(data)
        segment.through = self.appended
        self.size += len(data)

    def _begin_segment(self) -> None:
        self._end_segment()
        # Also after a failure, when a file of this name may be left.
        self._last_number += 1
        path = self._path / f"{self._last_number:012}.journal"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._segments[self._last_number] = _Segment(path, 0, self.appended)
        _write_all(self._file, b"\n")
        os.fsync(self._file)
        assert self._folder is not None
        # The name of the file must survive, too.
        os.fsync(self._folder)
        self._segments[self._last_number].size = 1
        self.size += 1
        self.problem = None

    def _end_segment(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _give_up(self, error: OSError) -> None:
        """What is behind the last flush is in doubt, and its senders are told that it was not kept."""
        self.problem = f"the journal cannot be written: {error.strerror}"
        self._failures.error("journal_failed", error.errno, error=self.problem)
        if self._file is not None:
            try:
                os.ftruncate(self._file, self._segments[self._last_number].size)
            except OSError:
                # Then it may be drained after the next start: their senders will have come again, and it is found to be
                # a duplicate.
                pass
            try:
                self._end_segment()
            except OSError:
                pass
        segment = self._segments.get(self._last_number)
        if segment is not None and segment.size == 0:
            # There is not even the newline in it.
            del self._segments[self._last_number]
            try:
                segment.path.unlink(missing_ok=True)
            except OSError:
                pass

    # Reading

    def read(self, *, after: int) -> Undrained | None:
        """
        What the first segment holds behind so many bytes of it; None when there are no segments.
        """
        if not self._segments:
            return None
        number, segment = next(iter(self._segments.items()))
        data = b""
        try:
            with segment.path.open("rb") as file:
                file.seek(after)
                data = file.read(segment.size - after)
        except OSError as error:
            # Others wait behind it. Renamed back, it is drained after the next start.
            self.keep_damaged(number, f"the segment can't be read: {error.strerror}")
        payloads = []
        for piece in _split(data):
            if piece.is_record:
                payloads.append(piece.data)
            else:
                self.keep_damaged(number, f"{len(piece.data)} bytes at offset {after + piece.offset} can't be read")
        return Undrained(number, segment.size, segment.through, payloads)

    def keep_damaged(self, number: int, reason: str) -> None:
        """Keep this segment as a ``.corrupt`` file when all else in it has been drained."""
        segment = self._segments[number]
        segment.is_damaged = True
        log.error("journal_damaged", reason=reason, kept_as=str(segment.path.with_suffix(".corrupt")))

    def release(self, number: int, end: int) -> bool:
        """
        All records of this segment up to there have been drained.

        Returns:
            Whether the segment is gone, or will be; False when there is more in it.

        Raises:
            OSError: It could not be removed; it may be tried again.
        """
        segment = self._segments[number]
        if segment.size > end:
            return False
        if number == self._last_number:
            self._end_segment()
        try:
            if segment.is_damaged:
                segment.path.replace(segment.path.with_suffix(".corrupt"))
            else:
                segment.path.unlink()
        except FileNotFoundError:
            log.error("journal_segment_missing", segment=segment.path.name)
        del self._segments[number]
        self.size -= segment.size
        return True


@dataclass(frozen=True, slots=True)
class _Piece:
    """
    A part of a segment: a record, of which only the payload is given, or what is none.

    Attributes:
        is_torn: At the end of the file, the beginning of a record, or space that was never written to.
    """

    offset: int
    data: bytes
    is_record: bool = False
    is_torn: bool = False


def _portions(records: Sequence[bytes], size_bytes: int) -> Iterator[Sequence[bytes]]:
    """Parts of about this size."""
    start = size = 0
    for number, record in enumerate(records, 1):
        size += len(record)
        if size >= size_bytes or number == len(records):
            yield records[start:number]
            start, size = number, 0


def _split(data: bytes) -> Iterator[_Piece]:
    at = 0
    damaged_from: int | None = None
    while at < len(data):
        payload = _read_record(data, at)
        if payload is None and (damaged_from is not None or data[at : at + 1] != b"\n"):
            damaged_from = at if damaged_from is None else damaged_from
            at = data.find(b"\n", at) + 1 or len(data)
            continue
        if damaged_from is not None:
            yield _Piece(damaged_from, data[damaged_from:at])
            damaged_from = None
        if payload is None:
            at += 1
        else:
            yield _Piece(at, payload, is_record=True)
            at += _HEAD_BYTES + len(payload) + 1
    if damaged_from is not None:
        tail_from = max(damaged_from, data.rfind(b"\n") + 1)
        if not _is_torn(data[tail_from:]):
            tail_from = len(data)
        if damaged_from < tail_from:
            yield _Piece(damaged_from, data[damaged_from:tail_from])
        if tail_from < len(data):
            yield _Piece(tail_from, data[tail_from:], is_torn=True)


def _read_record(data: bytes, at: int) -> bytes | None:
    head = _HEAD.match(data, at)
    if head is None:
        return None
    payload = data[head.end() : head.end() + int(head[1], 16)]
    return payload if len(payload) == int(head[1], 16) and zlib.crc32(payload) == int(head[2], 16) else None


def _is_torn(tail: bytes) -> bool:
    head = _HEAD.match(tail)
    if head is None:
        return len(tail) < _HEAD_BYTES or not tail.strip(b"\0")
    return len(tail) < _HEAD_BYTES + int(head[1], 16)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
