"""torch.testing: what counts as close, and what cannot be compared."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
from beside_torch import failure, same
from farspan._memory import _readable


@same
def test_assert_close_accepts_and_refuses_as_torch(torch):
    t = torch.tensor
    pairs: list[tuple[Any, Any]] = [
        (np.ones(3), np.ones(1)), (np.ones(3), np.ones(3)), (np.ones(2, np.float32), np.ones(2)),
        (torch.ones(()), 1.0), (1, t(1)), (torch.ones(2), np.ones(2, np.float32)), (3, 3.0),
        (3, 3), (1.0, 1.0 + 1e-6), (1.0, 1.0 + 1e-9), (1j, 1j), ([1], (1,)), ("a", "a"),
        (None, None), (None, 1), ({}, {"a": 1}), (torch.ones(2), torch.ones(3, 1)),
        (t([1.0]), t([1.0 + 1e-6])), (t([1.0]), t([1.1])), (np.float64(1), 1.0),
        ({"a": [t(1)]}, {"a": [t(1)]}), (t(1), t(1.0)),
    ]  # fmt: skip
    made = [failure(lambda a=a, b=b: torch.testing.assert_close(a, b)) for a, b in pairs]
    torch.testing.assert_close(3, 3.0, check_dtype=False)
    torch.testing.assert_close(t([1.0]), t([1.1]), rtol=0.2, atol=0.0)
    return made


def test_shapes_are_told_as_torch_tells_them() -> None:
    with pytest.raises(AssertionError, match=r"torch.Size\(\[2\]\) != torch.Size\(\[3, 1\]\)"):
        farspan.testing.assert_close(farspan.ones(2), farspan.ones(3, 1))


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (600 * 1024, "600.0 KiB"),
     (1 << 20, "1.0 MiB"), (600 << 20, "600.0 MiB"), (1 << 50, "1024.0 TiB")],
)  # fmt: skip
def test_sizes_are_readable(count_bytes: int, text: str) -> None:
    assert _readable(count_bytes) == text
