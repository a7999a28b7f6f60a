"""Whether it is well, by one command."""

import json

import pytest

from tests.factories.fake_admin import fake_admin


@pytest.fixture
async def admin():
    async with fake_admin() as fake:
        yield fake


def make_status(*troubles):
    return {
        "at": "2026-11-21T04:00:00Z",
        "is_well": not any(trouble["is_wrong"] for trouble in troubles),
        "text": "Wrong: sink bus." if troubles else "All is well.",
        "troubles": troubles,
        "expected": 3,
        "overdue": 2,
        "unknown": 1,
        "held": 4,
        "journaled": 0,
        "size_bytes": 1,
        "free_bytes": None,
        "sinks": [],
        "sources": [],
    }


TROUBLE = {
    "is_wrong": True,
    "what": "sink",
    "name": "bus",
    "text": "1 event was given up; it said: \x1b[2J[red]no",
    "since": "2026-11-21T03:00:00Z",
    "todo": "mend the destination",
}


async def test_where_all_is_well_it_succeeds(admin, capsys):
    admin.answers["GET /v1/status"] = make_status()
    assert await admin.run("status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "All is well.",
        "jobs: 3 expected, 2 overdue, 1 unknown of the last day; held: 4; journal: 0",
    ]


async def test_where_something_is_wrong_it_fails_and_says_what_to_do(admin, capsys):
    admin.answers["GET /v1/status"] = make_status(TROUBLE)
    assert await admin.run("status") == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "Wrong: sink bus.",
        "wrong\tsink bus\t1 event was given up; it said: \\x1b[2J[red]no\t2026-11-21T03:00:00Z\tmend the destination",
    ]


async def test_what_only_deserves_a_look_is_no_failure(admin, capsys):
    admin.answers["GET /v1/status"] = make_status(TROUBLE | {"is_wrong": False, "since": None})
    assert await admin.run("status") == 0
    assert "look\tsink bus" in capsys.readouterr().out


async def test_programs_get_the_answer_as_it_is(admin, capsys):
    document = make_status(TROUBLE)
    admin.answers["GET /v1/status"] = document
    assert await admin.run("status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["troubles"][0]["name"] == "bus"
