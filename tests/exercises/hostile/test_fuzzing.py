"""The fuzzing of ``tests.exercises.hostile.fuzzing`` in short: the same requests in each run, few enough for all runs."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.exercises.hostile import fuzzing
from tests.exercises.hostile.fuzzing import SINKS, Failure, Fuzzing, Log, Tally, find_body, make_sources, prepare, tell
from tests.exercises.hostile.mutations import Bodies, Fuzzed, Operations, Requests
from tests.exercises.hostile.victim import Victim, attacked

SEED = 1
COUNT = 4000


async def test_nothing_that_is_sent_is_a_failure_of_the_service(tmp_path: Path):
    async with attacked(tmp_path, {"sinks": SINKS}) as victim:
        requests = await prepare(victim, tmp_path, SEED)
        tally = await Fuzzing(victim, requests.make, first=0, count=COUNT, waits=False).run()
        await victim.forgets()
    assert tally.total == COUNT
    answers = {answer for (kind, answer), _ in tally.answers.items() if kind == "http"}
    assert {"200", "400", "403", "404", "405"} <= answers
    assert {kind for kind, _ in tally.answers} == {"body", "http", "admin", "admin http"}


def test_a_request_is_the_same_each_time_whatever_was_made_before(tmp_path: Path):
    document: dict[str, Any] = {"paths": {"/v1/events": {"get": {"responses": {"200": {}}}}}}
    requests = Requests(SEED, make_sources(tmp_path), Operations(document, (), "127.0.0.1", Bodies()))
    forwards = [_content(requests.make(number)) for number in range(500)]
    assert forwards == [_content(requests.make(number)) for number in reversed(range(500))][::-1]


def _content(request: Fuzzed) -> object:
    """What does not hang on the clock."""
    return request.number, request.kind, [len(piece) for piece in request.pieces], request.statuses


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
WHOLE = Fuzzed(7, "body", [b"POST / HTTP/1.1\r\n", b"\r\n"], frozenset({200}))
ANYTHING = Fuzzed(7, "http", [b"GET \0\r\n\r\n"])


async def _fuzz(server: asyncio.Server, request: Fuzzed, folder: Path) -> Tally:
    (folder / "log").touch()
    host, port = server.sockets[0].getsockname()
    victim = Victim(os.getpid(), f"{host}:{port}", "", folder / "log", None)  # type: ignore[arg-type]
    return await Fuzzing(victim, lambda _: request, first=7, count=1, waits=False).run()


@pytest.mark.parametrize(
    ("request_", "answer", "what"),
    [
        (WHOLE, OK, None),
        (WHOLE, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, None),
        (WHOLE, FAILED, "it was answered 500, expected any of 200"),
        (WHOLE, b"", "the connection was closed without an answer"),
        (WHOLE, OK[:-1], "the connection was closed without an answer"),
        (WHOLE, OK + OK, "more than one answer came"),
        (WHOLE, b"hello\r\n\r\n", "this is no answer"),
        (ANYTHING, OK, None),
        (ANYTHING, b"", None),
        (ANYTHING, FAILED, "it was answered 500"),
        (ANYTHING, OK + FAILED, "it was answered 500"),
        (ANYTHING, OK[: -len(b"{}")] + FAILED, "it was answered 500"),
        (
            ANYTHING,
            b"HTTP/1.1 400 \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n" + FAILED,
            "it was answered 500",
        ),
    ],
)
async def test_a_failure_is_found_and_told_with_its_request(
    tmp_path: Path, request_: Fuzzed, answer: bytes, what: str | None
):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        if what is None:
            assert (await _fuzz(server, request_, tmp_path)).total == 1
            return
        with pytest.raises(ExceptionGroup) as found:
            await _fuzz(server, request_, tmp_path)
    (failure,) = found.value.exceptions
    assert isinstance(failure, Failure)
    told = tell(failure, SEED, tmp_path)
    assert told.startswith(what)
    assert f"request 7 of seed {SEED} ({request_.kind}" in told
    assert (tmp_path / f"fuzzed-{SEED}-7").read_bytes() == b"".join(request_.pieces)


@pytest.mark.parametrize("request_", [WHOLE, ANYTHING])
async def test_what_is_never_answered_is_a_failure(tmp_path: Path, monkeypatch, request_: Fuzzed):
    monkeypatch.setattr(fuzzing, "PATIENCE_S", 0.05)
    over = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1") as server:
        with pytest.raises(ExceptionGroup) as found:
            await _fuzz(server, request_, tmp_path)
        over.set()
    (failure,) = found.value.exceptions
    assert isinstance(failure, Failure)
    assert failure.request is request_
    assert "no answer within" in str(failure)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"callback_failed","level":"error"}',
        b'{"event":"callback","reason":"the parser failed (KeyError): please report it","level":"warning"}',
        b'{"event":"x","exception":"Traceback (most recent call last)","level":"warning"}',
        b'{"event":"replay_failed","level":"error"}',
    ],
)
def test_what_the_log_says_of_a_defect_is_found_wherever_it_is_cut(tmp_path: Path, line: bytes):
    path = tmp_path / "log"
    fine = b'{"event":"callback","level":"info"}\n'
    path.write_bytes(fine)
    log = Log(path)
    log.check()
    with path.open("ab") as file:
        file.write(fine + line[:20])
        file.flush()
        log.check()
        file.write(line[20:] + b"\n")
    with pytest.raises(Failure, match=r'the log says: \{"event"'):
        log.check()


def test_what_a_parser_failed_at_is_found_in_the_store_and_told(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        connection.execute("CREATE TABLE receipts (reason TEXT, body BLOB)")
        kept = [(None, b"fine"), ("the parser failed (KeyError): please report it", b"the body")]
        connection.executemany("INSERT INTO receipts VALUES (?, ?)", kept)
        connection.commit()
    failure = Failure("the log says: …")
    failure.body = find_body(Victim(os.getpid(), "", "", tmp_path / "log", None))  # type: ignore[arg-type]
    assert tell(failure, SEED, tmp_path).endswith("\nb'the body'")
    assert (tmp_path / f"fuzzed-{SEED}").read_bytes() == b"the body"
