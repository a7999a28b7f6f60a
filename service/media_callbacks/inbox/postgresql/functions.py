"""What the functions of the database (``sql/``) are given, and what they give back."""

from collections.abc import Iterator, Sequence
from typing import Any

from media_callbacks.inbox.database import Candidate
from media_callbacks.inbox.rows import to_column, whole_characters
from media_callbacks.model.events import Event

# How many locks stand for all keys. Enough that two small batches seldom meet; few enough for the server's table of
# locks, which has room for some thousands, however large batches and however many services there are.
LOCKS = 1024
_FIRST_REVISION = '"revision":1,'


def lock_of(digest: bytes) -> int:
    """Which lock stands for a key or an asset."""
    return int.from_bytes(digest[-2:]) % LOCKS


def to_text(value: str | None) -> str | None:
    """
    What PostgreSQL can keep of a text: NUL and lone halves of surrogate pairs become U+FFFD.

    Events keep the original, because JSON escapes it, and identity is in the digest. So this is only about what lists
    show and are asked for: filters pass through here as well.
    """
    return whole_characters(value.replace("\0", "\ufffd") if value and "\0" in value else value)


def event_arrays(candidates: Sequence[Candidate]) -> tuple[list[Any], ...]:
    """The parameters of ``accept_events_2`` from ``e_digest`` to ``e_sinks``."""
    entries = [entry for _, entry in candidates]
    data = [entry.event.data for entry in entries]
    bodies = [entry.body.decode() for entry in entries]
    return (
        [entry.digest for entry in entries],
        [entry.outcome for entry in entries],
        [one.product for one in data],
        [one.kind for one in data],
        [to_text(to_column(one.job_id)) for one in data],
        [to_text(to_column(one.media_id)) for one in data],
        bodies,
        [_revision_at(body) for body in bodies],
        [to_text(entry.binding) for entry in entries],
        [" ".join(entry.sinks) for entry in entries],
    )


def _revision_at(body: str) -> int:
    # The last one is ours: what follows it is names and times of our own.
    return body.rindex(_FIRST_REVISION) + len(_FIRST_REVISION) - 1


def accepted_events(candidates: Sequence[Candidate], row: Any) -> Iterator[tuple[int, Event]]:
    """The events that are new, each with the place of its candidate."""
    for n, revision in zip(row["new_positions"] or (), row["new_revisions"] or (), strict=True):
        event = candidates[n - 1][1].event
        yield n - 1, event if revision == 1 else event.with_revision(revision)


def known_bodies(row: Any) -> Iterator[tuple[int, str]]:
    """The events that were there before, each with the place of its candidate."""
    for n, body in zip(row["again_positions"] or (), row["again_bodies"] or (), strict=True):
        yield n - 1, body
