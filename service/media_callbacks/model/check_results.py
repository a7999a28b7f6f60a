"""What was found where something was tried out."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """
    What became of one thing that was tried.

    Attributes:
        subject: A key path of the configuration, or ``clock``.
        text: One line, without secrets.
        remedy: What to do; None where all is well.
    """

    severity: Severity
    subject: str
    text: str
    remedy: str | None = None

    @property
    def line(self) -> str:
        return f"{self.subject}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def split_advice(message: str, remedy: str) -> tuple[str, str]:
    """
    What an error says that happened, and what to do, which follows its last colon.

    Args:
        remedy: For errors that don't know.
    """
    text, _, advice = message.rpartition(": ")
    # Before the last colon there may be just what was tried.
    return (text, advice) if " " in text else (message, remedy)
