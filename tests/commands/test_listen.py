"""`listen` beside a real service: what it prints, what it posts, and that it goes on where it was."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from media_callbacks.commands.listen import forwarding
from tests.factories.fake_admin import fake_admin, problem, run_command
from tests.factories.running import PATIENCE_S, WEBHOOK_SECRET, Receiver, Running, receiving, run_service

Json = dict[str, Any]


class Listener:
    """The command as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.notes: list[str] = []

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def note(self, text: str) -> str:
        """The next one that has this in it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode().rstrip("\n"):
                self.notes.append(line)
                if text in line:
                    return line
        raise AssertionError(f"{text!r} was never said, but {self.notes}")

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def listening(folder: Path, url: str, *arguments: str) -> AsyncIterator[Listener]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "media_callbacks",
        "listen",
        "--url",
        url,
        *arguments,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Listener(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture(params=["sqlite", "postgresql"])
def changes(request: pytest.FixtureRequest) -> Json:
    return {} if request.param == "sqlite" else {"store.url": request.getfixturevalue("database_url")}


@pytest.fixture
async def running(tmp_path: Path, changes: Json) -> AsyncIterator[Running]:
    async with run_service(tmp_path, sinks=(), changes=changes) as running:
        yield running


def url_of(running: Running) -> str:
    return f"http://{running.admin_address}"


async def until_following(running: Running) -> None:
    await running.until(lambda: len(running.service.feed._waiting) == 1)


async def send(running: Running, *names: str) -> None:
    for name in names:
        assert (await running.send(running.build("vod", name))).status == 200


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "state/media-callbacks/listen").iterdir())


async def test_events_are_printed_as_they_come(running, tmp_path):
    await send(running, "before")
    async with listening(tmp_path, url_of(running)) as listener:
        await until_following(running)
        await send(running, "job-1", "job-2")
        cells = (await listener.line()).split("\t")
        assert cells[1:3] == ["media.animated_image.succeeded", "job-1"]
        assert cells[4:6] == ["-", "-"]
        assert "\tjob-2\t" in await listener.line()
        assert await listener.end(signal.SIGINT) == 130
        assert listener.process.stderr is not None
        assert await listener.process.stderr.read() == b""


async def test_events_are_posted_in_order_signed_with_what_is_given(running, tmp_path):
    async with receiving() as receiver:
        arguments = ("--forward-to", receiver.url, "--secret", WEBHOOK_SECRET)
        async with listening(tmp_path, url_of(running), *arguments) as listener:
            await until_following(running)
            names = [f"job-{number}" for number in range(5)]
            await send(running, *names)
            events = await receiver.wait_for(5)
            assert [event["data"]["job_id"] for event in events] == names
            assert receiver.ids == [event["id"] for event in events]
            cells = (await listener.line()).split("\t")
            assert cells[4] == "204 No Content"
            assert cells[5].endswith(" ms")
            assert cells[6] == events[0]["id"]
            shown = (await running.get(f"/v1/events/{events[0]['id']}", admin=True)).json()["event"]
            assert events[0] == shown


async def test_what_is_answered_is_shown_and_it_goes_on(running, tmp_path):
    async with receiving() as receiver:
        receiver.status = 500
        arguments = ("--forward-to", receiver.url, "--secret", WEBHOOK_SECRET)
        async with listening(tmp_path, url_of(running), *arguments) as listener:
            await until_following(running)
            await send(running, "job-1")
            assert "\t500 Internal Server Error\t" in await listener.line()
            receiver.status = 204
            await send(running, "job-2")
            assert "\t204 No Content\t" in await listener.line()
            assert [event["data"]["job_id"] for event in receiver.events] == ["job-2"]


async def test_where_nobody_listens_the_event_waits(running, tmp_path):
    async with receiving() as receiver:
        port = receiver.port
    arguments = ("--forward-to", receiver.url, "--secret", WEBHOOK_SECRET)
    async with listening(tmp_path, url_of(running), *arguments) as listener:
        await until_following(running)
        await send(running, "job-1", "job-2")
        assert "Connection refused" in await listener.note("nobody listens")
        again = Receiver()
        app = web.Application()
        app.router.add_post("/events", again.receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            events = await again.wait_for(2)
        finally:
            await runner.cleanup()
        assert [event["data"]["job_id"] for event in events] == ["job-1", "job-2"]


async def test_it_signs_with_the_same_secret_every_time(running, tmp_path):
    secrets = []
    posted: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        posted.put_nowait((dict(request.headers), await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        for number in range(2):
            async with listening(tmp_path, url_of(running), "--forward-to", target) as listener:
                secrets.append((await listener.note("posting to")).rpartition(" ")[2])
                await until_following(running)
                await send(running, f"job-{number}")
                subject = None
                # One that was interrupted before it had noted what it had posted posts it again.
                while subject != f"job-{number}":
                    headers, body = await asyncio.wait_for(posted.get(), PATIENCE_S)
                    subject = Webhook(secrets[0]).verify(body, headers)["subject"]
                    assert headers["Content-Type"] == "application/cloudevents+json"
                    await listener.line()
                await listener.end(signal.SIGINT)
            await running.until(lambda: not running.service.feed._waiting)
    finally:
        await runner.cleanup()
    assert secrets[0] == secrets[1]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept(tmp_path) if path.suffix != ".lock"} == {0o600}


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_when_either_side_is_restarted(tmp_path, changes):
    """The listener is killed and the service stopped, in turns, while callbacks come."""
    sent: list[str] = []
    async with receiving() as receiver:
        arguments = ("--forward-to", receiver.url, "--secret", WEBHOOK_SECRET)
        port: int | None = None
        for life in range(3):
            further = {} if port is None else {"admin.port": port}
            async with run_service(tmp_path, sinks=(), changes=changes | further) as running:
                port = int(running.admin_address.rpartition(":")[2])
                if life == 0:
                    async with listening(tmp_path, url_of(running)):
                        await until_following(running)
                for turn in range(3):
                    async with listening(tmp_path, url_of(running), *arguments) as listener:
                        names = [f"job-{life}-{turn}-{number}" for number in range(12)]
                        sending = asyncio.create_task(send(running, *names))
                        sent += names
                        # In the middle, and when all of them were printed, which is after they were posted.
                        for _ in range(4 if turn < 2 else len(sent) - len(receiver.events)):
                            await listener.line()
                        await sending
                        await listener.end(signal.SIGINT if turn == 1 else signal.SIGKILL)
        async with (
            run_service(tmp_path, sinks=(), changes=changes | {"admin.port": port}) as running,
            listening(tmp_path, url_of(running), *arguments),
        ):
            # The last one comes last.
            async with asyncio.timeout(PATIENCE_S):
                while receiver.events[-1]["data"]["job_id"] != sent[-1]:
                    await receiver.wait_for(len(receiver.events) + 1)
    names = [event["data"]["job_id"] for event in receiver.events]
    # Killed between the post and its note, an event comes again, with the same id.
    once = list(dict.fromkeys(names))
    assert once == sent
    assert len(names) - len(once) <= 9


async def test_the_service_may_go_and_come_back(tmp_path):
    async with run_service(tmp_path, sinks=()) as running:
        port = int(running.admin_address.rpartition(":")[2])
        context = listening(tmp_path, url_of(running))
        listener = await context.__aenter__()
        await until_following(running)
    try:
        await listener.note("Trying again until it is back")
        async with run_service(tmp_path, sinks=(), changes={"admin.port": port}) as again:
            await send(again, "job-1")
            await listener.note("it is back")
            assert "\tjob-1\t" in await listener.line()
            assert listener.notes[1:] == ["it is back"]
    finally:
        await context.__aexit__(None, None, None)


async def test_it_begins_where_it_is_told_to(running, tmp_path):
    await send(running, "job-1", "job-2")
    for _ in range(2):
        async with listening(tmp_path, url_of(running), "--since", "1h", "--json") as listener:
            found = [json.loads(await listener.line())["subject"] for _ in range(2)]
            assert found == ["job-1", "job-2"]
            await until_following(running)
            await listener.end(signal.SIGINT)
        await running.until(lambda: not running.service.feed._waiting)
    await send(running, "unseen")
    async with listening(tmp_path, url_of(running), "--from-now", "--kind", "animated_image") as listener:
        await until_following(running)
        await send(running, "job-3")
        assert "\tjob-3\t" in await listener.line()
    # The one without the filter goes on by itself.
    async with listening(tmp_path, url_of(running)) as listener:
        assert "\tunseen\t" in await listener.line()


async def test_a_second_one_of_the_same_is_refused(running, tmp_path):
    async with listening(tmp_path, url_of(running)), listening(tmp_path, url_of(running), "--outcome", "failed"):
        await running.until(lambda: len(running.service.feed._waiting) == 2)
        async with listening(tmp_path, url_of(running)) as second:
            assert "another one listens" in await second.note("same filter")
            assert await second.process.wait() == 2


async def test_where_events_may_be_missing_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    since = "2026-11-21T04:00:00Z"

    def answer(asked: Any) -> Any:
        if "after" in asked.query and "wait" in asked.query:
            gone = {"title": "Gone", "status": 410, "detail": f"purged; go on with since={since}", "since": since}
            return web.json_response(gone, status=410)
        if "since" in asked.query:
            return problem(401, "enough seen")
        return {"events": [], "cursor": "0-0--0"}

    async with fake_admin() as admin:
        admin.answers = {"GET /v1/feed": answer}
        assert await admin.run("listen", "--product", "vod") == 1
        queries = [asked.query for asked in admin.asked]
    assert queries == [
        {"product": "vod"},
        {"product": "vod", "after": "0-0--0", "wait": "25"},
        {"product": "vod", "since": since, "wait": "25"},
    ]
    assert f"since={since}" in capsys.readouterr().err


async def test_what_comes_from_outside_is_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    event = {
        "id": "evt_1",
        "time": "2026-11-21T04:00:00Z",
        "type": "media.animated_image.succeeded",
        "subject": "job\n\x1b[2J",
        "data": {"user_data": "\u202eabc\tdef"},
    }
    pages = iter([{"events": [], "cursor": "0-0--0"}, {"events": [event], "cursor": "0-1-aa-5"}])
    async with fake_admin() as admin:
        admin.answers = {"GET /v1/feed": lambda _: next(pages, None)}
        assert await admin.run("listen") == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[2:4] == [r"job\n\x1b[2J", r"\u202eabc\tdef"]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--forward-to", "localhost:3000"], "--forward-to: expected http:// or https://"),
        (["--forward-to", "http://u:p@localhost/"], "--forward-to: expected http:// or https://"),
        (["--forward-to", "http://localhost/", "--secret", "abc"], "--secret: expected"),
        (["--since", "soon"], "--since: expected"),
        (["--since", "1h", "--from-now"], "not allowed with"),
        (["--kind", "gif"], "expected one of"),
    ],
)
async def test_what_can_not_be_is_refused(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert await run_command("listen", "--url", "http://127.0.0.1:1", *arguments) == 2
    assert told in capsys.readouterr().err


async def test_at_first_a_service_that_is_not_there_ends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert await run_command("listen", "--url", "http://127.0.0.1:1") == 1
    assert "can't be reached" in capsys.readouterr().err


async def test_an_answer_that_never_comes_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(forwarding, "_TIMEOUT_S", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        target = forwarding.Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"k" * 32)
        answer = await asyncio.to_thread(target.post, {"id": "evt_1"})
    finally:
        server.close()
        await server.wait_closed()
    assert (answer.text, answer.is_success) == ("no answer within 0.05 s", False)
