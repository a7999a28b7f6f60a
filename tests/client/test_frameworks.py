"""A receiver in three lines of each framework: real requests of the service's own sink, against real servers."""

import base64
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
import pytest
from django.conf import settings as django_settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from fastapi import FastAPI
from flask import Flask, request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from media_callbacks.client.webhooks import Receiver, WebhookVerificationError
from media_callbacks.events import AnimatedImage, Event
from media_callbacks.model.errors import SinkRetry
from media_callbacks.model.events import Delivery
from media_callbacks.rehearsal.fake_cloud.listening import listening
from media_callbacks.sinks.webhook import WebhookSink
from tests.inbox.conformance import make_event

KEY, OTHER_KEY = b"the secret of the orders", b"a secret that nobody has"
receiver = Receiver(secrets=["whsec_" + base64.b64encode(KEY).decode()])
taken: list[Event[AnimatedImage]] = []


@receiver.on("animated_image")
def take(event: Event[AnimatedImage]) -> None:
    if event.data.user_data == "fail":
        raise RuntimeError("the handler's own")
    taken.append(event)


@pytest.fixture(autouse=True)
def _nothing_taken():
    taken.clear()


# The applications


def starlette_app() -> Any:
    async def media(request: Request) -> Response:
        await receiver.receive_async(request.headers, await request.body())
        return Response(status_code=204)

    async def refuse(_request: Request, error: Exception) -> Response:
        return Response(status_code=getattr(error, "status", 500))

    return Starlette(
        routes=[Route("/media", media, methods=["POST"])], exception_handlers={WebhookVerificationError: refuse}
    )


def fastapi_app() -> Any:
    app = FastAPI()

    @app.post("/media", status_code=204)
    async def media(request: Request) -> None:
        await receiver.receive_async(request.headers, await request.body())

    @app.exception_handler(WebhookVerificationError)
    async def refuse(_request: Request, error: WebhookVerificationError) -> Response:
        return Response(status_code=error.status)

    return app


def flask_app() -> Any:
    app = Flask(__name__)

    @app.post("/media")
    def media() -> tuple[str, int]:
        receiver.receive(request.headers, request.get_data())
        return "", 204

    @app.errorhandler(WebhookVerificationError)
    def refuse(error: WebhookVerificationError) -> tuple[str, int]:
        return "", error.status

    return app


@csrf_exempt
def django_media(request: HttpRequest) -> HttpResponse:
    try:
        receiver.receive(request.headers, request.body)
    except WebhookVerificationError as error:
        return HttpResponse(status=error.status)
    return HttpResponse(status=204)


def django_app() -> Any:
    if not django_settings.configured:
        urls = (path("media", django_media),)
        django_settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=urls, LOGGING_CONFIG=None)
        django.setup()
    return get_wsgi_application()


# Their servers


@asynccontextmanager
async def serving_wsgi(app: Any) -> AsyncIterator[str]:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serving_asgi(app: Any) -> AbstractAsyncContextManager[str]:
    return listening(app, "127.0.0.1", 0)


APPLICATIONS = {
    "starlette": (starlette_app, serving_asgi),
    "fastapi": (fastapi_app, serving_asgi),
    "flask": (flask_app, serving_wsgi),
    "django": (django_app, serving_wsgi),
}
Send = Callable[..., Awaitable[str]]


@pytest.fixture(params=APPLICATIONS)
async def send(request: pytest.FixtureRequest) -> AsyncIterator[Send]:
    """What the service's sink makes of the answer."""
    make, serving = APPLICATIONS[request.param]

    async with serving(make()) as url:

        async def send_to(event: Event, *, key: bytes = KEY, clock_s: float | None = None) -> str:
            options: dict[str, Any] = {} if clock_s is None else {"clock": lambda: clock_s}
            sink = WebhookSink("orders", f"{url}/media", (key,), **options)
            await sink.open()
            try:
                (error,) = await sink.send([Delivery(1, "orders", event.id, event.to_json(), 1, "")])
            finally:
                await sink.close()
            assert error is None or isinstance(error, SinkRetry)
            return "delivered" if error is None else str(error)

        yield send_to


async def test_what_the_service_sends_is_taken(send):
    event = make_event(user_data="Bestellung 7 – ¥")
    assert await send(event) == "delivered"
    assert taken == [event]


async def test_what_somebody_else_sends_is_refused(send):
    assert await send(make_event(), key=OTHER_KEY) == "answered HTTP 401"
    assert await send(make_event(), clock_s=1_700_000_000) == "answered HTTP 401"
    assert taken == []


async def test_what_a_handler_could_not_do_comes_again(send):
    assert await send(make_event(user_data="fail")) == "answered HTTP 500"
    assert taken == []
