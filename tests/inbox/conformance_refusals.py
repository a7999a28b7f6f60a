"""What every inbox keeps of refused requests, and of when something came through sources."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest

from media_callbacks.inbox.operating import refusals
from media_callbacks.inbox.records import ErasureRequest, RefusedRecord, RefusedRow, SourceActivity, SourceNews
from tests.inbox.conformance import DAY, NOW, SECOND, Reopen, purge
from tests.inbox.timed import Timed

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
WEEK = 7 * DAY


def refused(number: int = 0, *, at: datetime = NOW, **changes: Any) -> RefusedRow:
    text = json.dumps({"request": {"body": changes.pop("body", "")}, "explanation": changes.pop("explanation", None)})
    columns: dict[str, Any] = {
        "source": "vod",
        "status": 403,
        "reason": "signature_mismatch",
        "cause": "",
        "detail": f"no. {number}",
        "job_id": None,
    }
    return RefusedRow(refused_at=at, **{"document": text} | columns | changes)


async def keep(inbox: Timed, *rows: RefusedRow, now: datetime = NOW) -> None:
    inbox.clock.now = now
    await inbox.keep_refused(rows)


async def listed(inbox: Timed, **wanted: Any) -> list[str]:
    """Details of what is kept, newest first."""
    return [record.detail for record in await every(inbox, **wanted)]


async def every(inbox: Timed, **wanted: Any) -> Sequence[RefusedRecord]:
    return await inbox.list_refused(**{"limit": 10_000} | wanted)


async def activity(inbox: Timed) -> dict[str, SourceActivity]:
    return {one.source: one for one in await inbox.list_source_activity()}


class RefusalsConformance:
    async def test_a_refused_request_is_kept_as_it_is_told(self, inbox: Timed, reopen: Reopen) -> None:
        nasty = '\0\x1b[31m<b>\u202e "quoted" \u5a92\ud800'
        await keep(
            inbox, refused(cause="url_scheme", job_id=nasty[1:-1], body=nasty, explanation={"findings": [nasty]})
        )
        inbox = await reopen()
        (record,) = await every(inbox)
        assert (record.refused_at, record.source, record.status) == (NOW, "vod", 403)
        assert (record.reason, record.cause, record.detail) == ("signature_mismatch", "url_scheme", "no. 0")
        assert record.job_id == nasty[1:-1]
        found = await inbox.find_refused(record.id)
        assert found is not None
        assert found.record == record
        assert found.document == {"request": {"body": nasty}, "explanation": {"findings": [nasty]}}

    @pytest.mark.parametrize("refused_id", [0, -1, 2**63, 10**30])
    async def test_a_number_that_nothing_has_is_no_error(self, inbox: Timed, refused_id: int) -> None:
        await keep(inbox, refused())
        assert await inbox.find_refused(refused_id) is None

    async def test_a_list_goes_from_new_to_old_by_pages(self, inbox: Timed) -> None:
        await keep(inbox, *(refused(number) for number in range(5)))
        page = await every(inbox, limit=2)
        assert [record.detail for record in page] == ["no. 4", "no. 3"]
        assert await listed(inbox, before_id=page[-1].id) == ["no. 2", "no. 1", "no. 0"]

    async def test_a_list_may_be_of_one_kind(self, inbox: Timed) -> None:
        await keep(
            inbox,
            refused(1, source="ims"),
            refused(2, reason="method"),
            refused(3, cause="key_case"),
            refused(4, at=NOW - HOUR),
        )
        assert await listed(inbox, source="ims") == ["no. 1"]
        assert await listed(inbox, reason="method") == ["no. 2"]
        assert await listed(inbox, cause="key_case") == ["no. 3"]
        assert await listed(inbox, cause="") == ["no. 4", "no. 2", "no. 1"]
        assert await listed(inbox, since=NOW) == ["no. 3", "no. 2", "no. 1"]

    @pytest.mark.parametrize("text", ['order "7"', "\u5a92\u4f53", "a\\b", "100%", "_"])
    async def test_a_list_may_be_of_what_has_a_text(self, inbox: Timed, text: str) -> None:
        within = json.dumps({"UserData": text})
        await keep(
            inbox,
            refused(1, body=within),
            refused(2, body=json.dumps({"MessageBody": within}, ensure_ascii=False)),
            refused(3, body=within.replace("\\u", "\\\\u"), source="ims"),
            refused(4, body=json.dumps({"UserData": text}, ensure_ascii=False)),
            refused(5, body="<b>", explanation={"events": [{"data": {"user_data": f"{text} and more"}}]}),
            refused(6, body="another"),
        )
        found = await listed(inbox, text=text)
        assert set(found) - {"no. 2", "no. 3"} == {"no. 1", "no. 4", "no. 5"}
        assert await listed(inbox, text=text, source="none") == []
        assert await listed(inbox, text=text, limit=1) == ["no. 5"]

    async def test_a_text_is_looked_for_as_it_is_written(self, inbox: Timed) -> None:
        await keep(inbox, refused(1, body="Order-7"), refused(2, body="order-7"))
        assert await listed(inbox, text="order-7") == ["no. 2"]

    # Bounds

    async def test_of_a_kind_the_last_ones_are_kept(self, inbox: Timed) -> None:
        for start in range(0, 70, 7):
            await keep(inbox, *(refused(start + number) for number in range(7)))
        assert await listed(inbox) == [f"no. {number}" for number in range(69, 49, -1)]

    @pytest.mark.parametrize("differing", ["source", "reason", "cause"])
    async def test_no_flood_of_one_kind_pushes_out_another(self, inbox: Timed, differing: str) -> None:
        await keep(inbox, refused(1, **{differing: "a genuine one"}))  # type: ignore[arg-type]
        for _ in range(10):
            await keep(inbox, *(refused(2) for _ in range(50)))
        assert (await listed(inbox))[-1] == "no. 1"
        assert len(await listed(inbox)) == refusals.MAX_ALIKE + 1

    async def test_no_flood_of_many_kinds_pushes_out_another(self, inbox: Timed) -> None:
        """As long as there are fewer kinds than rows: of each the newest one stays."""
        await keep(inbox, refused(1, reason="a genuine one"))
        number = count(2)
        for _ in range(refusals.MAX_ALIKE):
            await keep(inbox, *(refused(next(number), reason=f"reason {kind}") for kind in range(300)))
        found = await every(inbox)
        assert len(found) == refusals.MAX_REFUSED
        assert {record.reason for record in found} == {"a genuine one", *(f"reason {kind}" for kind in range(300))}
        newest = max(record.detail for record in found if record.reason == "reason 299")
        assert newest in [record.detail for record in found]

    async def test_no_number_of_kinds_is_kept_beyond_the_bound(self, inbox: Timed) -> None:
        await keep(inbox, *(refused(reason=f"reason {kind}") for kind in range(refusals.MAX_REFUSED + 100)))
        assert len(await listed(inbox)) == refusals.MAX_REFUSED

    async def test_what_is_old_goes_with_what_else_is_old(self, inbox: Timed) -> None:
        await keep(inbox, refused(1, at=NOW - DAY), refused(2))
        await purge(inbox, payloads_before=NOW - HOUR, keys_before=NOW - 30 * DAY)
        assert await listed(inbox) == ["no. 2"]

    async def test_nothing_is_kept_for_more_than_a_week(self, inbox: Timed) -> None:
        """Whether or not anything else is refused since."""
        await keep(inbox, refused(1, at=NOW - WEEK - SECOND), refused(2, at=NOW - WEEK + SECOND))
        await purge(inbox, payloads_before=NOW - 100 * DAY, keys_before=NOW - 100 * DAY)
        assert await listed(inbox) == ["no. 2"]

    async def test_many_may_keep_some_at_once(self, inbox: Timed) -> None:
        await asyncio.gather(*(inbox.keep_refused([refused(n) for n in range(10)]) for _ in range(20)))
        await keep(inbox, refused(99))
        assert (await listed(inbox))[0] == "no. 99"
        assert len(await listed(inbox)) == refusals.MAX_ALIKE

    # Erasing

    @pytest.mark.parametrize(
        "body",
        [
            '{"UserData":"order \\"7\\""}',
            json.dumps({"Message": json.dumps({"UserData": 'order "7"'})}),
            "<UserData>order &quot;7&quot;</UserData>",
            # {"UserData":"order \"7\""} in Base64
            "eyJVc2VyRGF0YSI6Im9yZGVyIFwiN1wiIn0=",
        ],
    )
    async def test_who_is_erased_is_in_no_refused_request(self, inbox: Timed, body: str) -> None:
        await keep(
            inbox,
            refused(1, body=body),
            refused(2, explanation={"events": [{"data": {"user_data": 'order "7"'}}]}),
            refused(3, body='{"UserData":"order 8"}'),
        )
        wanted = ErasureRequest(matched="user_data", value='order "7"')
        await inbox.erase(wanted, erasure_id=None, position=None, dry_run=True)
        assert await listed(inbox) == ["no. 3", "no. 2", "no. 1"]
        await inbox.erase(wanted, erasure_id=None, position=None, dry_run=False)
        assert await listed(inbox) == ["no. 3"]

    # Sources

    async def test_a_source_is_configured_since_its_configuration_is_another(self, inbox: Timed) -> None:
        await inbox.note_sources({"vod": "a", "ims": "a"})
        inbox.clock.now += HOUR
        await inbox.note_sources({"vod": "b", "ims": "a", "mts": "a"})
        found = await activity(inbox)
        assert {name: one.configured_at for name, one in found.items()} == {
            "vod": NOW + HOUR,
            "ims": NOW,
            "mts": NOW + HOUR,
        }

    async def test_what_came_is_told_of_each_source(self, inbox: Timed) -> None:
        await inbox.note_sources({"vod": "a", "ims": "a"})
        inbox.clock.now += HOUR
        await inbox.note_activity([SourceNews("vod", 3, 2), SourceNews("ims", 0, 5)])
        inbox.clock.now += HOUR
        await inbox.note_activity([SourceNews("vod", 0, 4), SourceNews("ims", 0, 5), SourceNews("unknown", 1, 1)])
        assert await activity(inbox) == {
            "vod": SourceActivity("vod", NOW, NOW + HOUR, NOW + 2 * HOUR, 4, HOUR),
            "ims": SourceActivity("ims", NOW, None, NOW + 2 * HOUR, 10),
        }
        inbox.clock.now += HOUR
        await inbox.note_activity([SourceNews("ims", 1, 0)])
        assert (await activity(inbox))["ims"] == SourceActivity("ims", NOW, NOW + 3 * HOUR, NOW + 2 * HOUR, 0, 3 * HOUR)

    async def test_another_configuration_begins_to_count_anew(self, inbox: Timed) -> None:
        await inbox.note_sources({"vod": "a"})
        await inbox.note_activity([SourceNews("vod", 1, 0), SourceNews("vod", 0, 7)])
        inbox.clock.now += HOUR
        await inbox.note_sources({"vod": "b"})
        assert await activity(inbox) == {"vod": SourceActivity("vod", NOW + HOUR, NOW, NOW, 0)}

    async def test_a_source_is_silent_only_where_it_usually_is_not(self, inbox: Timed) -> None:
        async def silent(at: datetime, *sources: str) -> dict[str, datetime]:
            inbox.clock.now = at
            await inbox.note_activity([SourceNews(source, 1, 0) for source in sources])
            found = {name: one.silent_since(at) for name, one in (await activity(inbox)).items()}
            return {name: since for name, since in found.items() if since is not None}

        await inbox.note_sources({"vod": "a", "ims": "a", "mts": "a"})
        for hour in range(0, 24 * 10, 2):
            heard = ["vod", *(["mts"] if hour % 48 == 0 else ["ims"] * (hour < 24))]
            assert await silent(NOW + hour * HOUR, *heard) == {}
        last = NOW + (24 * 10 - 2) * HOUR
        # Heard for a day alone, and never again: nobody knows what is usual.
        assert await silent(last + 4 * HOUR) == {}
        assert await silent(last + 5 * HOUR) == {"vod": last}
        assert await silent(last + 5 * HOUR, "vod") == {}
        # It is usual now.
        assert await silent(last + 14 * HOUR) == {}
        assert await silent(last + 16 * HOUR) == {"vod": last + 5 * HOUR}
        assert set(await silent(last + 100 * HOUR)) == {"vod", "mts"}

    async def test_what_came_but_once_is_not_usual(self, inbox: Timed) -> None:
        await inbox.note_sources({"vod": "a"})
        for days in (30, 30 + 30, 30 + 30 + 30):
            inbox.clock.now = NOW + days * DAY
            assert (await activity(inbox))["vod"].silent_since(inbox.clock.now) is None
            await inbox.note_activity([SourceNews("vod", 1, 0)])
        assert (await activity(inbox))["vod"].silent_since(NOW + 200 * DAY) is not None

    async def test_weekends_are_usual(self, inbox: Timed) -> None:
        await inbox.note_sources({"vod": "a"})
        for hour in range(24 * 7 * 5):
            inbox.clock.now = NOW + hour * HOUR
            if hour % 168 < 108 and hour % 24 < 12:
                await inbox.note_activity([SourceNews("vod", 1, 0)])
            if hour > 168:
                assert (await activity(inbox))["vod"].silent_since(inbox.clock.now) is None, hour

    async def test_what_a_clock_that_was_wrong_has_made_of_sources_is_put_back(self, inbox: Timed) -> None:
        await inbox.note_sources({"vod": "a"})
        await inbox.watch_clock(now=NOW)
        await inbox.note_activity([SourceNews("vod", 1, 0)])
        await inbox.watch_clock(now=NOW + 10 * DAY)
        inbox.clock.now = NOW + 10 * DAY + SECOND
        await inbox.note_activity([SourceNews("vod", 1, 0)])
        await inbox.watch_clock(now=NOW + MINUTE)
        found = (await activity(inbox))["vod"]
        assert found.received_at is not None
        assert abs(found.received_at - NOW) < 2 * MINUTE
        assert found.longest_gap < 2 * MINUTE
