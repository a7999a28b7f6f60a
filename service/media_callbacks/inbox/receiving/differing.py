"""
In which members a completion that was known already says something else than what was accepted: two events, as JSON,
of one key and outcome.

What is compared is what the vendor says of the job. What tells only how and when we heard of it is not: the source, the
transport, the proof, the time of receipt; nor the revision, nor the event's time, which is that of the message where
the vendor gives none of its own. Beyond that there are two cases.

*The same message again*, by its name and its transport, that nobody was asked about: the vendor repeats itself word for
word, so every difference counts, one that only one side names included. Of URLs the parts that sign them do not count,
because each signing makes others.

*The same completion told otherwise*: by another message (a stream of a task and the stream's own message), over another
transport, or with what the vendor's job API has said. There what only one side says is no difference, for each knows
more or less than the other; nor are the vendor's name for the message, words for people, letters' case in names of
formats, how an address is reached (http or https; any host, where the job API is one side, for it gives delivery
addresses for those of storage), the order of outputs, and measured numbers within a hundredth. Results of free form
(those of AI) are not compared.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

# Of data. `vendor_event` is compared by the case; see above.
_OURS = frozenset(
    ("revision", "source", "transport", "verified_by", "outcome_verified_by", "received_at", "vendor_event")
)
# Identities and what is given back as it came: compared as they are.
_VERBATIM = frozenset(("job_id", "media_id", "user_data"))
_MEASURED = frozenset(("duration_s", "times_s", "fps", "bitrate_kbps", "similarity"))
_TOLERANCE = 0.01
# Of an error, words for people and what we conclude ourselves.
_WORDS = frozenset(("message", "retryable"))
_FREE_FORM = frozenset(("result",))
# Parameters that sign a URL (OSS, in its forms, and CDN), in lower case.
_SIGNING = frozenset(("expires", "signature", "ossaccesskeyid", "security-token", "auth_key", "stsaccesskeyid"))
_SIGNING_PREFIX = "x-oss-"
_NAMES = ("job_id", "media_id", "name", "primary_key")
_REVISION = '"revision":'
_MAX_NAMED = 20


def differing_members(known: str, brought: str) -> tuple[str, ...]:
    """
    The paths of members that differ, such as ``outputs[0].url``: names of our own and numbers, nothing of a message.

    Args:
        known: What was accepted.
        brought: What came now, of the same key and outcome.
    """
    # What follows the revision is ours. So most repetitions are known without reading them.
    if known[: known.rfind(_REVISION)] == brought[: brought.rfind(_REVISION)]:
        return ()
    ours, theirs = json.loads(known)["data"], json.loads(brought)["data"]
    asked = {"query"} & {data.get(proof) for data in (ours, theirs) for proof in ("verified_by", "outcome_verified_by")}
    is_same_message = not asked and all(ours[name] == theirs[name] for name in ("vendor_event", "transport"))
    if is_same_message:
        rules = _Rules(is_strict=True)
    else:
        rules = _Rules(is_strict=False, any_host=bool(asked))
    return tuple(rules.compare(ours, theirs))


def describe(paths: tuple[str, ...]) -> str:
    """Why a receipt is ``differing``, for operators."""
    named = ", ".join(paths[:_MAX_NAMED])
    more = f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else ""
    return f"says otherwise of what was accepted before with the same outcome: {named}{more}"


@dataclass(frozen=True, slots=True)
class _Rules:
    """
    Attributes:
        is_strict: It is the same message again.
        any_host: Else: whether an address may be at another host.
    """

    is_strict: bool
    any_host: bool = False

    def compare(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
        for name in {**ours, **theirs}:
            if name in _OURS:
                continue
            one, other = ours.get(name), theirs.get(name)
            if name == "outputs":
                yield from self._outputs(one or [], other or [])
            elif isinstance(one, dict) and isinstance(other, dict):
                yield from self._members(one, other, name)
            elif self._differ(name, one, other):
                yield name

    def _outputs(self, ours: list[Any], theirs: list[Any]) -> Iterator[str]:
        if not self.is_strict and (not ours or not theirs):
            return
        if len(ours) != len(theirs):
            yield "outputs"
            return
        found = list(self._one_by_one(ours, theirs))
        if found and not self.is_strict:
            ordered = (sorted(outputs, key=self._identity) for outputs in (ours, theirs))
            if not any(self._one_by_one(*ordered)):
                return
        yield from found

    def _one_by_one(self, ours: list[Any], theirs: list[Any]) -> Iterator[str]:
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from self._members(one, other, f"outputs[{number}]")

    def _identity(self, output: Mapping[str, Any]) -> tuple[Any, ...]:
        """By what outputs can be told apart, whoever tells of them."""
        address = output.get("url") or output.get("url_template")
        return *self._place(str(address or "")), *(str(output.get(name) or "") for name in _NAMES)

    def _members(self, ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> Iterator[str]:
        for name in {**ours, **theirs}:
            if self._differ(name, ours.get(name), theirs.get(name)):
                yield f"{path}.{name}"

    def _differ(self, name: str, one: Any, other: Any) -> bool:
        if one == other:
            return False
        if self.is_strict:
            return bool(_unsigned(one) != _unsigned(other))
        if name in _WORDS or name in _FREE_FORM or _says_nothing(one) or _says_nothing(other):
            return False
        if isinstance(one, list) and isinstance(other, list):
            return any(self._differ(name, *pair) for pair in zip(one, other, strict=False))
        if name in _MEASURED and _is_number(one) and _is_number(other):
            return bool(abs(one - other) > _TOLERANCE * max(abs(one), abs(other)))
        if isinstance(one, str) and isinstance(other, str) and name not in _VERBATIM:
            return bool(self._place(one) != self._place(other))
        return True

    def _place(self, text: str) -> tuple[str, ...]:
        """What is essential of a text: of an address, where it leads."""
        try:
            parts = urlsplit(text)
        except ValueError:
            return (text.casefold(),)
        if not parts.netloc:
            return (text.casefold(),)
        return ("" if self.any_host else parts.netloc.casefold(), unquote(parts.path))


def _says_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unsigned(value: Any) -> Any:
    """A value in which no URL is signed."""
    if isinstance(value, str):
        return _unsigned_url(value) if "://" in value and "?" in value else value
    if isinstance(value, list):
        return [_unsigned(one) for one in value]
    if isinstance(value, dict):
        return {name: _unsigned(one) for name, one in value.items()}
    return value


def _unsigned_url(url: str) -> Any:
    place, _, query = url.partition("?")
    parameters = [
        (name, value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if name.lower() not in _SIGNING and not name.lower().startswith(_SIGNING_PREFIX)
    ]
    return (place, parameters) if parameters else place
