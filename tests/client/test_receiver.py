"""Who takes which event: handlers by kind, of both sorts, and what becomes of what they raise."""

import base64
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args, get_overloads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.client.webhooks import Receiver, WebhookVerificationError
from media_callbacks.events import DATA_MODELS, KINDS, AnimatedImage, Event, Snapshot, UnknownEvent
from media_callbacks.model.events import Delivery
from media_callbacks.model.operational import build_event
from media_callbacks.sinks.webhook import build_headers
from tests.inbox.conformance import make_event

KEY = b"the secret of the orders"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GIF, SNAPSHOT = make_event(), make_event(kind="snapshot")
TROUBLE = build_event("disk_low", "host-1", since=NOW, ended_at=None, detail=None, instance="host-1")
LATER = GIF.to_json().replace(b"animated_image", b"hologram")


def headers_of(body: bytes, *, at: datetime = NOW) -> dict[str, str]:
    """As the sink sends them."""
    event_id = json.loads(body)["id"]
    return build_headers(Delivery(1, "orders", event_id, body, 1, ""), [KEY], int(at.timestamp()))


def make_receiver() -> Receiver:
    return Receiver(secrets=[SECRET], now=lambda: NOW)


def receive(receiver: Receiver, body: bytes) -> Event | UnknownEvent:
    return receiver.receive(headers_of(body), body)


def test_an_event_goes_to_the_handler_of_its_kind_and_every_other_to_the_default():
    receiver = make_receiver()
    taken: list[Any] = []

    @receiver.on("animated_image")
    def publish(event: Event[AnimatedImage]) -> None:
        taken.append(("publish", event))

    def show(event: Event[AnimatedImage | Snapshot]) -> None:
        taken.append(("show", event))

    receiver.on("snapshot", show)

    @receiver.on(["review", "ai"])
    def judge(event: Event) -> None:
        taken.append(("judge", event))

    @receiver.default
    def note(event: Event | UnknownEvent) -> None:
        taken.append(("note", event))

    expected = dict.fromkeys(KINDS, "note")
    expected |= {"animated_image": "publish", "snapshot": "show", "review": "judge", "ai": "judge"}
    for kind in KINDS:
        event = make_event(kind=kind, outcome="received" if kind == "notice" else "failed")
        assert receive(receiver, event.to_json()) == event
        assert taken.pop() == (expected[kind], event)
    later = receive(receiver, LATER)
    assert isinstance(later, UnknownEvent)
    assert taken == [("note", later)]


def test_what_nobody_takes_is_given_to_the_caller_alone():
    receiver = make_receiver()
    assert receive(receiver, GIF.to_json()) == GIF
    assert isinstance(receive(receiver, LATER), UnknownEvent)


def test_a_decorated_function_stays_what_it_was():
    receiver = make_receiver()

    @receiver.on("snapshot")
    def first(event: Event[Snapshot]) -> int:
        return 1

    @receiver.default
    def second(event: Event | UnknownEvent) -> int:
        return 2

    assert (first(SNAPSHOT), second(GIF)) == (1, 2)  # type: ignore[arg-type]


def test_a_number_of_a_schema_that_is_not_known_is_not_given_to_the_handler_of_its_kind():
    """What it says may mean something else."""
    receiver = make_receiver()
    taken: list[Any] = []
    receiver.on("animated_image", taken.append)
    receiver.default(lambda event: taken.append(event.type))
    receive(receiver, GIF.to_json().replace(b"animated_image:1", b"animated_image:2"))
    assert taken == ["media.animated_image.succeeded"]


def test_every_kind_has_a_type_of_its_own():
    overloads = [get_args(overload.__annotations__["kind"]) for overload in get_overloads(Receiver.on)]
    assert [kind for (kind, *others) in overloads if not others and kind in KINDS] == list(KINDS)
    models = [get_args(overload.__annotations__["return"])[0] for overload in get_overloads(Receiver.on)]
    assert models[: len(KINDS)] == [DATA_MODELS[kind] for kind in KINDS]


def test_operational_events_go_where_they_are_named_and_otherwise_where_unknown_ones_go():
    taken: list[Any] = []
    receiver = make_receiver()
    receiver.default(lambda event: taken.append(("default", event)))
    body = TROUBLE.to_json()
    assert isinstance(receive(receiver, body), UnknownEvent)
    receiver.on("operational", lambda event: taken.append(("on", event)))
    receive(receiver, body)
    # Of a trouble that a later version has words for.
    receive(receiver, body.replace(b"disk_low", b"of_tomorrow"))
    receive(receiver, body.replace(b"operational:1", b"operational:2"))
    assert [by for by, _ in taken] == ["default", "on", "on", "default"]
    assert taken[1][1] == TROUBLE
    assert (taken[2][1].data.trouble, taken[2][1].data.revision) == ("of_tomorrow", 1)
    with pytest.raises(WebhookVerificationError) as raised:
        receive(receiver, body.replace(b'"since"', b'"sense"'))
    assert raised.value.status == 400
    with pytest.raises(ValueError, match="operational has one already"):
        receiver.on("operational", print)


def test_a_kind_has_one_handler():
    receiver = make_receiver()
    first = receiver.on("snapshot")
    receiver.on("snapshot", print)
    for register in (first, receiver.on(["ai", "snapshot"])):
        with pytest.raises(ValueError, match="snapshot has one already"):
            register(print)
    receiver.default(print)
    with pytest.raises(ValueError, match="there is one already"):
        receiver.default(print)
    # Neither was the other kind of the two given a handler.
    receiver.on("ai", print)


@pytest.mark.parametrize("kind", ["hologram", "", ["ai", "hologram"]])
def test_a_kind_that_there_is_not_is_a_mistake_of_the_application(kind):
    with pytest.raises(ValueError, match="expected a kind of animated_image, "):
        make_receiver().on(kind, print)


# Secrets and time


@pytest.mark.parametrize("secrets", [[], ["whsec_"], [""], SECRET, [SECRET, "whsec_c2hvcnQ="]])
def test_a_secret_that_cannot_be_one_is_said_at_once(secrets):
    with pytest.raises(ValueError):
        Receiver(secrets=secrets)


async def test_without_secrets_no_request_is_taken():
    receiver = Receiver(now=lambda: NOW)
    taken: list[Any] = []
    receiver.default(taken.append)
    with pytest.raises(ValueError, match="secrets: expected at least one"):
        receive(receiver, GIF.to_json())
    with pytest.raises(ValueError, match="secrets: expected at least one"):
        await receiver.receive_async(headers_of(GIF.to_json()), GIF.to_json())
    assert taken == []


def test_what_is_forged_stale_or_unreadable_reaches_no_handler():
    receiver = Receiver(secrets=[SECRET], tolerance_s=60, now=lambda: NOW)
    taken: list[Any] = []
    receiver.default(taken.append)
    body = GIF.to_json()
    for headers, came, status in (
        ({}, body, 401),
        (headers_of(body), body + b" ", 401),
        (headers_of(body, at=NOW - timedelta(seconds=61)), body, 401),
        (headers_of(b'{"id": "evt_1"}'), b'{"id": "evt_1"}', 400),
    ):
        with pytest.raises(WebhookVerificationError) as raised:
            receiver.receive(headers, came)
        assert raised.value.status == status
    assert taken == []


def test_what_is_sent_again_comes_again_with_the_same_id():
    """Also where somebody else does it, as long as the time is tolerated: whoever acts on events notes their ids."""
    receiver, ids = make_receiver(), []
    receiver.default(lambda event: ids.append(event.id))
    receive(receiver, GIF.to_json())
    receive(receiver, GIF.to_json())
    assert ids == [GIF.id, GIF.id]


# Handlers of both sorts


class Failed(Exception):
    pass


def fail(_event: object) -> None:
    raise Failed


async def fail_later(_event: object) -> None:
    raise Failed


async def test_what_a_handler_raises_passes_through():
    body, receiver = GIF.to_json(), make_receiver()
    receiver.on("animated_image", fail)
    with pytest.raises(Failed):
        receive(receiver, body)
    with pytest.raises(Failed):
        await receiver.receive_async(headers_of(body), body)
    with pytest.raises(Failed):
        receiver.receive_unsigned(body)
    receiver = make_receiver()
    receiver.on("animated_image", fail_later)
    with pytest.raises(Failed):
        await receiver.receive_async(headers_of(body), body)
    with pytest.raises(Failed):
        await receiver.receive_unsigned_async(body)


async def test_handlers_of_both_sorts_are_done_when_an_asynchronous_call_is():
    receiver = make_receiver()
    taken: list[Any] = []

    @receiver.on("animated_image")
    async def publish(event: Event[AnimatedImage]) -> None:
        taken.append(event)

    receiver.on("snapshot", taken.append)
    for event in (GIF, SNAPSHOT):
        body = event.to_json()
        assert await receiver.receive_async(headers_of(body), body) == event
        assert await receiver.receive_unsigned_async(body) == event
        assert taken == [event, event]
        taken.clear()


def test_an_asynchronous_handler_is_not_forgotten_by_a_call_that_does_not_wait():
    receiver = make_receiver()
    receiver.default(fail_later)
    for call in (lambda: receive(receiver, GIF.to_json()), lambda: receiver.receive_unsigned(GIF.to_json())):
        with pytest.raises(TypeError, match="receive_async"):
            call()


# What comes by queues


def by_sns(body: str) -> str:
    """As "Amazon SNS message delivery formats" has it, without raw message delivery."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:media",
            "Message": body,
            "Timestamp": "2026-11-21T12:00:00.000Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLEw6JRN",
            "MessageAttributes": {"kind": {"Type": "String", "Value": "animated_image"}},
        }
    )


def by_eventbridge(body: str) -> str:
    """As "AWS service events" has it."""
    return json.dumps(
        {
            "version": "0",
            "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
            "detail-type": "media.animated_image.succeeded",
            "source": "media-callbacks",
            "account": "123456789012",
            "time": "2026-11-21T12:00:00Z",
            "region": "eu-west-1",
            "resources": [],
            "detail": json.loads(body),
        }
    )


def by_mns(body: str, *, content_format: str = "SIMPLIFIED") -> str:
    """What a queue gets of a topic, as "NotifyContentFormat" has it."""
    envelope = {
        "TopicOwner": "1234567890123456",
        "TopicName": "media",
        "Subscriber": "1234567890123456",
        "SubscriptionName": "all",
        "MessageId": "250EB49D5F8D737A391C93C6ED165396",
        "MessageMD5": "8BD8C3575A737EEB874DD21E6E60D3AC",
        "Message": base64.b64encode(body.encode()).decode(),
        "MessageTag": "animated_image",
        "PublishTime": "1680079287576",
    }
    if content_format == "SIMPLIFIED":
        return envelope["Message"]
    if content_format == "JSON":
        return json.dumps(envelope)
    elements = "".join(f"<{name}>{value}</{name}>" for name, value in envelope.items())
    return f'<?xml version="1.0"?><Notification xmlns="http://mns.aliyuncs.com/doc/v1/">{elements}</Notification>'


def by_aliyun_eventbridge(body: str) -> str:
    """With the extensions that the service adds."""
    added = {
        "aliyuneventbusname": "media",
        "aliyunpublishtime": "2026-11-21T12:00:00Z",
        "aliyunregionid": "cn-shanghai",
    }
    return json.dumps(json.loads(body) | added)


ENVELOPES = {
    "none": lambda body: body,
    "bytes": str.encode,
    "SNS": by_sns,
    "EventBridge": by_eventbridge,
    "EventBridge to SNS": lambda body: by_sns(by_eventbridge(body)),
    "SNS to SNS": lambda body: by_sns(by_sns(body)),
    "MNS": by_mns,
    "MNS, bytes": lambda body: by_mns(body).encode(),
    "MNS, JSON": lambda body: by_mns(body, content_format="JSON"),
    "MNS, XML": lambda body: by_mns(body, content_format="XML"),
    "EventBridge of Alibaba Cloud": by_aliyun_eventbridge,
    "EventBridge of Alibaba Cloud to MNS": lambda body: by_mns(by_aliyun_eventbridge(body), content_format="JSON"),
}


@pytest.mark.parametrize("wrap", ENVELOPES.values(), ids=ENVELOPES)
def test_what_comes_by_a_queue_needs_no_signature(wrap):
    receiver = Receiver()
    taken: list[Any] = []
    receiver.on("animated_image", taken.append)
    assert receiver.receive_unsigned(wrap(GIF.to_json().decode())) == GIF
    assert taken == [GIF]
    assert isinstance(receiver.receive_unsigned(wrap(LATER.decode())), UnknownEvent)


@pytest.mark.parametrize("wrap", [by_sns, by_eventbridge, by_mns])
def test_what_comes_by_a_request_has_no_envelope(wrap):
    body = wrap(GIF.to_json().decode()).encode()
    headers = build_headers(Delivery(1, "orders", "evt_1", body, 1, ""), [KEY], int(NOW.timestamp()))
    with pytest.raises(WebhookVerificationError) as raised:
        make_receiver().receive(headers, body)
    assert raised.value.status == 400


WRONG = {
    "nothing": "",
    "no text": b"\xff",
    "no event": "{}",
    "an envelope without a message": '{"Type": "Notification"}',
    "an envelope around what is no text": '{"Type": "Notification", "Message": {"id": "evt_1"}}',
    "an envelope around nothing": by_sns(""),
    "what SNS asks": '{"Type": "SubscriptionConfirmation", "Message": "x", "SubscribeURL": "https://example.com"}',
    "an event of somebody else": by_eventbridge('{"instance-id": "i-1234567890abcdef0"}'),
    "Base64 of nothing": by_mns(""),
    "Base64 of no event": by_mns("[]"),
    "no Base64": "eyJpZCI6",
    "an envelope of XML without a message": "<Notification><Message>{}</Message></Notification>",
    "an envelope of somebody else's topic": '{"TopicName": "media", "Message": "x"}',
    "an envelope without end": '{"detail-type": "x", "detail": ' * 100_000,
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
async def test_what_is_no_event_in_a_queue_is_refused(body):
    receiver = Receiver()
    taken: list[Any] = []
    receiver.default(taken.append)
    with pytest.raises(WebhookVerificationError) as raised:
        receiver.receive_unsigned(body)
    assert raised.value.status == 400
    with pytest.raises(WebhookVerificationError):
        await receiver.receive_unsigned_async(body)
    assert taken == []


@given(
    body=st.binary()
    | st.text()
    | st.text().map(by_sns)
    | st.text().map(by_mns)
    | st.dictionaries(st.text(), st.text()).map(json.dumps)
)
def test_whatever_comes_by_a_queue_is_refused_and_nothing_else(body):
    with pytest.raises(WebhookVerificationError):
        Receiver().receive_unsigned(body)


# Types

TYPED = """
from typing import assert_type

from media_callbacks.client.webhooks import Receiver
from media_callbacks.events import (
    AnimatedImage, AnimatedImageOutput, Data, Event, OperationalEvent, Review, Snapshot, UnknownEvent,
    parse_operational_event,
)

receiver = Receiver(secrets=["..."])

@receiver.on("animated_image")
def publish(event: Event[AnimatedImage]) -> None:
    assert_type(event.data, AnimatedImage)
    assert_type(event.data.outputs, tuple[AnimatedImageOutput, ...])
    print(event.data.outputs[0].size_bytes)
    print(event.data.outputs[0].url_template)  # wrong: attr-defined

def both(event: Event[AnimatedImage | Snapshot]) -> None: ...
def every(event: Event) -> None:
    assert_type(event.data, Data)

receiver.on("snapshot", both)
receiver.on("review", both)  # wrong: call-overload
receiver.on("transcode", every)
receiver.on("upload", lambda event: event.data.outputs[0].source_url)
receiver.on("hologram", every)  # wrong: call-overload
receiver.on(["asset", "notice"], every)
receiver.on(["asset", "hologram"], every)  # wrong: call-overload

@receiver.on("ai")  # wrong: arg-type
def judge(event: Event[Review]) -> None: ...

@receiver.on("operational")
def tell(event: OperationalEvent) -> str:
    return event.data.trouble

assert_type(tell(parse_operational_event("{}")), str)
receiver.on("operational", every)  # wrong: call-overload

@receiver.on({"workflow", "production"})
async def note(event: Event) -> None: ...

@receiver.default
def rest(event: Event | UnknownEvent) -> None:
    print(event.id, event.type, event.data.job_id)  # wrong: union-attr
    if isinstance(event, Event) and isinstance(event.data, AnimatedImage):
        assert_type(event.data.outputs[0].fps, float | None)

receiver.default(every)  # wrong: arg-type
assert_type(receiver.receive({}, b""), Event | UnknownEvent)
receiver.receive([(b"webhook-id", b"evt_1")], "{}")  # wrong: arg-type
"""


@pytest.mark.slow
def test_a_type_checker_knows_what_a_handler_gets(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty", "--hide-error-context"]
    service = Path(__file__).parents[2] / "service"
    run = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", "typed.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(service)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^typed\.py:(\d+): error: .*\[([a-z-]+)\]$", run.stdout, re.MULTILINE)
    wrong = [
        (str(number), said.partition("# wrong: ")[2])
        for number, said in enumerate(TYPED.splitlines(), 1)
        if "# wrong: " in said
    ]
    assert found == wrong, run.stdout + run.stderr
