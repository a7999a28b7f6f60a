"""What tests of commands share."""

import pytest


@pytest.fixture(autouse=True)
def logs_as_tests_have_them(monkeypatch):
    """A command that runs in this process leaves no loggers behind that write where it wrote: other tests read theirs."""
    monkeypatch.setattr("media_callbacks.commands.serve.configure_logs", lambda _: None)
