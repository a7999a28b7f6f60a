"""
The package in ``clients/typescript``: its types are those of the schema, and it takes what the service sends.

It is built and used outside of the checkout, with what its lock file says from the npm registry.
"""

import base64
import json
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.events import Event
from media_callbacks.model.events import Delivery
from media_callbacks.model.schemas import event_schema
from media_callbacks.sinks.webhook import build_headers
from tests.client.test_receiver import TROUBLE, by_aliyun_eventbridge, by_eventbridge, by_mns, by_sns
from tests.documentation.pages import read_blocks
from tests.factories import typescript_events
from tests.factories.tools import go_without, need_tool
from tests.inbox.conformance import make_event, with_data

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients/typescript"
CONSUMER = Path(__file__).parent / "typescript"
KEY, OTHER_KEY = b"the secret of the orders", b"a secret that nobody has"
SECRET, OTHER_SECRET = ("whsec_" + base64.b64encode(key).decode() for key in (KEY, OTHER_KEY))


def test_the_types_are_those_of_the_schema():
    assert typescript_events.FILE.read_text("utf-8") == typescript_events.render(), f"run: {typescript_events.COMMAND}"


def test_what_can_not_be_said_in_types_is_an_error():
    schema = event_schema()
    members = schema["oneOf"][0]["properties"]["data"]["properties"]
    members["more"] = {"description": "More.", "type": "object", "required": [], "properties": {"a": {}}}
    with pytest.raises(ValueError, match=r"AnimatedImage\.more: expected an object with a name"):
        typescript_events.render(schema)
    members["more"] = {"description": "*/ process.exit() /*", "type": "string"}
    with pytest.raises(ValueError, match="fits into a comment"):
        typescript_events.render(schema)
    members["more"] = {"description": "More.", "type": "set"}
    with pytest.raises(KeyError):
        typescript_events.render(schema)


def test_there_is_one_version():
    package, lock = (json.loads((PACKAGE / name).read_text("utf-8")) for name in ("package.json", "package-lock.json"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert package["version"] == lock["version"] == lock["packages"][""]["version"] == version
    pinned = package["dependencies"] | package["devDependencies"]
    assert all(re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", found) for found in pinned.values()), pinned
    assert {name: lock["packages"][f"node_modules/{name}"]["version"] for name in pinned} == pinned


# What it does


def run(*command: str | Path, folder: Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=600)


def build(folder: Path) -> Path:
    """The package as its own build leaves it, and a folder beside it that depends on it; gives the latter."""
    npm, node = need_tool("npm"), need_tool("node", package="nodejs")
    if int(run(node, "--version", folder=folder).stdout.removeprefix("v").partition(".")[0]) < 20:
        go_without("needs node 20 or later")
    package, consumer = folder / "package", folder / "consumer"
    package.mkdir()
    for name in ("package.json", "package-lock.json", "tsconfig.json"):
        shutil.copy(PACKAGE / name, package)
    shutil.copytree(PACKAGE / "src", package / "src")
    installed = run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", folder=package)
    if installed.returncode:
        go_without(f"needs what package-lock.json names from the npm registry: {installed.stderr[-1000:]}")
    built = run(package / "node_modules/.bin/tsc", folder=package)
    assert built.returncode == 0, built.stdout
    shutil.copytree(CONSUMER, consumer)
    (consumer / "node_modules").mkdir()
    (consumer / "node_modules/media-callbacks").symlink_to(package, target_is_directory=True)
    (consumer / "node_modules/@types").symlink_to(package / "node_modules/@types", target_is_directory=True)
    (consumer / "package.json").write_text('{"type": "module"}')
    return consumer


def compile_file(consumer: Path, name: str) -> str:
    """What the compiler says of it."""
    options = ["--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "nodenext"]
    compiler = consumer / "node_modules/media-callbacks/node_modules/.bin/tsc"
    return run(compiler, *options, "--types", "node", "--pretty", "false", name, folder=consumer).stdout


GIF = with_data(
    make_event(user_data="Bestellung 7 – ¥"),
    outputs=[{"url": "https://example.com/1.gif", "width": 200}],
)
LATER = GIF.to_json().replace(b"animated_image", b"hologram")


def signed(
    body: bytes, /, *, key: bytes = KEY, secrets: Any = (OTHER_SECRET, SECRET), age_s: int = 0, **changes: Any
) -> dict[str, Any]:
    """A request of the service's own sink."""
    event_id = re.findall(rb'"id":"(evt_[0-9a-f]+)"', body) or [b"evt_1"]
    headers = build_headers(Delivery(1, "orders", event_id[0].decode(), body, 1, ""), [key], int(time.time()) - age_s)
    return {"secrets": secrets, "headers": headers, "body": base64.b64encode(body).decode()} | changes


def unsigned(body: str) -> dict[str, Any]:
    return {"secrets": [SECRET], "headers": {}, "body": base64.b64encode(body.encode()).decode(), "unsigned": True}


def of_kind(kind: str) -> Event:
    return make_event(kind=kind, outcome="received" if kind == "notice" else "succeeded")


def requests() -> list[tuple[dict[str, Any], str]]:
    """Requests, and what becomes of each."""
    body, taken = GIF.to_json(), f"animated_image Bestellung 7 – ¥ 200 https://example.com/1.gif {GIF.id}"
    headers = signed(body)["headers"]
    signature = headers["webhook-signature"]
    text = body.decode()
    return [
        (signed(body), taken),
        (signed(body, secrets=[SECRET]), taken),
        (signed(body, secrets=[SECRET.removeprefix("whsec_")]), taken),
        (signed(body, headers=[[name.upper(), value] for name, value in headers.items()]), taken),
        (signed(body, headers=headers | {"webhook-signature": f"v1a,AAAA nonsense v2,{signature} {signature}"}), taken),
        (signed(of_kind("snapshot").to_json()), f"snapshot 0 {of_kind('snapshot').id}"),
        (signed(of_kind("transcode").to_json()), f"transcode 0 {of_kind('transcode').id}"),
        (signed(of_kind("notice").to_json()), f"default media.notice.received {of_kind('notice').id}"),
        (signed(LATER), f"default media.hologram.succeeded {GIF.id}"),
        (signed(body.replace(b"image:1", b"image:2")), f"default media.animated_image.succeeded {GIF.id}"),
        (signed(TROUBLE.to_json()), f"disk_low host-1 null {TROUBLE.id}"),
        (signed(TROUBLE.to_json().replace(b"l:1", b"l:2")), f"default {TROUBLE.type} {TROUBLE.id}"),
        (signed(of_kind("review").to_json()), "Error: the handler's own"),
        # Not genuine, or not now.
        (signed(body, key=OTHER_KEY, secrets=[SECRET]), "401"),
        (signed(body, headers={}), "401"),
        (signed(body, age_s=86_400), "401"),
        (signed(body, age_s=-86_400), "401"),
        (signed(body, body=base64.b64encode(body + b" ").decode()), "401"),
        (signed(body, body=base64.b64encode(b"\xef\xbb\xbf" + body).decode()), "401"),
        (signed(body, headers=headers | {"webhook-id": "evt_1"}), "401"),
        (signed(body, headers=headers | {"webhook-timestamp": headers["webhook-timestamp"] + "x"}), "401"),
        (signed(body, headers=headers | {"webhook-signature": signature.swapcase().replace("V1", "v1")}), "401"),
        (signed(body, headers=headers | {"webhook-signature": signature.replace("v1,", "v1a,")}), "401"),
        (signed(body, headers=headers | {"webhook-signature": "v1"}), "401"),
        (signed(body, headers=headers | {"webhook-signature": ["v1,AAAA", signature]}), "401"),
        (signed(body, headers=headers | {"Webhook-Id": headers["webhook-id"]}), "401"),
        (signed(body, headers=[*headers.items(), ("webhook-signature", signature)]), "401"),
        # Genuine, and not to be read.
        (signed(b""), "400"),
        (signed(b"{"), "400"),
        (signed(b"[]"), "400"),
        (signed(b'{"id": "evt_1"}'), "400"),
        (signed(b"\xff"), "400"),
        (signed(body.replace(b'"kind":"animated_image"', b'"kind":"__proto__"')), "400"),
        (signed(body.replace(b"urn:media-callbacks", b"urn:somebody-else")), "400"),
        # Mistakes of the application.
        (signed(body, secrets=[]), "RangeError: secrets: expected at least one, came none"),
        *(
            (
                signed(body, secrets=[secret, SECRET]),
                "RangeError: secrets: expected whsec_ and base64 of 24 to 64 bytes, came something else",
            )
            for secret in ("", "whsec_", "whsec_c2hvcnQ=", SECRET + "!", "whsec_" + SECRET)
        ),
        # By a queue.
        (unsigned(text), taken),
        (unsigned(by_sns(text)), taken),
        (unsigned(by_eventbridge(text)), taken),
        (unsigned(by_sns(by_eventbridge(text))), taken),
        (unsigned(by_mns(text)), taken),
        (unsigned(by_mns(text, content_format="JSON")), taken),
        (unsigned(by_mns(text, content_format="XML")), taken),
        (unsigned(by_aliyun_eventbridge(text)), taken),
        (unsigned(LATER.decode()), f"default media.hologram.succeeded {GIF.id}"),
        (unsigned(by_sns("")), "400"),
        (unsigned("{}"), "400"),
        (unsigned(by_mns("")), "400"),
        (unsigned(by_mns("[]")), "400"),
        (unsigned("eyJpZCI6!"), "400"),
        (unsigned("<Notification/>"), "400"),
        # An envelope is nothing that a request has.
        (signed(by_sns(text).encode()), "400"),
    ]


@pytest.mark.slow
def test_the_package_is_built_and_takes_what_the_service_sends(tmp_path):
    consumer = build(tmp_path)
    assert compile_file(consumer, "consumer.ts") == ""
    sent, expected = zip(*requests(), strict=True)
    node = run("node", "consumer.js", folder=consumer, given="".join(f"{json.dumps(one)}\n" for one in sent))
    assert node.returncode == 0, node.stderr
    assert node.stdout.splitlines() == list(expected)

    # And the compiler knows each kind.
    found = re.findall(r"^wrong\.ts\((\d+),\d+\): error (TS\d+):", compile_file(consumer, "wrong.ts"), re.MULTILINE)
    wrong = [
        (str(number), line.rpartition(" // ")[2])
        for number, line in enumerate((CONSUMER / "wrong.ts").read_text("utf-8").splitlines(), 1)
        if re.search(r" // TS\d+$", line)
    ]
    assert found == wrong

    # As the page shows it.
    (shown,) = (block.text for block in read_blocks("clients/typescript/README.md") if block.language == "typescript")
    (consumer / "shown.ts").write_text(shown, "utf-8")
    assert compile_file(consumer, "shown.ts") == ""
