"""What is exported from the lock is what the lock says, and nothing installs by a name that no index has."""

import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=sysconfig.get_path("scripts"))


def uv(*arguments: str) -> str:
    assert UV is not None, "the environment of `make test` has uv"
    done = subprocess.run(
        [UV, *arguments, "--offline", "--project", ROOT, "--quiet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr}run `make lock`"
    return done.stdout


def test_the_lock_fits_the_project():
    uv("lock", "--check")


@pytest.mark.parametrize(
    ("name", "chosen"), [("service.txt", ["--no-dev", "--all-extras"]), ("tools.txt", ["--only-group", "tools"])]
)
def test_what_containers_and_pip_install_is_what_the_lock_says(name: str, chosen: list[str]):
    exported = uv("export", "--locked", "--no-emit-project", "--no-annotate", "--no-header", *chosen)
    assert exported == (ROOT / "requirements" / name).read_text("utf-8"), "stale: run `make export`"


def test_every_locked_package_has_its_hashes():
    for name in ("service.txt", "tools.txt"):
        packages = (ROOT / "requirements" / name).read_text("utf-8").replace("\\\n", " ").splitlines()
        assert packages
        assert [line for line in packages if "==" not in line or "--hash=sha256:" not in line] == []


def test_the_changelog_has_a_section_for_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text("utf-8")
