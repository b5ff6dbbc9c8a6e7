"""The memory file of another process, opened by the number that this one has of it.

Whatever is named, nothing is opened but memory files of our name, owner and size, sealed in size:
nobody can cut one short, which would end with SIGBUS whoever reads it. What is in it proves that it
is the right one; see `core/shared.py`.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import Any, Final

from farspan.core import shared as layouts

#: Of a memory file that nobody can cut short or lengthen: `F_SEAL_SEAL | SHRINK | GROW`.
_SEALS: Final = 0x1 | 0x2 | 0x4
_F_GET_SEALS: Final = 1034  # from linux/fcntl.h; Python knows it since 3.8 on Linux only


def mapped(pid: int, fd: int) -> mmap.mmap | None:
    """Return the memory file of another process, mapped; None if there is none, or it is no such.

    The kernel shows it to processes of the same user in the same PID namespace.
    """
    import fcntl  # not on Windows

    path = f"/proc/{pid}/fd/{fd}"
    try:
        if not os.readlink(path).startswith(f"/memfd:{layouts.MEMORY_NAME} "):
            return None
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found: Any = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size != layouts.SEGMENT_BYTES:
            return None
        if found.st_uid != os.geteuid() or fcntl.fcntl(opened, _F_GET_SEALS) & _SEALS != _SEALS:
            return None
        return mmap.mmap(opened, layouts.SEGMENT_BYTES)
    except OSError:
        return None
    finally:
        os.close(opened)
