"""The tables about the service itself, what it keeps and how long it waits: server, admin, store, jobs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from media_callbacks.config.section import Section
from media_callbacks.config.values import (
    NAME,
    TOKEN,
    BearerToken,
    Days,
    Endpoint,
    Flag,
    Host,
    HostName,
    Integer,
    Port,
    Seconds,
    check_store_url,
    number,
    one_or_many,
)


class ServerSettings(Section):
    """
    Attributes:
        journal_path: A directory for callbacks that come while a PostgreSQL store is away; None for no journal.
        drain_s: How long callbacks are still taken after SIGTERM, while the load balancer notices.
    """

    host: Annotated[Host, Field(examples=['"0.0.0.0"'])] = "0.0.0.0"  # noqa: S104 - callbacks come from outside
    port: Port = 8080
    max_body_bytes: Annotated[Integer, number("a number of bytes", ge=1, le=64 << 20)] = 1 << 20
    body_timeout_s: Annotated[Seconds, number("seconds", gt=0, le=300)] = 10.0
    stop_timeout_s: Annotated[Seconds, number("seconds", ge=0, le=600)] = 20.0
    drain_s: Annotated[Seconds, number("seconds", ge=0, le=600)] = 5.0
    journal_path: Annotated[
        str | None,
        Field(
            min_length=1,
            pattern=r"^[^\x00]*$",
            description="a directory on a disk that outlives the service",
            examples=['"/var/lib/media-callbacks/journal"'],
        ),
    ] = None
    journal_max_bytes: Annotated[Integer, number("a number of bytes", ge=1 << 20, le=1 << 40)] = 256 << 20


# Several, so that one takes the place of another without a moment in which a client has none that is good.
_Tokens = Annotated[
    tuple[BearerToken, ...],
    BeforeValidator(one_or_many),
    Field(min_length=1, repr=False, description=f"{TOKEN}, or a list of such tokens"),
]


# Whether there is a page for operators, and whether it has anything that can be pressed.
PageMode = Literal["on", "read-only", "off"]


class CellSettings(BaseModel):
    """
    Where operators ask a cell, which is a deployment with a database of its own.

    Attributes:
        url: Of its admin port.
        token: One of its ``admin.token``; None for the first of ours.
        page: Where browsers reach its page, if not by ``url``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Endpoint
    token: Annotated[BearerToken | None, Field(repr=False)] = None
    page: Endpoint | None = None


class AdminSettings(Section):
    """
    Attributes:
        token: Any of them opens everything; our own commands send the first. Without one, admin answers only what
            programs on this machine ask.
        jobs_token: For the applications that submit jobs: any of them opens /v1/jobs and nothing else.
        page: The operators' page, under /ui.
        hosts: Names by which browsers reach the page, besides those of loopback and ``host``.
        cells: All that operators ask as one, this one too, by name.
    """

    host: Annotated[Host, Field(examples=['"127.0.0.1"'])] = "127.0.0.1"
    port: Port = 8081
    token: Annotated[_Tokens, Field(examples=['"${ADMIN_TOKEN}", made with: openssl rand -hex 32'])] = ()
    jobs_token: Annotated[_Tokens, Field(examples=['"${JOBS_TOKEN}", made with: openssl rand -hex 32'])] = ()
    page: PageMode = "on"
    hosts: Annotated[
        tuple[HostName, ...],
        BeforeValidator(one_or_many),
        Field(min_length=1, description="host names, each without a port", examples=['["media-ops.example.com"]']),
    ] = ()
    cells: Annotated[
        dict[Annotated[str, StringConstraints(pattern=f"^(?:{NAME})$")], CellSettings],
        Field(
            repr=False,
            description="a table of cells by names of a-z, 0-9 and hyphens, each with url, and with token and page"
            " where these are others",
            examples=['{ east = { url = "http://10.0.0.7:8081", token = "${EAST_TOKEN}" } }'],
        ),
    ] = {}  # noqa: RUF012 - nobody changes it

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if set(given.get("jobs_token", ())) & set(given.get("token", ())):
            yield (
                "jobs_token",
                "the same as token, which opens everything; make another one with: openssl rand -hex 32",
            )


class StoreSettings(Section):
    """``pool_size``: how many connections to PostgreSQL one service opens at most."""

    url: Annotated[
        str,
        AfterValidator(check_store_url),
        Field(
            repr=False, description="where receipts and events are kept", examples=['"sqlite:///media-callbacks.db"']
        ),
    ] = "sqlite:///media-callbacks.db"
    pool_size: Annotated[Integer, number("a number", ge=5, le=200)] = 8
    auto_migrate: Flag = True
    retention_days: Days = 30
    dedup_days: Days = 400

    @property
    def sqlite_path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if {"retention_days", "dedup_days"} <= given.keys() and given["dedup_days"] < given["retention_days"]:
            sentence = (
                "expected at least as many days as retention_days, came fewer; raise it, because a job whose"
                " key is forgotten before its payload could give a second event"
            )
            yield "dedup_days", sentence


class JobsSettings(Section):
    """
    Jobs that somebody expects the end of.

    Attributes:
        deadline_s: After its registration a job that names no deadline of its own is asked about.
        retry_s: Before the vendor is asked again for the first time; it doubles each time, to an hour at most.
        give_up_s: After the deadline a job that nothing can be learnt about ends as unknown.
    """

    deadline_s: Annotated[Seconds, number("seconds", ge=0.05, le=30 * 86400)] = 3600.0
    retry_s: Annotated[Seconds, number("seconds", ge=0.05, le=3600)] = 60.0
    give_up_s: Annotated[Seconds, number("seconds", ge=0.05, le=30 * 86400)] = 86400.0
