"""The application without our server: any ASGI server that gives ``raw_path`` will do."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from media_callbacks.app import create_app
from media_callbacks.config.settings import build_settings
from media_callbacks.model.errors import ConfigError
from media_callbacks.process.server import QuietServer
from media_callbacks.rehearsal.simulate import SimulatedRequest
from tests.factories.running import (
    SOURCES,
    build_payload,
    connected,
    encode,
    encode_request,
    headers_of,
    make_source,
    make_tables,
    read_answer,
    receiving,
    sign,
    to_toml,
)


@pytest.fixture
def settings(tmp_path):
    return build_settings(make_tables(tmp_path, {}), environ={})


def genuine(settings: Any, name: str, job_id: str) -> SimulatedRequest:
    source = make_source(name, settings)
    return sign(source, build_payload(source, job_id), job_id=job_id, now=datetime.now(UTC))


def post(client: TestClient, request: SimulatedRequest) -> Any:
    return client.post(request.target, content=request.body, headers=dict(request.headers))


def test_the_application_runs_on_another_server_with_its_lifespan(settings):
    app = create_app(settings)
    with capture_logs() as logs, TestClient(app) as client:
        for name in SOURCES:
            request = genuine(settings, name, f"job-{name}")
            assert [post(client, request).status_code for _ in range(2)] == [204 if name == "mts" else 200] * 2
        assert client.get("/health/live").json() == {"status": "ok"}
        assert client.get("/health/ready").status_code == 200
        assert client.get("/nowhere").status_code == 404
        assert client.get("/metrics").status_code == 404
        assert client.post("/callbacks/vod", content=b"{}").status_code == 403
        assert client.post("/callbacks/vod", content=b"x" * 2_000_000).status_code == 413
        assert client.post("/callbacks/vod", headers={"X-Large": "x" * 17_000}).status_code == 431
        assert client.get("/callbacks/vod").status_code == 405
    states = [line["state"] for line in logs if line["event"] == "callback"]
    assert states == ["accepted", "duplicate"] * 4
    # And once more: the store was closed properly.
    with TestClient(create_app(settings)) as client:
        assert post(client, genuine(settings, "vod", "job-vod")).status_code == 200


def test_a_server_may_put_it_below_a_path_of_its_own(settings):
    with TestClient(create_app(settings), root_path="/media") as client:
        request = genuine(settings, "vod", "j")
        for target, status in ((f"/media{request.target}", 200), ("/media/callbacks/nowhere", 404)):
            answer = client.post(target, content=request.body, headers=dict(request.headers))
            assert answer.status_code == status


async def test_events_are_delivered_there_too(tmp_path):
    async with receiving() as receiver:
        settings = build_settings(make_tables(tmp_path, {"orders": receiver.url}), environ={})
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        def run() -> None:
            with TestClient(create_app(settings)) as client:
                assert post(client, genuine(settings, "ims", "j")).status_code == 200
                asyncio.run_coroutine_threadsafe(receiver.wait_for(1), loop).result()
                loop.call_soon_threadsafe(arrived.set)

        await asyncio.to_thread(run)
        assert arrived.is_set()
        assert [event["subject"] for event in receiver.events] == ["j"]


def test_before_its_start_and_after_its_end_the_application_asks_to_come_again(settings):
    app = create_app(settings)
    request = genuine(settings, "vod", "j")
    client = TestClient(app)
    assert post(client, request).status_code == 503
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    with client:
        assert post(client, request).status_code == 200
    response = post(client, request)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert client.get("/health/ready").json() == {"status": "draining"}


def test_a_store_in_use_stops_the_lifespan(settings):
    with TestClient(create_app(settings)), pytest.raises(ConfigError, match="in use by another service"):  # noqa: SIM117
        with TestClient(create_app(settings)):
            pass


def test_without_settings_it_reads_them_as_the_command_line_does(tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text(to_toml(make_tables(tmp_path, {})))
    monkeypatch.setenv("MEDIA_CALLBACKS_CONFIG", str(config))
    monkeypatch.setenv("MEDIA_CALLBACKS__SOURCES__VOD__PATH", "/other/path")
    app = create_app()
    assert app.service.callback_sources[0].path == "/other/path"


def test_without_a_configuration_it_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        create_app()


async def test_a_server_that_does_not_give_the_raw_path_is_told_apart_from_a_forgery(settings):
    """Signatures cover the path as it was sent; guessing it would refuse genuine callbacks."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    request = genuine(settings, "vod", "j")
    scope = {
        "type": "http",
        "method": "POST",
        "path": request.target,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in headers_of(request)],
    }
    with capture_logs() as logs:
        await create_app(settings)(scope, receive, send)
    assert sent[0]["status"] == 400
    assert "raw_path" in logs[0]["detail"]


@pytest.mark.parametrize("implementation", ["h11", "httptools"])
async def test_the_application_runs_under_plain_uvicorn(tmp_path, settings, implementation):
    config = uvicorn.Config(
        create_app(settings), host="127.0.0.1", port=0, http=implementation, lifespan="on", log_config=None, ws="none"
    )
    # Signals are the test runner's.
    server = QuietServer(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.005)
    address = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        for name in SOURCES:
            async with connected(address) as (reader, writer):
                writer.write(encode(genuine(settings, name, "j")))
                answer = await read_answer(reader)
                assert answer is not None
                assert answer.status == (204 if name == "mts" else 200)
        # Its httptools parser gives the body of such a request to nobody; h11 gives it.
        async with connected(address) as (reader, writer):
            request = genuine(settings, "vod", "k")
            headers = [*headers_of(request), (b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")]
            writer.write(encode_request("POST", request.target, headers, request.body))
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == (200 if implementation == "h11" else 400)
    finally:
        server.should_exit = True
        await task


def test_two_applications_in_one_process_do_not_share_anything(tmp_path):
    apps = []
    for name in ("one", "two"):
        folder: Path = tmp_path / name
        folder.mkdir()
        apps.append(create_app(build_settings(make_tables(folder, {}), environ={})))
    one, two = (app.service for app in apps)
    with TestClient(apps[0]) as client, TestClient(apps[1]) as other:
        request = genuine(one.settings, "vod", "j")
        assert post(client, request).status_code == 200
        assert post(other, request).status_code == 200
    for service in (one, two):
        assert b'receipts_total{source="vod",state="accepted"} 1.0' in service.metrics.render(
            (), {}, now=service.clock()
        )
