"""What is special to standard output: lines, streams of several kinds, and readers that do not read."""

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from media_callbacks.model.errors import SinkRetry
from media_callbacks.sinks.stdout import StdoutSink, build_line
from tests.sinks.pipes import PipeEnd


@pytest.fixture
def pipe():
    """Both ends of a pipe; what a test has not closed is closed, the reader first so that a stuck thread wakes."""
    reader, writer = os.pipe()
    ends = [os.fdopen(reader, "rb", buffering=0), io.BufferedWriter(PipeEnd(writer))]
    yield ends
    ends[0].close()
    for thread in threading.enumerate():
        if thread.name == "sink-out":
            thread.join(60)
    with suppress(BrokenPipeError):
        ends[1].close()


def _fill(stream):
    """Put the pipe into the state of one that nobody reads; gives how many bytes that took."""
    count = 0
    os.set_blocking(stream.fileno(), False)
    with suppress(BlockingIOError):
        while True:
            count += os.write(stream.fileno(), b" " * 4096)
    os.set_blocking(stream.fileno(), True)
    return count


def _read_until(stream, lines):
    """Everything there is to read until that many lines are complete."""
    data = b""
    while data.count(b"\n") < lines:
        data += stream.read(1024 * 1024)
    return data


def test_a_line_has_one_line_break(make_delivery):
    pretty = json.dumps({"a": {"b": "c\nd"}}, indent=1).replace("\n", "\r\n").encode()
    line = build_line(make_delivery(body=pretty))
    assert line.endswith(b"\n")
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"a": {"b": "c\nd"}}


def test_what_a_terminal_obeys_is_written_out(make_delivery):
    unseen = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
    data = {"user_data": "".join(map(chr, unseen)), "label": "动图 – naïve ✓ \u200b"}
    line = build_line(make_delivery(body=json.dumps(data, ensure_ascii=False).encode()))
    assert not set(line.decode().removesuffix("\n")) & set(map(chr, unseen))
    assert data["label"] in line.decode()
    assert json.loads(line) == data


async def test_standard_output_is_the_default(opened, make_delivery, capsysbinary):
    print("said before", end=";")
    sink = await opened(StdoutSink("out"))
    assert list(await sink.send([make_delivery()])) == [None]
    assert capsysbinary.readouterr().out == b"said before;" + make_delivery().body + b"\n"


@pytest.mark.parametrize("make_stream", [io.BytesIO, io.StringIO])
async def test_any_stream_will_do(opened, make_delivery, make_stream):
    stream = make_stream()
    sink = await opened(StdoutSink("out", stream))
    deliveries = [make_delivery(0), make_delivery(1)]
    assert list(await sink.send(deliveries)) == [None, None]
    written = stream.getvalue()
    assert (written if isinstance(written, bytes) else written.encode()) == b"".join(map(build_line, deliveries))


async def test_what_was_printed_before_comes_before(opened, make_delivery, pipe):
    reader, writer = pipe
    text = io.TextIOWrapper(writer, encoding="ascii", write_through=False)
    text.write("said before;")
    sink = await opened(StdoutSink("out", text))
    assert list(await sink.send([make_delivery()])) == [None]
    assert _read_until(reader, 1) == b"said before;" + make_delivery().body + b"\n"


async def test_the_stream_stays_open(opened, make_delivery):
    stream = io.BytesIO()
    sink = StdoutSink("out", stream)
    await sink.open()
    await sink.close()
    assert not stream.closed


async def test_a_reader_that_is_gone_is_a_retry_and_leaves_nothing_in_the_buffer(opened, make_delivery, pipe):
    reader, writer = pipe
    sink = await opened(StdoutSink("out", writer))
    reader.close()
    results = await sink.send([make_delivery(0), make_delivery(1)])
    assert [type(result) for result in results] == [SinkRetry, SinkRetry]
    assert "reader is gone" in str(results[0])
    writer.close()  # would flush what is left, and raise


async def test_a_stream_that_was_closed_is_a_retry(opened, make_delivery):
    stream = io.BytesIO()
    sink = await opened(StdoutSink("out", stream))
    stream.close()
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)


async def test_a_full_disk_is_a_retry(opened, make_delivery):
    with open("/dev/full", "wb") as stream:  # noqa: ASYNC230 - a device that never blocks
        sink = await opened(StdoutSink("out", stream))
        (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    assert "No space left" in str(result)


async def test_lines_written_before_the_reader_left_count(opened, make_delivery):
    class Leaving(io.BytesIO):
        def write(self, data):
            if len(self.getvalue()) > 1000:
                raise BrokenPipeError(32, "Broken pipe")
            return super().write(data)

    sink = await opened(StdoutSink("out", Leaving()))
    results = await sink.send([make_delivery(number) for number in range(4)])
    assert [type(result) for result in results] == [type(None), type(None), SinkRetry, SinkRetry]


async def test_a_line_that_broke_off_spoils_no_other(opened, make_delivery):
    class Breaking(io.BytesIO):
        is_full = False

        def write(self, data):
            if self.is_full:
                raise OSError(28, "No space left on device")
            if not self.getvalue():
                self.is_full = True
                return super().write(data[:10])
            return super().write(data)

    stream = Breaking()
    sink = await opened(StdoutSink("out", stream))
    delivery = make_delivery()
    assert isinstance((await sink.send([delivery]))[0], SinkRetry)
    stream.is_full = False
    assert list(await sink.send([delivery])) == [None]
    assert list(await sink.send([delivery])) == [None]
    assert stream.getvalue().splitlines() == [delivery.body[:10], delivery.body, delivery.body]


async def _send_in_vain(sink, deliveries, writer, loop_clock):
    """The results when the reader reads nothing until the time is over."""
    sending = asyncio.create_task(sink.send(deliveries))
    await asyncio.to_thread(writer.raw.writing.wait)
    loop_clock.skip(sink.timeout_s)
    return await sending


async def test_a_reader_that_is_stuck_stops_neither_the_event_loop_nor_later_events(
    opened, make_delivery, pipe, loop_clock
):
    reader, writer = pipe
    sink = await opened(StdoutSink("out", writer, timeout_s=3600.0))
    filled = _fill(writer)
    for number in range(3):
        (result,) = await _send_in_vain(sink, [make_delivery(number)], writer, loop_clock)
        assert isinstance(result, SinkRetry)
        assert "its reader is stuck" in str(result)
    assert sum(thread.name == "sink-out" for thread in threading.enumerate()) == 1

    # The reader wakes: the line that was stuck comes out whole, then what is sent from now on.
    sending = asyncio.create_task(sink.send([make_delivery(9)]))
    data = await asyncio.to_thread(_read_until, reader, 2)
    assert list(await sending) == [None]
    assert data[filled:] == build_line(make_delivery(0)) + build_line(make_delivery(9))


async def test_after_the_time_out_no_further_line_is_begun(opened, make_delivery, pipe, loop_clock):
    reader, writer = pipe
    sink = await opened(StdoutSink("out", writer, timeout_s=3600.0))
    filled = _fill(writer)
    results = await _send_in_vain(sink, [make_delivery(number) for number in range(5)], writer, loop_clock)
    assert [type(result) for result in results] == [SinkRetry] * 5
    sending = asyncio.create_task(sink.send([make_delivery(9)]))
    data = await asyncio.to_thread(_read_until, reader, 2)
    assert list(await sending) == [None]
    assert data[filled:] == build_line(make_delivery(0)) + build_line(make_delivery(9))


async def test_a_send_that_waits_for_its_turn_while_the_sink_is_closed_writes_whole(make_delivery, pipe):
    reader, writer = pipe
    sink = StdoutSink("out", writer)
    await sink.open()
    filled = _fill(writer)
    sending = [asyncio.create_task(sink.send([make_delivery(number)])) for number in range(2)]
    await asyncio.to_thread(writer.raw.writing.wait)
    await sink.close()
    data = await asyncio.to_thread(_read_until, reader, 2)
    assert [list(await task) for task in sending] == [[None], [None]]
    assert data[filled:] == build_line(make_delivery(0)) + build_line(make_delivery(1))


async def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(opened, make_delivery, pipe):
    reader, writer = pipe
    sink = await opened(StdoutSink("out", writer))
    os.set_blocking(writer.fileno(), False)
    delivery = make_delivery(user_data="x" * 500_000)
    sending = asyncio.create_task(sink.send([delivery]))
    data = await asyncio.to_thread(_read_until, reader, 1)
    assert list(await sending) == [None]
    assert data == build_line(delivery)


STUCK = """
import asyncio, os, sys
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.stdout import StdoutSink

async def main():
    sink = StdoutSink("out", timeout_s=0.1)
    await sink.open()
    (result,) = await sink.send([Delivery(1, "out", "evt", b"x" * 1_000_000, 1, "lease")])
    await sink.close()
    print(type(result).__name__, file=sys.stderr)

asyncio.run(main())
"""


def test_a_reader_that_is_stuck_does_not_hold_up_the_exit():
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "SinkRetry\n"
