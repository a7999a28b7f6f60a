"""
Plans that once failed, with no more than it took. A seed means another week as soon as there is another kind of fault;
these stay what they are, but for how long each thing takes.
"""

from tests.exercises.simulation.plan import DAY_S, HOUR_S, Fault, Plan, PlannedJob


def _job(at: float) -> PlannedJob:
    return PlannedJob(at, "vod", "transcode", "succeeded", is_lost=False, registered_after_s=5.0, again_after_s=None)


_JOBS = tuple(_job(12 * HOUR_S + 60.0 * number) for number in range(6))

# By what went wrong.
PLANS = {
    # Keys go so long after an event was accepted, however long it waited for its sink.
    "told again when its key is gone, after a day before a paused sink": Plan(
        seed=105,
        length_s=7 * DAY_S,
        jobs=_JOBS,
        faults=(
            Fault(11 * HOUR_S, "operator_pauses", for_s=1.5 * DAY_S, chance=0.1),
            Fault(100 * HOUR_S, "vendor_repeats", for_s=0.0, chance=0.9),
        ),
        services=1,
        confirms=True,
        keeps_short=True,
        has_journals=False,
    ),
    # A clock that is ahead by less than a day is believed, so that keys go as much earlier.
    "told again when its key has gone by a clock that was ahead": Plan(
        seed=410,
        length_s=7 * DAY_S,
        jobs=_JOBS,
        faults=(
            Fault(13 * HOUR_S, "clock_step", for_s=3 * HOUR_S, chance=0.87),
            Fault(14 * HOUR_S, "restart", for_s=60.0),
            Fault(80 * HOUR_S, "vendor_repeats", for_s=0.0, chance=0.9),
        ),
        services=2,
        confirms=True,
        keeps_short=True,
        has_journals=False,
    ),
    # The service's: what the vendor had confirmed became what the callback alone had said.
    "read again while nothing is confirmed any more, and sent again": Plan(
        seed=1000514,
        length_s=7 * DAY_S,
        jobs=_JOBS,
        faults=(
            Fault(13 * HOUR_S, "reconfigured", for_s=10 * HOUR_S),
            Fault(14 * HOUR_S, "operator_reparses", for_s=0.0),
            Fault(15 * HOUR_S, "operator_replays", for_s=0.0, chance=0.5),
        ),
        services=1,
        confirms=True,
        keeps_short=False,
        has_journals=False,
    ),
    # The service's: a lease could be written, because its page was there, and what an attempt had come to could not.
    "sent again and again while there is no room for what came of it": Plan(
        seed=800845,
        length_s=7 * DAY_S,
        jobs=_JOBS,
        faults=(Fault(12 * HOUR_S, "disk_full", for_s=HOUR_S, chance=0.5),),
        services=1,
        confirms=False,
        keeps_short=False,
        has_journals=False,
    ),
}
