"""The store, for commands that use it themselves."""

import sys
from collections.abc import Sequence

from media_callbacks.config.server import StoreSettings
from media_callbacks.inbox.factory import migrate_store


async def migrate_and_tell(store: StoreSettings) -> Sequence[str]:
    """
    Apply the migrations that are missing, and tell on standard error what takes long.

    Returns:
        The names of those that were applied.

    Raises:
        Unusable, InboxUnavailable: The store can't be used.
    """
    return await migrate_store(store.url, lambda text: print(text, file=sys.stderr, flush=True))
