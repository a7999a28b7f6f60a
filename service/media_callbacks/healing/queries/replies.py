"""
What the replies of all products have in common: how a job is found in one, and what its state means.

A reply is turned into the callback that the vendor would have sent, and that is read by the product's own parser in
``sources``. So both give the same event, whatever the rules for keys and outcomes are.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from media_callbacks.aliyun.calls import ApiRequest, CallApi, says_there_is_none
from media_callbacks.healing.queries.base import JobAnswer
from media_callbacks.model.errors import Unparseable, VendorRefused
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import AiOutput, Frozen, ReviewOutput
from media_callbacks.sources.base import Completion, Message, Parsed, Parser
from media_callbacks.sources.products.outcomes import read_outcome
from media_callbacks.sources.reading.fields import Fields

Json = dict[str, Any]

BATCH = 10
"""Ids in one question, where the API takes several (all of MTS, and GetTranscodeTask of VOD)."""

MAX_URL_LENGTH = 2048

_ELLIPSIS_AT = 60


# Finding a job in a reply


def find_object(reply: Mapping[str, Any], name: str) -> Json | None:
    """The object of this name; also as JSON text, or as the only element of a list."""
    value = Fields(dict(reply)).decoded(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else None


def find_objects(reply: Mapping[str, Any] | Fields, name: str, inner: str) -> list[Json]:
    """
    The objects of a list: wrapped twice (``{name: {inner: [...]}}``, as the SDKs have it), flat (``{name: [...]}``, as
    one document prints it), or a single one without its list.
    """
    value = (reply if isinstance(reply, Fields) else Fields(dict(reply))).decoded(name)
    if isinstance(value, dict) and inner in (wrapper := Fields(value)):
        value = wrapper.decoded(inner)
    if isinstance(value, dict):
        value = [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def find_texts(reply: Mapping[str, Any], name: str) -> frozenset[str]:
    """The texts of a list, trimmed: flat, or wrapped once more in an object (``{"String": [...]}``)."""
    value = Fields(dict(reply)).decoded(name)
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    texts = value if isinstance(value, list) else [value]
    return frozenset(text.strip() for text in texts if isinstance(text, str))


def find_listed(parts: Sequence[Json], reference: JobReference, *names: str) -> Json | None:
    """The one of these jobs that was asked about. ``names``: where its id may be."""
    return next((part for part in parts if Fields(part).text(*names) == reference.job_id), None)


def not_listed(reply: Mapping[str, Any], missing: str, reference: JobReference) -> JobAnswer:
    """A list of jobs has not the one that was asked about. ``missing``: the list of ids that do not exist."""
    is_named = reference.job_id in find_texts(reply, missing)
    return JobAnswer(state="not_found", detail=None if is_named else "the reply does not mention it")


def not_there(member: str) -> JobAnswer:
    return JobAnswer(state="not_found", detail=f"the reply has no {member}")


# What a job has made


def review_outputs(job: Fields) -> tuple[Frozen, ...]:
    suggestion = job.text("Suggestion")
    return (ReviewOutput(suggestion=suggestion.lower()),) if suggestion else ()


def tag_outputs(job: Fields) -> tuple[Frozen, ...]:
    found = map(Fields, find_objects(job, "Results", "Result"))
    results = [{"Type": result.text("Type"), "Data": result.decoded("Data")} for result in found]
    return (AiOutput(result=results),) if results else ()


# What became of it


def compact(value: Any) -> bytes:
    """As JSON in ASCII, so that text of any kind, half surrogate pairs too, can be read back."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def clip(text: str) -> str:
    """A word of the vendor, short enough for a line in a log."""
    return text if len(text) <= _ELLIPSIS_AT else f"{text[:_ELLIPSIS_AT]}…"


def judge_state(word: str | None) -> JobAnswer | None:
    """
    None when the word says that the job ended. A word that nobody has seen, or none at all, is no end: to ask once more
    costs little, and a wrong event can't be taken back.
    """
    if word is None:
        return JobAnswer(state="pending", detail="the reply has no state")
    outcome = read_outcome(word)
    if outcome == "unknown":
        return JobAnswer(state="pending", detail=f"{clip(word)} is not a known state")
    return JobAnswer(state="pending") if outcome == "progress" else None


def build_meta(action: str, reference: JobReference) -> Mapping[str, str]:
    """What it takes to read an answer again."""
    meta = {"action": action, "family": reference.family, "job_id": reference.job_id or ""}
    return meta | {"media_id": reference.media_id} if reference.media_id else meta


def end(part: Json, meta: Mapping[str, str], parser: Parser, *, notification: str | None = None) -> JobAnswer:
    """The answer about a job that ended; ``pending`` if ``parser`` could make nothing of it."""
    try:
        body = compact(part)
        parser(Message(body, body, "query", meta=meta))
    except Unparseable as error:
        return JobAnswer(state="pending", detail=str(error))
    except (RecursionError, ValueError):
        return JobAnswer(state="pending", detail="the reply is nested too deeply")
    return JobAnswer(state="ended", body=body, meta=meta, notification=notification)


def other_job(asked: str, found: str | None) -> JobAnswer | None:
    """An answer when the reply is about another job; None when it is about the one that was asked for, or says not."""
    if found is None or found == asked:
        return None
    return JobAnswer(state="not_found", detail=f"asked about {clip(asked)}, the reply is about {clip(found)}")


# Asking


Read = Callable[[Mapping[str, Any], JobReference], JobAnswer]
"""What a reply says about a job."""


async def ask_all(
    references: Sequence[JobReference], call: CallApi, query: Callable[[Sequence[str]], ApiRequest], read: Read
) -> list[JobAnswer]:
    """
    Ask about jobs in one call, by their job ids. If the vendor refuses an id, each is asked about by itself, so that
    one bad id does not hide what became of the others.
    """
    named = [reference for reference in references if reference.job_id]
    if not named:
        return [JobAnswer(state="unlearnable", detail="its job id is not known") for _ in references]
    job_ids = list(dict.fromkeys(reference.job_id or "" for reference in named))
    try:
        reply = await call(query(job_ids))
    except VendorRefused as error:
        refused = refusal(error)
        if len(references) == 1:
            return [refused]
        return [(await ask_all([reference], call, query, read))[0] for reference in references]
    return [
        read(reply, reference) if reference.job_id else JobAnswer(state="unlearnable", detail="its job id is not known")
        for reference in references
    ]


def refusal(error: VendorRefused) -> JobAnswer:
    """
    The answer when the vendor says that there is no such job.

    Raises:
        VendorRefused: It refused for another reason.
    """
    if not says_there_is_none(error.code):
        raise error
    return JobAnswer(state="not_found", detail=f"the vendor says {clip(error.code)}")


# Reading the answer again


def required(meta: Mapping[str, str], name: str) -> str:
    """
    A part of an answer's meta.

    Raises:
        Unparseable: It is missing.
    """
    value = meta.get(name)
    if not value:
        raise Unparseable(f"expected {name} beside the answer, found none")
    return value


def check_ended(word: str | None) -> str:
    """
    The state of a job that ended.

    Raises:
        Unparseable: It does not say so.
    """
    if word is None or judge_state(word) is not None:
        raise Unparseable(f"expected the state of a job that ended, found {clip(word) if word else 'none'}")
    return word


def read_as_callback(
    message: Message, callback: Json, parser: Parser, amend: Callable[[Completion], None] = lambda _: None
) -> Parsed:
    """
    What the callback means that the vendor would have sent.

    Args:
        amend: Sets what the reply knows better; outputs are only looked at where the job left something behind.
    """
    parsed = parser(replace(message, payload=compact(callback)))
    for completion in parsed.completions:
        amend(completion)
    return parsed
