"""
The admin API, as commands ask it.

Where it is: ``--url``, else ``$MEDIA_CALLBACKS_ADMIN_URL``, else ``admin.cells`` of the configuration, of which
``--cell`` names one, else its ``admin.host`` and ``admin.port``. The token: ``--token-file``, else that of the cell,
else ``$MEDIA_CALLBACKS_ADMIN_TOKEN``, else the first of ``admin.token``, else of ``admin.jobs_token``. There is no
option for the token itself: command lines can be seen by everybody on the machine.
"""

import argparse
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from media_callbacks.client.admin_api import AdminApi, Answer, Json, NoAnswer, read_pages
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.options import add_config_option, read_admin_settings, read_secret_file
from media_callbacks.commands.console.output import printable
from media_callbacks.model.errors import ConfigError

URL_VARIABLE = "MEDIA_CALLBACKS_ADMIN_URL"
TOKEN_VARIABLE = "MEDIA_CALLBACKS_ADMIN_TOKEN"  # noqa: S105 - its name
_TIMEOUT_S = 30.0
# Others can be shown meanwhile.
_CELL_TIMEOUT_S = 10.0
# How the admin API begins what it says of a token for applications, and of a path that it does not know.
FOR_JOBS = "this is admin.jobs_token"
_NOTHING_HERE = "nothing is here;"
# More than a life of an event with ten thousands of receipts.
_MAX_ANSWER_BYTES = 256 << 20
_PAGE = 200

Model = TypeVar("Model", bound=BaseModel)


def read_answer(model: type[Model], document: object) -> Model:
    """
    An answer by its model in ``admin.models``. ``--json`` prints answers as they came; only what is shown to
    people is read.

    Raises:
        AdminError: The answer has another shape.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, mistake["loc"])) for mistake in error.errors()[:3])
        raise AdminError(
            f"the admin API answered otherwise than this version of the command expects ({printable(names)});"
            " is the service of the same version?"
        ) from error


# Where it is


def add_admin_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        help=f"of the admin API (default: ${URL_VARIABLE}, else admin.host and admin.port of the configuration)",
    )
    parser.add_argument(
        "--cell", metavar="NAME", help="one of admin.cells of the configuration (default, where it can be: all of them)"
    )
    parser.add_argument(
        "--token-file",
        metavar="PATH",
        help=f"file with the admin token (default: the cell's, else ${TOKEN_VARIABLE}, else admin.token or"
        " admin.jobs_token of the configuration, which goes to no other address than its own without --config)",
    )
    add_config_option(parser)


def build_client(arguments: argparse.Namespace) -> "AdminClient":
    """
    For what is of one cell.

    Raises:
        UsageError: An option can't be used, or there are several cells and none is named.
        ConfigError: As ``build_clients`` does.
    """
    clients = build_clients(arguments)
    if len(clients) > 1:
        raise UsageError(f"--cell: expected, because this is of one cell; one of {', '.join(clients)}")
    (client,) = clients.values()
    return client


def build_clients(arguments: argparse.Namespace) -> "dict[str, AdminClient]":
    """
    By the names of the cells that are meant; the only one by no name where there are none. The configuration's tokens
    are sent to the configuration's addresses only, unless ``--config`` was given as well.

    Raises:
        UsageError: An option can't be used.
        ConfigError: Neither option nor environment says where the API is, and the configuration is wrong.
    """
    url, origin = arguments.url, "--url"
    if url is None:
        url, origin = os.environ.get(URL_VARIABLE) or None, URL_VARIABLE
    own_token = None
    if arguments.token_file is not None:
        own_token = read_secret_file("--token-file", arguments.token_file)
    token = own_token or os.environ.get(TOKEN_VARIABLE, "").strip() or None
    if url is not None and arguments.cell is not None:
        raise UsageError(f"--cell: expected without {origin}, which says where the API is")
    if url is None or (arguments.config is not None and token is None):
        try:
            admin = read_admin_settings(arguments, with_token=token is None)
        except ConfigError as error:
            hint = f"or say it without a configuration: --url or {URL_VARIABLE}, and --token-file or {TOKEN_VARIABLE}"
            raise ConfigError([*error.problems, hint]) from error
        # The latter is good for /v1/jobs alone; elsewhere the answer says so.
        token = token or next(iter(admin.token + admin.jobs_token), None)
        if arguments.cell is not None and arguments.cell not in admin.cells:
            known = ", ".join(admin.cells) or "none, as the configuration has no admin.cells"
            raise UsageError(f"--cell: expected one of {known}, came {printable(arguments.cell)}")
        if url is None and admin.cells:
            return {
                name: _build(cell.url, own_token or cell.token or token, f"admin.cells.{name}", _CELL_TIMEOUT_S)
                for name, cell in admin.cells.items()
                if arguments.cell in (None, name)
            }
        if url is None:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.host, admin.host)  # noqa: S104 - not bound here
            url = f"http://[{host}]:{admin.port}" if ":" in host else f"http://{host}:{admin.port}"
            origin = "admin.host and admin.port of the configuration"
    return {"": _build(url, token, origin, _TIMEOUT_S)}


def _build(url: str, token: str | None, origin: str, timeout_s: float) -> "AdminClient":
    try:
        return AdminClient(url, token, origin=origin, timeout_s=timeout_s)
    except ValueError as error:
        name, _, expected = str(error).partition(": ")
        raise UsageError(f"{origin if name == 'url' else 'the admin token'}: {expected}") from error


# Asking


class AdminClient:
    """
    Every method raises AdminError.

    Args:
        origin: Which setting the URL came from.

    Raises:
        ValueError: As ``AdminApi`` does.
    """

    def __init__(self, url: str, token: str | None, *, origin: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._api = AdminApi(url, token, timeout_s=timeout_s, max_answer_bytes=_MAX_ANSWER_BYTES)
        self._origin = origin

    @property
    def url(self) -> str:
        return self._api.url

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        return self._object(self._ask("GET", path, query=query))

    def post(self, path: str, document: Mapping[str, Any] | None = None) -> Json:
        return self._object(self._ask("POST", path, document=document or {}))

    def post_list(self, path: str, documents: Sequence[Json]) -> list[Json]:
        """The answers to a list, in its order."""
        return self._objects(self._ask("POST", path, document=documents))

    def get_as(self, model: type[BaseModel], path: str, query: Mapping[str, str] | None = None) -> Json:
        """An answer that is one by its model, as it came."""
        document = self.get(path, query)
        read_answer(model, document)
        return document

    def get_each(self, model: type[BaseModel], path: str, query: Mapping[str, str] | None = None) -> dict[str, Json]:
        """That of each cell by its name, of which there is none here."""
        return {"": self.get_as(model, path, query)}

    def find(self, path: str) -> Json:
        """What there is in one of the cells."""
        return self.get(path)

    def get_more(self, of: Json, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Of the cell that a document came from."""
        return self.get(path, query)

    def get_list(self, path: str, name: str) -> list[Json]:
        """The member ``name`` of an answer that is not in pages."""
        return self._objects(self.get(path).get(name))

    def list_events(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        """Events, newest first, at most ``limit``, page after page."""
        return self._pages("/v1/events", "events", query, limit)

    def list_jobs(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        """Expected jobs, newest first, at most ``limit``, page after page."""
        return self._pages("/v1/jobs", "jobs", query, limit)

    def list_receipts(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        """Receipts, newest first, at most ``limit``, page after page."""
        return self._pages("/v1/receipts", "receipts", query, limit)

    def list_refused(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        """Refused requests, newest first, at most ``limit``, page after page."""
        return self._pages("/v1/refused", "refused", query, limit)

    def search(self, text: str, *, limit: int) -> tuple[list[Json], list[Json]]:
        """Jobs that this names, and refused requests in which it stands."""
        found = self.get("/v1/search", {"q": text, "limit": str(limit)})
        return self._objects(found.get("hits")), self._objects(found.get("refused", []))

    def read_feed(self, query: Mapping[str, str]) -> tuple[list[Json], str]:
        """Events in order of acceptance, and the cursor for what follows."""
        page = self.get("/v1/feed", query)
        if not isinstance(cursor := page.get("cursor"), str):
            raise self._not_ours()
        return self._objects(page.get("events")), cursor

    def _pages(self, path: str, name: str, query: Mapping[str, str], limit: int | None) -> Iterator[Json]:
        size = _PAGE if limit is None else min(limit, _PAGE)
        pages = read_pages(lambda asked: self.get(path, asked), query, size=size)
        return islice((document for page in pages for document in self._objects(page.get(name))), limit)

    def _object(self, answer: object) -> Json:
        if not isinstance(answer, dict):
            raise self._not_ours()
        return answer

    def _objects(self, found: object) -> list[Json]:
        if not isinstance(found, list) or not all(isinstance(document, dict) and document for document in found):
            raise self._not_ours()
        return found

    def _ask(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, document: object = None
    ) -> object:
        try:
            answer = self._api.ask(method, path, query=query, document=document)
        except NoAnswer as error:
            raise AdminError(
                f"the admin API can't be reached at {self._api.url} ({printable(error)}); the address is from"
                f" {self._origin}. Is the service running? Another address: --url or {URL_VARIABLE}"
            ) from error
        if not 200 <= answer.status < 300:
            raise self._refused(answer)
        return answer.document

    def _not_ours(self) -> AdminError:
        return AdminError(
            f"what answers at {self._api.url} is not the admin API of media-callbacks; the address is from"
            f" {self._origin}, another one: --url or {URL_VARIABLE}"
        )

    def _refused(self, answer: Answer) -> AdminError:
        url, status = self._api.url, answer.status
        said = None if answer.problem is None else printable(answer.problem)
        set_token = f"--token-file or {TOKEN_VARIABLE}"
        if status == 401:
            came = "this token is not it; set the right one" if self._api.has_token else "none was given; set one"
            if said is not None and said.startswith(FOR_JOBS):
                came = f"{said.partition(';')[0]}; set the right one"
            message = f"the admin API at {url} wants its token (admin.token), and {came}: {set_token}"
        elif status == 403:
            message = (
                f"the admin API at {url} has no admin.token and so answers on its own machine alone"
                f"{f' ({said})' if said else ''}; run this there, or set admin.token for the service and {set_token}"
                " here"
            )
        elif 300 <= status < 400:
            message = (
                f"{url} answered with a redirect (HTTP {status}), which is not followed; the address is from"
                f" {self._origin}: set the final one"
            )
        elif status >= 500:
            message = f"the admin API at {url} can't answer just now (HTTP {status}){f': {said}' if said else ''}"
        elif status == 404 and not answer.has_detail:
            # So the port for callbacks answers, too.
            message = f"HTTP 404: {self._not_ours()}; is that admin.port, and not server.port?"
        elif status == 404 and said is not None and said.startswith(_NOTHING_HERE):
            message = f"the service at {url} can't be asked this: it is of another version than this command"
        else:
            message = said or f"HTTP {status}: {self._not_ours()}"
        since = answer.document.get("since") if isinstance(answer.document, dict) else None
        return AdminError(message, status=status, since=since if isinstance(since, str) else None)


def path_of_job(product: str, id_: str) -> str:
    """Of its life."""
    return f"/v1/jobs/{product}/{quote(id_, safe='')}"


def run_with_client(arguments: argparse.Namespace, command: Callable[[AdminClient, argparse.Namespace], int]) -> int:
    """
    Raises:
        UsageError, ConfigError: As in ``build_client``.
    """
    return command(build_client(arguments), arguments)


def requested_by() -> str:
    """Who asks, for the service's records: ``user@host``, as far as the machine knows them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not be in any list; OSError since Python 3.13
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
