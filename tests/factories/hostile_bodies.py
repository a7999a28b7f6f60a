"""
Bodies that a sender with the right key may send, and that mean far more than they weigh.

Each is at most about ``size`` bytes long; what it would make of a service that believed it is in its name.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

Json = dict[str, Any]

_TIME = "2026-01-02T03:04:05Z"


def _vod(event_type: str, **members: Any) -> Json:
    return {"EventType": event_type, "EventTime": _TIME, "VideoId": "video-1", "Status": "success", **members}


def _ims(event_type: str, **body: Any) -> Json:
    return {"EventType": event_type, "EventTime": _TIME, "UserId": "1", "MessageBody": {"MediaId": "media-1", **body}}


def _report(activities: Any, **execution: Any) -> Json:
    execution = {"RunId": "run-1", "State": "Completed", "MediaId": "media-1", "ActivityList": activities, **execution}
    return {"RunId": "run-1", "Type": "Report", "State": "Success", "MediaWorkflowExecution": execution}


def _elements(size: int, make: Callable[[int], Any]) -> list[Any]:
    """As many as fit."""
    each = len(json.dumps(make(10_000_000))) + 2
    return [make(number) for number in range(max(1, size // each))]


def _long(size: int, piece: str = "x") -> str:
    return (piece * (size // len(piece) + 1))[:size]


def _stream(number: int, **members: Any) -> Json:
    return {"JobId": f"j{number}", "Status": "success", **members}


def _activity(number: int) -> Json:
    return {"Name": "a", "Type": "Transcode", "JobId": f"j{number}", "State": "Success"}


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _json_in_json(levels: int) -> str:
    text = '{"JobId":"j"}'
    for _ in range(levels):
        text = json.dumps({"Data": text})
    return text


def _shared(half: int) -> Iterator[tuple[str, Json]]:
    """What many events may have in common: long texts, with blanks to be trimmed, and objects where text is expected."""
    text = _long(half)
    for name in ("Extend", "EventTime", "Status", "ErrorCode", "ErrorMessage", "SubType", "VideoId"):
        yield f"a long {name}", {name: text}
        yield f"a long {name} with a blank", {name: f"{text} "}
        yield f"a long {name} in a list", {name: [f"{text} "]}
    yield "an object as Extend", {"Extend": {"a": text}}
    yield "an Extend to be escaped", {"Extend": "\x01" * (half // 6)}


def vod_bodies(size: int) -> dict[str, Any]:
    half = size // 2
    bodies: dict[str, Any] = {}
    for name, shared in _shared(half):
        status = {} if "Status" in name else {"Status": "fail"}
        for event, member in (("SnapshotComplete", "SnapshotInfos"), ("TranscodeComplete", "StreamInfos")):
            # Few enough to be believed, and as many as fit.
            few = [{"JobId": f"j{number}", **status} for number in range(499)]
            bodies[f"{event}: 499 elements and {name}"] = _vod(event, **{member: few}) | shared
            many = [{"JobId": f"j{number}", **status} for number in range(half // 20)]
            bodies[f"{event}: many elements and {name}"] = _vod(event, **{member: many}) | shared
    template = _long(2000, "http://b.example.com/") + "{SnapshotCount}"
    bodies["long templates of many pictures"] = _vod(
        "SnapshotComplete",
        SnapshotInfos=_elements(size, lambda n: _stream(n, SnapshotCount=200, SnapshotRegular=template)),
    )
    bodies["short templates of many pictures"] = _vod(
        "SnapshotComplete",
        SnapshotInfos=_elements(size, lambda n: _stream(n, SnapshotCount=10**9, SnapshotRegular="h{SnapshotCount}")),
    )
    for event, member in (
        ("SnapshotComplete", "SnapshotInfos"),
        ("TranscodeComplete", "StreamInfos"),
        ("WorkflowTaskComplete", "ActivityResults"),
    ):
        bodies[f"{event}: empty objects"] = _vod(event, **{member: _elements(size, lambda _: {})})
        bodies[f"{event}: empty objects as text"] = _vod(event, **{member: json.dumps([{}] * (size // 4))})
        bodies[f"{event}: numbers"] = _vod(event, **{member: [1] * (size // 3)})
        bodies[f"{event}: objects as texts"] = _vod(event, **{member: ["{}"] * (size // 6)})
    bodies["activities by name"] = _vod(
        "WorkflowTaskComplete", ActivityResults={f"{number}": {} for number in range(size // 12)}
    )
    bodies["matches"] = _vod("AIMediaDNAComplete", JobId="j", Data={"VideoDNA": [{}] * (size // 4)})
    bodies["refreshed URLs"] = _vod(
        "SubmitMediaRefreshComplete", MediaRefreshJobId="j", MediaId="m", SuccessPlayUrls="a," * (size // 2)
    )
    bodies["a long type"] = _vod(_long(size))
    bodies["a long job id"] = _vod("DynamicImageComplete", JobId=_long(size))
    bodies["a long result"] = _vod("AIVideoTagComplete", JobId="j", Data={"a": [[]] * (size // 4)})
    bodies["a deep result"] = _vod("AIVideoTagComplete", JobId="j", Data=_nested(size // 4))
    bodies["JSON in JSON in JSON"] = _vod("AIVideoTagComplete", JobId="j", Data=_json_in_json(14))
    bodies["long keys"] = _vod("DynamicImageComplete", JobId="j") | {_long(size // 4) + str(n): n for n in range(3)}
    bodies["many keys"] = _vod("DynamicImageComplete", JobId="j") | {str(n): n for n in range(size // 12)}
    bodies["many twins"] = _vod("DynamicImageComplete", JobId="j") | {
        " " * (n % 97) + "\t" * (n // 97) + "Job": n for n in range(2000)
    }
    return bodies


def ims_bodies(size: int) -> dict[str, Any]:
    half = size // 2
    bodies: dict[str, Any] = {}
    for event in ("SnapshotComplete", "TranscodeComplete", "MediaConvertComplete", "SmartJobComplete"):
        bodies[f"{event}: many elements and long user data"] = _ims(
            event, UserData=_long(half), SnapshotInfos=_elements(half, _stream)
        )
        bodies[f"{event}: a long template"] = _ims(event, JobId="j", Count=10**9, OutputUrl=_long(2000) + "{Count}")
    bodies["many objects one level down"] = _ims("TranscodeComplete") | {
        "MessageBody": {f"a{number}": {} for number in range(size // 12)}
    }
    bodies["a body as text"] = _ims("TranscodeComplete") | {"MessageBody": json.dumps([{}] * (size // 5))}
    return bodies


def mts_bodies(size: int) -> dict[str, Any]:
    half = size // 2
    user_data = {"Input": {"UserData": _long(half)}}
    return {
        "activities and long user data": _report(_elements(half, _activity), **user_data),
        "499 activities and long user data": _report([_activity(number) for number in range(499)], **user_data),
        "activities and an object as user data": _report(
            [_activity(number) for number in range(499)], Input={"UserData": {"a": _long(half)}}
        ),
        "empty activities": _report([{}] * (size // 4)),
        "activities as text": _report(json.dumps([{}] * (size // 5))),
        "a long run id": _report([_activity(number) for number in range(499)]) | {"RunId": _long(half)},
        "times": {"Type": "Snapshot", "jobId": "j", "State": "Success", "Count": 9, "TimeArray": [1] * (size // 3)},
        "shots": {"Type": "FpShot", "jobId": "j", "State": "Success", "FpShots": [{}] * (size // 4)},
        "a long type": {"Type": _long(size), "jobId": "j", "State": "Success"},
    }


def multimediaai_bodies(size: int) -> dict[str, Any]:
    return {
        "a long URL": {"TaskId": "1", "Status": "success", "GifUrl": _long(size)},
        "wrapped": {"Result": {"Data": {"Task": {"Body": {"Content": [{}] * (size // 4)}}}}},
    }


def raw_bodies(size: int) -> dict[str, bytes]:
    """What is no usual JSON, of every product."""
    message = json.dumps(_vod("SnapshotComplete", SnapshotInfos=[{}] * (size // 6)), separators=(",", ":")).encode()
    return {
        "base64": base64.b64encode(message),
        "base64 twice": base64.b64encode(base64.b64encode(message)),
        "deep": b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
        "deep and unfinished": b"[" * size,
        "a huge number": b'{"EventType":"SnapshotComplete","VideoId":"v","Status":' + b"9" * size + b"}",
        "huge numbers": b'{"EventType":"AIVideoTagComplete","JobId":"j","Status":"success","Data":['
        + b",".join([b"9" * 4000] * (size // 4001))
        + b"]}",
        "quotes": b'{"a":"' + b'\\"' * (size // 2) + b'"}',
        "an unfinished string": b'{"a":' + b'["' * 70 + b'\\"' * (size // 2),
        "empty strings": b'{"a":[' + b'"",' * (size // 3) + b'""],"b":' + b"[" * 65 + b"]" * 65 + b"}",
        "half surrogates": b'{"EventType":"SnapshotComplete","VideoId":"' + b"\\ud800" * (size // 6) + b'"}',
        "nothing": b"\0" * size,
        "XML": b"<a>" * (size // 3),
        "a form": b"a=b&" * (size // 4),
    }


BODIES: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "vod": vod_bodies,
    "ims": ims_bodies,
    "mts": mts_bodies,
    "multimediaai": multimediaai_bodies,
}


@cache
def hostile_bodies(product: str, size: int) -> Mapping[str, bytes]:
    """All for one product, by name."""
    found = {
        name: json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        for name, body in BODIES[product](size).items()
    }
    return found | raw_bodies(size)
