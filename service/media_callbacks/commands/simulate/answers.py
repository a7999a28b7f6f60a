"""What `simulate` says of the answers to what it sent: each as it comes, then how many there were of which."""

import sys
from collections import Counter
from collections.abc import Iterator

from media_callbacks.commands.console.output import can_draw, note, print_json, print_table, printable
from media_callbacks.rehearsal.sending import SentResult

_MAX_SHOWN = 20
_MEANINGS = {
    None: "is the service running, and does it listen there? Another address: --to",
    401: "nobody asks for a token where callbacks go: is that the port for callbacks (server.port)? Another one: --to",
    403: "signed otherwise than the service expects: has it the same configuration and environment? Its log says why"
    " (callback_refused)",
    404: "nothing is configured at that path, or a minted URL's key is another one: has the service the same"
    " configuration and environment, and is that its port for callbacks (server.port)?",
    500: "the service could not read it: its log says why",
    503: "the service can make nothing durable, or verify nothing, just now: its log says why, as does `check`",
}


class Answers:
    """
    In a pipe and as JSON a line for each, at once; on a terminal a table at the end.

    Args:
        expected: Statuses that were asked for.

    Attributes:
        are_drawn: Nothing is printed before the end.
    """

    def __init__(self, expected: range, *, as_json: bool) -> None:
        self._expected = expected
        self._as_json = as_json
        self.are_drawn = not as_json and can_draw(sys.stdout)
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._rows: list[tuple[str, str]] = []

    @property
    def are_as_expected(self) -> bool:
        return all(status in self._expected for status, _ in self._counts)

    def add(self, answer: SentResult) -> None:
        said = str(answer.status or answer.error)
        self._counts[answer.status, said] += 1
        if self._as_json:
            print_json({"job_id": answer.job_id, "status": answer.status, "error": answer.error})
        elif not self.are_drawn:
            print(f"{printable(answer.job_id)}\t{printable(said)}", flush=True)
        elif len(self._rows) < _MAX_SHOWN:
            self._rows.append((answer.job_id, said))

    def finish(self, *, is_interrupted: bool) -> None:
        if self._rows:
            print_table(("job id", "answer"), self._rows)
        if is_interrupted or self._counts.total() > 1:
            note(self._summary())
        for line in self._explain():
            note(line)

    def _summary(self) -> str:
        counts = sorted((said, count, status) for (status, said), count in self._counts.items())
        said = ", ".join(f"{count} {said if status is None else f'answered {said}'}" for said, count, status in counts)
        return f"{self._counts.total()} sent{f': {said}' if said else ''}"

    def _explain(self) -> Iterator[str]:
        statuses = dict.fromkeys(status for status, _ in self._counts if status not in self._expected)
        for status in statuses:
            if status in range(200, 300):
                yield f"{status}: it was taken: that source takes what nobody has signed, or at any age"
            elif meaning := _MEANINGS.get(status):
                yield meaning if status is None else f"{status}: {meaning}"
