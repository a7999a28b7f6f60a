"""What ends a command, apart from a wrong configuration: see ``__main__`` for the exit codes."""

from media_callbacks.model.errors import ServiceError


class UsageError(Exception):
    """The command line asks for what can't be: the option, what was expected, what came."""


class AdminError(ServiceError):
    """
    The admin API did not do what was asked. The message is for the operator and safe to print.

    Attributes:
        status: What it answered, or None when no answer came.
        since: Where to begin anew, where it says so of a feed.
    """

    def __init__(self, message: str, *, status: int | None = None, since: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.since = since
