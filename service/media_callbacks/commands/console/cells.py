"""
Cells asked as one: what is read is merged, with the name of its cell in each document. Orders are for one cell.

A cell that does not answer is told of, and the others are shown all the same; whoever runs the command fails then.
"""

import argparse
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import chain, islice
from typing import TypeVar, get_args

from pydantic import BaseModel

from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import AdminClient, build_clients
from media_callbacks.commands.console.errors import AdminError
from media_callbacks.commands.console.output import Cell, note
from media_callbacks.inbox.records import FoundBy

_T = TypeVar("_T")


class Cells:
    """
    The same questions as those of ``AdminClient``; each raises AdminError when no cell has answered.

    Attributes:
        has_silent: Whether one has not answered, or refused.
    """

    def __init__(self, clients: Mapping[str, AdminClient]) -> None:
        self._clients = clients
        self.has_silent = False

    def get_more(self, of: Json, path: str, query: Mapping[str, str] | None = None) -> Json:
        return self._clients[of["cell"]].get(path, query) | {"cell": of["cell"]}

    def get_each(self, model: type[BaseModel], path: str, query: Mapping[str, str] | None = None) -> dict[str, Json]:
        found = self._ask(lambda one: one.get_as(model, path, query))
        return {name: document | {"cell": name} for name, document in found.items()}

    def find(self, path: str) -> Json:
        """What one of them has."""
        missing: list[AdminError] = []

        def get(client: AdminClient) -> Json:
            try:
                return client.get(path)
            except AdminError as error:
                if error.status != 404:
                    raise
                missing.append(error)
                return {}

        found = [document | {"cell": name} for name, document in self._ask(get).items() if document]
        if not found:
            raise missing[0]
        return found[0]

    def get_list(self, path: str, name: str) -> list[Json]:
        found = _merge_lists(self._ask(lambda client: client.get_list(path, name)))
        return sorted(found, key=lambda document: str(document.get("name")))

    def list_events(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        return self._list(lambda client: client.list_events(query, limit=limit), "accepted_at", limit)

    def list_jobs(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        return self._list(lambda client: client.list_jobs(query, limit=limit), "registered_at", limit)

    def list_receipts(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        return self._list(lambda client: client.list_receipts(query, limit=limit), "received_at", limit)

    def list_refused(self, query: Mapping[str, str], *, limit: int | None = None) -> Iterator[Json]:
        return self._list(lambda client: client.list_refused(query, limit=limit), "refused_at", limit)

    def search(self, text: str, *, limit: int) -> tuple[list[Json], list[Json]]:
        found = self._ask(lambda client: client.search(text, limit=limit))
        hits = _merge_lists({name: hits for name, (hits, _) in found.items()})
        refused = _merge_lists({name: refused for name, (_, refused) in found.items()})
        exactness = get_args(FoundBy)
        hits.sort(key=lambda hit: exactness.index(hit["found_by"]) if hit.get("found_by") in exactness else 99)
        return hits[:limit], sorted(refused, key=_moment_of("refused_at"), reverse=True)[:limit]

    def _list(self, read: Callable[[AdminClient], Iterator[Json]], newest_by: str, limit: int | None) -> Iterator[Json]:
        """Newest first, each cell's page after page."""
        # The first page of each at once; the others when they are wanted.
        begun = self._ask(lambda client: _begin(read(client)))
        streams = [self._named(name, documents) for name, documents in begun.items()]
        return islice(heapq.merge(*streams, key=_moment_of(newest_by), reverse=True), limit)

    def _named(self, name: str, documents: Iterator[Json]) -> Iterator[Json]:
        try:
            for document in documents:
                yield document | {"cell": name}
        except AdminError as error:
            self._tell(name, error)

    def _ask(self, ask: Callable[[AdminClient], _T]) -> dict[str, _T]:
        """All at once; the answers by cell, without those of cells that gave none."""
        answers: dict[str, _T] = {}
        errors: list[AdminError] = []
        with ThreadPoolExecutor(len(self._clients)) as threads:
            asked = {name: threads.submit(ask, client) for name, client in self._clients.items()}
            for name, answer in asked.items():
                try:
                    answers[name] = answer.result()
                except AdminError as error:
                    self._tell(name, error)
                    errors.append(error)
        if not answers:
            raise AdminError("no cell has answered", status=errors[0].status)
        return answers

    def _tell(self, name: str, error: AdminError) -> None:
        self.has_silent = True
        note(f"cell {name}: {error}")


Reader = AdminClient | Cells


def run_with_cells(arguments: argparse.Namespace, command: Callable[[Reader, argparse.Namespace], int]) -> int:
    """
    A command that only reads, over all cells that are meant.

    Returns:
        What it does, and 1 where a cell has not answered.

    Raises:
        UsageError, ConfigError: As ``build_clients`` does.
    """
    clients = build_clients(arguments)
    if len(clients) == 1:
        return command(next(iter(clients.values())), arguments)
    cells = Cells(clients)
    return command(cells, arguments) or int(cells.has_silent)


def with_cells(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], documents: Sequence[Json]
) -> tuple[Sequence[str], list[Sequence[Cell]]]:
    """A table with the cell of each row's document in the end, where there are cells."""
    if not any("cell" in document for document in documents):
        return head, list(rows)
    shown: list[Sequence[Cell]] = [[*row, document["cell"]] for row, document in zip(rows, documents, strict=True)]
    return (*head, "cell") if head else head, shown


def _begin(documents: Iterator[Json]) -> Iterator[Json]:
    """The same, its first page read."""
    return chain(list(islice(documents, 1)), documents)


def _merge_lists(found: Mapping[str, Sequence[Json]]) -> list[Json]:
    return [document | {"cell": name} for name, documents in found.items() for document in documents]


def _moment_of(member: str) -> Callable[[Json], datetime]:
    def read(document: Json) -> datetime:
        try:
            return datetime.fromisoformat(document[member])
        except (KeyError, TypeError, ValueError) as error:
            raise AdminError(f"the admin API has answered without {member}; is the service of this version?") from error

    return read
