"""What a seed means: which jobs there are, and what goes wrong when. A plan with less in it is a plan, too."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.jobs import TrueOutcome

DAY_S = 86_400.0
HOUR_S = 3600.0
# The last faults come that long before the end, so that all can be well by then.
QUIET_S = 2 * DAY_S

FaultKind = Literal[
    "power_loss",
    "kill",
    "restart",
    "upgrade",
    "reconfigured",
    "flush_fails",
    "disk_slow",
    "disk_full",
    "disk_errors",
    "orders_away",
    "orders_overloaded",
    "orders_deaf",
    "audit_away",
    "audit_deaf",
    "audit_choosy",
    "audit_gone",
    "vendor_away",
    "vendor_slow",
    "vendor_repeats",
    "store_away",
    "store_slow",
    "service_dies",
    "service_freezes",
    "clock_step",
    "service_clock",
    "audit_removed",
    "operator_pauses",
    "operator_retries",
    "operator_replays",
    "operator_purges",
    "operator_reparses",
]
# How often each comes, compared with the others; and for how long at least and at most, in seconds.
FAULTS: dict[FaultKind, tuple[int, float, float]] = {
    "power_loss": (8, 1.0, HOUR_S),
    "kill": (5, 1.0, HOUR_S),
    "restart": (3, 0.0, 60.0),
    "upgrade": (2, 0.0, 60.0),
    "reconfigured": (1, 60.0, DAY_S),
    "flush_fails": (2, 1.0, 600.0),
    "disk_slow": (2, 10.0, HOUR_S),
    "disk_full": (4, 10.0, HOUR_S),
    "disk_errors": (2, 1.0, 600.0),
    "orders_away": (2, 10.0, 6 * HOUR_S),
    "orders_overloaded": (2, 10.0, HOUR_S),
    "orders_deaf": (2, 10.0, HOUR_S),
    "audit_away": (2, 10.0, 6 * HOUR_S),
    "audit_deaf": (1, 10.0, HOUR_S),
    "audit_choosy": (1, 10.0, HOUR_S),
    "audit_gone": (1, 10.0, HOUR_S),
    "vendor_away": (2, 10.0, 6 * HOUR_S),
    "vendor_slow": (2, 10.0, HOUR_S),
    "vendor_repeats": (4, 0.0, 0.0),
    "store_away": (4, 10.0, HOUR_S),
    "store_slow": (2, 10.0, HOUR_S),
    "service_dies": (3, 1.0, HOUR_S),
    "service_freezes": (3, 1.0, 600.0),
    "clock_step": (3, 60.0, DAY_S),
    "service_clock": (2, 60.0, DAY_S),
    "audit_removed": (1, 60.0, DAY_S),
    # Longer than payloads are kept.
    "operator_pauses": (2, 10.0, 3 * DAY_S),
    "operator_retries": (2, 0.0, 0.0),
    "operator_replays": (3, 0.0, 0.0),
    "operator_purges": (1, 0.0, 0.0),
    "operator_reparses": (2, 0.0, 0.0),
}
# Product, family, and how such jobs end.
_JOBS: Sequence[tuple[int, Product, str, tuple[TrueOutcome, ...]]] = (
    (5, "vod", "transcode", ("succeeded", "failed")),
    (3, "vod", "animated_image", ("succeeded",)),
    (4, "mts", "transcode", ("succeeded", "failed")),
    (4, "mts", "snapshot", ("succeeded", "failed")),
    (4, "multimediaai", "animated_image", ("succeeded", "failed")),
)


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """
    Attributes:
        at: When it is submitted, in seconds from the beginning.
        registered_after_s: When it is registered after that; None never.
        again_after_s: After how long it is run again, and succeeds, if it has failed; None never.
    """

    at: float
    product: Product
    family: str
    outcome: TrueOutcome
    is_lost: bool
    registered_after_s: float | None
    again_after_s: float | None


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Attributes:
        for_s: How long it lasts, or until a dead process is started again.
        after_steps: A process does not die at the time but so many steps of its event loop later.
        chance: For whatever else there is to choose, from 0 to 1.
    """

    at: float
    kind: FaultKind
    for_s: float
    after_steps: int = 0
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Attributes:
        seed: Of all chance that is not drawn here: how long things take, which answers are lost.
        services: How many work on the store.
        has_journals: Whether each of them keeps what comes while the store is away.
    """

    seed: int
    length_s: float
    jobs: tuple[PlannedJob, ...]
    faults: tuple[Fault, ...]
    services: int
    confirms: bool
    keeps_short: bool
    has_journals: bool

    def without(self, *, jobs: slice | None = None, faults: slice | None = None) -> "Plan":
        """The same with fewer of them."""
        return replace(
            self,
            jobs=self.jobs if jobs is None else self.jobs[: jobs.start] + self.jobs[jobs.stop :],
            faults=self.faults if faults is None else self.faults[: faults.start] + self.faults[faults.stop :],
        )


def make_plan(seed: int, *, length_s: float = 7 * DAY_S) -> Plan:
    rng = Random(f"{seed}:plan")
    busy_s = length_s - QUIET_S
    # Jobs come in bursts, and faults where something goes on.
    bursts = sorted(rng.uniform(0.0, busy_s) for _ in range(rng.randint(2, 6)))
    jobs = [_make_job(rng, rng.choice(bursts) + rng.uniform(0.0, 300.0), busy_s) for _ in range(rng.randint(5, 40))]
    faults = [_make_fault(rng, rng.choice(bursts), busy_s) for _ in range(rng.randint(0, 20))]
    return Plan(
        seed=seed,
        length_s=length_s,
        jobs=tuple(sorted(jobs, key=lambda job: job.at)),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        services=1 + (rng.random() < 0.3),
        confirms=rng.random() < 0.6,
        keeps_short=rng.random() < 0.5,
        has_journals=rng.random() < 0.5,
    )


def _make_job(rng: Random, at: float, busy_s: float) -> PlannedJob:
    _, product, family, outcomes = rng.choices(_JOBS, [weight for weight, *_ in _JOBS])[0]
    outcome = rng.choice(outcomes)
    may_rerun = outcome == "failed" and product != "multimediaai"
    again_after_s = rng.uniform(700.0, 4000.0)
    # So late that its key is about to go.
    late_s = rng.uniform(1.0, 3.5) * DAY_S
    if rng.random() < 0.4 and at + late_s < busy_s:
        again_after_s = late_s
    return PlannedJob(
        at=at,
        product=product,
        family=family,
        outcome=outcome,
        is_lost=rng.random() < 0.15,
        registered_after_s=rng.choice((0.0, 1.0, 5.0, 900.0)) if rng.random() < 0.8 else None,
        again_after_s=again_after_s if may_rerun and rng.random() < 0.5 else None,
    )


def _make_fault(rng: Random, burst: float, busy_s: float) -> Fault:
    kinds = list(FAULTS)
    kind = rng.choices(kinds, [FAULTS[kind][0] for kind in kinds])[0]
    _, shortest_s, longest_s = FAULTS[kind]
    at = burst + rng.expovariate(1 / 600.0) if rng.random() < 0.8 else rng.uniform(0.0, busy_s)
    # Mostly short, sometimes long.
    for_s = shortest_s + (longest_s - shortest_s) * rng.random() ** 3
    return Fault(at=at, kind=kind, for_s=for_s, after_steps=rng.randint(0, 60), chance=rng.random())
