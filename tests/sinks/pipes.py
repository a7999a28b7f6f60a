"""The writing end of a pipe."""

import io
import threading
from typing import Any


class PipeEnd(io.FileIO):
    """
    Attributes:
        writing: Set when a write has begun, from which it may not come back.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file, "wb")
        self.writing = threading.Event()

    def write(self, data: Any) -> int:
        self.writing.set()
        return super().write(data)
