"""A progress line on stderr for transfers that take longer than a second, on a terminal only."""

from __future__ import annotations

import sys
import time
from typing import Any

from farspan.core import limits


class Progress:
    """Counts the bytes of one transfer: ``with Progress("to device 0", total) as p: p.add(n)``.

    total_bytes: 0 when it is not known. Uses rich when it is installed, else a plain line.
    """

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what = what
        self._total = total_bytes
        self._done = 0
        self._begun = time.monotonic()
        self._shown = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            print(file=sys.stderr)

    def restart(self) -> None:
        """Count from 0 again: the transfer broke and begins anew."""
        self._done = 0

    def add(self, count_bytes: int) -> None:
        """Note that so many bytes more have passed."""
        self._done += count_bytes
        now = time.monotonic()
        if now - self._begun > limits.PROGRESS_AFTER_S and now - self._shown > 0.1:
            if self._shown or sys.stderr.isatty():
                self._show()
                self._shown = now

    def _show(self) -> None:
        if self._bar is None and not self._shown:
            self._bar = _rich_bar()
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task(self._what, total=self._total or None)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            return
        of = f" of {self._total / limits.MiB:.0f}" if self._total else ""
        rate = self._done / limits.MiB / (time.monotonic() - self._begun)
        line = f"\r{self._what}: {self._done / limits.MiB:.0f}{of} MiB, {rate:.0f} MiB/s "
        print(line, end="", file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    try:
        from rich import console, progress
    except ImportError:
        return None
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
    )
    return progress.Progress(*columns, console=console.Console(stderr=True), transient=True)
