"""The protocol by itself: whatever pieces requests come in, they are the same requests, one after the other."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.edge.answers import Answer, make_answer
from media_callbacks.edge.connections import Connections
from media_callbacks.edge.core import Edge, Exchange
from media_callbacks.edge.protocol import CallbackProtocol, make_protocol
from tests.factories.running import encode_request

PATH = "/callbacks/vod"


class Recording(Edge):
    """Keeps what arrives, and answers it."""

    def __init__(self) -> None:
        source = SimpleNamespace(name="vod", methods=frozenset({"POST"}))
        readiness = SimpleNamespace(live=None, ready=None, is_draining=False)
        super().__init__(
            {PATH: cast("Any", SimpleNamespace(source=source))},
            {},
            readiness=cast("Any", readiness),
            refusals=cast("Any", None),
            reporter=cast("Any", None),
            max_body_bytes=1 << 20,
            body_timeout_s=10.0,
        )
        self.callbacks: list[Any] = []
        self.waiting_answers: list[Exchange] = []

    def submit(self, exchange: Exchange) -> None:
        self.callbacks.append(exchange.callback)
        self.waiting_answers.append(exchange)

    def answer(self) -> None:
        exchanges, self.waiting_answers = self.waiting_answers, []
        for exchange in exchanges:
            exchange._answer(make_answer(200))


class Wire:
    """A transport that hands over only what is wanted."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def receive(protocol: CallbackProtocol, data: bytes) -> None:
    buffer = protocol.get_buffer(-1)
    buffer[: len(data)] = data
    protocol.buffer_updated(len(data))


async def talk(pieces: Iterator[bytes]) -> tuple[Recording, Wire]:
    edge = Recording()
    protocol, wire = connect(edge)
    for piece in pieces:
        for start in range(0, len(piece), len(protocol.received)):
            receive(protocol, piece[start : start + len(protocol.received)])
            while edge.waiting_answers or not wire.is_reading:
                # One request is in hand at most.
                assert len(edge.waiting_answers) <= 1
                edge.answer()
                await asyncio.sleep(0)
    protocol.connection_lost(None)
    return edge, wire


BODIES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"0", b"5;x\r\n", b"POST / HTTP/1.1\r\n", b"a"])).map(
        b"".join
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Bodies, and the pieces in which requests with them come."""
    bodies = draw(st.lists(BODIES, min_size=1, max_size=5))
    encoded = b""
    for body in bodies:
        headers = draw(
            st.sampled_from([(), ((b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")), ((b"Expect", b"100-continue"),)])
        )
        chunk = draw(st.one_of(st.none(), st.integers(1, 40)))
        request = encode_request("POST", PATH, headers, body, chunk=chunk)
        if chunk is not None and draw(st.booleans()):
            request = request.removesuffix(b"\r\n") + b"X-Trailer: a\r\n\r\n"
        encoded += draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n"])) + request
    cuts = sorted(draw(st.lists(st.integers(0, len(encoded)), max_size=30)))
    return bodies, [encoded[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]


@given(conversations())
def test_requests_are_the_same_however_they_are_cut(conversation: tuple[list[bytes], list[bytes]]) -> None:
    bodies, pieces = conversation
    edge, wire = asyncio.run(talk(iter(pieces)))
    assert [callback.body for callback in edge.callbacks] == bodies
    assert {(callback.method, callback.raw_path) for callback in edge.callbacks} == {("POST", PATH.encode())}
    assert not any(name in (b"x-trailer", b"upgrade") for callback in edge.callbacks for name, _ in callback.headers)
    assert wire.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").count(b"HTTP/1.1 200 OK\r\n") == len(bodies)
    assert not wire.is_closed


@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_of_what_was_sent_at_once_one_request_is_in_hand(byte_by_byte: bool) -> None:
    request = encode_request("POST", PATH, (), b"{}")
    data = request * 50
    pieces = [data[index : index + 1] for index in range(len(data))] if byte_by_byte else [data]
    edge, wire = await talk(iter(pieces))
    assert len(edge.callbacks) == 50
    assert wire.written.count(b"HTTP/1.1 200") == 50


def refusing() -> Recording:
    edge = Recording()
    edge.refusals = cast(
        "Any", SimpleNamespace(answer=lambda *_, **__: make_answer(404), connection_closed=lambda *_: None)
    )
    return edge


def connect(edge: Edge) -> tuple[CallbackProtocol, Wire]:
    made, wire = make_protocol(edge, Connections(limit=10, tick_s=60.0), head_timeout_s=10.0), Wire()
    state = SimpleNamespace(connections=set(), default_headers=[])
    protocol = cast("CallbackProtocol", made(SimpleNamespace(timeout_keep_alive=75), state))  # type: ignore[call-arg]
    protocol.connection_made(cast("Any", wire))
    return protocol, wire


async def test_of_requests_that_are_answered_at_once_there_is_one_in_hand_too() -> None:
    protocol, wire = connect(refusing())
    data = encode_request("GET", "/") * 100
    receive(protocol, data)
    assert wire.written.count(b"HTTP/1.1 404") == 1
    assert not wire.is_reading
    assert len(protocol.turns._waiting) == 1
    while wire.written.count(b"HTTP/1.1 404") < 100 or not wire.is_reading:
        assert len(protocol.turns._waiting) <= 1
        await asyncio.sleep(0)
    # Whoever does not pipeline waits for no turn.
    receive(protocol, encode_request("GET", "/"))
    assert wire.written.count(b"HTTP/1.1 404") == 101
    assert wire.is_reading
    protocol.connection_lost(None)


@pytest.mark.parametrize("end", [b"0\r\n" + b"ab:\r\n" * 10_000, b"1;" + b"x" * 50_000])
async def test_what_stands_around_a_body_is_bounded_however_large_the_body_is(end: bytes) -> None:
    protocol, wire = connect(refusing())
    head = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"4000\r\n" + b"x" * 0x4000 + b"\r\n" + end
    for start in range(0, len(data), 1000):
        receive(protocol, data[start : start + 1000])
    assert protocol._headers == []
    assert wire.written.startswith(b"HTTP/1.1 404")
    assert wire.is_closed
    protocol.connection_lost(None)


async def test_a_body_that_is_there_in_full_makes_room_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be durable in a moment, and has one answer."""
    monkeypatch.setattr("media_callbacks.edge.core.MAX_BODIES_BYTES", 200_000)
    edge, answers = refusing(), dict[str, list[int]]()

    def begin(name: str) -> Exchange:
        answers[name] = []

        def answered(answer: Answer) -> None:
            answers[name].append(answer.status)

        exchange = edge.begin("POST", PATH, PATH.encode(), b"", [], head_bytes=10, answered=answered)
        exchange.receive(b"x" * 90_000)
        return exchange

    begin("genuine").end()
    for number in range(3):
        begin(f"stranger {number}")
    assert answers == {"genuine": [], "stranger 0": [404], "stranger 1": [404], "stranger 2": []}
    edge.answer()
    assert answers["genuine"] == [200]
    assert edge.bodies_bytes == 90_000
