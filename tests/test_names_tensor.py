"""Names of Tensor that no law of the table reaches: operators, conversions, what it says of itself.

Each test runs on both libraries and returns what must be equal.
"""

from __future__ import annotations

import copy
import math
import operator
from typing import Any

import numpy as np
from beside_torch import failure, same

#: Python's operators by name, on floats, on ints and on bools.
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
BITS = ("and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def floats(t: Any) -> Any:
    return t.tensor([[1.5, 2.0, 3.0], [0.5, 4.0, 2.5]])


def ints(t: Any) -> Any:
    return t.tensor([5, 2, 7, 1])


@same
def test_arithmetic_forwards_and_backwards(t: Any) -> Any:
    found = []
    for x, y, number in [(floats(t), floats(t) + 1, 2.5), (ints(t), ints(t).flip(0), 3)]:
        for name in ARITHMETIC:
            method, reflected = getattr(x, f"__{name}__"), getattr(x, f"__r{name}__")
            found += [method(y), method(number), reflected(number)]
            found.append(getattr(operator, name)(number, x))
    return found


@same
def test_arithmetic_in_place(t: Any) -> Any:
    found = []
    for name in ARITHMETIC:
        x = floats(t)
        changed = getattr(x, f"__i{name}__")(2.0)
        found += [changed, changed is x, x._version]
        x = floats(t)
        x = getattr(operator, f"i{name}")(x, floats(t) + 1)
        found.append(x)
    return found


@same
def test_bits_forwards_backwards_and_in_place(t: Any) -> Any:
    found = []
    truth = t.tensor([True, False, True, True])
    for name in BITS:
        x, y = ints(t), t.tensor([1, 2, 3, 0])
        found += [getattr(x, f"__{name}__")(y), getattr(x, f"__{name}__")(2)]
        if name in ("and", "or", "xor"):
            found += [getattr(x, f"__r{name}__")(6), getattr(operator, f"__{name}__")(6, x)]
            found += [getattr(truth, f"__{name}__")(~truth), getattr(truth, f"__r{name}__")(True)]
        changed = getattr(x, f"__i{name}__")(y)
        found += [changed is x, x]
    return [*found, x.__invert__(), ~truth, failure(lambda: floats(t) & floats(t))]


@same
def test_shifts_of_a_number(t: Any) -> Any:
    return [2 << ints(t), 64 >> ints(t), ints(t).__rlshift__(3), ints(t).__rrshift__(99)]


@same
def test_comparisons(t: Any) -> Any:
    found = []
    for name in COMPARISONS:
        x, compare = ints(t), getattr(operator, name)
        found += [getattr(x, f"__{name}__")(t.tensor([5, 3, 1, 1])), compare(x, 2), compare(2, x)]
    return [*found, ints(t) == "text", ints(t) != None]  # noqa: E711


@same
def test_signs_and_matrix_products(t: Any) -> Any:
    a, b = floats(t), floats(t).mT
    c = a + 1j * a
    return [
        a.__neg__(), a.__pos__() is a, (-a).__abs__(), a.__matmul__(b), a.__rmatmul__(b),
        t.ones(2, 2) @ a, a.mT, a.H, c.H.resolve_conj(), c.mH.resolve_conj(), a.T,
    ]  # fmt: skip


@same
def test_containers(t: Any) -> Any:
    x = floats(t)
    y = x.clone()
    y.__setitem__((0, slice(1, None)), 9.0)
    return [
        x.__len__(), list(x.__iter__()), x.__contains__(2.0), 77 in x,
        x.__contains__(t.tensor(0.5)), x.__getitem__((1, 2)), y, failure(lambda: "a" in x),
        failure(lambda: len(t.tensor(1))), failure(lambda: iter(t.tensor(1))),
    ]  # fmt: skip


@same
def test_numbers_of_one_element(t: Any) -> Any:
    x, n = t.tensor([2.75]), t.tensor(3)
    many = floats(t)
    return [
        x.__bool__(), x.__int__(), x.__float__(), x.__complex__(), n.__index__(), [4, 5, 6, 7][n],
        math.sqrt(n + 1), complex(t.tensor(1 + 2j)), bool(t.tensor(0)), round(float(x), 1),
        int(t.tensor(-2.9)), operator.index(n), list(range(n)),
        failure(lambda: bool(many), "more than one value is ambiguous"),
        failure(lambda: float(many)), failure(lambda: int(many)),
        failure(lambda: operator.index(x)), failure(lambda: bool(t.empty(0))),
    ]  # fmt: skip


@same
def test_text(t: Any) -> Any:
    x = t.tensor(3.14159)
    return [
        x.__format__(".2f"), f"{x:8.3f}|{t.tensor(7):04d}|{t.tensor(True)}", f"{x}", f"{floats(t)}",
        x.__repr__(), str(floats(t)), failure(lambda: f"{floats(t):.2f}"),
        f"{t.tensor(2.5, requires_grad=True)}",
    ]  # fmt: skip


@same
def test_copies(t: Any) -> Any:
    x = floats(t).requires_grad_()
    deep, shallow = x.__deepcopy__({}), copy.copy(x)
    twice = copy.deepcopy([x, x])
    return [
        deep, deep.requires_grad, deep.is_leaf, deep is x, shallow.data_ptr() == x.data_ptr(),
        twice[0] is twice[1],
        failure(lambda: copy.deepcopy(x * 2), "graph leaves"),
        x.__hash__() == hash(x), len({x, x}), {"shape", "add_", "backward"} <= set(x.__dir__()),
    ]  # fmt: skip


@same
def test_numpy_and_dlpack(t: Any) -> Any:
    x = floats(t)
    kind, index = x.__dlpack_device__()
    return [
        x.__array__(), x.__array__(np.float64), np.asarray(x), int(kind), index,
        np.from_dlpack(x), type(x.__dlpack__()).__name__, np.add(x.numpy(), 1), np.sum(x.numpy()),
        failure(lambda: floats(t).requires_grad_().numpy(), "requires grad"),
    ]  # fmt: skip


@same
def test_casts(t: Any) -> Any:
    x, found = floats(t), []
    for name in ("float", "double", "half", "bfloat16", "int", "long", "short", "char", "byte",
                 "bool", "cfloat", "cdouble"):  # fmt: skip
        y = getattr(x, name)()
        found += [y.dtype, y.double() if not y.is_complex() else y, y.element_size(), y.itemsize]
        found += [y.nbytes, y.type(), y.is_signed(), getattr(y, name)() is y]
    return [
        *found, x.float() is x, x.type(t.int64), x.type("torch.DoubleTensor"), x.type_as(ints(t)),
        x.to(t.int32), x.to("cpu", t.float64), x.to(ints(t)), x.to(dtype=t.float64, copy=True),
        x.to(t.float32) is x, x.to(t.float32, copy=True) is x, x.to(x) is x,
    ]  # fmt: skip


@same
def test_what_a_tensor_says_of_itself(t: Any) -> Any:
    x = t.arange(24.0).reshape(2, 3, 4)
    y = x[1:, :, 1::2]
    found = []
    for z in (x, y, x.transpose(0, 2), ints(t), t.tensor(True), t.empty(0, 3)):
        found += [
            z.ndim, z.dim(), z.numel(), tuple(z.shape), tuple(z.size()),
            z.stride(), z.storage_offset(), z.is_contiguous(), z.layout == t.strided, str(z.layout),
            z.element_size(), z.itemsize, z.nbytes, z.get_device(), str(z.device), z.device.type,
            z.is_cpu, z.is_cuda, z.is_meta, z.is_nested, z.is_sparse, z.is_quantized, z.is_signed(),
            z.is_floating_point(), z.is_complex(), z.dtype, z.is_leaf, z.requires_grad,
        ]  # fmt: skip
    return [
        *found, x.stride(1), x.is_contiguous(memory_format=t.contiguous_format),
        t.zeros(1, 2, 3, 4).is_contiguous(memory_format=t.channels_last),
        y.contiguous().storage_offset(), failure(lambda: x.size(5), "out of range"),
        failure(lambda: x.cuda()) == "nothing was raised",
    ]  # fmt: skip


@same
def test_memory_formats(t: Any) -> Any:
    x, last = t.arange(120.0).reshape(2, 3, 4, 5), t.channels_last
    y, z = x.contiguous(memory_format=last), t.zeros(1, 2, 3, 4, 5)
    cube = t.channels_last_3d
    made = [
        y, x.to(memory_format=last), x.clone(memory_format=last), y.clone(), y.contiguous(),
        y.to(memory_format=t.contiguous_format), y.to(memory_format=t.preserve_format),
        x.to(t.float64, memory_format=last), y.double(), x.double(memory_format=last), y * 2,
        z.contiguous(memory_format=cube), t.zeros_like(x, memory_format=last), t.ones_like(y),
        t.empty_like(z, memory_format=cube), t.empty(2, 0, 1, 1).contiguous(memory_format=last),
    ]  # fmt: skip
    return [
        [[m.stride(), m.is_contiguous(), m.is_contiguous(memory_format=last)] for m in made],
        y.contiguous(memory_format=last) is y, y._base is None, y, made[3], made[7], repr(last),
        failure(lambda: z.contiguous(memory_format=last), "required rank 4 tensor"),
        failure(lambda: x.clone(memory_format=cube), "required rank 5 tensor"),
        failure(lambda: t.zeros(2).to(memory_format=last), "to use channels_last format"),
    ]  # fmt: skip


@same
def test_tensors_like_this_one(t: Any) -> Any:
    x = t.zeros(2, dtype=t.float64)
    made = [
        x.new_tensor([1, 2]), x.new_tensor([[1.5]], dtype=t.float32), x.new_zeros(2, 3),
        x.new_zeros((2,), dtype=t.int64), x.new_ones(3), x.new_full((2, 2), 7), x.new_empty(3, 2),
        x.new_tensor([1.0], requires_grad=True), x.new_empty_strided((2, 3), (1, 2)),
    ]  # fmt: skip
    return [[str(m.dtype), tuple(m.shape), m.stride(), m.requires_grad] for m in made] + made[:6]


@same
def test_drawing_methods(t: Any) -> Any:
    t.manual_seed(3)
    weights = t.tensor([0.1, 0.2, 0.7])
    return [
        weights.bernoulli(), weights.bernoulli(0.5), weights.multinomial(2),
        weights.multinomial(5, replacement=True), weights.expand(2, 3).multinomial(1),
        failure(lambda: (weights + 1).bernoulli().tolist()),
    ]  # fmt: skip


@same
def test_powers_in_place_and_unique(t: Any) -> Any:
    x, repeated = floats(t), t.tensor([[3, 1], [3, 1], [2, 1]])
    return [
        x.double().float_power_(2), failure(lambda: ints(t).float_power_(2)), x.float_power(0.5),
        repeated.unique(), repeated.unique(dim=0), repeated.unique(return_counts=True),
        repeated.unique(sorted=True, return_inverse=True, return_counts=True),
        repeated.flatten().unique_consecutive(return_counts=True),
        repeated.unique_consecutive(dim=0), x.where(x > 1, t.zeros(())), x.where(x > 2, -1.0),
    ]  # fmt: skip


@same
def test_bits_by_name(t: Any) -> Any:
    found = []
    for name in ("and", "or", "xor", "left_shift", "right_shift"):
        x, y = ints(t), t.tensor([1, 2, 3, 0])
        function, method = getattr(t, f"bitwise_{name}"), getattr(x, f"bitwise_{name}")
        found += [function(x, y), function(x, 1), function(2, x), method(y), method(1)]
        found += [getattr(x, f"bitwise_{name}_")(y), x]
    return [*found, t.bitwise_not(x), x.bitwise_not(), x.bitwise_not_()]
