"""One run: jobs are submitted and registered, everything goes wrong, and in the end the cloud's truth is compared."""

import asyncio
import contextlib
import http.client
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from media_callbacks.client.jobs import ExpectedJobStatus, JobsClient, JobsClientError, JobToExpect
from media_callbacks.config.settings import build_settings
from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.callbacks import LIE, describe
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob
from media_callbacks.timing.waiting import wait_for
from tests.exercises.chaos.cluster import Instance, free_ports
from tests.exercises.chaos.consumer import Consumer, consuming
from tests.exercises.promise.judge import is_occurrence, judge, judge_removals, judge_store
from tests.factories.clocks import CLOCK_LAG_S, find_faketime
from tests.factories.running import ADMIN_TOKEN, make_tables, signer, to_toml

DEADLINE_S = 8.0
# Longer than the vendor refuses what the service asks because its clock is off.
CONFIRM_TIMEOUT_S = 20.0
GIVE_UP_S = 90.0
SHORT_GIVE_UP_S = 60.0
# When all has been submitted, the last deadline, giving up and confirmation are still to come.
HEALING_S = DEADLINE_S + GIVE_UP_S + 240.0
JOBS_TOKEN = "jobs-token-5b1f0c77aa91"
FAULTS = Faults(
    loss=0.10,
    duplication=0.30,
    delay=0.20,
    delay_s=(0.5, 3.0),
    reordering=0.10,
    forgery=0.005,
    alteration=0.005,
)
# Of a few hundred jobs, some must be lied about all the same.
SHORT_FAULTS = replace(FAULTS, forgery=0.03, alteration=0.2)
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class ClockStep:
    """
    How far the clock of the service's process is off for some seconds.

    Attributes:
        is_started_so: The service is killed and started meanwhile, so that the store's clock begins with it, and again
            when it is right.
    """

    offset_s: int
    is_started_so: bool = False


# Signatures are good for minutes, doubts begin with a day, and payloads are kept for days. A service that is started with
# a clock that is hours ahead takes that for hours of standing still, and of patience, which a run has only seconds of.
CLOCK_STEPS = (
    *(ClockStep(sign * offset_s) for offset_s in (20, 7200, 3 * _DAY_S, 3650 * _DAY_S) for sign in (1, -1)),
    *(ClockStep(offset_s, is_started_so=True) for offset_s in (3 * _DAY_S, 3650 * _DAY_S)),
    *(ClockStep(-offset_s, is_started_so=True) for offset_s in (7200, 3650 * _DAY_S)),
)
SHORT_CLOCK_STEPS = (
    ClockStep(20),
    ClockStep(-7200),
    ClockStep(3650 * _DAY_S),
    ClockStep(-3 * _DAY_S),
    ClockStep(3650 * _DAY_S, is_started_so=True),
    ClockStep(-3650 * _DAY_S, is_started_so=True),
)
TIMING = Timing(duration_s=(0.1, 2.0), push_retries_s=((1.0, 2.0),) * 3)
# Of a hundred jobs. What the vendor can be asked about fifteen times a second is not what most of them are.
MIXTURE: Sequence[tuple[int, str, str, tuple[str, ...]]] = (
    (10, "vod", "animated_image", ("succeeded", "succeeded", "succeeded", "failed")),
    (7, "vod", "snapshot", ("succeeded", "succeeded", "failed")),
    (11, "vod", "transcode", ("succeeded", "succeeded", "failed", "cancelled")),
    (3, "vod", "AIMediaAuditComplete", ("succeeded", "succeeded", "failed")),
    (2, "vod", "AIMediaDNAComplete", ("succeeded", "failed")),
    (4, "ims", "DynamicImageComplete", ("succeeded", "failed")),
    (3, "ims", "SnapshotComplete", ("succeeded", "failed")),
    (2, "ims", "MediaConvertComplete", ("succeeded", "failed", "cancelled")),
    (2, "ims", "ProduceMediaComplete", ("succeeded", "failed")),
    (2, "ims", "WorkflowTaskComplete", ("succeeded", "failed")),
    (18, "mts", "snapshot", ("succeeded", "succeeded", "failed")),
    (14, "mts", "transcode", ("succeeded", "succeeded", "failed", "cancelled")),
    (5, "mts", "mediainfo", ("succeeded", "failed")),
    (3, "mts", "analysis", ("succeeded", "failed")),
    (4, "mts", "run", ("succeeded", "partial", "failed")),
    (10, "multimediaai", "animated_image", ("succeeded", "succeeded", "failed")),
)
# Failed ones of these are begun again now and then, and succeed. Both ends are true, and each is an event; an application
# registers the job once.
RERUNS: Collection[tuple[str, str]] = frozenset(
    {
        *(("vod", "transcode"), ("vod", "AIMediaDNAComplete")),
        *(("ims", "SnapshotComplete"), ("ims", "MediaConvertComplete")),
        *(("mts", "snapshot"), ("mts", "transcode")),
    }
)
RERUN_RATE = 0.3
# What happens to the same thing again and again, and how often at least and at most: files of a live recording, uploads
# that overwrite another. Nobody registers them, and each is an event of its own. With every hundredth job one begins.
OCCURRENCES: Sequence[tuple[Product, str, tuple[int, int]]] = (
    ("ims", "LiveRecordFileCreated", (3, 12)),
    ("vod", "FileUploadComplete", (2, 4)),
)
OCCURRENCE_RATE = 0.01
SHORT_OCCURRENCE_RATE = 0.03
# The time of an upload, to the second, is all that tells it from the one that it overwrites.
_UPLOAD_S = 1.1


@dataclass
class Report:
    seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


@dataclass
class Run:
    """
    What a run consists of.

    Attributes:
        rng: Draws the jobs, and nothing else does, so that a seed has always the same.
        registered: What the service said of the jobs when they were registered, by the cloud's number of the job.
        hands: Of whoever kills the service or sets its clock.
        steps: How often its clock was set.
        purges: What came of removing what looked old meanwhile.
    """

    cloud: FakeCloud
    service: Instance
    consumer: Consumer
    client: JobsClient
    rng: random.Random
    trouble_rng: random.Random
    began_at: datetime
    registered: dict[int, ExpectedJobStatus] = field(default_factory=dict)
    kills: int = 0
    hands: asyncio.Lock = field(default_factory=asyncio.Lock)
    steps: Counter[ClockStep] = field(default_factory=Counter)
    purges: list[tuple[int | None, str]] = field(default_factory=list)


async def run_promise(
    folder: Path,
    *,
    seed: int,
    jobs: int,
    rate_per_s: float,
    kills: int,
    is_short: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Jobs over all products and transports, and every way that one can be lost."""
    report = Report(seed)
    started = time.monotonic()
    async with _running(folder, seed, is_short=is_short, complain=report.violations.append) as run:
        occurrence_rate = SHORT_OCCURRENCE_RATE if is_short else OCCURRENCE_RATE
        submitting = asyncio.create_task(_submit(run, jobs, rate_per_s, occurrence_rate))
        enough = asyncio.Event()
        disturbing = [
            asyncio.create_task(_kill(run, kills, jobs / rate_per_s)),
            asyncio.create_task(_throttle(run, enough)),
            asyncio.create_task(_set_clock(run, SHORT_CLOCK_STEPS if is_short else CLOCK_STEPS, enough)),
        ]
        await submitting
        enough.set()
        say(f"{jobs} jobs submitted after {time.monotonic() - started:.0f} s")
        await run.cloud.teller.settled()
        await asyncio.gather(*disturbing)
        run.cloud.faults = replace(run.cloud.faults, throttling=0.0, server_errors=0.0, html=0.0)
        say(f"nothing more to be sent after {time.monotonic() - started:.0f} s")
        await _heal(run)
        say(f"healed after {time.monotonic() - started:.0f} s")
        records = await asyncio.to_thread(_all_records, run)
        completeness = await asyncio.to_thread(_ask_report, run)
        await run.service.stop()
        lines, others = run.service.log_lines()
        report.violations += judge(run.cloud, run.consumer, records, completeness)
        report.violations += judge_store(folder / "inbox.db", run.consumer, since=run.began_at)
        report.violations += judge_removals(lines, run.purges)
        report.violations += [f"the service wrote something that is no log line: {line[:300]}" for line in others]
    report.figures = {
        "jobs": jobs,
        "states": dict(sorted(Counter(record.state for record in records.values()).items())),
        "transports": dict(sorted(Counter(str(record.transport) for record in records.values()).items())),
        "reruns": sum(job.earlier > 0 for job in run.cloud.jobs if not is_occurrence(job)),
        "second_revisions": sum(event.revision > 1 for event in run.consumer.events.values()),
        "occurrences": dict(sorted(Counter(job.family for job in run.cloud.jobs if is_occurrence(job)).items())),
        "never_told": sum(job.told == 0 for job in run.cloud.jobs),
        "told_before_registration": sum(
            record.ended_at is not None and record.ended_at < record.registered_at for record in records.values()
        ),
        "attempts_of_callbacks": sum(run.cloud.teller.counts.values()),
        "refused_or_unanswered": sum(
            count
            for (_, answer), count in run.cloud.teller.counts.items()
            if not answer.startswith("2") and answer != "queue"
        ),
        "lies_taken": dict(sorted(_count_lies(run.cloud).items())),
        "contradicted": sum(line.get("decision") in ("contradicted", "foreign") for line in lines),
        "confirmed": sum(line.get("decision") == "confirmed" for line in lines),
        "proofs": dict(
            sorted(
                Counter(
                    f"{event.data['verified_by']}, outcome {event.data['outcome_verified_by']}"
                    for event in run.consumer.events.values()
                ).items()
            )
        ),
        "lies_that_stay_claims": sum(LIE in json.dumps(event.data) for event in run.consumer.events.values()),
        "questions": sum(line["event"] == "inquiry" for line in lines),
        "refused_for_their_time": sum("age_s" in line for line in lines),
        "kills": run.kills,
        "purges_refused": sum(code != 0 for code, _ in run.purges),
        "clock_steps": {
            f"{step.offset_s:+d} s{', started so' if step.is_started_so else ''}": count
            for step, count in sorted(run.steps.items(), key=lambda found: (found[0].is_started_so, found[0].offset_s))
        },
        "events": len(run.consumer.events),
        "duplicate_attempts": sum(event.again for event in run.consumer.events.values()),
        "max_memory_mib": max((size for life in run.service.lives for _, size in life.memory), default=0) >> 20,
        "seconds": round(time.monotonic() - started, 1),
    }
    return report


@asynccontextmanager
async def _running(folder: Path, seed: int, *, is_short: bool, complain: Callable[[str], None]) -> AsyncIterator[Run]:
    rng = random.Random(f"{seed}:run")
    server_port, admin_port, cloud_port = free_ports(3)
    async with consuming(random.Random(f"{seed}:consumer")) as consumer:
        changes = _changes(server_port, admin_port, cloud_port)
        changes["jobs.give_up_s"] = SHORT_GIVE_UP_S if is_short else GIVE_UP_S
        tables = make_tables(folder, {"orders": consumer.url}, changes)
        service = Instance("service", folder, port=server_port, complain=complain)
        service.config.write_text(to_toml(tables))
        settings = build_settings(tables, environ={})
        faults = SHORT_FAULTS if is_short else FAULTS
        cloud = FakeCloud(settings, seed=seed, faults=faults, timing=TIMING, signer=signer()[0])
        client = JobsClient(f"http://127.0.0.1:{admin_port}", JOBS_TOKEN, timeout_s=30.0)
        async with cloud.running(port=cloud_port):
            await service.start()
            watching = asyncio.create_task(_watch(service))
            try:
                trouble_rng = random.Random(f"{seed}:trouble")
                yield Run(cloud, service, consumer, client, rng, trouble_rng, datetime.now(UTC))
            finally:
                watching.cancel()
                service.kill()


def _changes(server_port: int, admin_port: int, cloud_port: int) -> dict[str, Any]:
    cloud = f"http://127.0.0.1:{cloud_port}"
    queue = {"transport": "mns-queue", "endpoint": cloud, "long_poll_s": 2, "pollers": 2}
    return {
        "server.port": server_port,
        "admin.port": admin_port,
        "admin.token": ADMIN_TOKEN,
        "admin.jobs_token": JOBS_TOKEN,
        "jobs.deadline_s": DEADLINE_S,
        "jobs.retry_s": 1.0,
        "vendor.main.access_key_id": "promise-key",
        "vendor.main.access_key_secret": "promise-secret-2f8c1a",
        "vendor.main.region": "cn-shanghai",
        "vendor.main.endpoints": dict.fromkeys(("vod", "ice", "mts", "multimediaai"), cloud),
        # In a day there would be time; five a second are assumed where the vendor documents none.
        "vendor.main.rates": dict.fromkeys(
            (
                *("GetTaskStatus", "GetTaskResult", "ListDynamicImage", "GetTranscodeTask", "GetDynamicImageJob"),
                *("GetJobDetail", "ListSnapshots", "GetAIMediaAuditJob", "ListAIJob"),
            ),
            25,
        ),
        # Their signatures do not cover the body: without the vendor's word, a lie would be as good as the truth.
        "sources.vod.confirm": "always",
        "sources.vod.confirm_timeout_s": CONFIRM_TIMEOUT_S,
        "sources.ims.confirm": "always",
        "sources.ims.confirm_timeout_s": CONFIRM_TIMEOUT_S,
        "sources.gif.confirm_timeout_s": CONFIRM_TIMEOUT_S,
        "sources.vod-queue": {"product": "vod", "queue": "vod-events", **queue},
        "sources.ims-queue": {"product": "ims", "queue": "ice-callback-events", **queue},
        "sources.mts-queue": {"product": "mts", "queue": "mts-events", **queue},
        "sinks.orders.timeout_s": 2.0,
        "sinks.orders.retry_delays_s": [1] * 10 + [2] * 40,
    }


async def _watch(service: Instance) -> None:
    while True:
        service.watch()
        await asyncio.sleep(0.5)


# Submitting and registering


async def _submit(run: Run, jobs: int, rate_per_s: float, occurrence_rate: float) -> None:
    weights = [weight for weight, *_ in MIXTURE]
    began = time.monotonic()
    waiting: list[tuple[float, CloudJob]] = []
    # What is begun again once it is over, and how often.
    again: list[tuple[CloudJob, int]] = []
    submitted = 0
    while submitted < jobs or waiting or again:
        now = time.monotonic()
        while submitted < min(jobs, int((now - began) * rate_per_s) + 1):
            _, product, family, outcomes = run.rng.choices(MIXTURE, weights)[0]
            job = _submit_one(run, product, family, run.rng.choice(outcomes))
            submitted += 1
            # Some applications are slow: the callback is there before them.
            late_s = 6.0 if run.rng.random() < 0.05 else 0.0
            waiting.append((now + late_s, job))
            if _may_be_rerun(job) and run.rng.random() < RERUN_RATE:
                again.append((job, 1))
            if run.rng.random() < occurrence_rate:
                product, family, (fewest, most) = run.rng.choice(OCCURRENCES)
                again.append((_submit_occurrence(run, product, family), run.rng.randint(fewest, most) - 1))
        over = [(job, left) for job, left in again if job.is_over(run.cloud.clock())]
        again = [(job, left) for job, left in again if (job, left) not in over]
        again += [(_submit_again(run, job), left - 1) for job, left in over if left]
        due = [job for at, job in waiting if at <= now]
        waiting = [(at, job) for at, job in waiting if at > now]
        if due:
            await _register(run, due)
        await asyncio.sleep(0.1)


def _submit_one(run: Run, product: Any, family: str, outcome: Any) -> CloudJob:
    chosen = _choose_sources(run, product)
    if (product, family, outcome) in (("vod", "animated_image", "failed"), ("vod", "snapshot", "succeeded")):
        # No API tells of failed animated images, and a failed snapshot names no job: over HTTP, where bodies are not
        # signed, nobody could tell a lie about these from the truth.
        chosen = ["vod-queue"]
    is_lost = None
    if (product, family, outcome) == ("vod", "animated_image", "failed"):
        # One at least, so that there is something of which nobody can ever know how it ended.
        is_lost = (
            None
            if any(job.is_lost and job.family == family and not job.is_learnable for job in run.cloud.jobs)
            else True
        )
    user_data = f"order {len(run.cloud.jobs) + 1}"
    return run.cloud.submit(product, family, outcome=outcome, sources=chosen, user_data=user_data, is_lost=is_lost)


def _choose_sources(run: Run, product: Product) -> list[str]:
    entrances = [name for name, source in run.cloud.settings.sources.items() if source.product == product]
    return run.rng.choice([[name] for name in entrances] + [entrances])


def _may_be_rerun(job: CloudJob) -> bool:
    # What became of the notification, the vendor tells of the last time: it must have been the same each time.
    is_told = job.product != "mts" or not job.is_lost
    return job.outcome == "failed" and (job.product, job.family) in RERUNS and is_told


def _submit_again(run: Run, job: CloudJob) -> CloudJob:
    if is_occurrence(job):
        return _submit_occurrence(run, job.product, job.family, again=job)
    return run.cloud.submit(
        job.product,
        job.family,
        sources=job.sources,
        user_data=job.user_data,
        is_lost=False if job.product == "mts" else None,
        again=job,
    )


def _submit_occurrence(run: Run, product: Product, family: str, *, again: CloudJob | None = None) -> CloudJob:
    faults = run.cloud.faults
    # The vendor can't be asked whether it has happened: over HTTP, nobody could tell a lie about it from the truth.
    run.cloud.faults = replace(faults, alteration=0.0)
    job = run.cloud.submit(
        product,
        family,
        sources=again.sources if again else _choose_sources(run, product),
        duration_s=_UPLOAD_S if family == "FileUploadComplete" else None,
        again=again,
    )
    run.cloud.faults = faults
    return job


async def _register(run: Run, jobs: Sequence[CloudJob]) -> None:
    """As an application would: until it has worked."""
    expected = []
    for job in jobs:
        reference = job.reference()
        expected.append(
            JobToExpect(
                product=reference.product,
                family=reference.family,
                job_id=reference.job_id,
                media_id=reference.media_id,
                nonce=reference.nonce,
                bind=reference.bind,
                user_data=job.user_data,
            )
        )
    while True:
        try:
            found = await asyncio.to_thread(run.client.expect_many, expected)
            break
        except JobsClientError as error:
            if not error.is_temporary:
                raise
            await asyncio.sleep(0.3)
    run.registered.update({job.number: status for job, status in zip(jobs, found, strict=True)})


# Disturbing


async def _kill(run: Run, kills: int, seconds: float) -> None:
    moments = sorted(run.trouble_rng.uniform(1.0, max(2.0, seconds)) for _ in range(kills))
    began = time.monotonic()
    for moment in moments:
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        async with run.hands:
            run.service.kill()
            run.kills += 1
            await asyncio.sleep(run.trouble_rng.uniform(0.0, 1.5))
            await run.service.start()


async def _set_clock(run: Run, steps: Sequence[ClockStep], enough: asyncio.Event) -> None:
    """Every step once at least, in any order. The clock is right afterwards."""
    if find_faketime() is None:
        return
    while not enough.is_set() or not run.steps:
        for step in run.trouble_rng.sample(steps, len(steps)):
            async with run.hands:
                run.service.clock.set(step.offset_s)
                if step.is_started_so:
                    run.service.kill()
                    await run.service.start()
                # It has noticed, and so does whoever would remove what looks old.
                _, purged = await asyncio.gather(
                    asyncio.sleep(run.trouble_rng.uniform(1.0, 3.0)), run.service.run_tool("purge")
                )
                run.service.clock.set(0)
                if step.is_started_so:
                    run.service.kill()
                    await run.service.start()
                else:
                    await asyncio.sleep(CLOCK_LAG_S)
            run.steps[step] += 1
            run.purges.append(purged)
            await asyncio.sleep(run.trouble_rng.uniform(2.0, 5.0))


async def _throttle(run: Run, enough: asyncio.Event) -> None:
    """For six of every twenty seconds, the vendor's APIs and queues are not at their best."""
    while not enough.is_set():
        await wait_for(enough, 4.0)
        run.cloud.faults = replace(run.cloud.faults, throttling=0.6, server_errors=0.1, html=0.05)
        await asyncio.sleep(6.0)
        run.cloud.faults = replace(run.cloud.faults, throttling=0.0, server_errors=0.0, html=0.0)
        await wait_for(enough, 10.0)


# The end


async def _heal(run: Run) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEALING_S):
            while await asyncio.to_thread(_is_waiting, run):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.5)


def _is_waiting(run: Run) -> bool:
    return (
        bool(run.client.list(state="expected", limit=1) or run.client.list(state="overdue", limit=1))
        or _metric(run, "media_callbacks_held_events") > 0
        or _metric(run, "media_callbacks_deliveries") > 0
        or any(run.cloud.queues.depth(queue) for queue in ("vod-events", "ice-callback-events", "mts-events"))
    )


def _all_records(run: Run) -> dict[int, ExpectedJobStatus]:
    """What the service says of every job in the end, by the cloud's number."""
    since = run.began_at - timedelta(seconds=5)
    found = {status.id: status for status in run.client.list(since=since, limit=10**9)}
    return {number: found[status.id] for number, status in run.registered.items() if status.id in found}


def _ask_report(run: Run) -> Any:
    since = (run.began_at - timedelta(seconds=5)).isoformat().replace("+00:00", "Z")
    return json.loads(_get(run, f"/v1/report?since={since}"))


def _count_lies(cloud: FakeCloud) -> Counter[str]:
    """What the service has taken was about."""
    about: Counter[str] = Counter()
    for job in cloud.jobs:
        is_outcome = cloud.teller.lie_about(job) in (describe(job, "succeeded"), describe(job, "failed"))
        about["outcome" if is_outcome else "content"] += job.lied_about
    return about


def _metric(run: Run, name: str) -> float:
    """The sum of a metric's values."""
    return sum(
        float(line.rpartition(" ")[2]) for line in _get(run, "/metrics").splitlines() if line.startswith(f"{name}{{")
    )


def _get(run: Run, target: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", run.cloud.settings.admin.port, timeout=30)
    try:
        connection.request("GET", target, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, f"{target.partition('?')[0]} answered {response.status}: {body[:300]}"
        return body
    finally:
        connection.close()
