"""``SnapshotComplete``: one message about several jobs, each with its own pictures."""

from functools import partial
from typing import Literal

from media_callbacks.model.errors import Unparseable
from media_callbacks.sources.base import MAX_EVENTS, Completion
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products.outcomes import read_outcome
from media_callbacks.sources.products.vod_catalogue import VIDEO_IDS
from media_callbacks.sources.products.vod_outputs import (
    STATUS_NAMES,
    is_sort_of_job,
    snapshot_info_outputs,
    snapshot_outputs,
    sort_of,
)
from media_callbacks.sources.products.vod_told import Told
from media_callbacks.sources.reading.members import JOB_IDS, check_count, first, present, says_anything


def read_snapshots(told: Told, body: messages.Snapshot) -> tuple[Completion, ...]:
    """One per element of SnapshotInfos, each with its own job id; without any, one."""
    media_id, outer_word = told.media(body, VIDEO_IDS), first(body, STATUS_NAMES)
    fallback = (media_id or "", body.get("SubType") or "", told.event_time, told.user_data or "")
    infos = body.get("SnapshotInfos") or ()
    if not present(infos):
        job_id = first(body, JOB_IDS)
        identity = told.identify(job_id, fallback, "SnapshotInfos or VideoId")
        nameless: Literal["takes_name"] | None = "takes_name" if told.dialect.is_vod and not job_id else None
        judged = read_outcome(outer_word)
        return (
            told.end(
                "snapshot",
                identity,
                judged,
                outer_word,
                body,
                outputs=snapshot_outputs,
                job_id=job_id,
                media_id=media_id,
                nameless=nameless,
            ),
        )
    check_count(f"{told.dialect.path}SnapshotInfos", len(infos), MAX_EVENTS)
    completions = []
    sorts: dict[str, str | None] = {}
    identities: set[tuple[str, ...]] = set()
    for index, info in enumerate(infos):
        if not says_anything(info):
            continue
        job_id, sort = info.get("JobId") or None, sort_of(info.get("SnapshotType"))
        if job_id is not None:
            # Whatever stands beside it: its neighbours may come in another order, or in a message of their own. Two
            # sorts that jobs are for are not known of one job; if they come together, both are to be told.
            is_own = is_sort_of_job(sort) and sorts.setdefault(job_id, sort) == sort
            identity = (job_id,) if is_own else (job_id, sort or "")
        elif media_id is not None:
            parts = info.get("SnapshotType") or "", first(info, ("SnapshotRegular", "SnapshotFormat")) or ""
            identity = (*fallback, *(part for part in parts if part)) if any(parts) else (*fallback, str(index))
            if identity in identities:
                identity = (*identity, str(index))
        else:
            # The others are not lost for the sake of one that nobody could be told about.
            told.warn(f"SnapshotInfos[{index}].JobId")
            continue
        identities.add(identity)
        word = info.get("Status") or outer_word
        completions.append(
            # Codes stand beside the elements; inside them they are not documented.
            told.end(
                "snapshot",
                identity,
                read_outcome(word),
                word,
                body,
                outputs=partial(snapshot_info_outputs, info=info, sort=sort),
                job_id=job_id,
                media_id=media_id,
                parts=(info,),
                placeholder="{SnapshotCount}",
            )
        )
    if not completions:
        raise Unparseable("expected a JobId in SnapshotInfos, or VideoId, found neither")
    return tuple(completions)
