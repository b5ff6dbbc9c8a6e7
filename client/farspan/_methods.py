"""Binds the op table to Tensor: every function with a tensor first is a method; operators too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _quick, _quick_views
from ._dispatch import check_graph, mode
from ._functions import norm, result_type
from .core.call import Function, Value, fn
from .core.coerce import dtype as dtype_code
from .core.dtype import DTYPES, Device, DType
from .core.errors import DeviceError, DTypeError
from .core.inplace import VIEWS, has_inplace
from .core.op import OPS, table

if TYPE_CHECKING:
    from collections.abc import Callable

_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "pow", "matmul": "matmul", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt",
    "ge": "ge",
}  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = {"neg": "neg", "pos": "positive", "abs": "abs", "invert": "bitwise_not"}
_NO_METHOD = {"scalar_tensor", "from_numpy"}  # factories that take no tensor first

_NAMESPACES = ("fft_", "linalg_", "special_")  # functions of a module of torch's, not methods


def bind_methods(cls: type) -> None:
    """Give the class the table's methods and Python's operators."""
    names = {op.base: op for op in table().values() if op.takes_self}
    for name, op in sorted(names.items()):
        if hasattr(cls, name) or name in _NO_METHOD or name.startswith(_NAMESPACES):
            continue
        function: Function = getattr(fn, name)
        setattr(cls, name, _method(function))
        if has_inplace(op) and not hasattr(cls, name + "_") and name + "_" not in names:
            setattr(cls, name + "_", _method(getattr(fn, name + "_")))
    for name in VIEWS:
        setattr(cls, name + "_", _seen(name))
    for python, name in _BINARY.items():
        if name not in fn:
            continue
        setattr(cls, f"__{python}__", _operator(name))
        if python not in _COMPARISONS:
            setattr(cls, f"__r{python}__", _reflected(name))
            setattr(cls, f"__i{python}__", _inplace(name))
    for python, name in _UNARY.items():
        setattr(cls, f"__{python}__", _unary(name))
    for name, method in _METHODS.items():
        setattr(cls, name, method)
    cls.__getitem__ = _quick_views.index(cls.__getitem__)  # type: ignore[attr-defined]
    from . import _queries, _resize

    for name, method in (_queries.METHODS | _resize.METHODS).items():
        setattr(cls, name, method)
    for name in _queries.FLAGS:
        setattr(cls, name, False)
    for name, dtype in _CASTS.items():
        setattr(cls, name, _cast_method(dtype))
    for name in ("T", "mT", "H", "mH"):
        setattr(cls, name, property(_unary({"T": "numpy_T", "H": "matrix_H"}.get(name, name))))
    for name in ("real", "imag"):  # a view: what is assigned to it is written there
        setattr(cls, name, property(_unary(name), _part_setter(name)))


def _part_setter(name: str) -> Callable[[Any, Any], None]:
    def write(self: Any, value: Any) -> None:
        getattr(fn, name)(self)[...] = value

    return write


def _method(function: Function) -> Callable[..., Any]:
    """Return the function as a method: Python calls one of its own more quickly."""
    ways = _quick.ways

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            if not args:
                return (function.one or ways(function, 1))(self, 2)
            if len(args) == 1:
                return (function.two or ways(function, 2))(self, args[0], 2)
            return (function.many or ways(function, 3))((self, *args), 2)
        return function.call((self, *args), kwargs)

    method.__name__ = function.__name__
    method.__qualname__ = f"Tensor.{function.__name__}"
    return _quick_views.method(function, method) if _quick_views.is_of_views(function) else method


def _is_operand(x: Any) -> bool:
    return isinstance(x, (Value, bool, int, float, complex, np.generic))


def _operand(function: Function) -> Callable[[Any, Any], Any]:
    """Return the function as an operator, which leaves what it does not know to the other side."""

    with_value = _quick.with_value(function)

    def method(self: Any, other: Any, depth: int = 1) -> Any:
        kind = type(other)
        if kind is float or kind is int:
            return with_value(self, other, depth + 1)
        if kind in _quick.plain_types:
            return (function.many or _quick.ways(function, 3))((self, other), depth + 1)
        return function.call((self, other), {}) if _is_operand(other) else NotImplemented

    return method


def _operator(name: str) -> Callable[[Any, Any], Any]:
    """Return a binary operator; two tensors skip the choice among overloads."""
    function = getattr(fn, name)
    general = _equality(function) if name in ("eq", "ne") else _operand(function)
    if name == "matmul":  # of two matrices it is this
        op = OPS["mm"]
        return _quick.binary(op, op.bind(None, None)[1], general)
    op = OPS.get(f"{name}.Tensor")
    if op is None or op.body is not None or [a.kind for a in op.args[:2]] != ["T", "T"]:
        return general
    return _quick.binary(op, op.bind(None, None)[1], general)


def _equality(function: Function) -> Callable[..., Any]:
    """Return == or !=, element by element of an array too: numpy leaves those two to us."""
    compare = _operand(function)

    def method(self: Any, other: Any, depth: int = 1) -> Any:
        found = compare(self, other, depth + 1)
        if found is NotImplemented and isinstance(other, np.ndarray):
            from ._creation import tensor

            return compare(self, tensor(other), depth + 1)
        return found

    return method


def _reflected(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            from ._creation import from_numpy

            return getattr(fn, name)(from_numpy(other), self)
        if not _is_operand(other):
            return NotImplemented
        reflected = _REFLECTED.get(name)
        if reflected is not None:
            return reflected(self, other)
        return getattr(fn, name)(other, self)

    return method


_REFLECTED: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, n: fn.add(x, n),
    "mul": lambda x, n: fn.mul(x, n),
    "sub": lambda x, n: fn.rsub(x, n),
    "div": lambda x, n: fn.mul(fn.reciprocal(x), n),
    "bitwise_and": lambda x, n: fn.bitwise_and(x, n),
    "bitwise_or": lambda x, n: fn.bitwise_or(x, n),
    "bitwise_xor": lambda x, n: fn.bitwise_xor(x, n),
    "floor_divide": lambda x, n: fn.floor_divide(fn.full_like(x, n, dtype=result_type(x, n)), x),
}


def _inplace(name: str) -> Callable[[Any, Any], Any]:
    if name == "matmul":
        return lambda self, other: NotImplemented
    function, ways, plain_types = getattr(fn, name + "_"), _quick.ways, _quick.plain_types

    def method(self: Any, other: Any) -> Any:
        if type(other) not in plain_types and not _is_operand(other):
            return NotImplemented
        return (function.two or ways(function, 2))(self, other, 2)

    return method


def _seen(name: str) -> Callable[..., Any]:
    """Return a method that makes the tensor what its view is: ``x.t_()``."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_graph(self)
        view = getattr(fn, name)(self, *args, **kwargs)
        base = self._base
        if not mode.grad:
            self.data = view  # keeps its place in the graph
        else:
            self._become(view)
            self._node, self._index = view._node, view._index
        if base is not None:
            self._base, self._generation = view._base, view._generation
        return self

    method.__name__ = name + "_"
    return method


def _unary(name: str) -> Callable[[Any], Any]:
    function, ways = getattr(fn, name), _quick.ways

    def method(self: Any) -> Any:
        return (function.one or ways(function, 1))(self, 2)

    return _quick_views.method(function, method) if _quick_views.is_of_views(function) else method


# --------------------------------------------------------------------------------- conversions --
_CASTS = {
    "float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16",
    "int": "int32", "long": "int64", "short": "int16", "char": "int8", "byte": "uint8",
    "bool": "bool", "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip


def _cast_method(name: str) -> Callable[..., Any]:
    dtype = next(d for d in DTYPES if d.name == name)

    def method(self: Any, memory_format: Any = None) -> Any:
        return convert(self, dtype, None, memory_format=memory_format)

    method.__doc__ = f"Return the tensor as {name}; itself if it is that already."
    return method


def to(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the tensor with another dtype and/or device; itself if nothing changes.

    ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(other)``; ``copy=True`` copies in
    any case; with a ``memory_format`` the result is laid out in it.
    """
    from .core.errors import ArgumentError

    dtype = kwargs.pop("dtype", None)
    device = kwargs.pop("device", None)
    copy = kwargs.pop("copy", False)
    other = kwargs.pop("other", None)
    memory_format = kwargs.pop("memory_format", None)
    kwargs.pop("non_blocking", None)
    if kwargs:
        raise ArgumentError(f"to() received an unexpected keyword argument {next(iter(kwargs))!r}")
    for i, a in enumerate(args):
        if isinstance(a, DType):
            dtype = a
        elif isinstance(a, (str, Device)) or (i == 0 and type(a) is int):
            device = a
        elif isinstance(a, Value):
            other = a
        elif type(a) is bool:
            copy = a if i == len(args) - 1 and i >= 2 else copy
        elif isinstance(a, type):
            dtype = a
        elif a is not None:
            raise ArgumentError(f"to() received an invalid argument {a!r}")
    if isinstance(dtype, type):  # bool, int, float, complex
        dtype = DTYPES[dtype_code(dtype)]
    if other is not None:
        dtype, device = dtype or other.dtype, device or other.device
    at = Device(device) if device is not None else None
    return convert(self, dtype, at, copy, memory_format)


def convert(
    self: Any,
    dtype: DType | None,
    device: Device | None,
    copy: bool = False,
    memory_format: Any = None,
) -> Any:
    """Return the tensor with this dtype on this device; itself if all is so already.

    What its strides suggest counts as its format, as in torch: a transposed matrix is contiguous.
    """
    if device is not None:
        session = self.session
        if device is Device("cpu", 0) or (device.type == "cuda" and device.index is None):
            device = session.devices[session.index_of(device)]
    result = self
    if dtype is not None and dtype is not self.dtype:
        result = fn._cast(result, dtype)
    if device is not None and device is not self.device:
        result = move(result, device)
    code = getattr(memory_format, "code", 1)
    if (copy and result is self) or (code != 1 and code != result._spec.suggested_format):
        result = fn.clone(result, memory_format=code)
    return result


def move(x: Any, device: Device) -> Any:
    """Return a copy of x on another device of its session: worker to worker, differentiable."""
    from ._python_node import crossing

    return crossing(x, device)


def cpu(self: Any, memory_format: Any = None) -> Any:
    """Return the tensor on the first CPU device."""
    return convert(self, None, self.session.default_device, memory_format=memory_format)


def cuda(self: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """Return the tensor on a GPU of its session. A device of another kind is an error."""
    where = Device("cuda" if device is None else device)
    if where.type != "cuda":
        raise DeviceError("Invalid device, must be cuda device")
    return convert(self, None, where)


def type_(self: Any, dtype: Any = None, non_blocking: bool = False) -> Any:
    """Return the type's name, or the tensor cast to `dtype`."""
    from ._legacy import kind_of, type_name

    if dtype is None:
        return type_name(self.dtype, self.device.type)
    return convert(self, *kind_of(dtype))


def type_as(self: Any, other: Any) -> Any:
    """Return the tensor with the dtype and device of `other`."""
    return convert(self, other.dtype, other.device)


def new_tensor(self: Any, data: Any, dtype: Any = None, device: Any = None,
               requires_grad: bool = False) -> Any:  # fmt: skip
    """Return a fresh tensor of `data` with this one's dtype and device."""
    from ._creation import tensor

    return tensor(data, dtype=dtype or self.dtype, device=device or self.device,
                  requires_grad=requires_grad)  # fmt: skip


def new(self: Any, *args: Any, device: Any = None) -> Any:
    """Return what ``Tensor(*args)`` does, of this tensor's dtype and on its device."""
    from ._legacy import legacy_tensor

    return legacy_tensor(*args, dtype=self.dtype, device=device or self.device)


def normal_(self: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
    """Fill with normal numbers. The function `normal` draws around tensors, so it has no `_`."""
    return fn.normal_functional_(self, mean, std, generator=generator)


def bernoulli_(self: Any, p: Any = 0.5, *, generator: Any = None) -> Any:
    """Fill with ones with probability p, a number or a tensor, else zeros."""
    return fn.bernoulli_(self, p, generator=generator)


def float_power_(self: Any, exponent: Any) -> Any:
    """Replace by the power in double precision, which the tensor must have."""
    have = result_type(self, exponent)
    if self.dtype.name != ("complex128" if have.is_complex else "float64"):
        raise DTypeError(
            f"the base given to float_power_ has dtype {self.dtype.c_name} but the "
            "operation's result requires dtype "
            + ("ComplexDouble" if have.is_complex else "Double")
        )
    return fn.float_power_(self, exponent)


def polygamma(self: Any, n: int) -> Any:
    """Return the n-th derivative of digamma. The function takes n first."""
    return fn.polygamma(n, self)


_METHODS = {
    "to": to, "cpu": cpu, "cuda": cuda, "type": type_, "type_as": type_as,
    "new": new, "new_tensor": new_tensor, "norm": norm, "normal_": normal_,
    "bernoulli_": bernoulli_, "float_power_": float_power_, "polygamma": polygamma,
}  # fmt: skip
