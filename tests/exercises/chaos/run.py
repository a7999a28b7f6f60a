"""One run: everything is started, broken, healed, stopped and judged."""

import asyncio
import random
from pathlib import Path

from tests.exercises.chaos.cluster import Cluster, clustered
from tests.exercises.chaos.consumer import Consumer, consuming
from tests.exercises.chaos.faults import Faults, Incident
from tests.exercises.chaos.queues import queueing
from tests.exercises.chaos.report import Report, count_queued, describe, judge, judge_instances, judge_store
from tests.exercises.chaos.vendor import Mixture, Vendor

# A breaker that has just opened asks the consumer again after 30 s, and twice that the next time.
HEALING_S = 150.0


async def run_chaos(
    folder: Path, *, seed: int, jobs: int, rate_per_s: float, instances: int = 3, is_short: bool = False
) -> Report:
    """Chaos while jobs end."""
    report = Report(seed)
    async with (
        consuming(random.Random(f"{seed}:consumer")) as consumer,
        queueing(random.Random(f"{seed}:queues")) as queues,
        clustered(folder, consumer.url, queues, instances=instances, complain=report.violations.append) as cluster,
    ):
        vendor = Vendor(cluster.sources, queues.entrances, cluster.sender, seed=seed)
        faults = Faults(cluster, consumer, seed=seed, now=lambda: vendor.now, is_short=is_short)
        enough = asyncio.Event()
        watching = asyncio.create_task(_watch(cluster))
        breaking = asyncio.create_task(faults.run(enough))
        await vendor.run(jobs, rate_per_s=rate_per_s)
        enough.set()
        await breaking
        await _heal(cluster)
        watching.cancel()
        await _finish(report, cluster, consumer, vendor, faults.incidents, jobs=jobs)
    return report


async def run_rolling(folder: Path, *, seed: int, rate_per_s: float, instances: int = 2, rounds: int = 1) -> Report:
    """Only a restart of all instances, one by one, while every callback is sent once: none may fail."""
    report = Report(seed)
    async with (
        consuming(random.Random(f"{seed}:consumer")) as consumer,
        queueing(random.Random(f"{seed}:queues")) as queues,
        clustered(folder, consumer.url, queues, instances=instances, complain=report.violations.append) as cluster,
    ):
        once = Mixture(stale=0.0, forgeries=0.0, attempts_http=1, attempts_push=1)
        vendor = Vendor(cluster.sources, queues.entrances, cluster.sender, seed=seed, mixture=once)
        enough = asyncio.Event()
        watching = asyncio.create_task(_watch(cluster))
        sending = asyncio.create_task(vendor.run_until(enough, rate_per_s=rate_per_s))
        incidents = []
        await asyncio.sleep(1.0)
        for _ in range(rounds):
            began = vendor.now
            await cluster.restart_one_by_one()
            incidents.append(Incident("restart all, one by one", began, vendor.now))
        await asyncio.sleep(1.0)
        enough.set()
        jobs = await sending
        await _heal(cluster)
        watching.cancel()
        await _finish(report, cluster, consumer, vendor, incidents, jobs=jobs)
        failed = [message for message in vendor.messages if not message.is_acknowledged]
        report.violations += [f"failed during a rolling restart: {message.describe()}" for message in failed]
    return report


async def _watch(cluster: Cluster) -> None:
    while True:
        for instance in cluster.instances:
            instance.watch()
        await asyncio.sleep(0.5)


async def _heal(cluster: Cluster) -> None:
    """Everything works again: wait until nothing is left to be done."""
    try:
        async with asyncio.timeout(HEALING_S):
            while await _is_busy(cluster):  # noqa: ASYNC110 - other processes have no event for it
                await asyncio.sleep(0.2)
    except TimeoutError:
        pass  # what is left is found afterwards


async def _is_busy(cluster: Cluster) -> bool:
    # In this order: a message is deleted once it is in a journal or the store, and a journal when the store has it.
    if cluster.queues.depths():
        return True
    if any(instance.journal_files("*.journal") for instance in cluster.instances):
        return True
    ((due,),) = await cluster.query("SELECT count(*) FROM deliveries WHERE state NOT IN ('delivered', 'dead')")
    return bool(due)


async def _finish(
    report: Report,
    cluster: Cluster,
    consumer: Consumer,
    vendor: Vendor,
    incidents: list[Incident],
    *,
    jobs: int,
) -> None:
    report.incidents = [f"{i.began:.2f} to {i.ended:.2f} s: {i.what}" for i in incidents]
    received, again = await count_queued(cluster)
    report.figures = describe(vendor, consumer, incidents, cluster, jobs=jobs)
    report.figures |= {"queued": cluster.queues.sent, "from_queues": received, "from_queues_again": again}
    await asyncio.gather(*(instance.stop() for instance in cluster.instances if instance.is_running))
    report.violations += judge(vendor, consumer, incidents)
    report.violations += await judge_store(cluster, consumer)
    report.violations += judge_instances(cluster.instances, vendor)
