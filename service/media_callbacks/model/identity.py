"""What a completion is deduplicated by, and the ids of events that follow from it."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from media_callbacks.model.kinds import OUTCOMES, PHASES, AnyOutcome, Product

MAX_ID_CHARACTERS = 256
"""A family, or a part of an id, that is longer counts by its hash."""
OPERATIONAL_PREFIX = b"troubles"
"""What the digests of events about the service itself begin with, where those of jobs have a hash."""

# As they stand in ids and in the store: added to at the end alone. Versions that know no operational events read these
# as outcomes of jobs.
_NUMBERS = {outcome: number for words in (OUTCOMES, PHASES) for number, outcome in enumerate(words)}


@dataclass(slots=True)
class Key:
    """
    What a completion is deduplicated by.

    Neither source nor transport is part of it: the same completion over HTTP, push, queue and query
    is one event.

    Attributes:
        family: What ``id`` is unique in, for example ``animated_image`` or ``run``.
        id: The parts, at least one, that identify the completion within its family; usually just the job id.
    """

    product: Product
    account: str
    family: str
    id: tuple[str, ...]

    def digest(self) -> bytes:
        """
        Sixteen bytes, the same on every instance: eight of the first part of ``id``, usually the job id, so that all
        that came of a job is found by ``job_prefix``, and eight of everything.
        """
        first = (self.product, self.account, self.family)
        # The usual ones are few, and kept. A sender may choose its families: what is kept of them is short.
        text = _kept(first) if len(self.family) <= MAX_ID_CHARACTERS else _with_lengths(first)
        text += _with_lengths(self.id)
        return job_prefix(self.id[0]) + _sha256(text)[:8]


def _with_lengths(parts: tuple[str, ...]) -> str:
    """Each part with its length, so that no two lists of parts read the same."""
    return "".join([f"{len(part)}:{part if len(part) <= MAX_ID_CHARACTERS else _sha256(part).hex()}" for part in parts])


_kept = lru_cache(maxsize=1024)(_with_lengths)


def job_prefix(job_id: str) -> bytes:
    """The eight bytes that the digest of every key begins with whose ``id`` begins with this job id."""
    return _sha256(job_id)[:8]


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def event_id(key_digest: bytes, outcome: AnyOutcome) -> str:
    """The public id: derived from key and outcome only, so that every instance and replay agrees."""
    return numbered_event_id(key_digest, _NUMBERS[outcome])


def numbered_event_id(key_digest: bytes, number: int) -> str:
    """The same, of an outcome's number."""
    return f"evt_{key_digest.hex()}{number:02x}"


def outcome_number(outcome: AnyOutcome) -> int:
    return _NUMBERS[outcome]


def outcome_of(key_digest: bytes, number: int) -> AnyOutcome:
    """The reverse of ``outcome_number``."""
    return (PHASES if key_digest.startswith(OPERATIONAL_PREFIX) else OUTCOMES)[number]


def key_digest(event_id: str) -> bytes:
    """The key's digest, which all events of one job have in common."""
    return bytes.fromhex(event_id[4:36])


def parse_event_id(text: str) -> tuple[bytes, AnyOutcome]:
    """
    The reverse of ``event_id``.

    Raises:
        ValueError: This is not an event id.
    """
    if len(text) != 38 or not text.startswith("evt_"):
        raise ValueError("expected evt_ and 34 hexadecimal digits")
    raw = bytes.fromhex(text[4:])
    digest, number = raw[:16], raw[16]
    if number >= len(PHASES if digest.startswith(OPERATIONAL_PREFIX) else OUTCOMES) or raw.hex() != text[4:]:
        raise ValueError("expected evt_ and 34 hexadecimal digits")
    return digest, outcome_of(digest, number)


def is_operational(event_id: str) -> bool:
    """Whether an event is about the service itself, which its id tells."""
    return key_digest(event_id).startswith(OPERATIONAL_PREFIX)
