"""The journal's files: what is acknowledged is found again, whatever happens to process, file and disk."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from media_callbacks.inbox.journal import segments as journal_segments
from media_callbacks.inbox.journal.segments import Journal
from media_callbacks.model.errors import ConfigError

MANY = 1 << 20
PAYLOADS = [b'{"job":"first"}', b'{"job":"second"}', b'{"job":"third"}']


@contextmanager
def opened(folder: Path, *, max_bytes: int = MANY, segment_bytes: int = MANY) -> Iterator[Journal]:
    journal = Journal(folder / "journal", max_bytes=max_bytes, segment_bytes=segment_bytes)
    journal.open()
    try:
        yield journal
    finally:
        journal.close()


def drain(journal: Journal) -> list[bytes]:
    """All that is in it, taken out."""
    found: list[bytes] = []
    after = 0
    while (page := journal.read(after=after)) is not None:
        found += page.payloads
        assert page.through <= journal.appended
        after = 0 if journal.release(page.number, page.end) else page.end
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "journal").iterdir() if path.name != "lock")


def only_segment(folder: Path) -> Path:
    (name,) = names(folder)
    return folder / "journal" / name


def test_what_was_appended_is_read_in_order_and_its_space_comes_back(tmp_path):
    with opened(tmp_path, segment_bytes=64) as journal:
        many = [b"%d" % number for number in range(100)]
        for number in range(0, 100, 4):
            assert journal.append(many[number : number + 4]) == [None] * 4
        assert journal.appended == 100
        assert journal.size == sum((tmp_path / "journal" / name).stat().st_size for name in names(tmp_path))
        assert len(names(tmp_path)) > 10
        page = journal.read(after=0)
        assert page is not None
        # More may be appended to a segment while it is being drained.
        assert journal.append([b"late"]) == [None]
        assert drain(journal) == [*many, b"late"]
        assert (journal.size, names(tmp_path)) == (0, [])


def test_a_segment_that_grew_while_it_was_read_stays_for_the_rest(tmp_path):
    with opened(tmp_path) as journal:
        journal.append([b"1"])
        page = journal.read(after=0)
        assert page is not None
        journal.append([b"2"])
        assert not journal.release(page.number, page.end)
        page = journal.read(after=page.end)
        assert page is not None
        assert page.payloads == [b"2"]
        assert journal.release(page.number, page.end)


def test_nobody_else_may_read_it(tmp_path):
    old = os.umask(0)
    try:
        with opened(tmp_path) as journal:
            journal.append([b"x"])
    finally:
        os.umask(old)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "journal").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def make_file(folder: Path) -> None:
    (folder / "journal").write_text("")


@pytest.mark.parametrize(
    "prepare, told",
    [
        (make_file, "cannot use the directory"),
        (lambda folder: folder.rmdir(), "cannot use the directory"),
        (lambda folder: (folder / "journal" / "lock").mkdir(parents=True), "cannot use the directory"),
    ],
    ids=["a file", "no place for it", "something in the way"],
)
def test_a_directory_that_cannot_be_used_is_told_in_a_sentence(tmp_path, prepare: Callable[[Path], None], told):
    (tmp_path / "below").mkdir()
    prepare(tmp_path / "below")
    with pytest.raises(ConfigError, match=rf"^server\.journal_path: {told}"), opened(tmp_path / "below"):
        pass


def test_two_instances_do_not_share_one(tmp_path):
    with opened(tmp_path), pytest.raises(ConfigError, match=r"is in use by another instance") as caught:
        Journal(tmp_path / "journal", max_bytes=MANY).open()
    assert caught.value.problems[0].startswith("server.journal_path: ")
    with opened(tmp_path):
        pass


# Crashes


def test_a_record_torn_at_any_byte_is_cut_off_and_the_others_are_kept(tmp_path):
    with opened(tmp_path) as journal:
        journal.append(PAYLOADS[:2])
        size = journal.size
        journal.append(PAYLOADS[2:])
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    for end in range(size, len(whole)):
        for padding in (b"", bytes(7)) if end == size else (b"",):
            path.write_bytes(whole[:end] + padding)
            with capture_logs() as logs, opened(tmp_path) as journal:
                # Only the newline was missing.
                complete = end == len(whole) - 1
                assert [log["event"] for log in logs] == (
                    ["journal_tail_cut"] if (end > size or padding) and not complete else []
                )
                journal.append([b"next"])
                assert drain(journal) == [*(PAYLOADS if complete else PAYLOADS[:2]), b"next"]
            assert names(tmp_path) == []


def test_whichever_byte_is_damaged_the_rest_is_read_and_nothing_is_dropped_in_silence(tmp_path):
    with opened(tmp_path) as journal:
        journal.append(PAYLOADS)
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    start = whole.index(PAYLOADS[0]) + len(PAYLOADS[0]) + 1
    end = whole.index(PAYLOADS[1]) + len(PAYLOADS[1])
    for at in range(start, end):
        for flip in (0x01, 0xFF, whole[at] ^ 0x0A):
            damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
            path.write_bytes(damaged)
            with capture_logs() as logs, opened(tmp_path) as journal:
                assert drain(journal) == [PAYLOADS[0], PAYLOADS[2]]
                assert journal.size == 0
            assert [log["event"] for log in logs] == ["journal_damaged"]
            assert [log["log_level"] for log in logs] == ["error"]
            assert names(tmp_path) == [path.with_suffix(".corrupt").name]
            assert path.with_suffix(".corrupt").read_bytes() == damaged


def test_a_damaged_last_record_is_not_taken_for_a_torn_one(tmp_path):
    with opened(tmp_path) as journal:
        journal.append(PAYLOADS)
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"?" + whole[-2:])
    with opened(tmp_path) as journal:
        assert drain(journal) == PAYLOADS[:2]
    assert names(tmp_path) == [path.with_suffix(".corrupt").name]


@pytest.mark.parametrize("vanishes", [True, False], ids=["gone", "unreadable"])
def test_a_segment_that_cannot_be_read_does_not_block_the_others(tmp_path, vanishes, monkeypatch):
    with opened(tmp_path, segment_bytes=1) as journal:
        journal.append([b"1"])
        journal.append([b"2"])
        first = tmp_path / "journal" / names(tmp_path)[0]
        with capture_logs() as logs, monkeypatch.context() as patch:
            if vanishes:
                first.unlink()
            else:
                real = Path.open

                def refuse(path, *arguments):
                    if path == first:
                        raise OSError(errno.EIO, "Input/output error")
                    return real(path, *arguments)

                patch.setattr(Path, "open", refuse)
            assert drain(journal) == [b"2"]
    assert {log["log_level"] for log in logs} == {"error"}
    assert names(tmp_path) == ([] if vanishes else [first.with_suffix(".corrupt").name])


# Disks


def test_a_record_is_flushed_when_it_is_acknowledged_and_so_is_the_name_of_its_file(tmp_path, monkeypatch):
    """Only a machine that loses its power would show it; so the calls are counted."""
    calls: list[tuple[str, str]] = []

    def observe(name, real):
        def call(file, *arguments):
            calls.append((name, Path(os.readlink(f"/proc/self/fd/{file}")).name))
            return real(file, *arguments)

        return call

    with opened(tmp_path) as journal:
        with monkeypatch.context() as patch:
            for name in ("write", "fsync"):
                patch.setattr(os, name, observe(name, getattr(os, name)))
            for _ in range(2):
                journal.append(PAYLOADS)
        file = names(tmp_path)[0]
    first = [("write", file), ("fsync", file), ("fsync", "journal")]
    assert calls == [*first, ("write", file), ("fsync", file), ("write", file), ("fsync", file)]


class Fault:
    """Makes the n-th call of a function of ``os`` fail, ``write`` after half of the bytes."""

    def __init__(self, name: str, number: int, code: int) -> None:
        self.real = getattr(os, name)
        self.name, self.left, self.code = name, number, code
        self.has_failed = False

    def __call__(self, *arguments):
        self.left -= 1
        if self.left < 0 and not self.has_failed:
            self.has_failed = True
            if self.name == "write":
                self.real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments)


@pytest.mark.parametrize("name", ["open", "write", "fsync", "ftruncate", "close"])
@pytest.mark.parametrize("restarts", [True, False])
def test_whichever_call_fails_what_was_acknowledged_is_there(tmp_path, monkeypatch, name, restarts):
    for number in range(12):
        folder = tmp_path / f"{name}-{number}"
        folder.mkdir()
        acknowledged = []
        with opened(folder, segment_bytes=40) as journal:
            with monkeypatch.context() as patch:
                fault = Fault(name, number, errno.ENOSPC if number % 2 else errno.EIO)
                patch.setattr(os, name, fault)
                for job in range(8):
                    payload = b"job-%d" % job
                    (problem,) = journal.append([payload])
                    if problem is None:
                        acknowledged.append(payload)
                    else:
                        assert os.strerror(fault.code) in problem
                        assert journal.problem == problem
            # At most the one that met the fault was refused.
            assert len(acknowledged) >= 7
            assert journal.append([b"after"]) == [None]
            assert journal.problem is None
            if not restarts:
                assert drain(journal) == [*acknowledged, b"after"]
        with opened(folder) as journal:
            found = drain(journal)
            assert [payload for payload in found if payload in (*acknowledged, b"after")] == (
                [*acknowledged, b"after"] if restarts else []
            )
            assert journal.size == 0
        assert names(folder) == []


def test_a_disk_that_fails_on_and_on_is_told_of_once_however_many_callbacks_come(tmp_path, monkeypatch):
    with opened(tmp_path) as journal, capture_logs() as lines:
        for name, code in (("write", errno.ENOSPC), ("fsync", errno.EIO)):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, Fault(name, 0, code))
                for n in range(50):
                    getattr(os, name).has_failed = False
                    assert journal.append([b"%d" % n]) != [None]
        assert journal.append([b"after"]) == [None]
    assert [(line["event"], line["error"]) for line in lines] == [
        ("journal_failed", f"the journal cannot be written: {os.strerror(code)}") for code in (errno.ENOSPC, errno.EIO)
    ]


def test_a_disk_that_fails_on_and_on_is_tried_again_by_a_probe(tmp_path, monkeypatch):
    with opened(tmp_path) as journal:
        journal.append([b"1"])
        real = os.fsync

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        assert journal.probe() is None
        assert journal.append([b"2", b"3"]) == ["the journal cannot be written: Input/output error"] * 2
        for _ in range(3):
            assert journal.probe() == "the journal cannot be written: Input/output error"
        # Trying leaves nothing behind.
        assert len(names(tmp_path)) == 1
        monkeypatch.setattr(os, "fsync", real)
        assert journal.probe() is None
        assert journal.append([b"4"]) == [None]
        assert drain(journal) == [b"1", b"4"]


def test_a_full_disk_is_told_before_it_is_full(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    free_bytes = [1 << 30]
    blocks = 10 << 30
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free_bytes[0], f_frsize=1, f_blocks=blocks))
    assert real.f_bavail
    with opened(tmp_path) as journal:
        assert journal.append([b"x"]) == [None]
        # 1 % of 10 GiB is more than 16 MiB.
        free_bytes[0] = 107374182
        for problem in (*journal.append([b"x"]), journal.probe()):
            assert problem == "the disk of the journal has 107374182 bytes left, and 107374182 are to stay free"
        blocks = 1 << 30
        assert journal.append([b"x"]) == [None]
        free_bytes[0] = (16 << 20) + 30
        # What fits is kept, and what does not is not.
        assert [problem is None for problem in journal.append([b"x" * 100, b"x"])] == [False, True]

        def fail(_: Path) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "statvfs", fail)
        assert journal.append([b"x"]) == ["the journal's disk does not answer: Input/output error"]
        assert journal.probe() == "the journal's disk does not answer: Input/output error"


def test_a_full_journal_refuses_at_once_and_has_room_again_when_some_is_drained(tmp_path):
    with opened(tmp_path, max_bytes=MANY) as journal:
        kept = 0
        while journal.append([b"%05d" % kept + b"." * 10_000]) == [None]:
            kept += 1
        assert 95 < kept < 105
        assert journal.size <= MANY
        full = f"the journal is full: {journal.size} bytes of server.journal_max_bytes = {MANY}"
        assert journal.append([b"." * 20_000]) == [full]
        assert journal.probe() == full
        page = journal.read(after=0)
        assert page is not None
        assert journal.release(page.number, page.end)
        assert journal.probe() is None
        assert journal.append([b"." * 20_000]) == [None]
    # A smaller bound than what is there already is no mistake.
    with opened(tmp_path, max_bytes=MANY // 8) as journal:
        assert journal.probe() is not None
        assert len(drain(journal)) == kept + 1 - len(page.payloads)
        assert journal.append([b"x"]) == [None]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data)[:3]))
    with opened(tmp_path) as journal:
        assert journal.append(PAYLOADS) == [None] * 3
        assert drain(journal) == PAYLOADS


def test_the_default_segment_is_small_against_the_bound():
    assert journal_segments.SEGMENT_BYTES * 8 <= 256 << 20


def test_what_was_refused_and_can_not_be_taken_back_may_be_read_after_the_next_start(tmp_path, monkeypatch):
    """Its sender comes again and is a duplicate. What comes in between does not suffer from it."""

    def fail(*_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as journal:
        assert journal.append([b"1"]) == [None]
        with monkeypatch.context() as patch:
            for name in ("fsync", "ftruncate"):
                patch.setattr(os, name, fail)
            assert journal.append([b"2"]) != [None]
        assert journal.append([b"3"]) == [None]
        page = journal.read(after=0)
        assert page is not None
        assert page.payloads == [b"1"]
    with opened(tmp_path) as journal:
        assert drain(journal) == [b"1", b"2", b"3"]


def test_a_segment_that_could_not_be_begun_and_not_be_removed_is_in_nobodys_way(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            patch.setattr(Path, "unlink", fail)
            assert journal.append([b"1"]) != [None]
        assert journal.append([b"2"]) == [None]
        assert drain(journal) == [b"2"]
    with opened(tmp_path) as journal:
        assert drain(journal) == []
    assert names(tmp_path) == []
