"""A plan, carried out."""

import asyncio
import gc
import math
import shutil
import sqlite3
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, Literal

import structlog

from media_callbacks.edge.answers import Answer
from media_callbacks.inbox.sqlite.file import migrate_file
from media_callbacks.model.errors import ServiceError
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.rehearsal.fake_cloud.callbacks import Sending
from media_callbacks.rehearsal.fake_cloud.faults import Faults
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob
from media_callbacks.rehearsal.simulate import SimulatedRequest
from tests.exercises.simulation.journals import holds_receipts
from tests.exercises.simulation.ledger import Ledger
from tests.exercises.simulation.loop import RECORDER, SimulatedLoop, Stuck
from tests.exercises.simulation.machine import BEGAN_AT, DB, GROWING, DiskFaults, Machine, installed
from tests.exercises.simulation.operators import Operator
from tests.exercises.simulation.plan import HOUR_S, Fault, Plan, PlannedJob
from tests.exercises.simulation.receivers import Mood, Receiver
from tests.exercises.simulation.service import DEDUP_S, RETENTION_S, Configuration, Service, close_all, settings_of
from tests.exercises.simulation.threads import HUB, Life
from tests.exercises.simulation.vendor import Vendor

# Once it has done nothing for long, it looks for what is old as rarely.
_REMOVED_AFTER_S = 9 * HOUR_S
_FAULTS = Faults(duplication=0.2, delay=0.2, delay_s=(1.0, 900.0), reordering=0.2, forgery=0.05, alteration=0.15)
_HONEST = Faults(duplication=0.2, delay=0.2, delay_s=(1.0, 900.0), reordering=0.2, forgery=0.05)
# With these, the vendor is not asked in time, or time is not what it seems.
_NOT_ASKED = frozenset(
    {
        "vendor_away",
        "vendor_slow",
        "clock_step",
        "service_clock",
        "disk_full",
        "disk_errors",
        "flush_fails",
        "reconfigured",
    }
)
# What a service logs that never happens unless it has a defect.
_DEFECTS = frozenset(
    {"callback_failed", "queue_message_failed", "queue_batch_failed", "sink_failed", "sink_not_closed"}
)
_MAY_FAIL = ("InboxUnavailable", "VendorUnavailable", "VendorRefused")


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    Attributes:
        digest: Of all that has happened: the same plan has the same.
        lines: The story, with the time of each line in seconds.
    """

    plan: Plan
    violations: tuple[str, ...]
    digest: str
    lines: tuple[tuple[float, str], ...]
    steps: int
    attempts: int


class Process:
    """
    One life of a machine: an inbox, and the services over it, each with a life of its own.

    Attributes:
        services: By their number; those that have died are not among them.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run
        self.life = Life("process")
        self.lives: dict[int, Life] = {}
        self.settings = settings_of(run.configuration)
        self.inbox = run.machine.make_inbox()
        self.services: dict[int, Service] = {}
        self._all: list[Service] = []

    async def open(self) -> None:
        await self.inbox.open()
        if self._run.machine.faults.is_full:
            self._run.machine.set_full(True)

    def start_service(self, number: int) -> None:
        run, drift = self._run, self._run.drifts[number]
        run.starts += 1
        service = Service(
            self.settings,
            self.inbox,
            clock=lambda: run.machine.now() + timedelta(seconds=run.steps[number]),
            elapsed=lambda: run.machine.elapsed() * (1 + drift),
            loop=run.loop,
            rng=Random(f"{run.plan.seed}:service:{run.starts}"),
            vendor=run.vendor,
            receivers=run.receivers,
            ledger=run.ledger,
            way=run.machine.way,
            journal=run.machine.disk / f"journal-{number}" if run.plan.has_journals else None,
        )
        self.lives[number] = life = Life(f"service {number}", within=self.life)
        run.lives.append(life)
        task = run.loop.create_task(service.start(), context=life.context)
        task.add_done_callback(partial(self._started, number, service), context=Context())
        self._all.append(service)

    def _started(self, number: int, service: Service, task: "asyncio.Task[None]") -> None:
        task.result()
        if not self.lives[number].is_over:
            self.services[number] = service

    def release(self) -> None:
        for service in self._all:
            service.release()

    async def stop(self) -> None:
        stopping = [
            asyncio.get_running_loop().create_task(service.stop(), context=self.lives[number].context)
            for number, service in self.services.items()
        ]
        await asyncio.gather(*stopping)
        await self.inbox.close()


class Run:
    """All that takes part, and the hands that make things go wrong."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.loop = SimulatedLoop()
        self.loop.set_exception_handler(self._complain)
        latency = Random(f"{plan.seed}:latency")
        HUB.begin(self.loop, lambda: latency.uniform(1e-5, 1e-3))
        self.machine = Machine(folder, self.loop, Random(f"{plan.seed}:machine"), _template(), self._failed)
        self.machine.refused = self._refused
        self.configuration = Configuration(confirms=plan.confirms, keeps_short=plan.keeps_short)
        drifting = Random(f"{plan.seed}:drift")
        self.drifts = [drifting.uniform(-2e-3, 2e-3) for _ in range(plan.services)]
        self.vendor = Vendor(
            settings_of(self.configuration),
            self.loop,
            datetime.fromtimestamp(BEGAN_AT, UTC),
            seed=plan.seed,
            faults=_FAULTS if plan.confirms else _HONEST,
            rng=Random(f"{plan.seed}:network"),
        )
        self.vendor.door = self
        self.receivers = {name: Receiver(name, Random(f"{plan.seed}:{name}")) for name in ("orders", "audit")}
        self.ledger = Ledger(
            self.vendor.cloud,
            self.loop.time,
            plan.confirms or any(fault.kind == "reconfigured" for fault in plan.faults),
            plan.confirms and not any(fault.kind in _NOT_ASKED for fault in plan.faults),
            _keeps_keys_s(plan),
        )
        self.vendor.deleted = self.ledger.promised
        # By service: how far its clock was set, if it is not the machine's.
        self.steps: dict[int, float] = dict.fromkeys(range(plan.services), 0.0)
        self.process: Process | None = None
        self.starts = 0
        self.lives: list[Life] = []
        self._is_over = False
        self._started_at_step_s = 0.0
        self.loop.find_due = self._find_due
        # The latest answer, and of what state of the store.
        self._due_seen: tuple[Any, ...] = ()
        self._due: dict[str, float] = {}
        self._due_until = 0.0
        self._world: set[asyncio.Task[Any]] = set()

    # The world

    def spawn(self, coroutine: Any) -> None:
        """Go on with something that no process's end ends."""
        task = self.loop.create_task(coroutine, context=Context())
        self._world.add(task)
        task.add_done_callback(self._ended, context=Context())

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._world.discard(task)
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]

    def _complain(self, _: Any, context: dict[str, Any]) -> None:
        """Whatever nobody has caught, of the service or of the simulation."""
        error = context.get("exception")
        where = traceback.extract_tb(error.__traceback__)[-1] if error is not None else ""
        self.ledger.violate(f"{context['message']}: {error!r} {where}")

    def at(self, when: float, call: Callable[..., Any], *arguments: Any) -> None:
        self.loop.call_at(when, call, *arguments, context=Context())

    def in_process(self, coroutine: Any) -> "asyncio.Task[Any] | None":
        """A task of the process; None when there is none."""
        if self.process is None:
            coroutine.close()
            return None
        return self.loop.create_task(coroutine, context=self.process.life.context)

    # A vendor's Door

    def knock(self, sending: Sending, request: SimulatedRequest, answered: "asyncio.Future[Answer]") -> bool:
        process = self.process
        if process is None or not process.services:
            return False

        def answer(given: Answer) -> None:
            self.ledger.answered(sending.job, sending.veracity, given.status)
            if not answered.done():
                answered.set_result(given)

        number, service = next(iter(process.services.items()))
        self.ledger.told(sending.job)
        process.lives[number].run(service.receive, request, answer)
        return True

    # Jobs

    def submit(self, planned: PlannedJob, again: CloudJob | None = None) -> None:
        job = self.vendor.cloud.submit(
            planned.product,
            planned.family,
            outcome=planned.outcome if again is None else "succeeded",
            user_data=f"order {len(self.vendor.cloud.jobs)}",
            is_lost=planned.is_lost and again is None,
            again=again,
        )
        self.ledger.submitted(job)
        now = self.loop.time()
        if again is None and planned.registered_after_s is not None:
            self.at(now + planned.registered_after_s, lambda: self.spawn(self._register(job)))
        if again is None and planned.again_after_s is not None:
            self.at(now + planned.again_after_s, self.submit, planned, job)

    async def _register(self, job: CloudJob) -> None:
        """As an application does: until it is told that it is done."""
        while True:
            done = self.loop.create_future()
            self.in_process(self._expect(job, done))
            with suppress(TimeoutError):
                async with asyncio.timeout(30.0):
                    if await done:
                        self.ledger.note(f"{self.ledger._job_name(job)} is registered")
                        self.ledger.registered(job)
                        return
            await asyncio.sleep(60.0)

    async def _expect(self, job: CloudJob, done: "asyncio.Future[bool]") -> None:
        assert self.process is not None
        try:
            await self.process.inbox.expect(
                [ExpectedJob(reference=job.reference(), deadline=timedelta(seconds=1800), user_data=job.user_data)]
            )
        except ServiceError:
            answer = False
        else:
            answer = True
        if not done.done():
            done.set_result(answer)

    # Processes

    def start(self) -> None:
        if self.process is not None:
            return
        self.process = process = Process(self)
        self.lives.append(process.life)
        task = self.in_process(process.open())
        assert task is not None
        task.add_done_callback(partial(self._started, process), context=Context())

    def _started(self, process: Process, task: "asyncio.Task[None]") -> None:
        if process is not self.process:
            return
        if (error := task.exception()) is not None:
            self.ledger.note(f"the service can't start: {error}")
            self._die(process, is_power_loss=False)
            self.at(self.loop.time() + 60.0, self.start)
            return
        self.ledger.note("the service is up")
        if self._started_at_step_s != self.machine.step_s or self.machine.step_s < 0:
            # By another clock, what waits may be due; one that is behind begins where it was noted last, which may be
            # before what was claimed in time and not begun.
            self._started_at_step_s = self.machine.step_s
            self.ledger.released()
        self._look_at_store()
        for number in range(self.plan.services):
            process.start_service(number)

    def die_soon(self, fault: Fault) -> None:
        """After so many further steps, unless it is dead by then."""
        process, until = self.process, self.loop.steps + fault.after_steps
        if process is None:
            return

        def watch() -> None:
            if self.process is not process:
                self.loop.watch = None
            elif self.loop.steps >= until:
                self.loop.watch = None
                self._die(process, is_power_loss=fault.kind == "power_loss")
                self.at(self.loop.time() + fault.for_s, self.start)

        if self.loop.watch is None:
            self.loop.watch = watch

    def _die(self, process: Process, *, is_power_loss: bool) -> None:
        self.process = None
        process.life.kill()
        process.release()
        if is_power_loss:
            lost = self.machine.lose_power()
            self.ledger.trouble(f"the power fails; {lost} bytes were not flushed")
        else:
            self.machine.die()
            self.ledger.trouble("the process is killed")

    async def restart(self, after_s: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        process = self.process
        if process is None or not process.services:
            return
        self.ledger.trouble("the service is stopped")
        task = self.in_process(process.stop())
        assert task is not None
        for _ in range(600):
            await asyncio.sleep(0.1)
            if task.done() or self.process is not process:
                break
        if self.process is not process:
            return
        if task.done():
            task.result()
        elif any(life.frozen_until > self.loop.time() - 60.0 for life in process.lives.values()):
            self.ledger.trouble("it does not stop, and is killed")
        else:
            self.ledger.violate("the service does not stop")
            return
        self._die(process, is_power_loss=False)
        meanwhile()
        await asyncio.sleep(after_s)
        self.start()

    # Faults

    def wrong(self, fault: Fault) -> None:
        """Let a fault begin, and plan its end."""
        subject, _, what = fault.kind.partition("_")
        end: Callable[[], None] | None = None
        match fault.kind:
            case "power_loss" | "kill":
                self.die_soon(fault)
            case "restart":
                self.spawn(self.restart(fault.for_s))
            case "upgrade":
                self.spawn(self._upgrade(fault))
            case "reconfigured":
                self.spawn(self._reconfigure(fault))
            case "service_clock":
                number = int(fault.chance * self.plan.services)
                self._set_service_clock(number, (fault.chance * 1000 % 1 - 0.5) * 4 * HOUR_S)
                end = partial(self._set_service_clock, number, 0.0)
            case "disk_errors":
                self.ledger.trouble("reading and writing may fail")
                self.machine.faults.errors = 0.05 + 0.5 * fault.chance
                end = self._sound_disk
            case "service_dies" | "service_freezes":
                self._disturb_service(fault)
            case "clock_step":
                self._set_clock(round((2 * fault.chance - 1) * 1.2 * HOUR_S * 24 if fault.chance > 0.5 else -7200.0))
                end = partial(self._set_clock, 0.0)
            case "audit_removed":
                self.spawn(self._remove_audit(fault))
            case "operator_pauses":
                sink = "orders" if fault.chance < 0.5 else "audit"
                self.order(f"pause {sink}", lambda o: o.set_state(sink, "paused"))
                end = partial(self.order, f"resume {sink}", lambda o: o.set_state(sink, "active"))
            case "operator_retries":
                self.order("retry what failed", lambda o: o.retry())
            case "operator_replays":
                self.order("replay", lambda o: o.replay(fault.chance, self.machine.now()))
            case "operator_purges":
                self.order("purge", lambda o: o.purge())
            case "operator_reparses":
                self.order("read receipts again", lambda o: o.reparse())
            case "flush_fails":
                meant: Literal["any", "callback"] = "any" if fault.chance < 0.3 else "callback"
                self.ledger.trouble(f"a flush will fail: {meant}")
                self.machine.faults.fails_flush = meant
            case "disk_slow":
                self.ledger.note("the disk is slow")
                self.machine.faults.flush_s = (0.1, 5.0)
                end = self._quick_disk
            case "disk_full":
                if fault.chance < 0.5:
                    self.ledger.trouble("the disk is full")
                    self.machine.set_full(True)
                else:
                    full = GROWING[int((fault.chance * 2 - 1) * len(GROWING))]
                    self.ledger.trouble(f"there is no room for new rows of {', '.join(full)}")
                    self.machine.faults.full_tables = full
                end = self._roomy_disk
            case "vendor_repeats":
                self.ledger.note(f"the vendor tells {self.vendor.repeat(1 + int(20 * fault.chance))} things again")
            case "store_away" | "store_slow":
                self.ledger.note(f"the way to the store is {what}")
                self.machine.way.state = "away" if what == "away" else "slow"
                end = self._way_well
            case "vendor_away" | "vendor_slow":
                self.ledger.note(f"the vendor's APIs are {what}")
                self.vendor.is_away, self.vendor.is_slow = what == "away", what == "slow"
                end = self._vendor_well
            case _:
                mood: Any = what
                self.set_mood(subject, mood)
                end = partial(self._mend, subject)
        if end is not None:
            self.at(self.loop.time() + fault.for_s, end)

    def _mend(self, sink: str) -> None:
        """What was answered 410 stays disabled until somebody says otherwise."""
        was_gone = self.receivers[sink].mood == "gone"
        self.set_mood(sink, "well")
        if was_gone:
            self.order(f"resume {sink}", lambda o: o.set_state(sink, "active"))

    def order(self, what: str, give: Callable[[Operator], Coroutine[Any, Any, None]]) -> None:
        """An operator asks for something, and may be told that it can't be done just now."""
        process = self.process
        if process is None or not process.services:
            return
        self.ledger.note(f"an operator: {what}")
        service = next(iter(process.services.values()))
        self.in_process(give(Operator(service, self.ledger)))

    def _disturb_service(self, fault: Fault) -> None:
        process = self.process
        if process is None or not process.services:
            return
        numbers = list(process.services)
        number = numbers[int(fault.chance * len(numbers))]
        life, now = process.lives[number], self.loop.time()
        if fault.kind == "service_freezes":
            self.ledger.trouble(f"service {number} stands still for {fault.for_s:.0f} s")
            life.frozen_until = now + fault.for_s
            self.at(life.frozen_until, self.ledger.trouble, f"service {number} goes on")
            return
        self.ledger.trouble(f"service {number} dies")
        life.kill()
        process.services.pop(number).release()
        self.at(now + fault.for_s, self._start_service, process, number)

    def _start_service(self, process: Process, number: int) -> None:
        if process is self.process and process.lives[number].is_over:
            self.ledger.trouble(f"service {number} is started again")
            process.start_service(number)

    def _set_clock(self, step_s: float) -> None:
        self.ledger.note(f"the machine's clock is {step_s:+.0f} s off")
        self.machine.step_s = step_s
        self.loop.look()

    def _set_service_clock(self, number: int, step_s: float) -> None:
        self.ledger.note(f"the clock of service {number} is {step_s:+.0f} s off the machine's")
        self.steps[number] = step_s
        self.loop.look()

    async def _upgrade(self, fault: Fault) -> None:
        """From the version before, which has worked with the store last; that may go wrong, too."""
        self.ledger.note("the service is upgraded from the version before")
        await self.restart(fault.for_s, self.machine.step_back)
        if fault.chance < 0.5:
            self.die_soon(replace(fault, kind="power_loss" if fault.chance < 0.3 else "kill", for_s=10.0))

    async def _reconfigure(self, fault: Fault) -> None:
        for confirms in (not self.plan.confirms, self.plan.confirms):
            self.ledger.note(f"the service is told to confirm {'all' if confirms else 'nothing'} of what VOD says")
            self.configuration = replace(self.configuration, confirms=confirms)
            await self.restart(1.0)
            await asyncio.sleep(fault.for_s)

    async def _remove_audit(self, fault: Fault) -> None:
        self.ledger.note("the sink audit is taken from the configuration")
        self.configuration = replace(self.configuration, has_audit=False)
        await self.restart(1.0)
        await asyncio.sleep(fault.for_s)
        self.ledger.note("the sink audit is configured again")
        self.configuration = replace(self.configuration, has_audit=True)
        await self.restart(1.0)

    def set_mood(self, name: str, mood: Mood) -> None:
        self.ledger.note(f"{name} is {mood}")
        self.receivers[name].mood = mood

    def _quick_disk(self) -> None:
        self.machine.faults.flush_s = DiskFaults().flush_s

    def _roomy_disk(self) -> None:
        self.ledger.trouble("there is room on the disk again")
        self.machine.set_full(False)
        self.machine.faults.full_tables = ()

    def _sound_disk(self) -> None:
        self.ledger.trouble("reading and writing do not fail any more")
        self.machine.faults.errors = 0.0

    def _way_well(self) -> None:
        self.ledger.note("the way to the store is well")
        self.machine.way.state = "well"

    def _vendor_well(self) -> None:
        self.ledger.note("the vendor's APIs are well")
        self.vendor.is_away = self.vendor.is_slow = False

    def _failed(self, what: str) -> None:
        self.ledger.trouble(what)
        self.at(self.loop.time() + 60.0, self._supervise)

    def _refused(self, table: str) -> None:
        if self.plan.services > 1:
            # What one can't record the other sends again, once its lease is over.
            self.ledger.trouble(f"there is no room for a row of {table}")

    def _supervise(self) -> None:
        """A service that takes nothing any more is killed and started again."""
        process = self.process
        if process is None or process.inbox._writer is None or process.inbox._writer.failure is None:
            return
        self._die(process, is_power_loss=True)
        self.at(self.loop.time() + 1.0, self.start)

    def heal(self) -> None:
        """From now on all is well."""
        self.ledger.note("from now on all is well")
        self._quick_disk()
        self._roomy_disk()
        self._sound_disk()
        self._vendor_well()
        self._way_well()
        self.machine.step_s = 0.0
        self.steps = dict.fromkeys(self.steps, 0.0)
        self.machine.faults.fails_flush = None
        for receiver in self.receivers.values():
            receiver.mood = "well"
        self._supervise()
        self.start()
        self.at(self.loop.time() + 600.0, self.order, "resume all", lambda o: o.resume())

    # Looking at the store

    def _has_journaled(self) -> bool:
        return any(map(holds_receipts, self.machine.journals()))

    def _look(self, look: Callable[[sqlite3.Connection], Any]) -> Any:
        """By the writer's connection, which has no transaction open between two steps."""
        assert self.process is not None
        writer = self.process.inbox._writer
        assert writer is not None
        connection = writer._connection
        assert not connection.in_transaction
        return look(connection)

    def _find_due(self) -> Mapping[str, float]:
        """When something is due in the store next for whom: what is due already has somebody who waits for his turn."""
        now = self.loop.time()
        process = self.process
        if process is None or process.inbox._writer is None:
            return {}
        is_full = self.machine.faults.is_full or bool(self.machine.faults.full_tables)
        seen = (process, process.inbox._writer._connection.total_changes, self.machine.step_s, is_full)
        if seen != self._due_seen or now >= self._due_until:
            store_ms = process.inbox._clock.now()
            found = self._look(lambda connection: connection.execute(_DUE, (store_ms,)).fetchall())
            self._due_seen = seen
            self._due = {name: now + (due_ms - store_ms) / 1000 for name, due_ms in found}
            self._due_until = min(self._due.values(), default=math.inf)
            # On a full disk they try in vain.
            self._due |= {f"sink-{sink}{RECORDER}": now + 60.0 * is_full for sink in self.receivers}
            if not self.plan.keeps_short:
                # Nothing gets so old.
                self._due["retention"] = self.plan.length_s
        return self._due

    # From beginning to end

    async def _live(self) -> None:
        plan = self.plan
        self.start()
        self.spawn(self.vendor.tell())
        for job in plan.jobs:
            self.at(job.at, self.submit, job)
        for fault in plan.faults:
            self.at(fault.at, self.wrong, fault)
        day = 86_400.0
        for number in range(1, int(plan.length_s / day)):
            self.at(number * day, self._look_at_size)
            self.at(number * day, self._look_at_books)
        self.at(plan.length_s - 1.5 * day, self.heal)
        await asyncio.sleep(plan.length_s)
        process = self.process
        if process is None or not process.services:
            self.ledger.violate("the service is not up in the end")
            return
        self._look_at_size()
        if self._has_journaled():
            self.ledger.violate("a journal is not empty in the end")
        removed_before_ms = None
        if plan.keeps_short and not any(fault.kind == "clock_step" for fault in plan.faults):
            removed_before_ms = process.inbox._clock.now() - int((RETENTION_S + _REMOVED_AFTER_S) * 1000)
        sinks = set(process.settings.sinks)
        self._look(partial(self.ledger.judge_end, sinks=sinks, removed_before_ms=removed_before_ms))

    def _look_at_size(self) -> None:
        process = self.process
        if process is None:
            return
        tasks = 0
        for life in (process.life, *process.lives.values()):
            life.tasks[:] = [task for task in life.tasks if not task.done()]
            tasks += 0 if life.is_over else len(life.tasks)
        workers = [worker for service in process.services.values() for worker in service.dispatcher._workers.values()]
        self.ledger.judge_size(tasks, process.inbox._pending.receipts, sum(worker._held for worker in workers))

    def _look_at_books(self) -> None:
        if self.process is not None and self.process.services:
            self._look_at_store()

    def _look_at_store(self) -> None:
        self._look(partial(self.ledger.judge_start, has_journaled=self._has_journaled()))

    def carry_out(self) -> Outcome:
        loop = self.loop
        with installed(lambda: self.machine, loop, Random(f"{self.plan.seed}:lease")), _logs(self._hear):
            main = loop.create_task(self._live())
            main.add_done_callback(lambda _: loop.stop())
            try:
                loop.run_forever()
                if main.done():
                    main.result()
            except Stuck:
                self.ledger.violate("nothing will ever happen any more")
            finally:
                self._is_over = True
                self._bury()
        ledger = self.ledger
        return Outcome(
            self.plan, tuple(ledger.violations), ledger.digest, tuple(ledger.lines), loop.steps, ledger.attempts
        )

    def _hear(self, event: str, details: dict[str, Any]) -> None:
        error = str(details.get("error", ""))
        if self._is_over:
            return
        if event in _DEFECTS or (event.endswith("_failed") and error and not error.startswith(_MAY_FAIL)):
            if event in {"store_failed", "journal_failed"}:
                return
            self.ledger.violate(f"the service logs {event}: {details}")

    def _bury(self) -> None:
        """End whoever is still alive, or was left as he died."""
        self.loop.close()
        for life in self.lives:
            for task in life.tasks:
                coroutine: Any = task.get_coro()
                with suppress(BaseException):
                    coroutine.close()
        for task in self._world:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            with suppress(BaseException):
                coroutine.close()
        # Without its file a connection copies nothing back when it is closed.
        shutil.rmtree(self.folder)
        close_all(self.machine._old)
        HUB.end()


def _keeps_keys_s(plan: Plan) -> float:
    """By the day, less what clocks are off: a step of less than a day is believed, see inbox/keeping/clock.py."""
    if not plan.keeps_short:
        return math.inf
    return DEDUP_S - (31 if any(fault.kind == "clock_step" for fault in plan.faults) else 2) * HOUR_S


# By the name of the task that looks for it.
_DUE = (
    "SELECT 'sink-' || sink, min(due_at) FROM deliveries WHERE due_at > ?1"
    " AND sink NOT IN (SELECT name FROM sinks WHERE state <> 'active') GROUP BY sink"
    " UNION ALL SELECT 'reconciler-' || product, min(due_at) FROM (SELECT product, due_at FROM jobs WHERE due_at > ?1"
    " UNION ALL SELECT product, due_at FROM held WHERE due_at > ?1) GROUP BY product"
    " UNION ALL SELECT 'replayer', next_at FROM replays WHERE state = 'running' AND next_at > ?1"
)


@cache
def _template() -> Path:
    """A store with the schema and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-template-", dir=_memory()))
    migrate_file(folder / DB)
    return folder / DB


def _memory() -> Path | None:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


@contextmanager
def _logs(hear: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    def drop(_: Any, __: str, event: Any) -> Any:
        hear(event.pop("event"), event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[drop],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def carry_out(plan: Plan) -> Outcome:
    """Simulate a plan from beginning to end."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_memory()))
    was_enabled = gc.isenabled()
    # When it comes is not ours to say, and it may run what is dead.
    gc.disable()
    try:
        return Run(plan, folder).carry_out()
    finally:
        if was_enabled:
            gc.enable()
