"""One body on its way to completions: what all types of messages of VOD and IMS have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import EventError
from media_callbacks.model.kinds import Kind, Outcome
from media_callbacks.model.outputs import Frozen
from media_callbacks.sources.base import Completion
from media_callbacks.sources.products.outcomes import Judged, build_error, has_outputs
from media_callbacks.sources.reading.members import Reading, decoded, digest, first, settle


@dataclass(frozen=True, slots=True)
class Dialect:
    """
    What distinguishes the two products that send these bodies.

    Attributes:
        path: Of the body in the message, for warnings.
        is_vod: Whether families are named as VOD's were from the beginning, and a body must name its job or asset.
    """

    path: str
    retryable: Mapping[str, bool]
    is_vod: bool


@dataclass(slots=True)
class Told:
    """
    A body's message.

    Attributes:
        event_time: As text, which is part of many identities; empty where there is none.
    """

    event_type: str
    dialect: Dialect
    reading: Reading[Any]
    event_time: str
    occurred_at: datetime | None
    user_data: str | None

    def family(self, kind: Kind, event_type: str | None = None) -> str:
        return kind if self.dialect.is_vod and kind in _FAMILIES_BY_KIND else event_type or self.event_type

    def media(self, body: Any, names: tuple[str, ...]) -> str | None:
        """The asset: under the names that VOD has for this event, or under any in the order of IMS."""
        return first(body, names if self.dialect.is_vod else _ANY_MEDIA)  # type: ignore[no-any-return]

    def warn(self, path: str) -> None:
        self.reading.warn(self.dialect.path + path)

    def occurrence(self, *parts: str) -> tuple[str, ...]:
        """What may happen again, told apart by the parts after the first; where all are empty, by all that is said."""
        return parts if any(parts[1:]) else (*parts, self.reading.digest())

    def identify(self, job_id: str | None, occurrence: Sequence[str], expected: str) -> tuple[str, ...]:
        """
        The identity of a job, else of what happened to the thing that ``occurrence`` begins with.

        Raises:
            Unparseable: Neither is named, by VOD, which names one always.
        """
        if job_id:
            return (job_id,)
        if occurrence[0]:
            return self.occurrence(*occurrence)
        if self.dialect.is_vod:
            raise Unparseable(f"expected {expected}, found neither")
        return (self.reading.digest(),)

    def end(
        self,
        kind: Kind,
        identity: tuple[str, ...],
        judged: Judged,
        word: str | None,
        body: Any,
        *,
        outputs: Callable[[Any], tuple[Frozen, ...]],
        job_id: str | None,
        media_id: str | None,
        parts: Sequence[Any] = (),
        family: str | None = None,
        nameless: Literal["takes_name", "keeps_key"] | None = None,
        placeholder: str | None = None,
    ) -> Completion:
        """
        One completion. Progress makes it a notice of its own, because its end is still to come.

        Args:
            word: What the judgement was made of.
            outputs: How they are read from the body.
            parts: Where an error may be, before the body.
        """
        family = family or self.family(kind)
        if judged == "progress" and kind != "notice":
            kind, nameless = "notice", None
            identity = (*identity, (word or "").lower(), self.event_time or self.reading.digest())
        outcome: Outcome = "received" if kind == "notice" or judged == "progress" else judged
        return Completion(
            family=family,
            id=identity,
            kind=kind,
            outcome=outcome,
            vendor_event=self.event_type,
            job_id=job_id,
            media_id=media_id,
            outputs=outputs(body) if outcome == "succeeded" or has_outputs(outcome) else (),
            error=None if outcome == "succeeded" or outcome == "received" else self.error(outcome, *parts, body),  # noqa: PLR1714, quicker
            user_data=self.user_data,
            occurred_at=self.occurred_at,
            nameless=nameless,
            placeholder=placeholder,
        )

    def digest_of_body(self) -> str:
        values = self.reading.values()
        if self.dialect.path:
            values = decoded(settle(values, lambda _: None)[self.dialect.path.rstrip(".").lower()])
            values = decoded(values[0]) if isinstance(values, list) else values
        return digest(values)

    def error(self, outcome: Outcome, *told: Any) -> EventError | None:
        """The error of the first that has a code or a text."""
        code = message = None
        for one in told:
            code, message = first(one, ("ErrorCode", "Code")), first(one, ("ErrorMessage", "Message"))
            if code or message:
                break
        error = build_error(code, message, outcome, self.dialect.retryable)
        if error is None and outcome == "partial":
            # A part failed, and nothing says why.
            return EventError(code=None, message=None, retryable=None)
        return error


_ANY_MEDIA = ("MediaId", "VideoId", "ImageId", "AttachedMediaId")


_FAMILIES_BY_KIND = frozenset({"animated_image", "snapshot", "transcode", "transcode_task"})
