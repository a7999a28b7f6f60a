"""
What services of the version before do on PostgreSQL: they call the functions of the migrations that it knows, which
are the first three.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from media_callbacks.inbox.postgresql.functions import lock_of

# The last migration of the last release.
RELEASED = 3
_REVISION = '"revision":1,'


async def accept(
    connection: Any, bodies: Mapping[bytes, str], *, at: int, sinks: str, version: Literal[1, 2] = 2
) -> Sequence[str]:
    """
    Keep a receipt for each event.

    Args:
        bodies: Of the events, by the digest of the key.
        at: Milliseconds since 1970.
        sinks: Names, by blanks.
        version: Of the function.

    Returns:
        The states of the receipts.
    """
    digests, n = list(bodies), len(bodies)
    ids = [f"evt_{digest.hex()}00" for digest in digests]
    arguments: list[Any] = [sorted({lock_of(digest) for digest in digests}), [at] * n]
    arguments += [[word] * n for word in ("vod", "vod", "http", "signature")]
    arguments += [[None] * n] * 3 + [[1] * n, ids, [b"{}"] * n]
    arguments += [list(range(1, n + 1))] + ([[at] * n] if version == 1 else [])
    arguments += [digests, [0] * n, ["vod"] * n, ["animated_image"] * n, [one[-8:] for one in ids], ["media-1"] * n]
    arguments += [list(bodies.values()), [body.rindex(_REVISION) + len(_REVISION) - 1 for body in bodies.values()]]
    arguments += [[None] * n, [sinks] * n, ["http"] * n]
    if version == 2:
        arguments.insert(0, at)
    row = await _call(connection, f"accept_receipts_{version}", arguments)
    return list(row[0]["states"])


async def claim(connection: Any, sink: str, *, at: int, limit: int, version: Literal[1, 2] = 2) -> Sequence[Any]:
    """Lease what is due, for a minute. Rows have event_id and replay."""
    until = at + 60_000 if version == 1 else 60_000
    return await _call(connection, f"claim_deliveries_{version}", [sink, at, until, f"lease of {sink}", limit])


async def record(
    connection: Any, sink: str, claimed: Sequence[Any], state: str, *, at: int, version: Literal[1, 2] = 2
) -> None:
    """Write down what became of all that were claimed. What is to be tried again is due in an hour."""
    n = len(claimed)
    again = {"retrying": at + 3_600_000 if version == 1 else 3_600_000}.get(state)
    arguments = [
        at, [one["event_id"] for one in claimed], [sink] * n, [one["replay"] for one in claimed],
        [f"lease of {sink}"] * n, [state] * n, [again] * n, [None] * n, [at] * n, [5] * n, [1] * n,
    ]  # fmt: skip
    row = await _call(connection, f"record_attempts_{version}", arguments)
    assert len(row[0]["kept"] or ()) == n


async def _call(connection: Any, function: str, arguments: Sequence[Any]) -> Sequence[Any]:
    marks = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
    return list(await connection.fetch(f"SELECT * FROM {function}({marks})", *arguments))
