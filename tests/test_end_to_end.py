"""From the vendor's request to the consumers' webhooks, the whole way and many times over."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from media_callbacks.rehearsal.simulate import PAYLOADS
from tests.factories.running import SOURCES, Running, build_payload, connected, encode, read_answer, run_service

JOBS_PER_SOURCE = 25
CALLBACKS = 10_000
FURTHER_SOURCES = {
    # Other entrances to the same accounts: the way that a completion came is no part of what it is.
    "sources.vod-again": {
        "product": "vod",
        "transport": "http",
        "path": "/callbacks/vod-again",
        "url": ["https://cb.example.com/old", "https://cb.example.com/callbacks/vod-again"],
        "keys": ["another-vod-key-9c1e"],
    },
    "sources.ims-unsigned": {
        "product": "ims",
        "transport": "http",
        "path": "/callbacks/ims/8f1d3c5b7a9e0f2d",
        "url": "https://cb.example.com/callbacks/ims/8f1d3c5b7a9e0f2d",
        "keys": [],
        "unsigned": "accept",
    },
}


def callbacks_of_a_job(running: Running, name: str, job_id: str) -> list[bytes]:
    """Every way in which the same completion may be told."""
    if name == "mts":
        formats = ("XML", "JSON", "SIMPLIFIED")
        return [encode(running.build("mts", job_id, push_format=push_format)) for push_format in formats]
    requests = [running.build(name, job_id)]
    if name == "gif":
        requests.append(replace(requests[0], method="PUT"))
    if name in ("vod", "ims"):
        requests.append(running.build("vod-again" if name == "vod" else "ims-unsigned", job_id))
    return [encode(request, chunk=chunk) for request in requests for chunk in (None, 100)]


@pytest.mark.slow
async def test_ten_thousand_callbacks_of_a_hundred_jobs_are_a_hundred_events_at_each_sink(tmp_path):
    rng = random.Random(7)

    async def client(running: Running, requests: list[bytes]) -> Counter[int | None]:
        statuses: Counter[int | None] = Counter()
        async with connected(running.address) as (reader, writer):
            for start in range(0, len(requests), 8):
                batch = requests[start : start + 8]
                writer.write(b"".join(batch))
                for _ in batch:
                    answer = await read_answer(reader)
                    statuses[answer.status if answer else None] += 1
        return statuses

    async with run_service(tmp_path, sinks=("orders", "bus"), changes=FURTHER_SOURCES) as running:
        jobs = [(name, f"{name}-{number}") for name in SOURCES for number in range(JOBS_PER_SOURCE)]
        ways = [callbacks_of_a_job(running, name, job_id) for name, job_id in jobs]
        every = [callback for callbacks in ways for callback in callbacks]
        requests = every + [rng.choice(rng.choice(ways)) for _ in range(CALLBACKS - len(every))]
        rng.shuffle(requests)
        counts = await asyncio.gather(*(client(running, requests[start::16]) for start in range(16)))
        statuses = sum(counts, Counter())
        assert statuses.keys() == {200, 204}
        assert statuses.total() == CALLBACKS
        for receiver in running.receivers.values():
            await receiver.wait_for(len(jobs))
        # Everything was delivered; whatever came twice would have come by now.
        await running.until(lambda: running.rows("SELECT DISTINCT state FROM deliveries") == [("delivered",)])
        ids = {row[0] for row in running.rows("SELECT count(*) FROM events")}
        assert ids == {len(jobs)}
        for receiver in running.receivers.values():
            assert len(receiver.ids) == len(jobs)
            assert len(set(receiver.ids)) == len(jobs)
            assert Counter(event["data"]["product"] for event in receiver.events) == dict.fromkeys(
                ("vod", "ims", "mts", "multimediaai"), JOBS_PER_SOURCE
            )
        assert set(running.receivers["orders"].ids) == set(running.receivers["bus"].ids)
        assert running.rows("SELECT state, count(*) FROM receipts GROUP BY state") == [
            ("accepted", len(jobs)),
            ("duplicate", CALLBACKS - len(jobs)),
        ]


async def test_who_says_otherwise_of_a_job_is_answered_with_success_seen_and_forwarded_to_nobody(running):
    payload = build_payload(running.source("vod"), "job-1")
    truth, lie = (running.build("vod", "job-1", payload=one) for one in (payload, payload | {"VideoId": "forged"}))
    for request, state in ((truth, "accepted"), (lie, "differing"), (truth, "duplicate"), (lie, "differing")):
        assert (await running.send(request)).status == 200
        assert running.lines[-1]["state"] == state
    assert running.lines[-1]["differs"] == ["media_id"]
    assert running.lines[-1]["log_level"] == "warning"
    assert "forged" not in repr(running.logs)
    (event,) = await running.receiver.wait_for(1)
    assert event["data"]["media_id"] == payload["VideoId"]
    listed = (await running.get("/v1/receipts?state=differing", admin=True)).json()["receipts"]
    assert [receipt["reason"].rpartition(": ")[2] for receipt in listed] == ["media_id"] * 2
    metrics = (await running.get("/metrics", admin=True)).body.decode()
    assert 'media_callbacks_receipts_total{source="vod",state="differing"} 2.0' in metrics


async def test_every_message_that_the_simulator_knows_arrives_typed(running):
    expected = 0
    for name, product in (("vod", "vod"), ("ims", "ims"), ("mts", "mts"), ("gif", "multimediaai")):
        for event in PAYLOADS[product]:
            for failed in (False, True):
                if event == "Start" and failed:
                    continue  # a start cannot fail
                answer = await running.send(running.build(name, f"{event}-{failed}", event=event, failed=failed))
                assert answer.status in (200, 204)
                assert running.lines[-1]["state"] == "accepted", (name, event, failed)
                # A task and its stream, a run and its activity.
                expected += running.lines[-1].get("events", 1)
    events = await running.receiver.wait_for(expected)
    assert len({event["id"] for event in events}) == expected
    assert {event["data"]["outcome"] for event in events} >= {"succeeded", "failed", "received"}
    assert all(event["type"] == f"media.{event['data']['kind']}.{event['data']['outcome']}" for event in events)
    assert not [line for line in running.lines if line.get("warnings")]


async def test_a_rerun_with_another_outcome_is_a_new_event_and_comes_after_the_first(running):
    await running.send(running.build("vod", "j", failed=True))
    await running.send(running.build("vod", "j"))
    await running.send(running.build("vod", "j", failed=True))
    first, second = await running.receiver.wait_for(2)
    assert [event["data"]["outcome"] for event in (first, second)] == ["failed", "succeeded"]
    assert [event["data"]["revision"] for event in (first, second)] == [1, 2]
    assert first["id"] != second["id"]
    assert first["data"]["error"]["code"] == "InvalidParameter.ResourceContentBad"
    assert [line["state"] for line in running.lines] == ["accepted", "accepted", "duplicate"]


async def test_each_sink_gets_what_it_asked_for(tmp_path):
    changes = {
        "sinks.failures.match": {"outcome": "failed"},
        "sinks.images.match": {"kind": ["animated_image"], "product": "vod"},
    }
    async with run_service(tmp_path, sinks=("all", "failures", "images"), changes=changes) as running:
        await running.send(running.build("vod", "a"))
        await running.send(running.build("ims", "b", failed=True))
        await running.send(running.build("mts", "c"))
        await running.receivers["all"].wait_for(3)
        await running.receivers["failures"].wait_for(1)
        await running.receivers["images"].wait_for(1)
        await running.until(lambda: running.rows("SELECT DISTINCT state FROM deliveries") == [("delivered",)])
        subjects = {name: {e["subject"] for e in receiver.events} for name, receiver in running.receivers.items()}
        assert subjects == {"all": {"a", "b", "c"}, "failures": {"b"}, "images": {"a"}}
        assert (await running.metrics())["media_callbacks_unrouted_events_total"] == 0


async def test_a_sink_is_told_of_the_troubles_of_others_where_it_asks_for_them(tmp_path):
    changes = {
        "sinks.ops.match": {"kind": "operational"},
        "sinks.gone.match": {"kind": ["operational", "animated_image"]},
    }
    async with run_service(tmp_path, sinks=("all", "gone", "ops"), changes=changes) as running:
        running.receivers["gone"].status = 410
        await running.send(running.build("vod", "a"))
        await running.until(lambda: running.rows("SELECT state FROM sinks") == [("disabled",)])
        running.service.trouble_watch.wake()
        (told,) = await running.receivers["ops"].wait_for(1)
        assert (told["type"], told["subject"]) == ("media.operational.sink_disabled.began", "gone")
        assert "410" in told["data"]["detail"]
        assert running.rows("SELECT DISTINCT sink FROM deliveries WHERE event_id = 2") == [("ops",)]
        assert [event["subject"] for event in await running.receivers["all"].wait_for(1)] == ["a"]
        for query, found in (("", "media.animated_image.succeeded"), ("?kind=operational", told["type"])):
            (listed,) = (await running.get(f"/v1/events{query}", admin=True)).json()["events"]
            assert f"media.{listed['kind']}" in found
        shown = (await running.get(f"/v1/events/{told['id']}", admin=True)).json()
        assert shown["event"] == told
        assert shown["receipts"] == []


async def test_a_sink_for_troubles_that_takes_none_causes_no_more(tmp_path):
    changes = {
        "sinks.ops.match": {"kind": "operational"},
        "sinks.ops.retry_delays_s": [1],
        "sinks.gone.match": {"kind": "animated_image"},
    }
    async with run_service(tmp_path, sinks=("gone", "ops"), changes=changes) as running:
        running.receivers["gone"].status = 410
        running.receivers["ops"].status = 500
        await running.send(running.build("vod", "a"))
        await running.until(lambda: running.rows("SELECT state FROM sinks") == [("disabled",)])
        running.service.trouble_watch.wake()
        await running.until(lambda: running.rows("SELECT state FROM deliveries WHERE sink = 'ops'") == [("dead",)])

        async def look() -> None:
            before = running.rows("SELECT seen_at FROM troubles")
            running.service.trouble_watch.wake()
            await running.until(lambda: running.rows("SELECT seen_at FROM troubles") != before)

        for _ in range(3):
            await look()
        assert running.rows("SELECT trouble, subject FROM troubles") == [("sink_disabled", "gone")]
        assert running.rows("SELECT kind, count(*) FROM events GROUP BY kind") == [
            ("animated_image", 1),
            ("operational", 1),
        ]


async def test_an_event_for_nobody_is_kept_and_counted(tmp_path):
    changes = {"sinks.orders.match": {"outcome": "failed"}}
    async with run_service(tmp_path, changes=changes) as running:
        await running.send(running.build("vod", "a"))
        assert (await running.metrics())["media_callbacks_unrouted_events_total"] == 1
        assert running.rows("SELECT count(*) FROM events") == [(1,)]
        assert running.rows("SELECT count(*) FROM deliveries") == [(0,)]


async def test_a_sink_that_is_down_does_not_hold_up_another(tmp_path):
    async with run_service(tmp_path, sinks=("down", "up")) as running:
        running.receivers["down"].status = 500
        for number in range(50):
            await running.send(running.build("vod", f"job-{number}"))
        await running.receivers["up"].wait_for(50)
        assert running.receivers["down"].events == []
        # Ten failures in a row are enough: nobody asks a sink fifty times whether it is down.
        await running.until(lambda: running.service.dispatcher.breaker_states()["down"] == "open")
        states = "SELECT DISTINCT state FROM deliveries WHERE sink = 'down' ORDER BY state"
        await running.until(lambda: running.rows(states) == [("pending",), ("retrying",)])


async def test_what_was_not_delivered_is_delivered_by_the_next_life_of_the_service(tmp_path):
    async with run_service(tmp_path) as running:
        port = running.receiver.port
        running.receiver.status = 503
        for number in range(20):
            await running.send(running.build("vod", f"job-{number}"))
        await running.until(lambda: running.service.dispatcher.breaker_states()["orders"] == "open")
    # As if the time for the second attempt had come.
    async with run_service(tmp_path) as running:
        assert running.receiver.port != port
        await running.service.inbox._write(  # type: ignore[attr-defined]
            lambda d: d.execute("UPDATE deliveries SET due_at = 0 WHERE state = 'retrying'")
        )
        # Something new wakes the sink up.
        await running.send(running.build("vod", "new"))
        events = await running.receiver.wait_for(21)
        assert len({event["id"] for event in events}) == 21
        # And what had been seen in its first life is still known.
        await running.send(running.build("vod", "job-0"))
        assert running.lines[-1]["state"] == "duplicate"
