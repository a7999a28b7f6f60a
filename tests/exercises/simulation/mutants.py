"""
Bugs put into the service on purpose: what the simulation does not find of these, it does not look at.

Each is a text of the service's and what stands there instead. They are put into a copy of the package, which another
process then imports.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import media_callbacks

PACKAGE = Path(media_callbacks.__file__).parent
# Within so many seeds each is found.
MOST_SEEDS = 200


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    Attributes:
        name: What is wrong then.
        file: In the package.
        old, new: ``old`` stands in the file once.
    """

    name: str
    file: str
    old: str
    new: str

    def apply(self, package: Path) -> None:
        """
        Raises:
            ValueError: The text is not there once.
        """
        path = package / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: expected once in {self.file}, found {text.count(self.old)} times: {self.old}"
            )
        path.write_text(text.replace(self.old, self.new))


MUTANTS = (
    Mutant("answers before the flush", "inbox/sqlite/writer.py", "_SYNC(self._wal)", "pass"),
    Mutant(
        "answers although the flush has failed",
        "inbox/sqlite/writer.py",
        "done = [(work, InboxUnavailable(self.failure)) for work, _ in done]",
        "pass",
    ),
    Mutant(
        "always waits as after the first attempt",
        "timing/retry.py",
        "delay_s = delays_s[attempt - 1] * rng",
        "delay_s = delays_s[0] * rng",
    ),
    Mutant("does not mind Retry-After", "timing/retry.py", "if retry_after_s is not None:", "if False:"),
    Mutant(
        "tries once more than planned",
        "timing/retry.py",
        "if attempt > len(delays_s):",
        "if attempt > len(delays_s) + 1:",
    ),
    Mutant(
        "leases nothing",
        "inbox/sqlite/deliveries.py",
        "execute_in(connection, _LEASE, row_ids, until, lease, sink, replay)",
        "execute_in(connection, _LEASE, row_ids, now, lease, sink, replay)",
    ),
    Mutant("leases for too short a time", "delivery/dispatcher.py", "LEASE_MARGIN_S = 5.0", "LEASE_MARGIN_S = -5.0"),
    Mutant(
        "sends a later outcome before the earlier one",
        "inbox/sqlite/events.py",
        "due_at = None if _is_any_on_its_way(connection, keys, entry.digest, sink) else now",
        "due_at = now",
    ),
    Mutant(
        "never lets the next outcome go",
        "inbox/sqlite/deliveries.py",
        "return kept, _release_held(connection, keys, ended, now)",
        "return kept, set()",
    ),
    Mutant(
        "sends on while it can't record",
        "delivery/dispatcher.py",
        "                self._is_unrecorded = True\n",
        "",
    ),
    Mutant(
        "commits half of what has failed",
        "inbox/sqlite/file.py",
        '            connection.execute("ROLLBACK")',
        '            connection.execute("COMMIT")',
    ),
    Mutant(
        "takes forged signatures",
        "sources/transports/http.py",
        "        if key is None:\n            raise BadSignature(",
        "        if False:\n            raise BadSignature(",
    ),
    Mutant(
        "holds nothing that is to be confirmed",
        "sources/intake.py",
        'if self.confirm == "always" or (',
        "if False or (",
    ),
    Mutant(
        "deletes messages that it has not kept",
        "healing/queue_poller.py",
        "for message, is_kept in zip(messages, kept, strict=True) if is_kept]",
        "for message, is_kept in zip(messages, kept, strict=True)]",
    ),
    Mutant("gives jobs up at once", "healing/queries/findings.py", "    if now < give_up_at:", "    if False:"),
    Mutant(
        "never ends a job that the vendor was asked about",
        "inbox/asking/inquiries.py",
        "    await jobs.end_job(database, row_id, ending, state)",
        "    del ending, state",
    ),
    Mutant(
        "never closes a circuit breaker",
        "delivery/breaker.py",
        '            self.state = "closed"\n',
        '            self.state = "half_open"\n',
    ),
    Mutant(
        "removes what is still to be delivered",
        "inbox/keeping/purging.py",
        "removed = old & {event_id for (event_id,) in locked} - {event_id for (event_id,) in waiting}",
        "removed = old & {event_id for (event_id,) in locked}",
    ),
    Mutant(
        "forgets keys with their payloads",
        "inbox/keeping/purging.py",
        "        if event.accepted_at >= before or event.row_id in kept_ids:",
        "        if False:",
    ),
    Mutant(
        "keeps content for ever",
        "inbox/keeping/purging.py",
        '    for table in ("attempts", "deliveries", "event_bodies"):',
        "    for table in ():",
    ),
    Mutant(
        "counts what is no longer there",
        "inbox/sql/004_operating.sqlite.sql",
        "AFTER DELETE ON deliveries WHEN old.state <> 'delivered'",
        "AFTER DELETE ON deliveries WHEN 0 AND old.state <> 'delivered'",
    ),
    Mutant(
        "does not count what the version before has left",
        "inbox/sql/004_operating.sqlite.sql",
        ") GROUP BY 1, 2, 3;",
        ") GROUP BY 1, 2, 3 HAVING count(*) < 0;",
    ),
    Mutant(
        "says of what was not committed that it was",
        "inbox/sqlite/writer.py",
        "        return [(work, failure) for work in batch]",
        "        return [(work, None) for work in batch]",
    ),
    Mutant(
        "answers before its journal is flushed",
        "inbox/journal/segments.py",
        "        _write_all(self._file, data)\n        os.fsync(self._file)",
        "        _write_all(self._file, data)",
    ),
    Mutant(
        "does not keep the names of its journal's files",
        "inbox/journal/segments.py",
        "        os.fsync(self._folder)\n        self._segments[self._last_number].size = 1",
        "        self._segments[self._last_number].size = 1",
    ),
)


def hunt(mutant: Mutant) -> tuple[int | None, str]:
    """
    Simulate the service with a bug until it is found.

    Returns:
        Which seed has found it, None when none did; and what was found, or went wrong. Seeds begin with 1.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / PACKAGE.name
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        mutant.apply(copy)
        command = [sys.executable, "-m", "tests.exercises.simulation", "--until-found"]
        done = subprocess.run(
            [*command, "--seeds", str(MOST_SEEDS), "--from", "1"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join((folder, os.getcwd()))},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
    found = re.search(r"^VIOLATION seed (\d+): (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        return None, done.stderr.strip()[-500:]
    return int(found[1]), found[2]
