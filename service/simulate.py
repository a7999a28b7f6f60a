"""
The vendor, played: requests as Alibaba Cloud sends them, with real signatures.

One simulator for the tests, the demo, the benchmark and the command ``media-callbacks simulate``. Payloads follow the
documented shapes (the samples of the event pages, oddities included: numbers as text in animated images, both
spellings of every key in MTS); signatures are made by the same scheme that the sources verify, which the vendor's
published vectors check. The body of the CreateGifTask callback is made up, because the vendor documents none.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from service.sources import http, mns_push
from service.sources.http import HttpSource
from service.sources.mns_push import KNOWN_CERTIFICATE_URL, MnsPushSource
from service.sources.token_url import TokenUrlSource

PushFormat = Literal["XML", "JSON", "SIMPLIFIED"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """
    A request as the vendor sends it.

    Attributes:
        target: Path and query, to be put after the address of whoever listens.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


# Payloads: by product and event, given a job id and the time. A failure is asked for with ``failed``.


def _time(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _media_id(job_id: str) -> str:
    return hashlib.sha256(b"media:" + job_id.encode()).hexdigest()[:32]


def _vod(event: str, job_id: str, now: datetime, **fields: Any) -> Json:
    return {"EventType": event, "EventTime": _time(now), "VideoId": _media_id(job_id), **fields}


def _vod_error(failed: bool) -> Json:
    if not failed:
        return {"Status": "success"}
    return {
        "Status": "fail",
        "ErrorCode": "InvalidParameter.ResourceContentBad",
        "ErrorMessage": "The resource operated InputFile is bad",
    }


def _vod_dynamic_image(job_id: str, now: datetime, failed: bool) -> Json:
    info = {
        "JobId": job_id,
        "Status": "success",
        "FileURL": f"http://media.example.com/image/dynamic/{job_id}.gif",
        "FileSize": "1834831",
        "Fps": "25",
        "Height": "200",
        "Width": "200",
    }
    payload = _vod("DynamicImageComplete", job_id, now, JobId=job_id, **_vod_error(failed))
    return payload if failed else payload | {"DynamicImageJobInfo": info}


def _vod_snapshot(job_id: str, now: datetime, failed: bool) -> Json:
    payload = _vod("SnapshotComplete", job_id, now, SubType="SpecifiedTime", **_vod_error(failed))
    if failed:
        return payload
    url = f"covers/{job_id}-{{SnapshotCount}}.jpg"
    return payload | {
        "CoverUrl": f"http://media.example.com/covers/{job_id}-00001.jpg",
        "SnapshotInfos": [
            {
                "Status": "success",
                "SnapshotType": "NormalSnapshot",
                "SnapshotCount": 3,
                "SnapshotFormat": url,
                "SnapshotRegular": f"http://media.example.com/{url}",
                "JobId": job_id,
            }
        ],
    }


def _vod_stream(job_id: str, failed: bool) -> Json:
    stream: Json = {"JobId": job_id, "Definition": "HD", "Format": "mp4", **_vod_error(failed)}
    if failed:
        return stream
    return stream | {
        "Bitrate": "925",
        "Duration": 15.0,
        "Encrypt": False,
        "FileUrl": f"http://media.example.com/{job_id}.mp4",
        "Fps": "30",
        "Height": 720,
        "Width": 1280,
        "Size": 1815321,
    }


def _vod_stream_transcode(job_id: str, now: datetime, failed: bool) -> Json:
    return _vod("StreamTranscodeComplete", job_id, now, **_vod_stream(job_id, failed))


def _vod_transcode(job_id: str, now: datetime, failed: bool) -> Json:
    status = "fail" if failed else "success"
    return _vod("TranscodeComplete", job_id, now, Status=status, StreamInfos=[_vod_stream(job_id, failed)])


def _vod_file_upload(job_id: str, now: datetime, failed: bool) -> Json:
    url = f"http://bucket.oss-cn-shanghai.aliyuncs.com/{job_id}.mp4"
    return _vod("FileUploadComplete", job_id, now, Size=1439213, FileUrl=url, **_vod_error(failed))


def _ims(event: str) -> Callable[[str, datetime, bool], Json]:
    def build(job_id: str, now: datetime, failed: bool) -> Json:
        body: Json = {"JobId": job_id, "MediaId": _media_id(job_id), "Status": "Fail" if failed else "Success"}
        if failed:
            body |= {"ErrorCode": "InvalidParameter", "ErrorMessage": "The input is bad"}
        elif event == "ProduceMediaComplete":
            body |= {"MediaURL": f"https://media.example.com/{job_id}.mp4", "ErrorCode": "", "ErrorMessage": ""}
        elif event == "FileUploadComplete":
            body |= {"FileUrl": f"http://media.example.com/{job_id}.mp4", "Size": "5510872", "MediaType": "video"}
            del body["JobId"]
        return {
            "EventType": event,
            "UserId": 1234567890123456,
            "EventTime": _time(now),
            "MessageBody": body,
        }

    return build


def _mts(job_type: str) -> Callable[[str, datetime, bool], Json]:
    def build(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001 - MTS messages carry no time
        state = "Fail" if failed else "Success"
        payload: Json = {}
        for key, value in (("jobId", job_id), ("type", job_type), ("state", state), ("userData", "{}")):
            payload[key] = payload[key[0].upper() + key[1:]] = value
        if failed:
            payload |= {"code": "InvalidParameter.ResourceContentBad", "msg": "The input file is bad"}
        elif job_type == "Snapshot":
            pattern = f"http://media.example.com/{job_id}-{{Count}}.jpg"
            payload |= {"UrlPattern": pattern, "LastUrl": pattern.replace("{Count}", "00002")}
            payload |= {"Count": 2, "TimeArray": [1000, 2500]}
        return payload

    return build


def _mts_workflow(activity: str) -> Callable[[str, datetime, bool], Json]:
    def build(job_id: str, now: datetime, failed: bool) -> Json:
        transcode_id = hashlib.sha256(b"transcode:" + job_id.encode()).hexdigest()[:32]

        def node(name: str, **fields: str) -> Json:
            times = {"StartTime": _time(now), "EndTime": _time(now)}
            return {"RunId": job_id, "Name": f"Act-{name}", "Type": name, "State": "Success", **times, **fields}

        nodes = [node("Start", JobId=_media_id(job_id))]
        if activity == "Report":
            nodes = [node("Report"), *nodes, node("Transcode", JobId=transcode_id, Name="HD")]
            if failed:
                nodes[-1] |= {"State": "Fail", "Code": "InvalidParameter.ResourceContentBad", "Message": "bad input"}
        return {
            "RunId": job_id,
            "Name": f"Act-{activity}",
            "Type": activity,
            "State": "Success",
            "MediaWorkflowExecution": {
                "Name": "base",
                "RunId": job_id,
                "MediaId": _media_id(job_id),
                "Input": {"InputFile": {"Bucket": "bucket", "Location": "oss-cn-beijing", "Object": "in.mp4"}},
                "State": "Completed" if activity == "Report" else "Running",
                "ActivityList": nodes,
                "CreationTime": _time(now),
            },
        }

    return build


def _gif(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001 - no time is known of
    task_id = int(hashlib.sha256(job_id.encode()).hexdigest()[:8], 16) + 1
    if failed:
        return {"TaskId": task_id, "Status": 3, "ErrorCode": "1000", "ErrorMessage": "Download fail"}
    return {"TaskId": task_id, "Status": 2, "GifUrl": f"https://media.example.com/{job_id}.gif"}


PAYLOADS: Mapping[str, Mapping[str, Callable[[str, datetime, bool], Json]]] = {
    "vod": {
        "DynamicImageComplete": _vod_dynamic_image,
        "SnapshotComplete": _vod_snapshot,
        "StreamTranscodeComplete": _vod_stream_transcode,
        "TranscodeComplete": _vod_transcode,
        "FileUploadComplete": _vod_file_upload,
    },
    "ims": {
        event: _ims(event)
        for event in (
            "DynamicImageComplete",
            "SnapshotComplete",
            "TranscodeComplete",
            "MediaConvertComplete",
            "ProduceMediaComplete",
            "FileUploadComplete",
        )
    },
    "mts": {
        "Snapshot": _mts("Snapshot"),
        "Transcode": _mts("Transcode"),
        "Analysis": _mts("Analysis"),
        "MediaInfo": _mts("MediaInfo"),
        "Report": _mts_workflow("Report"),
        "Start": _mts_workflow("Start"),
    },
    "multimediaai": {"CreateGifTask": _gif},
}


def set_field(payload: Json, path: str, value: Any) -> None:
    """
    Overwrite one field, ``SnapshotInfos.0.Status`` for example; objects on the way are made when missing.

    Raises:
        ValueError: The path leads through something that is neither object nor list.
    """
    node: Any = payload
    *parents, last = path.split(".")
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise ValueError(f"{path}: there is no object at {part}")
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ValueError(f"{path}: there is no object that could hold {last}")


# Requests


def http_request(source: HttpSource, payload: Json | bytes, *, now: datetime) -> SimulatedRequest:
    """As VOD or IMS would POST it to the first registered URL, signed with the first key."""
    prefix = "X-VOD" if source.product == "vod" else "X-ICE"
    timestamp = str(int(now.timestamp()))
    headers = {"Content-Type": "application/json"}
    if source.keys:
        headers[f"{prefix}-TIMESTAMP"] = timestamp
        headers[f"{prefix}-SIGNATURE"] = http.sign(source.urls[0], timestamp, source.keys[0])
    return SimulatedRequest("POST", source.path, headers, _encode(payload))


def token_url_request(source: TokenUrlSource, token: str, payload: Json | bytes) -> SimulatedRequest:
    """As CreateGifTask might POST it to a minted URL."""
    headers = {"Content-Type": "application/json"}
    return SimulatedRequest("POST", f"{source.path}/{token}", headers, _encode(payload))


@dataclass(frozen=True)
class MnsSigner:
    """
    MNS's half of the push signature.

    Attributes:
        certificate_url: Where receivers are told to find the certificate; their configuration pins it.
    """

    private_key: RSAPrivateKey
    certificate_url: str = KNOWN_CERTIFICATE_URL

    def push(
        self,
        source: MnsPushSource,
        payload: Json | bytes,
        *,
        now: datetime,
        push_format: PushFormat = "SIMPLIFIED",
        message_id: str | None = None,
    ) -> SimulatedRequest:
        """A topic push of the source's first topic, in one of the three notification formats."""
        message = _encode(payload)
        owner, _, topic = min(source.topics).partition("/")
        message_id = message_id or hashlib.sha256(message).hexdigest()[:32].upper()
        published_ms = str(int(now.timestamp() * 1000))
        body, content_type = message, "text/plain;charset=utf-8"
        headers = {
            "x-mns-request-id": hashlib.sha256(message + published_ms.encode()).hexdigest()[:24].upper(),
            "x-mns-signing-cert-url": base64.b64encode(self.certificate_url.encode()).decode(),
            "x-mns-version": "2015-06-06",
        }
        if push_format == "SIMPLIFIED":
            headers |= {
                "x-mns-message-id": message_id,
                "x-mns-publish-time": published_ms,
                "x-mns-subscriber": owner,
                "x-mns-subscription-name": "media-callbacks",
                "x-mns-topic-name": topic,
                "x-mns-topic-owner": owner,
            }
        else:
            envelope = {
                "TopicOwner": owner,
                "TopicName": topic,
                "Subscriber": owner,
                "SubscriptionName": "media-callbacks",
                "MessageId": message_id,
                "MessageMD5": hashlib.md5(message, usedforsecurity=False).hexdigest().upper(),
                "Message": message.decode(),
                "PublishTime": published_ms,
            }
            if push_format == "JSON":
                body = _encode(envelope)
            else:
                body, content_type = _xml(envelope), "text/xml;charset=utf-8"
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest().upper()
        headers |= {
            "Content-MD5": digest,
            "Content-Type": content_type,
            "Date": format_datetime(now.astimezone(UTC), usegmt=True),
        }
        target = source.signed_target or source.path.encode()
        signed = mns_push.string_to_sign(
            "POST", target, [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        )
        headers["Authorization"] = mns_push.sign(signed, self.private_key)
        return SimulatedRequest("POST", source.path, headers, body)


def _encode(payload: Json | bytes) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload, ensure_ascii=False).encode()


def _xml(envelope: Mapping[str, str]) -> bytes:
    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in envelope.items())
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">{elements}</Notification>'
    ).encode()


def make_mns_key(*, now: datetime) -> tuple[RSAPrivateKey, str]:
    """
    A signing key and its self-signed certificate, as PEM text. The certificate has expired, as the vendor's has: a
    receiver that looks at its dates would refuse every real push.
    """
    key = generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Aliyun"), x509.NameAttribute(NameOID.COMMON_NAME, "notify")]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=730))
        .not_valid_after(now - timedelta(days=365))
        .sign(key, SHA256())
    )
    return key, certificate.public_bytes(Encoding.PEM).decode()


# Faults


def forge(request: SimulatedRequest) -> SimulatedRequest:
    """The same request from somebody who has no key."""
    headers = dict(request.headers)
    for name in headers:
        if name.endswith("-SIGNATURE"):
            headers[name] = hashlib.md5(b"forged", usedforsecurity=False).hexdigest()
        elif name == "Authorization":
            headers[name] = base64.b64encode(hashlib.sha256(b"forged").digest() * 8).decode()
    if headers == dict(request.headers):
        path, _, token = request.target.rpartition("/")
        altered = token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBA")
        return replace(request, target=f"{path}/{altered}")
    return replace(request, headers=headers)
