"""Quantities as people read them."""

from __future__ import annotations


def human(nbytes: int) -> str:
    """Return bytes in the largest unit that they reach.

    >>> human(1_000), human(3 << 30)
    ('1000 B', '3.00 GiB')
    """
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < 1_024:
            break
        size, unit = size / 1_024, larger
    return f"{nbytes} B" if unit == "B" else f"{size:.2f} {unit}"
