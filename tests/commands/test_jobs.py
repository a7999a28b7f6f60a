"""``jobs`` and ``mint gif --register``, as operators and scripts type them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from media_callbacks.sources.transports.url_tokens import bind_task
from tests.factories.fake_admin import (
    Asked,
    FakeAdmin,
    fake_admin,
    job_detail,
    job_hit,
    job_item,
    make_id,
    problem,
    refused_item,
    run_command,
)
from tests.factories.operators import NOW, operating, serving
from tests.factories.running import make_tables, to_toml

JOBS_TOKEN = "jobs-token-6b1d0e8a4c7f"
ADMIN_TOKEN = "admin-token-40aa21c7"
NONCE = "0f1e2d3c4b5a69788796a5b4"
MINT = ("--application-id", "app", "--video-url", "https://media.example.com/in.mp4", "--video-name", "holiday")
ENDED = job_item(
    2,
    state="healed",
    transport="query",
    event_id=make_id(2),
    outcome="failed",
    ended_at="2026-11-20T10:00:05Z",
    attempts=1,
)
ODD = job_item(3, state="overdue", job_id="a\x1b[2J\t[red]b", attempts=2)
MINTED = job_item(4, product="multimediaai", family="animated_image", job_id=None, nonce=NONCE)


def register(asked: Asked) -> Any:
    """As the API does: a job for a job, a list for a list."""
    if isinstance(asked.document, list):
        return [job_item(number, job_id=job.get("job_id")) for number, job in enumerate(asked.document, 1)]
    return job_item(1, job_id=asked.document.get("job_id"))


@pytest.fixture
async def admin():
    async with fake_admin() as fake:
        fake.answers["POST /v1/jobs"] = lambda asked: _json(register(asked))
        fake.answers["GET /v1/jobs"] = {"jobs": [MINTED, ODD, ENDED, job_item(1)], "cursor": None}
        yield fake


def _json(document: Any) -> Any:
    return web.json_response(document)


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("media_callbacks.commands.jobs.utc_now", lambda: NOW)
    monkeypatch.setattr("media_callbacks.commands.jobs.requested_by", lambda: "kim@desk")


def write_config(folder: Path, **changes: Any) -> str:
    path = folder / "config.toml"
    path.write_text(to_toml(make_tables(folder, {}, {name.replace("__", "."): it for name, it in changes.items()})))
    return str(path)


def posted(admin: FakeAdmin) -> list[Any]:
    return [asked.document for asked in admin.asked_for("POST /v1/jobs")]


# jobs expect


async def test_jobs_are_expected_with_all_that_is_said_of_them(admin, capsys):
    options = ["--media-id", "m", "--deadline", "2h", "--user-data", "7", "--account", "second"]
    assert await admin.run("jobs", "expect", "vod", "transcode", "job-1", "job-2", *options) == 0
    common = {"product": "vod", "family": "transcode", "media_id": "m", "user_data": "7", "account": "second"}
    common |= {"deadline": "2026-11-21T06:00:00Z", "requested_by": "kim@desk"}
    assert posted(admin) == [[common | {"job_id": "job-1"}, common | {"job_id": "job-2"}]]
    row = ["2026-11-20T09:00:00Z", "vod", "transcode", "job-1", "expected", "2026-11-20T10:00:00Z", "-", "-", "-", "0"]
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [row, [*row[:3], "job-2", *row[4:]]]


async def test_what_is_not_said_is_left_to_the_service(admin, capsys):
    assert await admin.run("jobs", "expect", "mts", "Transcode", "job-1", "--json") == 0
    assert posted(admin) == [[{"product": "mts", "family": "Transcode", "job_id": "job-1", "requested_by": "kim@desk"}]]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [job_item(1)]


async def test_more_jobs_than_the_service_takes_at_once_are_told_in_parts(admin, capsys):
    ids = [f"job-{number}" for number in range(1001)]
    assert await admin.run("jobs", "expect", "vod", "transcode", *ids) == 0
    assert [len(documents) for documents in posted(admin)] == [1000, 1]
    assert [line.split("\t")[3] for line in capsys.readouterr().out.splitlines()] == ids


async def test_a_task_is_bound_to_the_nonce_of_its_url(admin):
    arguments = ("jobs", "expect", "multimediaai", "animated_image")
    assert await admin.run(*arguments, "123", "--nonce", NONCE) == 0
    assert await admin.run(*arguments, "--nonce", NONCE) == 0
    minted = {"product": "multimediaai", "family": "animated_image", "nonce": NONCE, "requested_by": "kim@desk"}
    assert posted(admin) == [[minted | {"job_id": "123"}], [minted]]


@pytest.mark.parametrize(
    ("deadline", "asked"),
    [
        ("30m", "2026-11-21T04:30:00Z"),
        ("7d", "2026-11-28T04:00:00Z"),
        ("2026-11-22", "2026-11-22T00:00:00Z"),
        ("2026-11-21T10:00:00+08:00", "2026-11-21T02:00:00Z"),
    ],
)
async def test_a_deadline_is_a_time_or_how_far_ahead_it_is(admin, deadline, asked):
    assert await admin.run("jobs", "expect", "vod", "transcode", "job-1", "--deadline", deadline) == 0
    assert posted(admin)[0][0]["deadline"] == asked


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["expect", "vod", "transcode"], "expected a JOB_ID, or --nonce"),
        (["expect", "vod", "x", "a", "b", "--nonce", NONCE], "--nonce: expected with one JOB_ID at most, came 2"),
        (["expect", "oss", "x", "a"], "PRODUCT: expected one of vod, ims, mts, multimediaai; came oss"),
        (["expect", "vod", "x", "a", "--deadline", "soon"], "--deadline: expected a time in UTC such as"),
        (["expect", "vod", "x", "a", "--deadline", "9999999w"], "--deadline: expected a time in UTC such as"),
        (["expect", "vod", "x", "a", "--deadline", ""], "--deadline: expected a time in UTC such as"),
        (["list", "--limit", "0"], "--limit: expected a number above zero, came 0"),
        (["list", "--state", "lost"], "--state: expected one of "),
        (["list", "--since", "today", "--until", "yesterday"], "--since, --until: expected a time and a later one"),
        ([], "the following arguments are required: WHAT"),
    ],
    ids=str,
)
async def test_wrong_usage_is_said_so_and_nothing_asked(admin, capsys, arguments, text):
    assert await run_command("jobs", *arguments, *(["--url", admin.url] if arguments else [])) == 2
    assert text in capsys.readouterr().err
    assert admin.asked == []


async def test_every_mistake_that_the_service_found_is_printed(admin, capsys):
    told = "0.family: expected one of vod: transcode; 1.job_id: String should have at most 256 characters"
    admin.answers["POST /v1/jobs"] = problem(422, told)
    assert await admin.run("jobs", "expect", "vod", "x", "a", "b" * 300) == 1
    told = "FAMILY of x: expected one of vod: transcode; JOB_ID of bb: String should have at most 256 characters"
    assert capsys.readouterr().err == told.replace("x:", "a:").replace("bb", "b" * 40) + "\n"


async def test_an_answer_of_another_shape_is_said_so(admin, capsys):
    admin.answers["POST /v1/jobs"] = lambda _: _json({"jobs": []})
    assert await admin.run("jobs", "expect", "vod", "x", "a") == 1
    assert "is not the admin API of media-callbacks" in capsys.readouterr().err
    admin.answers["GET /v1/events"] = lambda _: _json([])
    assert await admin.run("events", "list") == 1
    assert "is not the admin API of media-callbacks" in capsys.readouterr().err


# jobs list


async def test_jobs_are_listed_one_to_a_line(admin, capsys):
    assert await admin.run("jobs", "list") == 0
    registered, deadline = "2026-11-20T09:00:00Z", "2026-11-20T10:00:00Z"
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [registered, "multimediaai", "animated_image", NONCE, "expected", deadline, "-", "-", "-", "0"],
        [registered, "vod", "transcode", "a\\x1b[2J\\t[red]b", "overdue", deadline, "-", "-", "-", "2"],
        [registered, "vod", "transcode", "job-2", "healed", deadline, "query", "failed", make_id(2), "1"],
        [registered, "vod", "transcode", "job-1", "expected", deadline, "-", "-", "-", "0"],
    ]
    assert await admin.run("jobs", "list", "--json") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [4, 3, 2, 1]


async def test_every_condition_is_asked_for_by_its_name(admin):
    options = ["--state", "overdue", "--product", "mts", "--job-id", "j&=+ ö", "--since", "yesterday", "--until", "2h"]
    assert await admin.run("jobs", "list", *options, "--limit", "7") == 0
    assert admin.asked[0].query == {
        "state": "overdue",
        "product": "mts",
        "job_id": "j&=+ ö",
        "since": "2026-11-20T00:00:00Z",
        "until": "2026-11-21T02:00:00Z",
        "limit": "7",
    }


async def test_a_list_on_a_terminal_is_a_table_that_says_when_there_is_more(admin, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert await admin.run("jobs", "list", "--limit", "3") == 0
    out = capsys.readouterr().out
    for text in (f"nonce {NONCE}", "vod transcode", "a\\x1b[2J\\t[red]b", "failed by query", make_id(2), "healed"):
        assert text in out
    assert "due 2026-11-20 10:00:00, asked 2 times" in out
    assert "these are the newest 3; there are more: --limit N" in out
    assert "job-1" not in out
    assert await admin.run("jobs", "list", "--limit", "4") == 0
    assert "there are more" not in capsys.readouterr().out
    admin.answers["GET /v1/jobs"] = {"jobs": [], "cursor": None}
    assert await admin.run("jobs", "list") == 0
    assert capsys.readouterr().out == "no job fits\n"


# The token


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"admin__jobs_token": JOBS_TOKEN}, JOBS_TOKEN),
        ({"admin__jobs_token": JOBS_TOKEN, "admin__token": ADMIN_TOKEN}, ADMIN_TOKEN),
        ({"admin__jobs_token": [JOBS_TOKEN, "the-jobs-token-before"]}, JOBS_TOKEN),
        (
            {"admin__jobs_token": JOBS_TOKEN, "admin__token": [ADMIN_TOKEN, "the-admin-token-before"]},
            ADMIN_TOKEN,
        ),
    ],
    ids=["jobs_token", "both", "jobs_tokens", "tokens"],
)
async def test_the_token_is_that_of_operators_or_else_that_of_applications(admin, tmp_path, tokens, expected):
    config = write_config(tmp_path, admin__port=int(admin.url.rpartition(":")[2]), **tokens)
    assert await run_command("jobs", "list", "--config", config) == 0
    assert admin.asked[0].authorization == f"Bearer {expected}"


async def test_the_commands_and_the_service_understand_each_other(tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text(JOBS_TOKEN)
    async with operating(tmp_path) as operators, serving(operators, token=ADMIN_TOKEN, jobs_token=JOBS_TOKEN) as url:
        where = ("--url", url, "--token-file", str(token))
        assert await run_command("jobs", "expect", "vod", "transcode", "job-1", "--deadline", "1d", *where) == 0
        assert await run_command("jobs", "expect", "vod", "none", "job-2", *where) == 1
        assert "expected one of vod: animated_image, transcode" in capsys.readouterr().err
        assert await run_command("jobs", "list", "--state", "expected", *where) == 0
        assert capsys.readouterr().out.split("\t")[3] == "job-1"
        assert await run_command("report", *where) == 1
        assert "wants its token (admin.token), and this is admin.jobs_token" in capsys.readouterr().err
        token.write_text(ADMIN_TOKEN)
        assert await run_command("report", "--since", "2026-11-21", "--until", "2026-11-22", *where) == 0
        assert capsys.readouterr().out.splitlines()[-1].split("\t")[:5] == ["total", "vod", "-", "1", "0"]


# mint gif --register


async def test_a_minted_url_is_registered_before_it_is_printed(admin, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("media_callbacks.commands.mint.utc_now", lambda: NOW)
    config = write_config(tmp_path, sources__gif__account="second")
    options = ("--config", config, "--register", "--deadline", "3h", "--json")
    assert await admin.run("mint", "gif", *MINT, *options) == 0
    minted = json.loads(capsys.readouterr().out)
    bind = bind_task("app", "https://media.example.com/in.mp4", minted["video_name"])
    assert posted(admin) == [
        {
            "product": "multimediaai",
            "family": "animated_image",
            "nonce": minted["nonce"],
            "bind": bind.hex(),
            "account": "second",
            "deadline": "2026-11-21T07:00:00Z",
        }
    ]
    assert minted["video_name"] == f"holiday#{minted['nonce']}"
    assert await admin.run("mint", "gif", *MINT, "--config", config, "--register") == 0
    assert "deadline" not in posted(admin)[1]
    assert await admin.run("mint", "gif", *MINT, "--config", config) == 0
    assert len(admin.asked) == 2


async def test_a_url_that_could_not_be_registered_is_not_printed(admin, tmp_path, capsys):
    admin.answers["POST /v1/jobs"] = problem(503, "the store is away")
    assert await admin.run("mint", "gif", *MINT, "--config", write_config(tmp_path), "--register") == 1
    printed = capsys.readouterr()
    assert (printed.out, re.sub(r"http://\S+", "URL", printed.err)) == (
        "",
        "the admin API at URL can't answer just now (HTTP 503): the store is away\n",
    )


async def test_a_deadline_is_for_a_registration(admin, tmp_path, capsys):
    assert await admin.run("mint", "gif", *MINT, "--config", write_config(tmp_path), "--deadline", "3h") == 2
    assert "--deadline: only together with --register" in capsys.readouterr().err


# jobs show


def found(admin: FakeAdmin, *hits: Any, **of_job: Any) -> None:
    admin.answers["GET /v1/search"] = {"hits": list(hits)}
    admin.answers["GET /v1/jobs/vod/job-1"] = job_detail(1, **of_job)


async def test_the_only_job_that_is_found_is_shown_in_the_order_of_time(admin, capsys):
    found(admin, job_hit(1, found_by="user_data", user_data="order-7"), job_hit(2, found_by="user_data_prefix"))
    assert await admin.run("jobs", "show", "order-7") == 0
    assert admin.asked_for("GET /v1/search")[0].query == {"q": "order-7", "limit": "50"}
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["2026-11-20T09:00:00Z", "-", "registered", "registered as vod transcode"],
        ["2026-11-20T10:00:00.500Z", "3600.5", "attempted", "delivered to orders (attempt 1)"],
    ]
    assert await admin.run("jobs", "show", "order-7", "--json") == 0
    assert json.loads(capsys.readouterr().out) == job_detail(1)


async def test_of_several_that_are_found_alike_each_is_listed(admin, capsys):
    found(admin, job_hit(1, found_by="media_id"), job_hit(2, found_by="media_id", product="ims"))
    assert await admin.run("jobs", "show", "media-1") == 0
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["vod", "job-1"],
        ["ims", "job-2"],
    ]
    assert await admin.run("jobs", "show", "media-1", "--json") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["job-1", "job-2"]
    assert await admin.run("jobs", "show", "media-1", "--product", "vod") == 0
    assert "registered as vod transcode" in capsys.readouterr().out


async def test_a_job_that_nobody_knows_is_an_error(admin, capsys):
    found(admin)
    assert await admin.run("jobs", "show", "x") == 1
    err = capsys.readouterr().err
    assert err.startswith("nothing is known of this: ")
    assert "Nor does it stand in a refused request that is kept" in err


async def test_a_job_whose_callback_was_refused_says_so(admin, capsys):
    item = refused_item(7, source="vod\x1b[2J", cause="key_case")
    admin.answers["GET /v1/search"] = {"hits": [], "refused": [item, refused_item(6)]}
    assert await admin.run("jobs", "show", "x") == 1
    err = capsys.readouterr().err
    assert "stands in 2 refused requests, the newest of 2026-11-20T10:00:00Z through vod\\x1b[2J" in err
    assert "(signature_mismatch, key_case). What to do: media-callbacks refused show 7" in err


async def test_a_terminal_is_told_how_to_go_on(admin, capsys, monkeypatch):
    odd = job_hit(2, found_by="user_data_prefix", user_data="[red]\x1b[2J", id="a\x1b[2J")
    found(admin, job_hit(1), odd)
    admin.answers["GET /v1/search"]["refused"] = [refused_item(7)]
    monkeypatch.setattr("media_callbacks.commands.console.output.can_draw", lambda _: True)
    monkeypatch.setattr("media_callbacks.commands.jobs.can_draw", lambda _: True)
    assert await admin.run("jobs", "show", "job-1") == 0
    out = capsys.readouterr().out
    assert "+1 h" in out
    assert f"media-callbacks events show {make_id(1)}" in out
    assert "receipt 2; what came: media-callbacks receipts show 2" in out
    assert "1 further found less exactly: media-callbacks jobs show ID --product PRODUCT" in out
    assert "What to do: media-callbacks refused show 7" in out
    assert "a\\x1b[2J" in out
    assert "\x1b[2J" not in out
