"""The distribution without its extras, as applications install it: pydantic and the standard library, and nothing else."""

import asyncio
import fnmatch
import os
import pty
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.documentation.test_configurations import ENVIRON
from tests.factories.fake_admin import event_item, fake_admin, job_item, make_id, make_report, sink_item
from tests.factories.running import PATIENCE_S

ROOT = Path(__file__).parents[1]
CONFIG = ("--config", str(ROOT / "deploy/media-callbacks.toml"))
MINT = (
    "mint",
    "gif",
    *CONFIG,
    "--application-id",
    "a",
    "--video-url",
    "https://media.example.com/b",
    "--video-name",
    "c",
)
# pydantic and what it needs itself.
CORE = ("annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection")
HINT = r"this needs the extra server, of which [a-z-]+ is not installed: pip install 'media-callbacks\[server\]'"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the packages of the bare distribution alone, for a Python without site-packages."""
    folder: Path = tmp_path_factory.mktemp("installed")
    for name in ("media_callbacks", *CORE):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin) if spec.submodule_search_locations is None else Path(spec.origin).parent
        (folder / package.name).symlink_to(package)
    (metadata,) = Path(sysconfig.get_path("purelib")).glob("media_callbacks-*.dist-info")
    (folder / metadata.name).symlink_to(metadata)
    return folder


def run_python(installed: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRON | {"PYTHONPATH": str(installed)},
        stdin=subprocess.DEVNULL,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_it_depends_on_pydantic_alone():
    needed = [requirement for requirement in requires("media-callbacks") or () if "extra ==" not in requirement]
    assert [re.split(r"[^\w-]", requirement)[0] for requirement in needed] == ["pydantic"]


def test_an_application_reads_and_verifies_events_registers_jobs_and_mints(installed):
    found = run_python(installed, str(ROOT / "tests/client/application.py"))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "an application needs no extra\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["schema"], MINT], ids=" ".join)
def test_commands_that_need_no_extra_do_without(installed, arguments):
    found = run_python(installed, "-m", "media_callbacks", *arguments)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout


@pytest.mark.parametrize(
    "arguments",
    [["events", "list"], ["jobs", "expect", "vod", "transcode", "job-1"], ["report"], ["sinks", "pause", "orders"]],
    ids=" ".join,
)
async def test_the_service_is_asked_from_where_it_is_not_installed(installed, arguments):
    ours, terminal = pty.openpty()
    async with fake_admin() as admin:
        admin.answers = {
            "GET /v1/events": {"events": [event_item(1)], "cursor": None},
            "POST /v1/jobs": [job_item(1)],
            "GET /v1/report": make_report(),
            "POST /v1/sinks/orders/pause": sink_item("orders", state="paused"),
        }
        command = ("-m", "media_callbacks", *arguments, "--url", admin.url)
        found = await asyncio.to_thread(run_python, installed, *command, stdout=terminal)
    os.close(terminal)
    assert (found.returncode, found.stderr) == (0, "")
    # A terminal, and nothing to draw with.
    assert os.read(ours, 1)
    os.close(ours)


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["demo"],
        ["simulate", "vod"],
        ["check", "--offline"],
        ["explain", "README.md"],
        ["migrate"],
        ["purge"],
        ["events", "reparse"],
        ["events", "replay", make_id(1), "--to", "http://127.0.0.1:9", "--yes"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_of_the_service_say_which_extra_is_missing(installed, arguments):
    found = run_python(installed, "-m", "media_callbacks", *arguments)
    assert (found.returncode, found.stdout) == (1, "")
    assert re.fullmatch(rf"media-callbacks: {HINT}\n", found.stderr)


def test_so_does_the_application_for_other_servers(installed):
    found = run_python(installed, "-c", "from media_callbacks.app import create_app")
    assert found.returncode == 1
    assert re.fullmatch(f"ImportError: {HINT}", found.stderr.splitlines()[-1])


def test_what_is_missing_beside_the_extra_is_not_put_down_to_it(capsys, monkeypatch):
    from media_callbacks.__main__ import main

    monkeypatch.setitem(sys.modules, "media_callbacks.commands.schema", None)
    with pytest.raises(ModuleNotFoundError, match="schema"):
        main(["schema"])


def test_a_copy_that_is_not_installed_knows_no_extras(installed, tmp_path):
    (tmp_path / "media_callbacks").symlink_to(installed / "media_callbacks")
    found = run_python(tmp_path, "-m", "media_callbacks", "demo")
    assert re.fullmatch(r"ModuleNotFoundError: No module named '\w+'", found.stderr.splitlines()[-1])


@pytest.mark.parametrize(("kind", "prefix"), [("wheel", ""), ("sdist", "media_callbacks-*/service/")])
def test_what_is_no_python_is_in_it_too(tmp_path, kind, prefix):
    """SQL, and what the page is made of."""
    build = f"import sys, uv_build; print(uv_build.build_{kind}(sys.argv[1]))"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PATH": path}, timeout=PATIENCE_S)
    (built,) = tmp_path.iterdir()
    if kind == "wheel":
        with zipfile.ZipFile(built) as archive:
            names = archive.namelist()
    else:
        with tarfile.open(built) as archive:
            names = archive.getnames()
    package = ROOT / "service/media_callbacks"
    files = [file for file in package.rglob("*") if file.suffix in (".css", ".html", ".js", ".sql", ".svg")]
    assert len({file.suffix for file in files}) == 5
    for file in files:
        assert fnmatch.filter(names, f"{prefix}media_callbacks/{file.relative_to(package)}"), file
