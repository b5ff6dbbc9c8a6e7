"""Work on several threads at once, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable


def in_threads(work: Callable[[int], None], count: int = 8) -> None:
    """Run `work(i)` on a thread for each i below count, and wait for all."""
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
