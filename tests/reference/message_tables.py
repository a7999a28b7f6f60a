"""
The tables of messages, made from the parsers' tables.

Every row is held to the parsers by ``tests/rehearsal/test_simulate.py``. What is more than a row of a parser's table is
written here by hand.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from media_callbacks.model.kinds import Kind
from media_callbacks.rehearsal.payloads import PAYLOADS, WITHOUT_FAILURE
from media_callbacks.sources.products import mts, outcomes
from media_callbacks.sources.products.vod_catalogue import CONVERSIONS, EVENT_TYPES, TASKS, EventType
from media_callbacks.sources.reading.members import JOB_IDS

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

# Parts of an id that are no member of the message.
JOB, WORD, NONCE = "job id", "state", "nonce of the URL"
HASH = "hash of the message"
NOT_MEMBERS = (JOB, WORD, NONCE, HASH)
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
        again: Whether the vendor may truthfully say this twice of the same thing: a job ends once per outcome, an
            occurrence may come again.
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
    again: str = "job"
    part: str = ""
    sample: dict[str, Any] | None = field(default=None, hash=False)

    def payload(self, *, failed: bool = False) -> dict[str, Any]:
        return self.sample or PAYLOADS[self.product][self.event]("job-1", NOW, failed)

    def cells(self) -> Iterable[str]:
        yield (code(self.event) if self.sample is None else self.event) + (f", {self.part}" if self.part else "")
        yield self.kind
        yield self.words if self.words is not None else self.read_words()
        yield ", ".join(code(path) for path in self.job) or "none"
        yield self.again
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


EITHER = "job, else occurrence"


def ids_of(row: EventType, media: str) -> Alternatives:
    names = {"media": media, "time": "EventTime", "#": HASH, "job": JOB, "word": WORD}
    key = tuple(names.get(part, names.get(part.split("|")[0], part.split("|")[0])) for part in row.key)
    return (key,) if row.recurs else ((JOB,), key)


def catalogue_rows(product: str, *, first_media: bool) -> Iterable[Row]:
    for event, row in EVENT_TYPES.items():
        is_special = row.media[0] in ("ImageId", "AttachedMediaId")
        media = row.media[0] if first_media or is_special else "MediaId"
        is_job = not row.recurs or event == "SubmitMediaRefreshComplete"
        again = "occurrence" if not is_job else "job" if row.recurs else EITHER
        yield Row(product, event, row.kind, TYPE, row.job, ids_of(row, media), again=again)


def other_rows(product: str, message: dict[str, Any]) -> Iterable[Row]:
    ids: Alternatives = ((JOB,), ("MediaId", "EventTime"))
    sample = {**message, "EventType": "AINewComplete"}
    yield Row(product, "any other `AI…Complete`", "ai", TYPE, JOB_IDS, ids, "as above", again=EITHER, sample=sample)
    ids = ((JOB, HASH), (HASH,))
    sample = {**message, "EventType": "NewThing"}
    yield Row(product, "any other", "notice", TYPE, JOB_IDS, ids, "any", again="occurrence", sample=sample)


def vod_rows() -> Iterable[Row]:
    stream: Alternatives = ((JOB,), ("VideoId", "Definition", "Format", "EventTime"))
    yield Row(
        "vod",
        "DynamicImageComplete",
        "animated_image",
        "animated_image",
        (*JOB_IDS, "DynamicImageJobInfo.JobId"),
        ((JOB,), ("VideoId", "EventTime", "TriggerSource.ActivityInstanceId")),
        again=EITHER,
    )
    elements = Row(
        "vod",
        "SnapshotComplete",
        "snapshot",
        "snapshot",
        ("SnapshotInfos.0.JobId",),
        (
            (JOB,),
            (
                "VideoId",
                "SubType",
                "EventTime",
                "Extend",
                "SnapshotInfos.0.SnapshotType",
                "SnapshotInfos.0.SnapshotRegular",
            ),
        ),
        again=EITHER,
        part="each of `SnapshotInfos`",
    )
    yield elements
    yield replace(
        elements,
        part="without any",
        job=(),
        ids=(("VideoId", "SubType", "EventTime", "Extend"),),
        words="`success` / `fail`",
        again="occurrence",
    )
    yield Row("vod", "StreamTranscodeComplete", "transcode", "transcode", ("JobId",), stream, again=EITHER)
    yield Row(
        "vod",
        "TranscodeComplete",
        "transcode",
        "transcode",
        ("StreamInfos.0.JobId",),
        ((JOB,), ("VideoId", "StreamInfos.0.Definition", "StreamInfos.0.Format", "EventTime")),
        again=EITHER,
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
        again=EITHER,
        part="as a whole",
    )
    yield from catalogue_rows("vod", first_media=True)
    message = {"JobId": "job-1", "MediaId": "m", "EventTime": "2026-01-02T03:04:05Z", "Status": "success"}
    yield from other_rows("vod", message)


def ims_rows() -> Iterable[Row]:
    yield Row(
        "ims",
        "DynamicImageComplete",
        "animated_image",
        TYPE,
        JOB_IDS,
        ((JOB,), ("MediaId", "EventTime", "TriggerSource.ActivityInstanceId")),
        again=EITHER,
    )
    ids: Alternatives = ((JOB,), ("MediaId", "SubType", "EventTime", "UserData"))
    yield Row("ims", "SnapshotComplete", "snapshot", TYPE, JOB_IDS, ids, again=EITHER)
    for event, kind in CONVERSIONS.items():
        ids = ((JOB,), ("MediaId", "EventTime"))
        if event in TASKS:
            ids = ((JOB, "TaskId"), ids[1])
        # The job API's words; events have not been seen.
        words = "`Complete` / `Error`" if event.startswith("MediaConvert") else None
        if kind == "transcode_task":
            words = "as its outputs, else " + (words or "`Success` / `Fail`")
        yield Row("ims", event, kind, TYPE, JOB_IDS, ids, words, again=EITHER)
    yield from catalogue_rows("ims", first_media=False)
    body = {"JobId": "job-1", "MediaId": "m", "Status": "Success"}
    yield from other_rows("ims", {"EventTime": "2026-01-02T03:04:05Z", "MessageBody": body})


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
        ((JOB, WORD, HASH),),
        "`Submitted`, `Processing`",
        again="occurrence",
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
    unknown = {
        "Type": "New",
        "RunId": "job-1",
        "Name": "a",
        "State": "Success",
        "MediaWorkflowExecution": {"Name": "w"},
    }
    ids: Alternatives = ((JOB, "Name", HASH),)
    yield Row(
        "mts",
        "any other of a workflow",
        "notice",
        "run-new",
        ("RunId",),
        ids,
        "any",
        again="occurrence",
        sample=unknown,
    )
    unknown = {"Type": "New", "JobId": "job-1", "State": "Success"}
    ids = ((JOB, HASH), (HASH,))
    yield Row("mts", "any other", "notice", "new", ("JobId",), ids, "any", again="occurrence", sample=unknown)


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
        cells[5] = "`run-` + *type*" if row.family == "run-new" else "*type*"
        if row.part == "each activity":
            cells[1], cells[3] = "as its type", "`ActivityList[].JobId`"
    if row.job[:3] == JOB_IDS:
        cells[3] = ", ".join(["`JobId` ¹", *map(code, row.job[3:])])
    if row.event == "TranscodeComplete" and row.part == "as a whole":
        cells[6] = cells[6].replace("`StreamInfos.0.JobId`", "every `StreamInfos[].JobId`, sorted")
    return [cell.replace(".0.", "[].") for cell in cells]


def words_of(outcome: str) -> list[str]:
    return [word for word, meaning in outcomes._OUTCOMES.items() if meaning == outcome]


def word_line(outcome: str) -> str:
    return f"- **{outcome}**: {', '.join(words_of(outcome))}"


def render() -> str:
    job_names = ", else ".join(code(name) for name in JOB_IDS)
    notes = {
        "vod": (
            "VOD",
            (
                f"*type* is `EventType`. An element of `SnapshotInfos` whose `SnapshotType` is another than "
                f"`CoverSnapshot`, `NormalSnapshot` or `SpriteSnapshot` has its sort in its id: job id + `webvtt`. ¹ "
                f"{job_names}."
            ),
        ),
        "ims": (
            "IMS",
            (
                f"*type* is `EventType`; the rest is in `MessageBody`, and read by the rules of VOD: `SnapshotInfos` and "
                f"`StreamInfos` give an event each (a stream in the family `StreamTranscodeComplete`). A "
                f"task without `TaskId` is told apart by the hash of the body, a message without any part of its id by its hash. ¹ {job_names}, in the body or one level down."
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
        f"- **not ended** (a `notice` that adds the word and the event time, else the hash of the message, to its id): {', '.join(sorted(words_of('progress')))}",
    ]
    for product, (title, note) in notes.items():
        lines += ["", f"## {title}", "", note, ""]
        lines += [
            "| message | kind | succeeded / failed | job id | job or occurrence | family | id |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(shown(row))} |" for row in all_rows() if row.product == product]
    return "\n".join(lines)
