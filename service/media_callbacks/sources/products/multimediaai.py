"""
Multimedia AI (multimediaai, API 2019-08-10), CreateGifTask: what a call of a minted URL means.

The vendor documents a CallbackUrl and nothing else: not the method, not the body, not a signature. So the token in
the URL says which task this is about, and the body is read as a hint, in every shape that one would expect. Nothing
in a body is ever fetched.

Source: CreateGifTask, GetTaskResult, https://help.aliyun.com/product/154437.html; status numbers from GetTaskResult.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.kinds import Kind, Outcome
from media_callbacks.model.outputs import AnimatedImageOutput
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.products.outcomes import read_error, read_outcome
from media_callbacks.sources.products.vod_outputs import url_suffix
from media_callbacks.sources.reading.decoding import decode_text
from media_callbacks.sources.reading.fields import Fields, read_object

# GetTaskResult: 0 submitting, 1 running, 2 success, 3 failed.
_STATUS_NUMBERS: Mapping[str, Outcome | None] = {"0": None, "1": None, "2": "succeeded", "3": "failed"}

# API error codes of the product; 5xx may pass, wrong parameters and missing subscriptions will not.
RETRYABLE: Mapping[str, bool] = {
    "InternalError": True,
    "ServiceUnavailable": True,
    "UnknownError": True,
    "InvalidParameter": False,
    "InvalidParameterLengthLimit": False,
    "MissingParameter": False,
    "ResourceNotFound": False,
    "Unauthorized": False,
    "ServiceNotSelected": False,
    "ServiceNotOpened": False,
    "BalanceNotEnough": False,
    "FileContentInvalid": False,
    "Forbidden": False,
}

_ERROR_NAMES = (("ErrorName", "ErrorCode"), ("ErrorMessage", "ErrorReason"), ("Code",))
_WRAPPERS = ("Result", "Data", "Task", "Body", "Content")
_TASK_ID = re.compile("[1-9][0-9]{0,18}")


def parse(message: Message) -> Parsed:
    """
    Read one call.

    The key is the nonce of the minted URL, always, so a body in which nothing can be read still gives an event
    (with outcome unknown).
    """
    nonce = message.meta.get("nonce")
    if nonce is None:
        raise Unparseable("expected the nonce of a minted URL beside the body, found none")
    layers = _layers(message.payload, message.meta.get("query", ""))
    fields = layers[0]
    task_id = _task_id(layers)
    outcome = _outcome(layers)
    kind: Kind = "animated_image" if outcome is not None else "notice"
    final: Outcome = outcome or "received"
    url = _first(layers, "GifUrl", "ResultUrl", "Url")
    # Code may be the call's own (OK, 200) and is looked at last.
    holder = next(
        (layer for names in _ERROR_NAMES for layer in reversed(layers) if layer.text(*names)),
        fields,
    )
    completion = Completion(
        family="animated_image",
        id=(nonce,),
        kind=kind,
        outcome=final,
        vendor_event="CreateGifTask",
        job_id=task_id,
        outputs=(AnimatedImageOutput(url=url, format=url_suffix(url)),) if url and final == "succeeded" else (),
        error=read_error(
            holder,
            final,
            code=("ErrorName", "ErrorCode", "Code"),
            message=("ErrorMessage", "ErrorReason", "Message"),
            retryable=RETRYABLE,
        )
        if final == "failed"
        else None,
        subject=nonce,
        binding=task_id,
    )
    return Parsed((completion,), fields.warnings)


def _layers(payload: bytes, query: str) -> list[Fields]:
    """
    The body as an object, else the query, then the objects it wraps, from the outside in. One empty object when there
    is none.
    """
    try:
        layers = [read_object(payload)]
    except Unparseable:
        layers = [_read_form(payload) or _read_pairs(query) or Fields({})]
    for _ in range(3):
        inner = next((found for name in _WRAPPERS if (found := _wrapped(layers[-1], name))), None)
        if inner is None:
            break
        layers.append(inner)
    return layers


def _wrapped(fields: Fields, name: str) -> Fields | None:
    # Looked at first, because a plain string under one of these names is no mistake.
    value = fields.decoded(name)
    found = fields.object(name) if isinstance(value, (dict, list)) and len(value) > 0 else None
    return found if found is not None and found.says_anything() else None


def _read_form(payload: bytes) -> Fields | None:
    try:
        return _read_pairs(decode_text(payload))
    except Unparseable:
        return None


def _read_pairs(text: str) -> Fields | None:
    try:
        pairs = dict(parse_qsl(text, max_num_fields=100))
    except ValueError:
        return None
    return Fields({key: value for key, value in pairs.items() if "\0" not in value}) if pairs else None


def _first(layers: list[Fields], *names: str) -> str | None:
    return next((text for layer in reversed(layers) if (text := layer.text(*names))), None)


def _task_id(layers: list[Fields]) -> str | None:
    """Decimal text of 1 to 19 digits, from ``TaskId`` in any spelling; ``Id`` only when there is no other."""
    text = _first(layers, "TaskId", "task_id") or _first(layers, "Id")
    return text if text is not None and _TASK_ID.fullmatch(text) else None


def _outcome(layers: list[Fields]) -> Outcome | None:
    """The outcome that the body hints at; None when it says that the task is still under way."""
    for layer in reversed(layers):
        word = layer.text("Status", "State", "TaskStatus", "task_status")
        if word is None:
            continue
        word = word.lower()
        if word in _STATUS_NUMBERS:
            return _STATUS_NUMBERS[word]
        if "fail" in word or "error" in word:
            return "failed"
        if ("succe" in word or "finish" in word) and not word.startswith(("un", "not")):
            return "succeeded"
        if read_outcome(word) == "progress":
            return None
    return "unknown"
