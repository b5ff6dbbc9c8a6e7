"""uint16, uint32 and uint64 beside torch's, which has few operators for them.

What torch has gives the same here; what it lacks is what numpy gives; promotion is refused alike.
"""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
from beside_torch import failure, same

WIDE = ("uint16", "uint32", "uint64")


@same
def test_values_come_and_go(torch: Any) -> Any:
    seen = []
    for name in WIDE:
        dtype = getattr(torch, name)
        x = torch.tensor([1, 3, 5], dtype=dtype)
        most = torch.iinfo(dtype).max
        top = torch.tensor([most], dtype=dtype)
        seen += [x, top, repr(top), top.item(), top.tolist(), x.dtype, dtype.itemsize, str(dtype)]
        seen += [
            dtype.is_signed,
            dtype.is_floating_point,
            x.type(),
            x.element_size(),
            x.is_signed(),
        ]
        seen += [torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype), x.to(torch.int64)]
        seen += [torch.full((2,), 7, dtype=dtype), torch.tensor([True]).to(dtype), x.float()]
        seen += [
            torch.from_numpy(np.arange(3).astype(name)),
            torch.full((1,), most // 2, dtype=dtype),
        ]
        seen += [x.clone(), x.reshape(3, 1), x[1:], x.view(3, 1).T, torch.cat([x, x]), x.numpy()]
    return seen


@same
def test_what_torch_computes(torch: Any) -> Any:
    seen = []
    for name in WIDE:
        x = torch.tensor([3, 5, 8], dtype=getattr(torch, name))
        seen += [x * x, x * 2, x / x, x & 1, x | x, x ^ 2, x == x, x != 3, x.sum(), x.prod()]
        seen += [x.sqrt(), x.exp(), x.any(), x.all(), x.isnan(), x + 1.5, torch.atan2(x, x)]
        seen += [x + torch.tensor(1.0), torch.result_type(x, torch.tensor([1.0]))]
    return seen


@same
def test_promotion_is_refused(torch: Any) -> Any:
    others = (torch.bool, torch.uint8, torch.int32, torch.complex64, torch.uint16, torch.float16,
              torch.uint64, torch.bfloat16, torch.float64)  # fmt: skip
    seen = []
    for name in WIDE:
        dtype = getattr(torch, name)
        for other in others:
            if other is not dtype:
                seen.append(failure(lambda d=dtype, o=other: torch.promote_types(d, o)))
                seen.append(failure(lambda d=dtype, o=other: torch.promote_types(o, d)))
        x, y = torch.ones(2, dtype=dtype), torch.ones(2, dtype=torch.int64)
        seen += [
            failure(lambda a=x, b=y: a * b, "Promotion for uint16"),
            torch.can_cast(dtype, dtype),
        ]
        seen.append(failure(lambda a=x, b=y: b[a], "long, int, byte or bool"))
    return seen


@pytest.mark.parametrize("name", WIDE)
def test_what_torch_lacks_is_what_numpy_gives(name: str, session: Any) -> None:
    a = np.array([7, 2, 60000, 2], name)
    x = farspan.tensor(a)
    pairs = [
        (x + x, a + a), (x - x, a - a), (x // 2, a // 2), (x % 5, a % 5), (x**2, a**2),
        (x << 1, a << 1), (x >> 1, a >> 1), (~x, ~a), (x < 7, a < 7), (-x, -a),
        (x.max(), a.max()), (x.min(), a.min()), (x.sort()[0], np.sort(a)), (x.argmax(), a.argmax()),
        (x.abs(), a), (farspan.maximum(x, x.flip(0)), np.maximum(a, a[::-1])),
        (farspan.where(x > 5, x, x * 0), np.where(a > 5, a, 0)), (x.unique(), np.unique(a)),
        (farspan.arange(3, dtype=x.dtype), np.arange(3, dtype=name)),
        (x - 8, a - np.array(8, name)),
    ]  # fmt: skip
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert (x + x).dtype is x.dtype


def test_files_keep_them(tmp_path: Any) -> None:
    with farspan.connect("local:"):
        kept = {n: farspan.tensor([1, 2], dtype=getattr(farspan, n)) for n in WIDE}
        farspan.save(kept, tmp_path / "f")
        loaded = farspan.load(tmp_path / "f")
        assert {n: t.dtype.name for n, t in loaded.items()} == {n: n for n in WIDE}
        assert all(t.tolist() == [1, 2] for t in loaded.values())
