"""
What every inbox must do about what came in and went out. Like ``conformance``, this is for a database's own test
module, with the fixture ``inbox``.
"""

from datetime import timedelta

from media_callbacks.inbox.records import ActivityCount
from media_callbacks.model.jobs import ExpectedJob, JobReference
from tests.inbox.conformance import NOW, SECOND, deliver, make_event, put
from tests.inbox.timed import Timed

MINUTE = timedelta(minutes=1)


class ActivityConformance:
    async def test_counts_are_added_up_by_the_minute_and_kept_for_a_day(self, inbox: Timed):
        for after in (0 * SECOND, 30 * SECOND, MINUTE):
            inbox.clock.now = NOW + after
            await inbox.note_activity([], [("received", "vod", 3), ("delivered", "orders", 2)])
        begun = NOW.replace(second=0, microsecond=0)
        assert await inbox.list_activity(since=begun + MINUTE) == (
            ActivityCount(begun + MINUTE, "delivered", "orders", 2),
            ActivityCount(begun + MINUTE, "received", "vod", 3),
        )
        found = await inbox.list_activity(since=begun)
        assert [(one.name, one.count) for one in found if one.at == begun] == [("orders", 4), ("vod", 6)]
        inbox.clock.now = NOW + timedelta(hours=26)
        await inbox.note_activity([], [("refused", "none", 1)])
        assert [one.what for one in await inbox.list_activity(since=begun)] == ["refused"]

    async def test_how_long_it_took_is_a_median_of_what_began_in_a_time(self, inbox: Timed):
        edges = [NOW, NOW + MINUTE, NOW + 2 * MINUTE, NOW + 3 * MINUTE]
        inbox.clock.now = NOW
        references = [
            JobReference(product="vod", account="default", family="animated_image", job_id=f"job-{number}")
            for number in range(4)
        ]
        await inbox.expect([ExpectedJob(reference=reference, deadline=timedelta(hours=1)) for reference in references])
        for number, after_s in enumerate((61, 70, 119)):
            await put(inbox, make_event(f"job-{number}"), at=NOW + after_s * SECOND)
            await deliver(inbox, "a", now=NOW + (after_s + number + 1) * SECOND)
        first, second, third = await inbox.sample_times(edges)
        assert (first.at, first.callback_s, first.delivery_s) == (NOW, 70.0, None)
        assert (second.callback_s, second.delivery_s) == (None, 2.0)
        assert (third.callback_s, third.delivery_s) == (None, None)
