"""The queue client, over real sockets: to the fake cloud for what is right, to a scripted server for what is wrong."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from media_callbacks.aliyun.credentials import Credentials
from media_callbacks.aliyun.mns import MnsQueue
from media_callbacks.model.errors import VendorError, VendorRefused, VendorUnavailable
from media_callbacks.sources.reading.xml_document import read_document
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, Clock, Credentialed, client_of, serving, serving_queues

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


# Against the fake cloud


@pytest.mark.parametrize("signature", ["v2", "v4"])
@pytest.mark.parametrize("token", [None, "sts-token"])
async def test_a_message_from_receiving_to_deleting(signature, token):
    clock = Clock()
    async with (
        serving_queues(clock=clock, tokens={KEY_ID: token} if token else {}) as (queues, url),
        client_of(
            url + "/",
            signature=signature,
            region="cn-shanghai",
            clock=clock,
            credentials=Credentialed(token=token),
        ) as client,
    ):
        assert await client.receive(16, 0) == []
        assert await client.receive(1, 0) == []
        body = 'ein <GIF> & "mehr", 动图\r\n'
        message_id = queues.send(QUEUE, body)
        before = clock()
        (message,) = await client.receive(1, 1)
        assert message.id == message_id
        assert message.body == body.encode()
        assert message.body_md5 == hashlib.md5(body.encode()).hexdigest().upper()
        assert message.enqueued_at is not None
        assert timedelta(0) <= before - message.enqueued_at < timedelta(seconds=5)
        assert timedelta(seconds=29) < message.next_visible_at - before < timedelta(seconds=35)
        assert message.dequeue_count == 1
        handle, visible_at = await client.change_visibility(message.handle, 600)
        assert timedelta(seconds=599) < visible_at - before < timedelta(seconds=605)
        with pytest.raises(VendorRefused) as refused:
            await client.change_visibility(message.handle, 600)
        assert refused.value.code == "MessageNotExist"
        assert await client.delete([message.handle]) == []
        assert queues.depth(QUEUE) == 1
        assert await client.delete([handle, message.handle, "nonsense"]) == []
        assert queues.depth(QUEUE) == 0
        assert message.handle not in repr(message)


async def test_a_batch():
    async with serving_queues() as (queues, url), client_of(url) as client:
        sent = [queues.send(QUEUE, f"m{number}") for number in range(20)]
        first, rest = await client.receive(16, 0), await client.receive(16, 0)
        assert [message.id for message in [*first, *rest]] == sent
        assert await client.delete([message.handle for message in first]) == []
        assert queues.depth(QUEUE) == 4


async def test_a_long_poll_is_waited_for_to_its_end(loop_clock):
    clock = Clock()
    async with serving_queues(clock=clock) as (queues, url), client_of(url) as client:
        receiving = asyncio.create_task(client.receive(16, 30))
        while not queues._queues[QUEUE].waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not receiving.done()
        clock.ahead += timedelta(seconds=30)
        loop_clock.skip(30)
        assert await receiving == []


@pytest.mark.parametrize(
    "credentials, code, advice",
    [
        (Credentialed(secret="wrong"), "SignatureDoesNotMatch", "access_key_secret"),
        (Credentialed(key_id="LTAI-nobody"), "InvalidAccessKeyId", "access_key_id"),
        (Credentialed(token="old"), "InvalidSecurityToken", "STS token has expired"),
    ],
)
async def test_wrong_credentials_are_fetched_anew_once_and_then_refused(credentials, code, advice):
    async with serving_queues() as (_, url), client_of(url, credentials=credentials) as client:
        with pytest.raises(VendorRefused, match=advice) as refused:
            await client.receive(16, 0)
        assert (refused.value.code, refused.value.status) == (code, 403)
        assert credentials.invalidated == 1
        assert credentials._credentials.access_key_secret not in str(refused.value)


async def test_fresh_credentials_are_used_at_once():
    credentials = Credentialed(token="old")
    credentials.following = [Credentials(access_key_id=KEY_ID, access_key_secret=SECRET)]
    async with serving_queues() as (_, url), client_of(url, credentials=credentials) as client:
        assert await client.receive(16, 0) == []


@pytest.mark.parametrize("ahead_s, side", [(1200, "ahead of"), (-1200, "behind")])
async def test_a_clock_that_is_off_is_told_by_how_much(ahead_s, side):
    clock = Clock()
    clock.ahead = timedelta(seconds=ahead_s + 0.5)
    async with serving_queues() as (_, url), client_of(url, clock=clock) as client:
        with pytest.raises(VendorRefused, match=f"(1199|120[0-2]) s {side}") as refused:
            await client.receive(16, 0)
        assert refused.value.code == "TimeExpired"


async def test_the_end_of_invisibility_is_by_our_clock():
    clock = Clock()
    clock.ahead = timedelta(minutes=10)
    async with serving_queues() as (queues, url), client_of(url, clock=clock) as client:
        queues.send(QUEUE, "m")
        (message,) = await client.receive(16, 0)
        assert timedelta(seconds=25) < message.next_visible_at - clock() < timedelta(seconds=35)


async def test_other_documented_answers_of_the_fake():
    async with serving_queues() as (queues, url):
        async with client_of(url, queue="no-such") as client:
            with pytest.raises(VendorRefused, match="no such queue") as refused:
                await client.receive(16, 0)
            assert refused.value.code == "QueueNotExist"
        async with client_of(url) as client:
            queues.faults.throttled = 1
            with pytest.raises(VendorUnavailable, match="too many requests") as unavailable:
                await client.delete(["1-AA=="])
            assert unavailable.value.is_throttled
            queues.faults.throttled, queues.faults.failing = 0, 1
            with pytest.raises(VendorUnavailable, match="500 InternalError") as unavailable:
                await client.change_visibility("1-AA==", 10)
            assert not unavailable.value.is_throttled


# Against a server that answers anything


class Scripted:
    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        target = scope["raw_path"].decode() + "?" + scope["query_string"].decode()
        self.seen.append((f"{request.method} {target}", dict(request.headers), await request.body()))
        await Response(self.body, self.status, headers=self.headers)(scope, receive, send)


@asynccontextmanager
async def scripted(**options: Any) -> AsyncIterator[tuple[Scripted, MnsQueue]]:
    server = Scripted()
    async with serving(server) as url, client_of(url, **options) as client:
        yield server, client


def error(code: str) -> bytes:
    return (
        f'<?xml version="1.0"?><Error xmlns="http://mns.aliyuncs.com/doc/v1"><Code>{code}</Code>'
        "<Message>The secret thing is LEAK.</Message><RequestId>R</RequestId><HostId>H</HostId></Error>"
    ).encode()


@pytest.mark.parametrize(
    "status, code, kind, words",
    [
        (403, "AccessDenied", VendorRefused, "allow mns:ReceiveMessage"),
        (403, "InvalidSecurityToken.Expired", VendorRefused, "STS token"),
        (403, "SecurityTokenExpired", VendorRefused, "STS token"),
        (400, "InvalidDateHeader", VendorRefused, "clock of this machine"),
        (400, "InvalidArgument", VendorRefused, "settings"),
        (400, "QueueDeletedRecently", VendorRefused, "some minutes"),
        (400, "QpsLimitExceeded", VendorUnavailable, "too many"),
        (429, "Whatever", VendorUnavailable, "too many"),
        (500, "InternalServerError", VendorUnavailable, "the vendor has a problem"),
        (503, "ServiceUnavailable", VendorUnavailable, "the vendor has a problem"),
        (404, "", VendorUnavailable, "without a code"),
        (404, "not a\ncode", VendorUnavailable, "without a code"),
    ],
)
async def test_codes(status, code, kind, words):
    async with scripted() as (server, client):
        server.status, server.body = status, error(code)
        for ask in (client.receive(16, 0), client.delete(["H"]), client.change_visibility("H", 1)):
            with pytest.raises(kind, match=words) as found:
                await ask
            assert "LEAK" not in str(found.value)
            assert str(status) in str(found.value)


@pytest.mark.parametrize(
    "status, body",
    [
        (200, b"<html><body>Welcome</body></html>"),
        (200, b"<Messages><Message><MessageId>1</Messa"),
        (200, b"<Messages><Message><MessageId>1</MessageId></Message></Messages>"),
        (200, b""),
        (200, b"x" * (8 * 1024 * 1024 + 1)),
        (200, b"<Messages>" * 11 + b"</Messages>" * 11),
        (200, b"<Messages>" + b"<a/>" * 5_000 + b"</Messages>"),
        (200, b'<!DOCTYPE m [<!ENTITY a "aaaa">]><Messages>&a;</Messages>'),
        (500, b"Internal Server Error"),
        (502, b"<html><p>nginx</html>"),
        (404, b"<html>no such page</html>"),
        (404, b"<html>"),
    ],
)
async def test_what_is_no_answer_of_a_queue_may_pass(status, body):
    async with scripted() as (server, client):
        server.status, server.body = status, body
        with pytest.raises(VendorUnavailable, match=str(status)):
            await client.receive(16, 0)


async def test_a_reply_that_is_cut_off_or_never_comes(loop_clock):
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<Messages>", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        if len(answers) != 1:
            writer.close()
        else:
            loop_clock.skip(16)  # aiohttp rounds up to a whole second
            await reader.read()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, client_of(f"http://127.0.0.1:{port}") as client:
        for words in ("failed", "within 15 s", "failed"):
            with pytest.raises(VendorUnavailable, match=words):
                await client.receive(16, 0)
    async with client_of(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(VendorUnavailable, match="ClientConnectorError"):
            await client.receive(16, 0)


async def test_a_redirect_is_not_followed():
    async with scripted() as (server, client):
        server.status, server.headers = 302, {"Location": "/elsewhere"}
        with pytest.raises(VendorRefused, match="check endpoint") as refused:
            await client.receive(16, 0)
        assert refused.value.code == "Redirect"
        assert len(server.seen) == 1


async def test_what_the_vendor_asks_to_wait_is_passed_on():
    async with scripted() as (server, client):
        server.status, server.body, server.headers = 503, error("ServiceUnavailable"), {"Retry-After": "7"}
        with pytest.raises(VendorUnavailable) as unavailable:
            await client.receive(16, 0)
        assert unavailable.value.retry_after_s == 7


@pytest.mark.parametrize("date", ["nonsense", "Sat, 21 Nov 2026 08:00:00 -0000", "Sat, 99 Nov 99999 08:00:00 GMT"])
async def test_a_date_that_is_none(date):
    async with scripted(clock=lambda: NOW) as (server, client):
        server.status, server.body, server.headers = 408, error("TimeExpired"), {"Date": date}
        with pytest.raises(VendorRefused, match="clock of this machine"):
            await client.receive(16, 0)


async def test_a_batch_that_was_deleted_in_part():
    """Only what may still work is tried again: not what is gone, not what was never ours."""
    async with scripted() as (server, client):
        server.status = 404
        failures = {
            "1-A": "MessageNotExist",
            "1-B": "InternalError",
            "1-C": "ReceiptHandleError",
            "1-X": "InternalError",
        }
        server.body = (
            b"<Errors>%s</Errors>"
            % "".join(
                f"<Error><ErrorCode>{code}</ErrorCode><ErrorMessage/><ReceiptHandle>{handle}</ReceiptHandle></Error>"
                for handle, code in failures.items()
            ).encode()
        )
        assert await client.delete(["1-A", "1-B", "1-C", "1-D"]) == ["1-B"]
        with pytest.raises(VendorRefused):
            await client.receive(16, 0)
        _, _, body = server.seen[0]
        assert [child.text for child in read_document(body).children] == ["1-A", "1-B", "1-C", "1-D"]


async def test_a_handle_is_sent_as_it_was_signed():
    """aiohttp would write some of these characters in another way."""
    async with scripted() as (server, client):
        server.body = b"<ChangeVisibility><ReceiptHandle>1-N</ReceiptHandle><NextVisibleTime>1000</NextVisibleTime></ChangeVisibility>"
        handle, visible_at = await client.change_visibility("1-O/+=%2F~(é", 10)
        assert (handle, visible_at.timestamp() > 0) == ("1-N", True)
        request, headers, _ = server.seen[0]
        assert request == (
            f"PUT /queues/{QUEUE}/messages?ReceiptHandle=1-O%2F%2B%3D%252F~%28%C3%A9&VisibilityTimeout=10"
        )
        assert headers["authorization"].startswith(f"MNS {KEY_ID}:")
        assert headers["x-mns-version"] == "2015-06-06"
        assert "security-token" not in headers


async def test_elements_that_nobody_knows_and_fields_that_are_strange():
    async with scripted() as (server, client):
        server.body = (
            b'<?xml version="1.0" encoding="gbk"?><m:Messages xmlns:m="urn:x"><m:New/><m:Message>'
            b"<m:MessageId>M</m:MessageId><m:ReceiptHandle> 1-H </m:ReceiptHandle><m:MessageBody/>"
            b"<m:NextVisibleTime>1700000000000</m:NextVisibleTime><m:EnqueueTime>soon</m:EnqueueTime>"
            b"<m:DequeueCount>many</m:DequeueCount><m:UserProperties><m:PropertyValue><m:Name>n</m:Name>"
            b"</m:PropertyValue></m:UserProperties></m:Message></m:Messages>"
        )
        (message,) = await client.receive(16, 0)
        assert (message.id, message.handle, message.body, message.dequeue_count) == ("M", "1-H", b"", 1)
        assert message.enqueued_at is None
        server.body = b"<ChangeVisibility><ReceiptHandle>1-N</ReceiptHandle></ChangeVisibility>"
        with pytest.raises(VendorUnavailable, match="is missing"):
            await client.change_visibility("1-H", 10)


_REPLY = b"<Messages><Message><MessageId>M</MessageId><ReceiptHandle>H</ReceiptHandle><MessageBody>b</MessageBody><NextVisibleTime>1</NextVisibleTime></Message></Messages>"


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    body = bytearray(draw(st.sampled_from([_REPLY, error("InternalError"), b"<Errors><Error/></Errors>"])))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(body) - 1))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(body)


def test_whatever_is_answered_ends_in_an_answer_or_an_error_of_ours():
    @settings(max_examples=300, deadline=None)
    @given(status=st.sampled_from([200, 204, 302, 400, 403, 404, 408, 500]), body=replies())
    @example(status=200, body=_REPLY)
    def check(status: int, body: bytes) -> None:
        server.status, server.body = status, b"" if status == 204 else body
        for ask in (
            lambda: client.receive(16, 0),
            lambda: client.delete(["H"]),
            lambda: client.change_visibility("H", 1),
        ):
            try:
                runner.run(ask())
            except VendorError:
                pass

    with asyncio.Runner() as runner:
        context = scripted()
        server, client = runner.run(context.__aenter__())
        check()
        runner.run(context.__aexit__(None, None, None))
