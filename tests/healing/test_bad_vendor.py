"""
Vendors whose job APIs answer badly, and callbacks that lie: the whole service against a server on loopback. Each ends in
a state with a name, is not asked about without end, costs nobody else, and leaves nothing secret in a log.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiohttp import web

from media_callbacks.aliyun import openapi
from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.aliyun.openapi import ATTEMPTS, OpenApiClient
from media_callbacks.rehearsal.fake_cloud.jobs import other_id
from media_callbacks.rehearsal.simulate import Json
from tests.factories.running import PATIENCE_S, Running, connected, encode_request, read_answer, run_service

ACCESS_KEY_SECRET = "access-key-secret-6b1f"
SECURITY_TOKEN = "security-token-a90c44"
PRESIGNED = "?Expires=1&OSSAccessKeyId=pre-signed-by-this-key&Signature=pre-signed-signature"
ACTIONS = (
    *("GetJobDetail", "ListSnapshots", "GetDynamicImageJob", "GetSnapshotJob", "GetSnapshotUrls"),
    *("QueryJobList", "QuerySnapshotJobList", "GetTaskStatus", "GetTaskResult", "ListTasks"),
)
# What a question costs in the worst case, and how often one job is asked about with the settings below.
MOST_REQUESTS_PER_JOB = 10 * ATTEMPTS


def reply(content: Any, status: int = 200, **options: Any) -> web.Response:
    return web.json_response(content, status=status, **options)


Behaviour = Callable[[web.Request, Json], Awaitable[web.StreamResponse]]


@dataclass
class BadVendor:
    """
    All four job APIs.

    Attributes:
        behaviours: What is done with a question that holds this text as a parameter.
        asked: How often each was asked for, by action and parameter.
        elsewhere: How often a redirect was followed.
    """

    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    elsewhere: int = 0
    signatures: set[bytes] = field(default_factory=set)
    url: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def hangs(self, parameter: str) -> bool:
        behaviour = self.behaviours.get(parameter)
        return behaviour is hang or (isinstance(behaviour, Passing) and behaviour.left > 0 and behaviour.first is hang)

    def times(self, parameter: str) -> int:
        return sum(count for (_, asked), count in self.asked.items() if asked == parameter)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/":
            self.elsewhere += 1
            return reply({})
        form = {name: str(value) for name, value in (await request.post()).items()}
        parameters = {**request.query, **form}
        action = request.headers.get("x-acs-action") or parameters["Action"]
        self.signatures.add(request.headers.get("Authorization", "").rpartition("Signature=")[2].encode())
        self.signatures.add(parameters.get("Signature", "").encode())
        names = ("JobId", "JobIds", "TaskId", "SnapshotJobIds", "VideoId", "ParentJobId", "MediaId")
        asked = next((parameters[name] for name in names if name in parameters), "")
        self.asked[action, asked] += 1
        behaviour = self.behaviours.get(asked) or self.behaviours.get("")
        if behaviour is None:
            return reply({"Code": "InvalidJobId.NotFound", "RequestId": "r-1"}, 404)
        return await behaviour(request, {"action": action, "asked": asked})


@asynccontextmanager
async def vendor(**behaviours: Behaviour) -> AsyncIterator[BadVendor]:
    bad = BadVendor(dict(behaviours))
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", bad.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        bad.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield bad
    finally:
        bad.gate.set()
        await runner.cleanup()


@asynccontextmanager
async def service(
    folder: Path,
    bad: BadVendor,
    changes: Mapping[str, Any] | None = None,
    *,
    rate: float = 1000.0,
    is_patient: bool = False,
) -> AsyncIterator[Running]:
    """
    The service with these job APIs. What it waits for in vain is short.

    Args:
        is_patient: Also with questions that are never answered.
    """

    class Client(OpenApiClient):
        """Gives up at once on what is never answered, and is patient with all else, however slow the machine is."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, timeout_s=PATIENCE_S, **options)
            self._hasty = OpenApiClient(*arguments, timeout_s=0.05, **options)

        async def call(self, query: ApiRequest) -> Mapping[str, Any]:
            if not is_patient and any(bad.hangs(value) for value in query.parameters.values()):
                return await self._hasty.call(query)
            return await super().call(query)

        async def close(self) -> None:
            await super().close()
            await self._hasty.close()

    settings = {
        "vendor.main": {
            "access_key_id": "access-key-id",
            "access_key_secret": ACCESS_KEY_SECRET,
            "security_token": SECURITY_TOKEN,
            "region": "cn-shanghai",
            "endpoints": dict.fromkeys(("vod", "ice", "mts", "multimediaai"), bad.url),
            "rates": dict.fromkeys(ACTIONS, rate),
        },
        "server.stop_timeout_s": 1,
        "jobs.deadline_s": 0.05,
        "jobs.retry_s": 0.1,
        "jobs.give_up_s": 0.4,
        **{f"sources.{name}.confirm_timeout_s": 1 for name in ("vod", "ims", "mts", "gif")},
        **(changes or {}),
    }
    with (
        patch("media_callbacks.app.OpenApiClient", Client),
        patch.object(openapi, "_FIRST_DELAY_S", 0.01),
        patch("media_callbacks.healing.queries.findings.HOLD_RETRY_S", 0.1),
    ):
        async with run_service(folder, changes=settings) as running:
            running.secrets |= {ACCESS_KEY_SECRET.encode(), SECURITY_TOKEN.encode(), PRESIGNED[1:].encode()}
            try:
                yield running
            finally:
                running.secrets |= {signature for signature in bad.signatures if len(signature) >= 16}


async def register(running: Running, *jobs: Json) -> list[Json]:
    body = json.dumps(list(jobs)).encode()
    headers = [(b"Content-Type", b"application/json")]
    async with connected(running.admin_address) as (reader, writer):
        writer.write(encode_request("POST", "/v1/jobs", headers, body, host=running.admin_address))
        answer = await read_answer(reader)
    assert answer is not None
    assert answer.status == 200, answer.body
    return list(answer.json())


async def job_states(running: Running) -> dict[str, str]:
    answer = await running.get("/v1/jobs?limit=100", admin=True)
    return {job["job_id"]: job["state"] for job in answer.json()["jobs"]}


async def until_over(running: Running) -> dict[str, str]:
    """When no job is expected any more."""
    await running.until(lambda: running.rows("SELECT count(*) FROM jobs WHERE state = 'expected'") == [(0,)])
    return await job_states(running)


def snapshot_detail(job_id: str, status: str = "Success", **more: Any) -> Json:
    detail = {"JobId": job_id, "Status": status, "VideoId": other_id("media", job_id)}
    return {"SnapshotJobDetail": detail, **more}


def always(content: Any, status: int = 200, **options: Any) -> Behaviour:
    async def answer(request: web.Request, asked: Json) -> web.StreamResponse:
        return reply(content, status, **options)

    return answer


def raw(body: bytes, status: int = 200, content_type: str = "application/json") -> Behaviour:
    async def answer(request: web.Request, asked: Json) -> web.StreamResponse:
        return web.Response(body=body, status=status, content_type=content_type)

    return answer


async def hang(request: web.Request, asked: Json) -> web.StreamResponse:
    await asyncio.Event().wait()
    return reply({})


async def cut_off(request: web.Request, asked: Json) -> web.StreamResponse:
    """Half of what was announced."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"SnapshotJobDetail": {"JobId": "cut')
    assert request.transport is not None
    request.transport.close()
    return response


def redirect(request: web.Request, asked: Json) -> Awaitable[web.StreamResponse]:
    return always({}, 302, headers={"Location": "/elsewhere"})(request, asked)


BAD_ANSWERS: dict[str, Behaviour] = {
    "html": raw(b"<html><body>Sign in to the hotel's network</body></html>", content_type="text/html"),
    "html-502": raw(b"<html>Bad Gateway</html>", 502, "text/html"),
    "truncated": raw(b'{"SnapshotJobDetail": {"JobId": "truncated", "Status": "Suc'),
    "cut-off": cut_off,
    "error-500": always({"Code": "InternalError", "Message": "?", "RequestId": "r-1"}, 500),
    "throttled": always({"Code": "Throttling.User"}, 400),
    "throttled-an-hour": always({"Code": "Throttling"}, 503, headers={"x-acs-retry-after": "3600000"}),
    "contradictory": always(snapshot_detail("contradictory", Code="InternalError")),
    "unknown-state": always(snapshot_detail("unknown-state", "Exploded")),
    "no-state": always({"SnapshotJobDetail": {"JobId": "no-state"}}),
    "redirect": redirect,
    "ten-megabytes": raw(b'{"a": "' + b"x" * 10 * 2**20 + b'"}'),
    "deep": raw(b'{"SnapshotJobDetail": ' + b"[" * 100_000),
    "hanging": hang,
    "another-job": always(snapshot_detail("somebody-elses-job")),
    "a-list": always([snapshot_detail("a-list")]),
    "null": raw(b"null"),
    "nothing": raw(b""),
    "not-utf-8": raw(b'{"SnapshotJobDetail": "\xff\xfe"}'),
    "refused": always({"Code": "Forbidden.RAM", "Message": "no"}, 403),
    "wrong-shapes": always({"SnapshotJobDetail": {"JobId": ["x"], "Status": {"a": 1}, "VideoId": 7}}),
    "never-existed": always({"Code": "InvalidJob.NotFound"}, 404),
    "of-another-region": always({"Code": "InvalidParameter.JobId"}, 400),
}


async def test_whatever_the_vendor_answers_the_job_ends_as_unknown_and_is_not_asked_about_for_ever(tmp_path):
    async with vendor(**BAD_ANSWERS) as bad, service(tmp_path, bad) as running:
        await register(running, *({"product": "vod", "family": "snapshot", "job_id": name} for name in BAD_ANSWERS))
        assert await until_over(running) == dict.fromkeys(BAD_ANSWERS, "unknown")
        events = await running.receiver.wait_for(len(BAD_ANSWERS))
        assert {event["data"]["job_id"] for event in events} == BAD_ANSWERS.keys()
        for event in events:
            data = event["data"]
            assert event["type"] == "media.snapshot.unknown"
            assert (data["transport"], data["verified_by"], data["source"]) == ("query", "none", "vod")
            assert data["error"]["message"]
        assert bad.elsewhere == 0
        asked = {name: bad.times(name) for name in BAD_ANSWERS}
        # Each was asked more than once, unless told to wait for longer.
        assert all(1 <= count <= MOST_REQUESTS_PER_JOB for count in asked.values()), asked
        assert len(running.receiver.ids) == len(BAD_ANSWERS)
        before = bad.asked.total()
        # Nothing is under way any more: a further job is asked about, and nothing else is.
        bad.behaviours["last"] = always(snapshot_detail("last"))
        await register(running, {"product": "vod", "family": "snapshot", "job_id": "last"})
        assert (await until_over(running))["last"] == "healed"
        # About its state, and twice about its pictures, which may be of two types.
        assert bad.asked.total() == before + 3


@dataclass
class Passing:
    """Another behaviour, so many times."""

    left: int
    first: Behaviour
    then: Behaviour

    async def __call__(self, request: web.Request, asked: Json) -> web.StreamResponse:
        behaviour = self.first if self.left > 0 else self.then
        self.left -= 1
        return await behaviour(request, asked)


async def test_what_passes_heals_the_job_with_one_event(tmp_path):
    passing = ("html", "error-500", "throttled", "truncated", "hanging", "refused", "ten-megabytes", "redirect")
    behaviours: dict[str, Behaviour] = {
        name: Passing(ATTEMPTS + 1, BAD_ANSWERS[name], always(snapshot_detail(name))) for name in passing
    }
    # What is told with a line break at its end is the same job.
    behaviours["line-break"] = always(snapshot_detail("line-break\n"))
    async with vendor(**behaviours) as bad, service(tmp_path, bad, {"jobs.give_up_s": 3600}) as running:
        jobs = [{"product": "vod", "family": "snapshot", "job_id": name} for name in passing]
        jobs.append({"product": "vod", "family": "snapshot", "job_id": "line-break\r\n"})
        await register(running, *jobs)
        assert await until_over(running) == dict.fromkeys(behaviours, "healed")
        events = await running.receiver.wait_for(len(behaviours))
        assert {event["data"]["verified_by"] for event in events} == {"query"}
        assert sorted(event["subject"] for event in events) == sorted(behaviours)


async def test_a_job_that_has_ended_before_its_registration_is_asked_about_by_nobody(tmp_path):
    async with vendor() as bad, service(tmp_path, bad) as running:
        assert (await running.send(running.build("vod", "early", event="SnapshotComplete"))).status == 200
        await running.receiver.wait_for(1)
        [job] = await register(running, {"product": "vod", "family": "snapshot", "job_id": "early\n"})
        assert (job["state"], job["transport"], job["outcome"]) == ("completed", "http", "succeeded")
        # The next deadline is over, too, and that job is asked about.
        await register(running, {"product": "vod", "family": "snapshot", "job_id": "late"})
        await until_over(running)
        assert bad.times("early") == 0


async def test_a_job_that_was_given_up_is_completed_by_a_late_callback(tmp_path):
    async with vendor() as bad, service(tmp_path, bad) as running:
        await register(running, {"product": "vod", "family": "snapshot", "job_id": "job-1"})
        assert await until_over(running) == {"job-1": "unknown"}
        assert (await running.send(running.build("vod", "job-1", event="SnapshotComplete"))).status == 200
        events = await running.receiver.wait_for(2)
        assert [(e["data"]["outcome"], e["data"]["revision"]) for e in events] == [("unknown", 1), ("succeeded", 2)]
        assert await job_states(running) == {"job-1": "completed"}


async def test_one_bad_id_of_a_batch_costs_the_others_nothing(tmp_path):
    async def jobs(request: web.Request, asked: Json) -> web.StreamResponse:
        ids = asked["asked"].split(",")
        if "bad" in ids:
            return reply({"Code": "InvalidParameter.ResourceNotFound"}, 404)
        listed = [{"JobId": f"{job_id}\n", "State": "Success"} for job_id in ids]
        return reply({"SnapshotJobList": {"SnapshotJob": [{"JobId": "other", "State": "Fail"}, *listed]}})

    async with vendor(**{"": jobs}) as bad, service(tmp_path, bad) as running:
        names = [*(f"job-{n}" for n in range(9)), "bad"]
        await register(running, *({"product": "mts", "family": "snapshot", "job_id": name} for name in names))
        assert await until_over(running) == {name: "unknown" if name == "bad" else "healed" for name in names}
        assert len(await running.receiver.wait_for(10)) == 10


# Confirming and filling in


def outcomes(events: list[Json]) -> list[tuple[str, str, str]]:
    return [(e["subject"], e["data"]["outcome"], e["data"]["outcome_verified_by"]) for e in events]


async def until_settled(running: Running) -> None:
    await running.until(lambda: running.rows("SELECT count(*) FROM held") == [(0,)])


async def test_confirmation_of_vod_ims_and_mts_messages(tmp_path):
    """The vendor's word is what leaves; without it, the message as it came, after its time-out."""
    answers: dict[str, tuple[str, str, Behaviour]] = {
        # job: source, event, what the vendor says
        "vod-true": ("vod", "SnapshotComplete", always(snapshot_detail("vod-true"))),
        "vod-lie": ("vod", "SnapshotComplete", always(snapshot_detail("vod-lie", "Fail"))),
        "vod-html": ("vod", "SnapshotComplete", BAD_ANSWERS["html"]),
        "vod-gone": ("vod", "SnapshotComplete", BAD_ANSWERS["never-existed"]),
        "ims-true": (
            "ims",
            "DynamicImageComplete",
            always(
                {
                    "DynamicImageJob": {
                        "JobId": "ims-true",
                        "Status": "Success",
                        "OutputUrl": f"http://a/1.gif{PRESIGNED}",
                    }
                }
            ),
        ),
        "ims-lie": (
            "ims",
            "DynamicImageComplete",
            always({"DynamicImageJob": {"JobId": "ims-lie", "Status": "Failed", "Code": "x"}}),
        ),
        "ims-hanging": ("ims", "DynamicImageComplete", hang),
        "mts-true": (
            "mts",
            "Transcode",
            always({"JobList": {"Job": [{"JobId": "mts-true", "State": "TranscodeSuccess"}]}}),
        ),
        "mts-lie": ("mts", "Transcode", always({"JobList": {"Job": [{"JobId": "mts-lie", "State": "TranscodeFail"}]}})),
        "mts-unknown": ("mts", "Transcode", BAD_ANSWERS["throttled"]),
    }
    behaviours = {name: behaviour for name, (_, _, behaviour) in answers.items()}
    changes = {f"sources.{name}.confirm": "always" for name in ("vod", "ims", "mts")}
    async with vendor(**behaviours) as bad, service(tmp_path, bad, changes) as running:
        for name, (source, event, _) in answers.items():
            status = 204 if source == "mts" else 200
            assert (await running.send(running.build(source, name, event=event))).status == status
        events = await running.receiver.wait_for(len(answers))
        await until_settled(running)
        expected = {
            "true": ("succeeded", "query"),
            "lie": ("failed", "query"),
        }
        for subject, outcome, verified_by in outcomes(events):
            assert (outcome, verified_by) == expected.get(subject.partition("-")[2], ("succeeded", "signature")), (
                subject
            )
        assert len(running.receiver.ids) == len(answers)
        states = dict(running.rows("SELECT state, count(*) FROM receipts WHERE transport <> 'query' GROUP BY state"))
        assert states == {"conflict": 3, "accepted": len(answers) - 3}
        assert all(bad.times(name) <= MOST_REQUESTS_PER_JOB for name in answers)


async def test_a_job_that_the_vendor_says_has_not_ended_waits_until_it_has(tmp_path):
    async def first_running(request: web.Request, asked: Json) -> web.StreamResponse:
        return reply(snapshot_detail("job-1", "Processing" if bad.times("job-1") < 3 else "Success"))

    changes = {"sources.vod.confirm": "always", "sources.vod.confirm_timeout_s": 3600}
    async with vendor() as bad, service(tmp_path, bad, changes) as running:
        bad.behaviours["job-1"] = first_running
        assert (await running.send(running.build("vod", "job-1", event="SnapshotComplete"))).status == 200
        assert outcomes(await running.receiver.wait_for(1)) == [("job-1", "succeeded", "query")]
        assert bad.times("job-1") == 3


async def test_a_held_event_leaves_although_its_source_is_not_configured_any_more(tmp_path):
    changes = {"sources.vod.confirm": "always", "sources.vod.confirm_timeout_s": 3600}
    async with vendor(**{"job-1": hang}) as bad:
        async with service(tmp_path, bad, changes) as running:
            assert (await running.send(running.build("vod", "job-1", event="SnapshotComplete"))).status == 200
            await running.until(lambda: bad.times("job-1") > 0)
        bad.behaviours["job-1"] = always(snapshot_detail("job-1"))
        async with service(tmp_path, bad, {"sources.vod": None}) as running:
            [event] = await running.receiver.wait_for(1)
            data = event["data"]
            assert (data["source"], data["transport"], data["outcome_verified_by"]) == ("vod", "http", "query")


async def test_missing_outputs_are_filled_in_and_what_can_not_be_leaves_without(tmp_path):
    def transcoded(name: str) -> Behaviour:
        file = {"Bucket": "out-bucket", "Location": "oss-cn-hangzhou", "Object": f"{name}.mp4"}
        job = {"JobId": name, "State": "TranscodeSuccess", "Output": {"OutputFile": file}}
        return always({"JobList": {"Job": [job]}})

    def pictures(name: str) -> Behaviour:
        async def answer(request: web.Request, asked: Json) -> web.StreamResponse:
            if asked["action"] == "GetSnapshotUrls":
                return reply({"SnapshotUrls": [f"http://a.example/{name}.jpg{PRESIGNED}"], "Total": 1})
            return reply({"SnapshotJob": {"JobId": name, "Status": "Success", "Count": 1}})

        return answer

    answers: dict[str, tuple[str, str, Behaviour]] = {
        "mts-filled": ("mts", "Transcode", transcoded("mts-filled")),
        "mts-html": ("mts", "Transcode", BAD_ANSWERS["html"]),
        "mts-gone": ("mts", "Transcode", BAD_ANSWERS["never-existed"]),
        "ims-filled": ("ims", "SnapshotComplete", pictures("ims-filled")),
        "ims-other": ("ims", "SnapshotComplete", always({"SnapshotJob": {"JobId": "x", "Status": "Success"}})),
        # Not asked for a second opinion.
        "ims-failed": ("ims", "SnapshotComplete", always({"SnapshotJob": {"JobId": "ims-failed", "Status": "Failed"}})),
    }
    behaviours = {name: behaviour for name, (_, _, behaviour) in answers.items()}
    changes = {"sources.mts.enrich": True, "sources.ims.enrich": True}
    async with vendor(**behaviours) as bad, service(tmp_path, bad, changes) as running:
        for name, (source, event, _) in answers.items():
            assert (await running.send(running.build(source, name, event=event))).status in (200, 204)
        events = {event["subject"]: event["data"] for event in await running.receiver.wait_for(len(answers))}
        await until_settled(running)
        assert {data["outcome"] for data in events.values()} == {"succeeded"}
        assert events["mts-filled"]["outputs"][0]["url"].endswith(
            "out-bucket.oss-cn-hangzhou.aliyuncs.com/mts-filled.mp4"
        )
        assert events["ims-filled"]["outputs"][0]["urls"] == [f"http://a.example/ims-filled.jpg{PRESIGNED}"]
        for name in ("mts-html", "mts-gone", "ims-other", "ims-failed"):
            assert events[name]["verified_by"] == "signature"
            assert not any(output.get("url") or output.get("urls") for output in events[name]["outputs"])


# Callbacks that nobody signs


def gif_task(status: int = 2, *, application: str = "app") -> Behaviour:
    """A task of the URL that ``tests.factories.running.sign`` mints, unless it is another application's."""

    async def answer(request: web.Request, asked: Json) -> web.StreamResponse:
        if asked["action"] == "GetTaskStatus":
            return reply({"Status": status})
        result = {
            "ApplicationId": application,
            "VideoUrl": "https://media.example.com/in.mp4",
            "VideoName": "in",
            "ProcessResultUrl": f"https://result.example.com/1.txt{PRESIGNED}",
            "ErrorName": "DownloadFail" if status == 3 else None,
        }
        return reply({"Status": status, "Result": result})

    return answer


async def call(running: Running, job_id: str, task_id: int, status: int = 2) -> None:
    """A callback of the job's minted URL."""
    answer = await running.send(running.build("gif", job_id, payload={"TaskId": task_id, "Status": status}))
    assert answer.status == 200


def decisions(running: Running) -> list[str]:
    return [line["decision"] for line in running.logs if line["event"] == "inquiry"]


async def test_a_foreign_task_is_refused_and_reported_and_the_true_one_is_believed(tmp_path):
    tasks = {"7": gif_task(application="somebody-elses"), "8": gif_task(), "9": gif_task(3)}
    async with vendor(**tasks) as bad, service(tmp_path, bad) as running:
        await call(running, "job-1", 7)
        await until_settled(running)
        assert running.rows("SELECT state FROM receipts") == [("conflict",)]
        await running.until(lambda: decisions(running) == ["foreign"])
        # A lie about the right task: the truth leaves in its place, and once.
        await call(running, "job-2", 9)
        await call(running, "job-1", 8)
        await call(running, "job-2", 9, status=3)
        events = await running.receiver.wait_for(2)
        await until_settled(running)
        found = sorted((e["data"]["job_id"], e["data"]["outcome"], e["data"]["verified_by"]) for e in events)
        assert found == [("8", "succeeded", "query"), ("9", "failed", "query")]
        assert len(running.receiver.ids) == 2


async def test_what_was_not_confirmed_binds_a_minted_url_to_nothing(tmp_path):
    """A notice can't be confirmed and leaves: the task that it names must not be the only one that is believed."""
    async with vendor(**{"8": gif_task()}) as bad, service(tmp_path, bad) as running:
        await call(running, "job-1", 7, status=1)
        [notice] = await running.receiver.wait_for(1)
        assert (notice["type"], notice["data"]["verified_by"]) == ("media.notice.received", "token")
        await call(running, "job-1", 8)
        events = await running.receiver.wait_for(2)
        assert (events[1]["data"]["job_id"], events[1]["data"]["outcome"]) == ("8", "succeeded")
        # Now it is bound.
        await call(running, "job-1", 7, status=3)
        await until_settled(running)
        assert running.rows("SELECT state FROM receipts ORDER BY id DESC LIMIT 1") == [("conflict",)]


async def test_hundreds_of_claims_about_one_url_delay_no_other_job(tmp_path):
    lies = 300
    changes = {"sources.gif.confirm_timeout_s": 3600}
    async with vendor(**{"9": gif_task()}) as bad, service(tmp_path, bad, changes, rate=50) as running:
        await asyncio.gather(*(call(running, "attacked", 1000 + n) for n in range(lies)))
        await running.until(lambda: bad.asked.total() > 0)
        await call(running, "honest", 9)
        [event] = await running.receiver.wait_for(1)
        assert event["data"]["job_id"] == "9"
        assert len({asked for _, asked in bad.asked} - {"9"}) < lies / 10
        assert running.rows("SELECT count(*) FROM held") == [(lies,)]


async def test_the_truth_among_many_claims_about_one_url_is_found(tmp_path):
    with patch("media_callbacks.inbox.receiving.holds.CLAIM_SPACING_MS", 50):
        async with vendor(**{"8": gif_task()}) as bad, service(tmp_path, bad) as running:
            for n in range(20):
                await call(running, "attacked", 1000 + n)
            await call(running, "attacked", 8)
            [event] = await running.receiver.wait_for(1)
            assert (event["data"]["job_id"], event["data"]["verified_by"]) == ("8", "query")
            await until_settled(running)
            assert running.rows("SELECT state, count(*) FROM receipts GROUP BY state ORDER BY state") == [
                ("accepted", 1),
                ("conflict", 20),
            ]


async def test_a_vendor_that_hangs_for_one_product_delays_no_other(tmp_path):
    async def mts_is_up(request: web.Request, asked: Json) -> web.StreamResponse:
        if asked["action"] == "QuerySnapshotJobList":
            return reply({"SnapshotJobList": {"SnapshotJob": [{"JobId": "up", "State": "Success"}]}})
        return await hang(request, asked)

    async with (
        vendor(**{"": mts_is_up}) as bad,
        service(tmp_path, bad, {"jobs.give_up_s": 3600}, is_patient=True) as running,
    ):
        await register(
            running, *({"product": "vod", "family": "snapshot", "job_id": f"hanging-{n}"} for n in range(20))
        )
        await running.until(lambda: bad.asked.total() >= 8)
        await register(running, {"product": "mts", "family": "snapshot", "job_id": "up"})
        [event] = await running.receiver.wait_for(1)
        assert event["subject"] == "up"
