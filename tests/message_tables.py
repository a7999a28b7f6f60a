"""
The tables of ``docs/messages.md``, made from the parsers' tables.

``python -m tests.message_tables --write`` puts them there; ``tests/test_simulate.py`` holds the page to them, and every
row to the parsers. What is more than a row of a parser's table is written here by hand.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.events import Kind
from service.payloads import PAYLOADS, WITHOUT_FAILURE
from service.sources import ims, mts, outcomes, vod

PAGE = Path(__file__).parents[1] / "docs/messages.md"
BEGIN, END = "<!-- messages -->", "<!-- /messages -->"
COMMAND = "python -m tests.message_tables --write"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

# Parts of an id that are no member of the message.
JOB, WORD, NONCE = "job id", "state", "nonce of the URL"
HASH, BODY_HASH = "hash of the message", "hash of the body"
NOT_MEMBERS = (JOB, WORD, NONCE, HASH, BODY_HASH)
TYPE = "the message's name"

Alternatives = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Row:
    """
    One kind of completion of one type of message.

    Attributes:
        words: What the vendor says for success and failure; made from the simulator where it is None.
        job: Paths at which the job id is looked for, in this order.
        ids: What the key's id is made of; the next where the first part of one is missing.
        part: Which part of the message, where it gives several completions.
        sample: A message, for those that the simulator does not know.
    """

    product: str
    event: str
    kind: Kind
    family: str
    job: tuple[str, ...]
    ids: Alternatives
    words: str | None = None
    part: str = ""
    sample: dict[str, Any] | None = field(default=None, hash=False)

    def payload(self, *, failed: bool = False) -> dict[str, Any]:
        return self.sample or PAYLOADS[self.product][self.event]("job-1", NOW, failed)

    def cells(self) -> Iterable[str]:
        yield (code(self.event) if self.sample is None else self.event) + (f", {self.part}" if self.part else "")
        yield self.kind
        yield self.words if self.words is not None else self.read_words()
        yield ", ".join(code(path) for path in self.job) or "none"
        yield code(self.family) if self.family != TYPE else "*type*"
        yield ", else ".join(" + ".join(code(part) for part in parts) for parts in self.ids)

    def read_words(self) -> str:
        if self.event in WITHOUT_FAILURE:
            return "any"
        success, failure = (code(find_word(self.payload(failed=failed))) for failed in (False, True))
        if self.kind == "upload":
            success += " or none"
        return f"{success} / {failure}"


def code(text: str) -> str:
    return text if text in NOT_MEMBERS else f"`{text}`"


def find_word(payload: Any) -> str:
    """The status, at the top or in the body, which are all places where a single job has it."""
    inner: dict[str, Any] = next(
        (payload[name] for name in payload if name == "MessageBody" or name.endswith("JobNotify")), {}
    )
    return next(str(part[name]) for part in (payload, inner) for name in ("Status", "State") if name in part)


def vod_rows() -> Iterable[Row]:
    stream: Alternatives = ((JOB,), ("VideoId", "Definition", "Format", "EventTime"))
    yield Row(
        "vod",
        "DynamicImageComplete",
        "animated_image",
        "animated_image",
        ("JobId", "DynamicImageJobInfo.JobId"),
        ((JOB,), ("VideoId", "EventTime", "TriggerSource.ActivityInstanceId")),
    )
    elements = Row(
        "vod",
        "SnapshotComplete",
        "snapshot",
        "snapshot",
        ("SnapshotInfos.0.JobId",),
        ((JOB,), ("VideoId", "SubType", "EventTime", "Extend", "SnapshotInfos.0.SnapshotType")),
        part="each of `SnapshotInfos`",
    )
    yield elements
    yield replace(
        elements, part="without any", job=(), ids=(("VideoId", "SubType", "EventTime", "Extend"),), words="– / `fail`"
    )
    yield Row("vod", "StreamTranscodeComplete", "transcode", "transcode", ("JobId",), stream)
    yield Row(
        "vod",
        "TranscodeComplete",
        "transcode",
        "transcode",
        ("StreamInfos.0.JobId",),
        ((JOB,), ("VideoId", "StreamInfos.0.Definition", "StreamInfos.0.Format", "EventTime")),
        part="each of `StreamInfos`",
    )
    yield Row(
        "vod",
        "TranscodeComplete",
        "transcode_task",
        "transcode_task",
        (),
        (("VideoId", "StreamInfos.0.JobId"), ("VideoId", "EventTime")),
        words="as its streams",
        part="as a whole",
    )
    for event, row in vod.EVENT_TYPES.items():
        key = tuple(HASH if name == "#" else JOB if name in row.job else name for name in row.key)
        ids = (key,) if row.always_key or not row.job else ((JOB,), key)
        yield Row("vod", event, row.kind, TYPE, row.job, ids)
    unknown = {"EventType": "AINewComplete", "JobId": "job-1", "MediaId": "m", "EventTime": "t", "Status": "success"}
    ids = ((JOB,), ("MediaId", "EventTime"))
    yield Row("vod", "any other `AI…Complete`", "ai", TYPE, ("JobId",), ids, "as above", sample=unknown)
    unknown = unknown | {"EventType": "NewThing"}
    yield Row("vod", "any other", "notice", TYPE, ("JobId",), ((JOB,), (HASH,)), "any", sample=unknown)


def ims_rows() -> Iterable[Row]:
    for event, kind in ims.KINDS.items():
        row = vod.EVENT_TYPES.get(event)
        media = row.media[0] if row and row.media[0] in ("ImageId", "AttachedMediaId") else "MediaId"
        job = ims._JOB.get(event, ims._ANY_JOB)
        ids: Alternatives = ((JOB,), (media, "EventTime"))
        if event in ims._KEY_WITH_BODY:
            ids = ((JOB, BODY_HASH), ids[1])
        elif event == "SubmitMediaRefreshComplete":
            ids = ((JOB, media), ids[1])
        elif event == "LiveRecordTaskStatus":
            ids = ((JOB, WORD, "EventTime"),)
        # The job API's words; events have not been seen.
        words = "`Complete` / `Error`" if event.startswith("MediaConvert") else None
        yield Row("ims", event, kind, TYPE, job, ids, words)
    body = {"JobId": "job-1", "MediaId": "m", "Status": "Success"}
    unknown = {"EventType": "AINewComplete", "EventTime": "t", "MessageBody": body}
    ids = ((JOB,), ("MediaId", "EventTime"))
    yield Row("ims", "any other `AI…Complete`", "ai", TYPE, ims._ANY_JOB, ids, "as above", sample=unknown)
    unknown = unknown | {"EventType": "NewThing"}
    yield Row("ims", "any other", "notice", TYPE, ims._ANY_JOB, ids, "any", sample=unknown)


def mts_rows() -> Iterable[Row]:
    names = {name.lower(): name for name in PAYLOADS["mts"]}
    for word, kind in mts.KINDS.items():
        name = names[word]
        nested = (f"{name}JobNotify.JobId",) if word in ("mediacensor", "fpshot") else ()
        yield Row("mts", name, kind, word, ("JobId", *nested), ((JOB,),))
    state = {"Type": "smarttag", "JobId": "job-1", "State": "Processing"}
    yield Row(
        "mts",
        "`smarttag`, not ended",
        "notice",
        "smarttag",
        ("JobId",),
        ((JOB, WORD),),
        "`Submitted`, `Processing`",
        sample=state,
    )
    words = "`Success` / any other in `result.Code`"
    yield Row("mts", "TextToSpeech", "production", "iproduction", ("jobId",), ((JOB,),), words)
    yield Row("mts", "Start", "notice", "run-start", ("RunId",), ((JOB,),))
    words = "`Completed` / `Fail`; partial when an activity failed"
    yield Row("mts", "Report", "workflow", "run", ("RunId",), ((JOB,),), words, part="the run")
    yield Row(
        "mts",
        "Report",
        "transcode",
        "transcode",
        ("MediaWorkflowExecution.ActivityList.2.JobId",),
        ((JOB,),),
        "`Success` / `Fail`",
        part="each activity",
    )
    unknown = {"Type": "New", "RunId": "job-1", "Name": "a", "State": "Success", "MediaWorkflowExecution": {"x": 1}}
    ids = ((JOB, "Name"),)
    yield Row("mts", "any other of a workflow", "notice", "run-new", ("RunId",), ids, "any", sample=unknown)
    unknown = {"Type": "New", "JobId": "job-1", "State": "Success"}
    yield Row("mts", "any other", "notice", "new", ("JobId",), ((JOB,), (HASH,)), "any", sample=unknown)


def gif_rows() -> Iterable[Row]:
    row = Row(
        "multimediaai", "CreateGifTask", "animated_image", "animated_image", ("TaskId",), ((NONCE,),), part="ended"
    )
    yield row
    running = {"TaskId": 5, "Status": 1}
    yield replace(row, event="`CreateGifTask`, not ended", kind="notice", words="`0`, `1`", part="", sample=running)


def all_rows() -> list[Row]:
    return [*vod_rows(), *ims_rows(), *mts_rows(), *gif_rows()]


def shown(row: Row) -> list[str]:
    """The cells, with general words where the row stands for many messages."""
    cells = list(row.cells())
    if row.product == "mts" and (row.family in ("new", "run-new") or row.part == "each activity"):
        cells[4] = "`run-` + *type*" if row.family == "run-new" else "*type*"
        if row.part == "each activity":
            cells[1], cells[3] = "as its type", "`ActivityList[].JobId`"
    if row.product == "ims" and row.job == ims._ANY_JOB:
        cells[3] = "`JobId` ¹"
    if row.event == "TranscodeComplete" and row.part == "as a whole":
        cells[5] = cells[5].replace("`StreamInfos.0.JobId`", "every `StreamInfos[].JobId`, sorted")
    return [cell.replace(".0.", "[].") for cell in cells]


def word_line(outcome: str) -> str:
    words = [word for word, meaning in outcomes._OUTCOMES.items() if meaning == outcome]
    return f"- **{outcome}**: {', '.join(words)}"


def render() -> str:
    """The Markdown between the two markers."""
    job_names = ", else ".join(code(name) for name in ims._ANY_JOB)
    notes = {
        "vod": ("VOD", "*type* is `EventType`."),
        "ims": (
            "IMS",
            (
                f"*type* is `EventType`; the rest is in `MessageBody`. Without any part of its id a message is identified by "
                f"its hash. ¹ {job_names}, in the body or one level down."
            ),
        ),
        "mts": ("MTS", "*type* is `Type` in lower case; every name may begin with a small letter, too."),
        "multimediaai": (
            "CreateGifTask",
            (
                "The body is not documented, so it is read in every shape that one would expect; without a status it is "
                "`unknown`."
            ),
        ),
    }
    lines = [
        "Status words mean the same everywhere, in any case; any other word is `unknown`:",
        "",
        *(word_line(outcome) for outcome in ("succeeded", "failed", "cancelled", "partial")),
        f"- **not ended** (a `notice` that adds the word to its id): {', '.join(sorted(outcomes._PROGRESS))}",
    ]
    for product, (title, note) in notes.items():
        lines += ["", f"## {title}", "", note, ""]
        lines += ["| message | kind | succeeded / failed | job id | family | id |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(shown(row))} |" for row in all_rows() if row.product == product]
    return "\n".join(lines)


def between(text: str) -> tuple[str, str, str]:
    """
    Raises:
        ValueError: The page has not both markers.
    """
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} in {PAGE.name}")
    return before, table.strip("\n"), after


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.message_tables", description="the tables of docs/messages.md"
    )
    parser.add_argument("--write", action="store_true", help="write them into the page instead of printing them")
    if parser.parse_args().write:
        before, _, after = between(PAGE.read_text(encoding="utf-8"))
        PAGE.write_text(f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}", encoding="utf-8")
    else:
        print(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
