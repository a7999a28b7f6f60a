"""
The HTTP side of the fake cloud, one ASGI application.

    /queues/...      MNS (``queues``)
    /_cloud/...      the control surface (``control``)
    /                the job APIs of VOD, ICE, MTS and Multimedia AI, told apart by version and action
"""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from media_callbacks.rehearsal.fake_cloud import actions_ice, actions_mts, actions_multimediaai, actions_vod, control
from media_callbacks.rehearsal.fake_cloud.gateway import ApiError, Gateway
from media_callbacks.rehearsal.fake_cloud.requests import MAX_BODY_BYTES, ApiRequest, read_request
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Action = Callable[["FakeCloud", Mapping[str, str]], Json]

# By version, which no two products share.
ACTIONS: Mapping[str, Mapping[str, Action]] = {
    "2017-03-21": actions_vod.ACTIONS,
    "2020-11-09": actions_ice.ACTIONS,
    "2014-06-18": actions_mts.ACTIONS,
    "2019-08-10": actions_multimediaai.ACTIONS,
}
INTERNAL_ERROR = 500, "InternalError", "The request processing has failed due to some unknown error."
THROTTLED = 400, "Throttling.User", "Request was denied due to user flow control."
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def create_app(cloud: "FakeCloud") -> Application:
    """One application for all of it."""
    gateway = Gateway(cloud.access_keys, cloud.clock)
    requests = 0

    def answer(request: ApiRequest, request_id: str) -> tuple[int, bytes, bytes]:
        """Status, content type and body."""
        faults = cloud.faults
        try:
            if cloud.chance.random() < faults.html:
                return 502, b"text/html", _HTML
            fail(cloud.chance.random() < faults.server_errors, INTERNAL_ERROR)
            action = find_action(request)
            gateway.check(request)
            fail(cloud.chance.random() < faults.throttling, THROTTLED)
            return (
                200,
                b"application/json",
                _encode({"RequestId": request_id, **_present(action(cloud, request.parameters))}),
            )
        except ApiError as error:
            reply = {
                "RequestId": request_id,
                "HostId": request.headers.get("host", ""),
                "Code": error.code,
                "Message": error.message,
                "Recommend": f"https://api.aliyun.com/troubleshoot?q={error.code}",
            }
            return error.status, b"application/json", _encode(reply)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal requests
        assert scope["type"] == "http"
        path: str = scope["path"]
        if path == "/queues" or path.startswith("/queues/"):
            await cloud.queues.app(scope, receive, send)
            return
        body = await _read_body(receive)
        if path.startswith("/_cloud/"):
            status, reply = control.answer(cloud, scope["method"], path, body)
            await _respond(send, status, b"application/json", _encode(reply))
            return
        requests += 1
        request_id = f"{requests:08X}-0000-4000-8000-000000000000"
        request = read_request(scope["method"], scope["headers"], scope["query_string"], body)
        await _respond(send, *answer(request, request_id))

    return app


def fail(now: bool, error: tuple[int, str, str]) -> None:
    """
    Raises:
        ApiError: When it is ``now``.
    """
    if now:
        raise ApiError(*error)


def find_action(request: ApiRequest) -> Action:
    """
    Raises:
        ApiError: There is none of this name in this version.
    """
    actions = ACTIONS.get(request.version or "")
    if actions is None:
        raise ApiError(400, "InvalidVersion", "Specified parameter Version is not valid.")
    action = actions.get(request.action or "")
    if action is None:
        raise ApiError(404, "InvalidApi.NotFound", "Specified api is not found, please check your url and method.")
    return action


def _encode(reply: Any) -> bytes:
    return json.dumps(reply, ensure_ascii=False).encode()


def _present(reply: Any) -> Any:
    """Without what is not known: the vendor leaves it out."""
    if isinstance(reply, dict):
        return {name: _present(value) for name, value in reply.items() if value is not None}
    return [_present(item) for item in reply] if isinstance(reply, list) else reply


async def _read_body(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def _respond(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
