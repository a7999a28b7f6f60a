"""``media-callbacks completion``, as shells use it."""

import shutil
import subprocess

import pytest

from media_callbacks.__main__ import COMMANDS, main
from media_callbacks.commands.completion import SCRIPTS
from media_callbacks.model.kinds import KINDS, PRODUCTS


@pytest.fixture
def script(capsys, tmp_path):
    def write(shell):
        assert main(["completion", shell]) == 0
        path = tmp_path / f"completion.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return write


@pytest.mark.parametrize(
    "typed, offered, others",
    [
        ("", set(COMMANDS), {"list"}),
        ("ev", {"events"}, {"explain"}),
        ("events ", {"list", "show", "replay", "reparse", "--help"}, {"--sink", "jobs"}),
        ("events list --s", {"--state", "--sink", "--since"}, {"--json"}),
        ("events list --kind ", set(KINDS), {"--json"}),
        ("events replay --state de", {"dead"}, set()),
        ("jobs expect ", set(PRODUCTS), set()),
        ("jobs expect vod --dea", {"--deadline"}, set()),
        ("simulate v", {"vod"}, set()),
        ("mint gif --app", {"--application-id"}, set()),
        ("completion ", set(SCRIPTS), set()),
        ("serve --config /etc/host", {"/etc/hosts"}, set()),
    ],
)
def test_bash_is_offered_what_fits(script, typed, offered, others):
    code = f"""
source {script("bash")}
COMP_WORDS=(media-callbacks {typed}{"''" if typed.endswith(" ") or not typed else ""})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_media_callbacks
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p media-callbacks >&2
"""
    found = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert offered <= set(found.stdout.split())
    assert not others & set(found.stdout.split())
    assert "-F _media_callbacks media-callbacks" in found.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_scripts(script, shell):
    path = script(shell)
    if shutil.which(shell) is None:
        # At least every word is there, and no quote is left open.
        text = path.read_text()
        assert text.count("'") % 2 == 0
        assert all(word in text for word in (*COMMANDS, *KINDS, "application-id"))
        return
    subprocess.run([shell, "-n", str(path)], check=True, timeout=60)
