"""Where files are in memory."""

import os
import shutil
from pathlib import Path


def find_memory() -> Path | None:
    """
    A directory in memory; None where there is none with room, or from which no program can be started.

    What is in it outlives a process that is killed, as on a disk. It need not be waited for until it is flushed.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK) or os.statvfs(memory).f_flag & os.ST_NOEXEC:
        return None
    return memory if shutil.disk_usage(memory).free > 2 << 30 else None
