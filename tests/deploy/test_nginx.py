"""What arrives through the nginx of deploy/ is what was sent, and what nobody should reach is not there."""

import asyncio
import re
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from media_callbacks.rehearsal.simulate import make_mns_key
from tests.deploy.proxy import (
    CONFIGURATION,
    CUT,
    NEVER,
    OK,
    UNAVAILABLE,
    find_nginx,
    proxying,
    upstream,
    write_configuration,
)
from tests.factories.running import SOURCES, Running, connected, encode, encode_request, headers_of, read_answer

PATH = "/callbacks/x"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("chunk", [None, 100])
async def test_genuine_callbacks_of_every_source_are_accepted(running: Running, tmp_path: Path, chunk: int | None):
    async with proxying(tmp_path, running.address) as proxy:
        for name in SOURCES:
            request = running.build(name, f"job-{name}")
            running.note_secrets(request)
            answer = await proxy.send(encode(request, chunk=chunk))
            assert answer.status == running.source(name).success_status, name
        events = await running.receiver.wait_for(len(SOURCES))
        assert {event["data"]["source"] for event in events} == set(SOURCES)
    for secret in running.secrets:
        assert secret.decode() not in proxy.logs
    assert len(re.findall(r" POST 20[04] ", proxy.logs)) == len(SOURCES)


async def test_a_forgery_and_a_doubled_header_are_refused_by_the_service(running: Running, tmp_path: Path):
    request = running.build("vod", "job-1")
    headers = headers_of(request)
    forged = [(name, value[::-1] if name.lower() == b"x-vod-signature" else value) for name, value in headers]
    assert forged != headers
    doubled = [*headers, *[header for header in headers if header[0].lower() == b"x-vod-timestamp"]]
    assert len(doubled) == len(headers) + 1
    async with proxying(tmp_path, running.address) as proxy:
        assert (await proxy.send(encode_request("POST", request.target, forged, request.body))).status == 403
        assert (await proxy.send(encode_request("POST", request.target, doubled, request.body))).status == 400


@pytest.mark.parametrize(
    "target",
    [
        "/callbacks/gif/AbC-_123.~",
        "/callbacks/x?b=2&a=1&&empty=&c=%20%2f%2F+%e4",
        "/callbacks//twice///thrice/",
        "/callbacks/%2Fcoded/%7etilde;v=1,2",
        "/callbacks/x/../y/./z",
        "/callbacks/x?",
    ],
)
async def test_target_headers_and_body_come_through_unchanged(tmp_path: Path, target: str):
    body = bytes(range(256)) * 20
    headers = [
        (b"Authorization", b"MNS owner:c2lnbmF0dXJl=="),
        (b"Content-MD5", b"bWQ1IG9mIHRoZSBib2R5=="),
        (b"Content-Type", b"text/xml;charset=utf-8"),
        (b"Date", b"Sat, 21 Nov 2026 04:00:00 GMT"),
        (b"X-VOD-TIMESTAMP", b"1732161600"),
        (b"X-Vod-Signature", b"0123456789abcdef"),
        (b"X-ICE-SIGNATURE", b"0123456789abcdef"),
        (b"x-mns-version", b"2015-06-06"),
        (b"x-mns-signing-cert-url", b"aHR0cHM6Ly9ob3N0L3guY2VydA=="),
        (b"x_mns_with_underscores", b"1"),
        (b"x.mns.with.dots", b"2"),
        (b"x-twice", b"first"),
        (b"x-twice", b"second"),
        (b"Accept-Encoding", b"gzip, br"),
        (b"User-Agent", b"Aliyun Notification Service Agent"),
    ]
    async with upstream(OK) as behind, proxying(tmp_path, behind.address) as proxy:
        assert (await proxy.send(encode_request("POST", target, headers, body))).status == 204
    (request,) = behind.requests
    head, _, arrived = request.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    assert line == f"POST {target} HTTP/1.1".encode()
    assert arrived == body
    ours = [header for header in (tuple(text.split(b": ", 1)) for text in lines) if header in headers]
    assert ours == headers
    assert b"Host: cb.example.com" in lines


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/metrics",
        "/v1/events",
        "/v1/sinks/orders/pause",
        "/openapi.json",
        "//metrics",
        "/callbacks/../metrics",
        "/callbacks",
        "/health",
    ],
)
async def test_what_is_not_for_the_public_is_not_found(tmp_path: Path, target: str):
    async with upstream(OK) as behind, proxying(tmp_path, behind.address) as proxy:
        for method in ("GET", "POST"):
            assert (await proxy.send(encode_request(method, target))).status == 404
    assert behind.requests == []


async def test_health_is_that_of_the_instances(running: Running, tmp_path: Path):
    async with proxying(tmp_path, running.address) as proxy:
        assert (await proxy.send(encode_request("GET", "/health/live"))).status == 200
        assert (await proxy.send(encode_request("GET", "/health/ready"))).json() == {"status": "ok"}
        running.service.readiness.is_draining = True
        assert (await proxy.send(encode_request("GET", "/health/ready"))).status == 503


async def test_bodies_up_to_a_mebibyte_come_through_and_larger_ones_do_not(running: Running, tmp_path: Path):
    largest = running.build("vod", "job-1")
    # VOD signs no body, and JSON may end in blanks.
    padded = largest.body.ljust(1 << 20)
    async with proxying(tmp_path, running.address) as proxy:
        answer = await proxy.send(encode_request("POST", largest.target, headers_of(largest), padded))
        assert answer.status == 200
        for chunk in (None, 65536):
            too_large = encode_request("POST", largest.target, headers_of(largest), b"x" * (2 << 20), chunk=chunk)
            assert (await proxy.send(too_large)).status == 413
    assert len(running.lines) == 1


@pytest.mark.parametrize("size, status", [(15_000, 200), (17_000, 431), (40_000, 431)])
async def test_headers_of_up_to_16_kib_come_through(running: Running, tmp_path: Path, size: int, status: int):
    request = running.build("vod", "job-1")
    headers = [*headers_of(request), (b"x-large", b"x" * size)]
    async with proxying(tmp_path, running.address) as proxy:
        assert (await proxy.send(encode_request("POST", request.target, headers, request.body))).status == status


async def test_slow_senders_wait_at_nginx(tmp_path: Path):
    request = encode_request("POST", PATH, [], b"x" * 1000)
    async with (
        upstream(OK) as behind,
        proxying(tmp_path, behind.address, replace={"client_body_timeout 10s": "client_body_timeout 1s"}) as proxy,
        connected(proxy.address) as (reader, writer),
        connected(proxy.address) as (other_reader, other_writer),
    ):
        writer.write(request[:-1])
        other_writer.write(request)
        answer = await read_answer(other_reader)
        assert answer is not None
        assert answer.status == 204
        assert behind.connections == 1
        # It never ends, and is let go.
        assert await read_answer(reader) is None
        assert len(behind.requests) == 1


@pytest.mark.parametrize("answer", [UNAVAILABLE, CUT, NEVER], ids=["unavailable", "cut", "never"])
async def test_another_instance_is_asked_when_one_can_not(tmp_path: Path, answer: bytes | None):
    request = encode_request("POST", PATH, [], b"a body")
    async with (
        upstream(answer) as bad,
        upstream(OK) as good,
        proxying(
            tmp_path, bad.address, good.address, replace={"proxy_read_timeout 3s": "proxy_read_timeout 5s"}
        ) as proxy,
    ):
        for _ in range(4):
            assert (await proxy.send(request)).status == 204
    assert len(bad.requests) >= 1
    assert len(good.requests) == 4


async def test_another_instance_is_asked_when_one_is_away(running: Running, tmp_path: Path):
    async with proxying(tmp_path, free_address(), running.address) as proxy:
        requests = [encode(running.build("vod", f"job-{number}")) for number in range(10)]
        answers = await asyncio.gather(*[proxy.send(request) for request in requests])
    assert [answer.status for answer in answers] == [200] * 10


@pytest.mark.parametrize("away", [True, False])
async def test_when_no_instance_can_the_sender_is_told_to_come_again(tmp_path: Path, away: bool):
    async with upstream(UNAVAILABLE) as behind:
        addresses = [free_address(), free_address()] if away else [behind.address] * 2
        async with proxying(tmp_path, *addresses) as proxy:
            for _ in range(8):
                answer = await proxy.send(encode_request("POST", "/callbacks/gif/a-secret-token", [], b"a body"))
                assert answer.status == 503
                assert answer.headers["retry-after"] == "1"
        # Nor in what nginx says about instances that it could not reach.
        assert "a-secret-token" not in proxy.logs


async def test_connections_to_instances_are_kept(tmp_path: Path):
    async with upstream(OK) as behind, proxying(tmp_path, behind.address) as proxy:
        for _ in range(10):
            await proxy.send(encode_request("POST", PATH, [], b"a body"))
    assert len(behind.requests) == 10
    assert behind.connections == 1
    assert not any(b"\r\nconnection:" in request.lower() for request in behind.requests)


def test_with_its_tls_lines_in_use_the_configuration_is_right(tmp_path: Path):
    nginx = find_nginx()
    key, certificate = make_mns_key(now=datetime.now(UTC))
    (tmp_path / "tls.crt").write_text(certificate)
    (tmp_path / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    text = CONFIGURATION.read_text("utf-8")
    commented = re.findall(r"^    # (?:listen 8443|ssl_).*;$", text, re.MULTILINE)
    assert len(commented) == 4
    replace = {line: line.replace("# ", "") for line in commented}
    replace |= {"/etc/nginx/tls/": f"{tmp_path}/", "listen 8443 ": f"listen {free_address()} "}
    # It binds the ports, though it only looks.
    port = int(free_address().rpartition(":")[2])
    main = write_configuration(tmp_path, port=port, upstreams=["127.0.0.1:1"], replace=replace)
    outcome = subprocess.run(
        [nginx, "-t", "-p", str(tmp_path), "-c", str(main), "-e", str(tmp_path / "start.log")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
