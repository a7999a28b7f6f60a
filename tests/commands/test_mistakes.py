"""
What a new user types wrong in the first half hour: each is answered in one line that says what to do, and never by a
traceback. What a mistake in the configuration says in full is in ``tests/config``.
"""

import re
from collections.abc import Sequence

import pytest

from tests.commands.test_commands import run_command
from tests.factories.fake_admin import event_item, fake_admin, problem
from tests.factories.fake_admin import run_command as run_beside
from tests.factories.running import ADMIN_TOKEN, run_service

CONFIGURATION = """
[store]
url = "sqlite:///{folder}/media-callbacks.db"

[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "https://cb.example.com/callbacks/vod"
keys = ["${{VOD_KEY}}"]

[sources.gif]
product = "multimediaai"
transport = "token-url"
path = "/callbacks/gif"
url = "https://cb.example.com/callbacks/gif"
keys = ["1:${{GIF_URL_KEY}}"]

[sinks.orders]
kind = "webhook"
url = "https://orders.example.com/media"
secrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]
"""
ENVIRON = {"VOD_KEY": "Example1Key", "GIF_URL_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "media-callbacks.toml").write_text(CONFIGURATION.format(folder=tmp_path))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, which is one line."""
    output = capsys.readouterr()
    lines = (output.out + output.err).strip().splitlines()
    assert len(lines) == 1, output
    assert "Traceback" not in lines[0]
    return lines[0]


MINT = ("mint", "gif", "--application-id", "a", "--video-url", "https://h/1.mp4", "--video-name", "n")
COMMAND_LINES: Sequence[tuple[str, str]] = [
    ("", "COMMAND"),
    ("evnts list", 'did you mean "events"?'),
    ("Serve", 'did you mean "serve"?'),
    ("start", "expected one of init, serve"),
    ("help", "expected one of init, serve"),
    ("list events", "expected one of init, serve"),
    ("-version", "--help"),
    ("--verison", 'did you mean "--version"?'),
    ("events", "WHAT"),
    ("events lst", 'did you mean "list"?'),
    ("events list --sinks orders", 'did you mean "--sink"?'),
    ("events list --limit ten", "--limit: invalid int value: 'ten'"),
    ("events list --state failed", "--state: expected one of pending"),
    ("events list --kind gif", "--kind: expected one of animated_image"),
    ("events list --product VOD", 'did you mean "vod"?'),
    ("events list --since lastweek", "--since: expected 2026-11-20, "),
    ("events list --url 127.0.0.1:8081", "--url: expected http:// or https://"),
    ("events list --token-file nowhere", "--token-file: cannot read nowhere"),
    ("events show 12", "ID: expected evt_ and 34 hexadecimal digits, came 12; of a job: --job-id"),
    ("events replay", "expected IDs, or options that choose events"),
    ("sinks pause", "NAME"),
    ("sinks pause Orders", "NAME: expected the name of a sink"),
    ("sinks stop orders", "expected one of list, pause, resume, retry"),
    ("jobs expect", "PRODUCT, FAMILY"),
    ("jobs expect VOD snapshot 1", 'did you mean "vod"?'),
    ("jobs expect vod snapshot", "expected a JOB_ID, or --nonce"),
    ("jobs expect vod snapshot 1 --deadline tomorrow", "--deadline: expected a time in UTC such as"),
    ("jobs list --state done", "--state: expected one of"),
    ("report --hours 0", "--hours: expected more than 0"),
    ("simulate", "product"),
    ("simulate vdo", 'did you mean "vod"?'),
    ("simulate vod DynamicImageComplet", 'did you mean "DynamicImageComplete"?'),
    ("simulate vod --count 0", "--count and --rate: expected numbers above zero"),
    ("simulate vod --set Status", "--set: expected PATH=VALUE"),
    ("simulate vod --source vood", 'configured are: vod; did you mean "vod"?'),
    ("simulate ims", "sources: none of product ims takes callbacks; configured are: vod of vod, gif of multimediaai"),
    ("simulate gif", 'did you mean "multimediaai"?'),
    ("simulate vod --to 127.0.0.1:8080", "--to: expected http:// or https:// with a host, such as http://127.0.0.1:"),
    ("simulate vod --format XML", "--format: expected with mts alone"),
    ("simulate vod --signing-key key.pem", "--signing-key: expected with mts alone"),
    ("simulate multimediaai --job-id job-1", "--job-id: expected a number of at most 19 digits"),
    ("simulate cloud --fail", "--fail: expected without cloud alone"),
    ("simulate mts --make-signing-key", "sources: none of transport mns-push is configured"),
    ("init --product gif", 'did you mean "multimediaai"?'),
    ("simulate vod --loss 0.1", "--loss: expected together with cloud alone"),
    ("mint", "expected one of gif"),
    ("sinks", "expected one of list, pause, resume, retry"),
    (
        "mint gif --application-id a --video-url x --video-name n",
        "--video-url: expected a URL, scheme included, came x",
    ),
    ("serve --port 8080", "--port: there is no such option; set server.port in the configuration"),
    ("events list --source vod", "--source: there is no such option (see"),
    ("mint gif --video-name a", "--application-id, --video-url"),
    ("mint gif --aplication-id a --video-url b --video-name c", 'did you mean "--application-id"?'),
    (" ".join(MINT) + " --days 0", "--days: expected more than 0"),
    (" ".join(MINT) + " --source git", 'did you mean "gif"?'),
    ("explain", "FILE"),
    ("explain nowhere.txt", "nowhere.txt"),
    ("explain request.txt --source vood", 'came vood; did you mean "vod"?'),
    ("serve --config nowhere.toml", "nowhere.toml: there is no such file (named by --config); write one, "),
    ("check --online", 'did you mean "--offline"?'),
    ("serve --workers many", "--workers: expected a number from 1 to 64"),
    ("serve --workers 2", "--workers 2: SQLite serves one process"),
    ("serve media-callbacks.toml", "expected no further argument, came media-callbacks.toml"),
    ("schema --kind gif", "--kind: expected one of animated_image"),
    ("completion tcsh", "SHELL: expected one of bash, zsh, fish"),
    ("init --product vod", "media-callbacks.toml: there already; name another --dir"),
    ("init --dir new --product vod", "missing --url: "),
]


@pytest.mark.parametrize("line, said", COMMAND_LINES, ids=[line or "nothing" for line, _ in COMMAND_LINES])
def test_a_mistyped_command_line_is_answered_in_one_line(folder, capsys, line, said):
    (folder / "request.txt").write_text("POST /callbacks/vod HTTP/1.1\nHost: cb.example.com\n\n{}")
    assert run_command(line.split()) == 2
    assert said in told(capsys)


KEYS: Sequence[tuple[str, str, str]] = [
    # what is replaced, by what, and what is said
    ("[sources.vod]", "[source.vod]", 'source: unknown section; did you mean "sources"?'),
    ('product = "vod"', 'product = "vood"', 'did you mean "vod"?'),
    ('transport = "http"', 'transport = "https"', 'did you mean "http"?'),
    ('transport = "http"', 'transport = "mns-push"', "sources.vod."),
    ('path = "/callbacks/vod"', 'path = "callbacks/vod"', 'expected a path that begins with "/"'),
    ('path = "/callbacks/vod"', 'path = "/callbacks/vod/"', "expected a path without a slash at its end"),
    ('path = "/callbacks/vod"', 'paths = "/callbacks/vod"', 'did you mean "path"?'),
    ('path = "/callbacks/gif"', 'path = "/callbacks/vod"', "the same as sources.vod.path; give each source a path"),
    (
        'path = "/callbacks/vod"',
        'path = "/callbacks/gif/vod"',
        "takes all paths below it, and sources.vod.path is one; move one",
    ),
    (
        'url = "https://cb.example.com/callbacks/vod"',
        'url = "cb.example.com/callbacks/vod"',
        "expected an absolute URL",
    ),
    ('keys = ["${VOD_KEY}"]', 'keys = ["${VOD_KEYS}"]', "the environment variable VOD_KEYS is not set; set it"),
    ('keys = ["${VOD_KEY}"]', 'keys = "${VOD_KEY}"', "sources.vod.keys: expected a list of the vendor's keys"),
    ('keys = ["${VOD_KEY}"]', 'keys = ["file:secret"]', "expected file: and an absolute path"),
    ('keys = ["${VOD_KEY}"]', 'keys = ["file:/run/nowhere"]', "file:/run/nowhere can't be read: No such file"),
    ('keys = ["${VOD_KEY}"]', 'keys = ["abc"]', "each of at least 6 characters"),
    *(
        (f'["{name}"]', f'["{placeholder}"]', 'for the value of a variable write "${NAME}", with the braces')
        for name, placeholder in (
            ("${VOD_KEY}", "$VOD_KEY"),
            ("${VOD_KEY}", "%VOD_KEY%"),
            ("${VOD_KEY}", "<your-key>"),
            ("${VOD_KEY}", "ChangeMe"),
            ("1:${GIF_URL_KEY}", "1:$GIF_URL_KEY"),
            ("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "$ORDERS_SECRET"),
        )
    ),
    ("[store]", '[admin]\ntoken = "$ADMIN_TOKEN"\n[store]', "admin.token: expected the secret itself"),
    ('kind = "webhook"', 'kind = "webhook"\nbearer_token = "REPLACE-ME"', "bearer_token: expected the secret itself"),
    ('keys = ["${VOD_KEY}"]', "keys = [${VOD_KEY}]", "; put ${NAME} in quotes"),
    ('keys = ["${VOD_KEY}"]', "keys = []", "expected at least one key, came none; give the vendor's key"),
    ('keys = ["${VOD_KEY}"]', "", "sources.vod.keys: missing; expected a list of the vendor's keys"),
    ('"1:${GIF_URL_KEY}"', '"${GIF_URL_KEY}"', 'expected "<key id>:<base64>"'),
    ('"1:${GIF_URL_KEY}"', '"1:c2hvcnQ="', "make one with: openssl rand -base64 32"),
    ('kind = "webhook"', 'kind = "webhok"', 'did you mean "webhook"?'),
    ('"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="', '"whsec_short"', "make one with: "),
    ("[sinks.orders]", "[sinks.Orders]", "expected a name of a-z, 0-9 and hyphens"),
    ("[sinks.orders]", '[sinks.orders]\nmatch = { source = "vood" }', 'did you mean "vod"?'),
    ("[sinks.orders]", '[sinks.orders]\nmatch = { kind = "snapshots" }', 'did you mean "snapshot"?'),
    ("[store]", '[admin]\ntoken = "short"\n[store]', "make one with: openssl rand -hex 32"),
    ("[store]", '[server]\nport = "http"\n[store]', "server.port: expected a port from 0"),
    ("[store]", "[server]\nport = 80800\n[store]", "server.port: expected a port from 0"),
    ("[store]", "[admin]\nport = 8080\n[store]", "the same as server.port on the same address"),
    ("[store]", "[store", "expected TOML: "),
    ("sqlite:///", "sqlite:/", "expected sqlite:///relative/path.db"),
    ("[store]", '[server]\njournal_path = "/tmp/j"\n[store]', "needs a PostgreSQL store"),
]


@pytest.mark.parametrize("written, instead, said", KEYS, ids=[instead or "nothing" for _, instead, _ in KEYS])
def test_a_mistake_in_the_configuration_is_answered_in_one_line(folder, capsys, written, instead, said):
    file = folder / "media-callbacks.toml"
    text = file.read_text()
    assert written in text
    file.write_text(text.replace(written, instead))
    assert run_command(["serve"]) == 2
    output = capsys.readouterr()
    assert said in output.err
    # A line for each key that it makes wrong.
    assert all(
        re.match(r"[A-Za-z_.-]+(\[0\])?: |/.*: expected TOML|media-callbacks.toml: ", line)
        for line in output.err.splitlines()
    )
    assert run_command(["check", "--offline"]) == 2
    assert said in capsys.readouterr().out


def test_variables_that_are_not_set_are_told_all_at_once_with_the_file_that_has_them(folder, capsys, monkeypatch):
    for name in ENVIRON:
        monkeypatch.delenv(name)
    assert run_command(["serve"]) == 2
    assert "set -a" not in capsys.readouterr().err
    (folder / "media-callbacks.env").write_text("")
    assert run_command(["serve"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [f"variable {name} is not set" in line for name, line in zip(ENVIRON, lines, strict=False)] == [True, True]
    assert lines[2:] == ["to set all of its variables: set -a; . ./media-callbacks.env; set +a"]
    assert run_command(["serve", "--config", str(folder / "media-callbacks.toml")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f": set -a; . {folder}/media-callbacks.env; set +a")


def test_without_a_configuration_the_places_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["serve"], ["check"], ["simulate", "vod"]):
        assert run_command(command) == 2
        line = capsys.readouterr()
        assert f"looked for in {tmp_path} and as /etc/media-callbacks/media-callbacks.toml" in line.out + line.err
        assert "media-callbacks init" in line.out + line.err


@pytest.mark.parametrize(
    "line, status, detail",
    [
        ("events list --sink order", 404, 'no sink has this name; did you mean "orders"?'),
        ("sinks pause order", 404, 'no sink has this name; did you mean "orders"?'),
        ("jobs expect ims snapshott 1", 422, 'family: did you mean "snapshot"?'),
        ("events show evt_0aa3ead8ad35b2f7eb16bec2f5371d1700", 404, "no event has this id"),
    ],
)
async def test_what_the_service_does_not_know_is_told_in_its_words(capsys, line, status, detail):
    async with fake_admin() as admin:
        for route in ("GET /v1/events", "POST /v1/sinks/order/pause", "POST /v1/jobs"):
            admin.answers[route] = problem(status, detail)
        assert await admin.run(*line.split()) == 1
    assert told(capsys) == detail


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ("1", "FAMILY: expected one; --media-id: missing"),
        ("1 2", "FAMILY of 1: expected one; --media-id of 2: missing"),
    ],
)
async def test_what_is_wrong_with_jobs_is_told_by_their_options(capsys, ids, said):
    async with fake_admin() as admin:
        second = len(ids.split()) - 1
        admin.answers["POST /v1/jobs"] = problem(422, f"0.family: expected one; {second}.media_id: missing")
        assert await admin.run("jobs", "expect", "vod", "gif", *ids.split()) == 1
    assert told(capsys) == said


async def test_the_port_for_callbacks_is_not_taken_for_the_admin_api(capsys, tmp_path):
    async with run_service(
        tmp_path, changes={"admin.token": ADMIN_TOKEN, "admin.jobs_token": "jobs-token-71cd02b8"}
    ) as it:
        assert await run_beside("events", "list", "--url", f"http://{it.address}") == 1
        assert "is that admin.port, and not server.port?" in told(capsys)
        (tmp_path / "token").write_text("jobs-token-71cd02b8")
        token = ("--token-file", str(tmp_path / "token"))
        assert await run_beside("events", "list", "--url", f"http://{it.admin_address}", *token) == 1
        assert "this is admin.jobs_token, which opens /v1/jobs alone; set the right one" in told(capsys)


async def test_a_service_that_does_not_run_is_told_with_what_to_do(capsys):
    assert await run_beside("sinks", "list", "--url", "http://127.0.0.1:1") == 1
    assert re.search("can't be reached at .* Is the service running\\?", told(capsys))


async def test_a_token_that_is_missing_or_wrong_is_told_with_where_it_is_set(capsys, tmp_path):
    (tmp_path / "token").write_text("another token")
    async with fake_admin() as admin:
        admin.answers["GET /v1/events"] = lambda _: problem(401, "expected a token")
        assert await admin.run("events", "list") == 1
        assert "none was given; set one: --token-file or MEDIA_CALLBACKS_ADMIN_TOKEN" in told(capsys)
        assert await admin.run("events", "list", "--token-file", str(tmp_path / "token")) == 1
        assert "this token is not it; set the right one" in told(capsys)
        admin.answers["GET /v1/events"] = {"events": [event_item(1)], "cursor": None}
        assert await admin.run("events", "list") == 0
