"""Copying between the stores of two URLs, each of either database."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from media_callbacks.inbox.copying.copying import Copied, Source, Target, copy
from media_callbacks.inbox.factory import migrate_store
from media_callbacks.inbox.sqlite import copying as sqlite
from media_callbacks.model.errors import ConfigError, Unusable

_SQLITE = "sqlite:///"


async def copy_store(
    source_url: str, target_url: str, *, progress: Callable[[int, int | None], None] = lambda *_: None
) -> Sequence[Copied]:
    """
    Copy a store to an empty one, which is made or migrated where needed. No service may use either.

    Args:
        progress: See ``copying.copy``.

    Raises:
        ConfigError: One of them can't be used, or is used, or the target is not empty. Nothing was copied.
        InboxUnavailable: A server can't be reached, or was lost. Nothing was copied.
    """
    if source_url == target_url:
        raise ConfigError(["--from, --to: expected two stores, came the same one twice"])
    with _of("--from"):
        async with _read(source_url) as source:
            with _of("--to"):
                await migrate_store(target_url)
                async with _fill(target_url) as target:
                    return await copy(source, target, progress)


@asynccontextmanager
async def _read(url: str) -> AsyncIterator[Source]:
    if url.startswith(_SQLITE):
        with sqlite.read_store(Path(url.removeprefix(_SQLITE))) as file:
            yield file
        return
    from media_callbacks.inbox.postgresql.copying import read_store  # noqa: PLC0415 - the driver is an extra

    async with read_store(url) as store:
        yield store


@asynccontextmanager
async def _fill(url: str) -> AsyncIterator[Target]:
    if url.startswith(_SQLITE):
        with sqlite.fill_store(Path(url.removeprefix(_SQLITE))) as file:
            yield file
        return
    from media_callbacks.inbox.postgresql.copying import fill_store  # noqa: PLC0415 - the driver is an extra

    async with fill_store(url) as store:
        yield store


@contextmanager
def _of(option: str) -> Iterator[None]:
    """Errors of a store as those of the option that named it."""
    try:
        yield
    except ConfigError as error:
        problems = [problem.removeprefix("store.url: ") for problem in error.problems]
        raise Unusable(
            [problem if problem.startswith("--") else f"{option}: {problem}" for problem in problems]
        ) from error
