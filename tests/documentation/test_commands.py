"""
Every command on the pages is run as it stands there, in the order of the page: one shell a page, in a folder with the
files that the page shows. A page that shows no configuration finds a service running, with some events.

    <!-- not run: why -->               above a block: it needs what a test has not
    <!-- runs on, listening on 8080 --> above a block: it runs beside the rest of the page, which waits for that port
    <!-- printed -->                    above a block of text: one of the commands before prints these lines
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, Block, read_blocks
from tests.factories.tools import need_tool

# Ports that the pages name; each test has others in their place.
PORTS = ("8080", "8081", "8090", "3000", "4222", "8222", "5672", "9092")
PATIENCE_S = 120
_RUNS_ON = re.compile(r"runs on, listening on ([0-9]+)")
# Keys and tokens, which are others each time.
_RANDOM = re.compile(r"\b[0-9A-Za-z]{32}\b")
_BEGIN = r"""
set -euo pipefail
listening() { until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do kill -0 $!; sleep 0.02; done; }
"""

_CONFIGURATION = """
[admin]
token = "${ADMIN_TOKEN}"

[vendor.main]
region = "cn-shanghai"

[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "https://cb.example.com/callbacks/vod"
keys = ["Example1Key"]

[sinks.orders]
kind = "webhook"
url = "http://127.0.0.1:3000/nobody"
secrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]
"""
# Nothing listens where the vendor is asked, and the sink leads nowhere.
_ENVIRONMENT = """
export ADMIN_TOKEN=0123456789abcdef
media-callbacks() { [ "$1" = check ] && set -- check --offline; command media-callbacks "$@"; }
"""
_SERVICE = """
media-callbacks serve >&2 &
listening 8080
media-callbacks simulate vod DynamicImageComplete --job-id dbb170e695b8af6a1aa69019b3895a34 --fail
"""
_USES_SERVICE = re.compile(
    r"\b(?:media-callbacks (?:backup|events|explain --last|jobs|purge|report|sinks|sources)|curl|sqlite3)\b"
)


def shell_blocks(page: str) -> list[Block]:
    return [block for block in read_blocks(page) if block.language == "sh"]


# Run where there is what they need.
ELSEWHERE = ("docs/sinks/kafka.md", "docs/sinks/rabbitmq.md")
RUN = [page for page in PAGES if page not in ELSEWHERE and any(block.is_run for block in shell_blocks(page))]


def has_configuration(page: str) -> bool:
    """Shown, or made by a command."""
    made = any("media-callbacks init" in block.text and "--dir" not in block.text for block in shell_blocks(page))
    return made or any(block.file == "media-callbacks.toml" for block in read_blocks(page))


def write_script(page: str) -> str:
    script = _BEGIN
    if not has_configuration(page):
        uses_service = any(_USES_SERVICE.search(block.text) for block in shell_blocks(page) if block.is_run)
        script += _ENVIRONMENT + _SERVICE * uses_service
    written = set[str]()
    for block in shell_blocks(page):
        # What a page says twice is one command.
        if not block.is_run or block.text in written:
            continue
        written.add(block.text)
        script += f"echo '== {block}'\n"
        runs_on = _RUNS_ON.fullmatch(block.note)
        script += f"(\n{block.text}) >&2 &\nlistening {runs_on[1]}\n" if runs_on else block.text
    return script


def other_ports() -> dict[str, str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        return {port: str(each.getsockname()[1]) for port, each in zip(PORTS, sockets, strict=True)}


def moved(text: str, ports: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: ports[found[1]], text)


def prepare(page: str, folder: Path, ports: dict[str, str]) -> Path:
    """The page's files and its script."""
    for name in ("deploy", "schemas"):
        (folder / name).symlink_to(ROOT / name)
    for block in read_blocks(page):
        if block.file is not None and block.is_run:
            (folder / block.file).write_text(moved(block.text, ports), "utf-8")
    if not has_configuration(page):
        (folder / "media-callbacks.toml").write_text(moved(_CONFIGURATION, ports), "utf-8")
    script = folder / "page.sh"
    script.write_text(moved(write_script(page), ports), "utf-8")
    return script


@pytest.mark.parametrize("page", RUN)
def test_commands_do_what_they_say(page: str, tmp_path: Path):
    run_page(page, tmp_path, other_ports())


def run_page(page: str, folder: Path, ports: dict[str, str]) -> None:
    script = prepare(page, folder, ports)
    for tool in ("bash", "curl", "sqlite3", "openssl"):
        if re.search(rf"\b{tool}\b", script.read_text("utf-8")):
            need_tool(tool)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TERM": "dumb",
        "MEDIA_CALLBACKS__SERVER__HOST": "127.0.0.1",
        "MEDIA_CALLBACKS__SERVER__PORT": ports["8080"],
        "MEDIA_CALLBACKS__ADMIN__PORT": ports["8081"],
        # Nothing here outlasts its page.
        "MEDIA_CALLBACKS__SERVER__DRAIN_S": "0",
    }
    output = folder / "output"
    with output.open("wb") as file, subprocess.Popen(
        ["bash", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            code = shell.wait(PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    said = output.read_text("utf-8", "replace")
    assert code == 0, said[-8000:]
    printed = {_RANDOM.sub("…", line) for line in said.splitlines()}
    for block in read_blocks(page):
        if block.note == "printed":
            assert [
                line for line in moved(block.text, ports).splitlines() if _RANDOM.sub("…", line) not in printed
            ] == []


@pytest.mark.parametrize("page", PAGES)
def test_notes_of_blocks_are_understood(page: str):
    for block in read_blocks(page):
        known = {"sh": rf"not run: .+|{_RUNS_ON.pattern}", "text": "printed"}.get(block.language, "not run: .+")
        assert not block.note or re.fullmatch(known, block.note), f"{block}: {block.note}"
        assert block.language, f"{block}: what is it?"
        # Whoever pastes it has no prompt to paste.
        assert block.language != "sh" or not re.search(r"^[$#>] ", block.text, re.MULTILINE), block
