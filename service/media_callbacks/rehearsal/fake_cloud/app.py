"""
The HTTP side of the fake cloud, one ASGI application.

    /queues, /topics/  MNS (``queues``, ``topics``)
    /openapi/...     EventBridge (``buses``)
    /_cloud/...      the control surface (``control``)
    /                the job APIs of VOD, ICE, MTS and Multimedia AI, told apart by version and action
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from media_callbacks.rehearsal.fake_cloud import actions_ice, actions_mts, actions_multimediaai, actions_vod, control
from media_callbacks.rehearsal.fake_cloud.gateway import ApiError, Gateway
from media_callbacks.rehearsal.fake_cloud.requests import ApiRequest, read_request
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

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


def create_app(cloud: "FakeCloud") -> ASGIApp:
    """One application for all of it."""
    gateway = Gateway(cloud.access_keys, cloud.clock)
    requests = 0

    def answer(request: ApiRequest, request_id: str) -> Response:
        faults = cloud.faults
        try:
            if cloud.chance.random() < faults.html:
                return Response(_HTML, 502, media_type="text/html")
            fail(cloud.chance.random() < faults.server_errors, INTERNAL_ERROR)
            action = find_action(request)
            gateway.check(request)
            fail(cloud.chance.random() < faults.throttling, THROTTLED)
            return _json(200, {"RequestId": request_id, **_present(action(cloud, request.parameters))})
        except ApiError as error:
            reply = {
                "RequestId": request_id,
                "HostId": request.headers.get("host", ""),
                "Code": error.code,
                "Message": error.message,
                "Recommend": f"https://api.aliyun.com/troubleshoot?q={error.code}",
            }
            return _json(error.status, reply)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal requests
        assert scope["type"] == "http"
        path: str = scope["path"]
        if path.startswith(("/queues", "/topics/")):
            await cloud.queues(scope, receive, send)
            return
        raw = Request(scope, receive)
        try:
            if path.startswith("/openapi/"):
                await cloud.buses.respond(raw, await raw.body())(scope, receive, send)
                return
            request = await read_request(raw)
        except ClientDisconnect:
            return
        if path.startswith("/_cloud/"):
            response = _json(*control.answer(cloud, request.method, path, request.body))
        else:
            requests += 1
            response = answer(request, f"{requests:08X}-0000-4000-8000-000000000000")
        await response(scope, receive, send)

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


def _json(status: int, reply: Any) -> Response:
    return Response(json.dumps(reply, ensure_ascii=False), status, media_type="application/json")


def _present(reply: Any) -> Any:
    """Without what is not known: the vendor leaves it out."""
    if isinstance(reply, dict):
        return {name: _present(value) for name, value in reply.items() if value is not None}
    return [_present(item) for item in reply] if isinstance(reply, list) else reply
