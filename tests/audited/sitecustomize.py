"""Notes what a process of the service does that could be code: on PYTHONPATH of that process alone.

Every event of `WATCHED` after the file `armed` is there is a line of JSON in PID.audit. Python
imports modules lazily, which reads and runs *installed* files: what importlib does is an `import`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

FOLDER = os.environ.get("FARSPAN_AUDIT", "")
WATCHED = {
    "pickle.find_class", "marshal.loads", "marshal.load", "compile", "exec", "os.system",
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen",
    "socket.connect", "socket.getaddrinfo", "ctypes.dlopen", "import", "code.__new__",
    "urllib.Request", "shutil.rmtree", "os.symlink", "os.link",
}  # fmt: skip


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event not in WATCHED or not os.path.exists(os.path.join(FOLDER, "armed")):
        return
    frames, frame = [], sys._getframe(1)
    while frame is not None and len(frames) < 40:
        frames.append(f"{frame.f_code.co_filename}:{frame.f_lineno}:{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    kind = event
    if event != "import" and any("importlib" in f for f in frames[:8]):
        kind = f"import ({event})"
    line = {"event": kind, "args": repr(args)[:300], "stack": frames[:12], "pid": os.getpid()}
    path = os.path.join(FOLDER, f"{os.getpid()}.audit")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, (json.dumps(line) + "\n").encode())
    os.close(handle)


if os.environ.get("FARSPAN_TELL_ALL"):  # for the canaries: all that any logger has to say
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s")
if FOLDER:
    sys.addaudithook(_watch)
