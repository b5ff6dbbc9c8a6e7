"""Random numbers: factories, draws into a tensor, dropout, and the generators' states.

The numbers are those of `core/random.py`, which are torch's. A draw into a tensor fills it in the
order of its memory, as torch's serial kernels do; its in-place form (`uniform_`) is what users
call. Nothing here keeps a generator: the engine passes the one that the command names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import random as draw
from ..call import fn
from ..dtype import Defaults, DType, bool_, int64, uint8
from ..errors import ArgumentError, BadValueError, DTypeError, ParameterError, ShapeError
from ..family import common_device, composite, creation, factory_spec, structured
from ..memory_order import in_c_order, in_memory_order
from ..op import Op, declare
from ..spec import Spec, broadcast_shapes
from .create import _FORMAT, _OPTIONS, _like_spec

if TYPE_CHECKING:
    from collections.abc import Callable

_GENERATOR = "Generator? generator=None"
_INTEGERS = _OPTIONS.replace("dtype=None", "dtype=4")  # torch's number of int64


def _refuse(name: str, dtype: DType, kinds: str) -> None:
    """Raise if torch has no kernel `name` for the kind of dtype: b, i, f or c."""
    if "bifc"[dtype.category] in kinds:
        raise DTypeError(f'"{name}" not implemented for {dtype.name!r}')


# ----------------------------------------------------------------------------------- factories --
def _factory(
    name: str, kernel_name: str, kinds: str, fill: Callable[..., Any], **scattered: bool
) -> None:
    """Declare `name`, `name_like` and their overloads with a generator of the caller's.

    scattered: what fill is told, besides, where the result is not to be contiguous.
    """

    def meta(size: Any, dtype: Any, layout: Any, device: Any, pin: Any) -> Spec:
        spec = factory_spec(size, dtype, device)
        _refuse(kernel_name, spec.dtype, kinds)
        return spec

    def like_meta(self: Spec, dtype: Any, *rest: Any) -> Spec:
        _refuse(kernel_name, dtype or self.dtype, kinds)
        return _like_spec(self, dtype, *rest)

    def kernel(xp: Any, gen: Any, size: Any, dtype: Any, *rest: Any) -> Any:
        return fill(gen, tuple(size), (dtype or Defaults.dtype).numpy)

    def like_kernel(xp: Any, gen: Any, self: Any, dtype: Any, *rest: Any) -> Any:
        wanted = dtype.numpy if dtype else self.dtype
        path = {} if in_c_order(self, rest[-1]) else scattered
        return in_memory_order(self, lambda shape: fill(gen, shape, wanted, **path), rest[-1])

    creation(f"{name}(SymInt[] size, *, {_OPTIONS}) -> Tensor", meta=meta, kernel=kernel,
             random=True)  # fmt: skip
    creation(
        f"{name}.generator(SymInt[] size, *, Generator? generator, {_OPTIONS}) -> Tensor",
        meta=lambda size, generator, *rest: meta(size, *rest),
        kernel=lambda xp, gen, size, generator, *rest: kernel(xp, gen, size, *rest),
        random=True,
    )
    creation(
        f"{name}_like(Tensor self, *, {_OPTIONS}, {_FORMAT}) -> Tensor",
        meta=like_meta,
        kernel=like_kernel,
        random=True,
    )
    creation(
        f"{name}_like.generator(Tensor self, *, Generator? generator, {_OPTIONS}, {_FORMAT})"
        " -> Tensor",
        meta=lambda self, generator, *rest: like_meta(self, *rest),
        kernel=lambda xp, gen, self, generator, *rest: like_kernel(xp, gen, self, *rest),
        random=True,
    )


_factory("rand", "check_uniform_bounds", "bi", draw.uniform)
_factory("randn", "normal_kernel_cpu", "bi", draw.normal, contiguous=False)


def _check_interval(low: int, high: int) -> None:
    if low >= high:
        raise ParameterError(
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )


def _randint_meta(
    low: int, high: int, size: Any, generator: Any, dtype: Any, layout: Any, device: Any, pin: Any
) -> Spec:
    _check_interval(low, high)
    return factory_spec(size, dtype, device, default=int64)


def _randint_kernel(
    xp: Any, gen: Any, low: int, high: int, size: Any, generator: Any, dtype: Any, *rest: Any
) -> Any:
    return draw.randint(gen, tuple(size), (dtype or int64).numpy, low, high)


creation(
    f"randint(SymInt high, SymInt[] size, *, {_INTEGERS}) -> Tensor",
    meta=lambda high, size, *rest: _randint_meta(0, high, size, None, *rest),
    kernel=lambda xp, gen, high, size, *rest: _randint_kernel(xp, gen, 0, high, size, None, *rest),
    random=True,
)
creation(
    f"randint.low(SymInt low, SymInt high, SymInt[] size, *, {_INTEGERS}) -> Tensor",
    meta=lambda low, high, size, *rest: _randint_meta(low, high, size, None, *rest),
    kernel=lambda xp, gen, low, high, size, *rest: _randint_kernel(
        xp, gen, low, high, size, None, *rest
    ),
    random=True,
)
creation(
    f"randint.generator(SymInt high, SymInt[] size, *, Generator? generator, {_INTEGERS})"
    " -> Tensor",
    meta=lambda high, *rest: _randint_meta(0, high, *rest),
    kernel=lambda xp, gen, high, *rest: _randint_kernel(xp, gen, 0, high, *rest),
    random=True,
)
creation(
    "randint.low_generator(SymInt low, SymInt high, SymInt[] size, *, Generator? generator,"
    f" {_INTEGERS}) -> Tensor",
    meta=_randint_meta,
    kernel=_randint_kernel,
    random=True,
)


def _randint_like_meta(self: Spec, low: int, high: int, *options: Any) -> Spec:
    _check_interval(low, high)
    return _like_spec(self, *options)


def _randint_like_kernel(
    xp: Any, gen: Any, self: Any, low: int, high: int, dtype: Any, *rest: Any
) -> Any:
    wanted = dtype.numpy if dtype else self.dtype
    return in_memory_order(
        self, lambda shape: draw.randint(gen, shape, wanted, low, high), rest[-1]
    )


creation(
    f"randint_like(Tensor self, SymInt high, *, {_OPTIONS}, {_FORMAT}) -> Tensor",
    meta=lambda self, high, *rest: _randint_like_meta(self, 0, high, *rest),
    kernel=lambda xp, gen, self, high, *rest: _randint_like_kernel(xp, gen, self, 0, high, *rest),
    random=True,
)
creation(
    "randint_like.low_dtype(Tensor self, SymInt low, SymInt high, *,"
    f" {_OPTIONS}, {_FORMAT}) -> Tensor",
    meta=_randint_like_meta,
    kernel=_randint_like_kernel,
    random=True,
)


def _randperm_meta(n: int, generator: Any, dtype: Any, layout: Any, device: Any, pin: Any) -> Spec:
    if n < 0:
        raise ParameterError(f"n must be non-negative, got{n}")
    return factory_spec((n,), dtype, device, default=int64)


creation(
    f"randperm(SymInt n, *, {_INTEGERS}) -> Tensor",
    meta=lambda n, *rest: _randperm_meta(n, None, *rest),
    kernel=lambda xp, gen, n, dtype, *rest: draw.randperm(gen, n, (dtype or int64).numpy),
    random=True,
)
creation(
    f"randperm.generator(SymInt n, *, Generator? generator, {_INTEGERS}) -> Tensor",
    meta=_randperm_meta,
    kernel=lambda xp, gen, n, generator, dtype, *rest: draw.randperm(
        gen, n, (dtype or int64).numpy
    ),
    random=True,
)


# ------------------------------------------------------------------------- draws into a tensor --
def _filling(
    line: str,
    fill: Callable[..., Any],
    kernel_name: str,
    kinds: str = "",
    check: Callable[..., None] | None = None,
) -> Op:
    """Declare a draw that replaces the elements of self.

    fill(gen, shape, dtype, *numbers) returns them in memory order. kinds: of dtypes that torch
    refuses. check(*numbers) raises for what cannot be drawn from.
    """

    def meta(self: Spec, *args: Any) -> Spec:
        _refuse(kernel_name, self.dtype, kinds)
        if check:
            check(*args[:-1])
        return self.packed

    def kernel(xp: Any, gen: Any, self: Any, *args: Any) -> Any:
        return in_memory_order(self, lambda shape: fill(gen, shape, self.dtype, *args[:-1]))

    return structured(
        line,
        meta=meta,
        kernel=kernel,
        vjp={"self": lambda g: fn.zeros_like(g)},
        moves=True,
        random=True,
        overwrites=True,
        by_value=True,
    )


def _check_bounds(low: float, high: float) -> None:
    if not low <= high:
        raise ParameterError(
            f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={high:g}"
        )


def _check_deviation(mean: float, std: float) -> None:
    if not std >= 0:
        raise ParameterError(f"normal expects std >= 0.0, but found std {std:g}")


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ParameterError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")


def _positive(name: str, argument: str) -> Callable[..., None]:
    """Return a check that the last number is above zero."""

    def check(*numbers: float) -> None:
        if not numbers[-1] > 0:
            raise ParameterError(
                f"{name} expects {argument} > 0.0, but found {argument}={numbers[-1]:g}"
            )

    return check


def _check_success(p: float) -> None:
    if not 0 < p < 1:
        raise ParameterError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")


_filling(
    f"uniform(Tensor self, float from=0., float to=1., *, {_GENERATOR}) -> Tensor",
    draw.uniform,
    "check_uniform_bounds",
    "bi",
    _check_bounds,
)
_filling(
    f"exponential(Tensor self, float lambd=1., *, {_GENERATOR}) -> Tensor",
    draw.exponential,
    "exponential",
    "bic",
    _positive("exponential_", "lambda"),
)
_filling(
    f"geometric(Tensor self, float p, *, {_GENERATOR}) -> Tensor",
    draw.geometric,
    "geometric",
    "bc",
    _check_success,
)
_filling(
    f"cauchy(Tensor self, float median=0., float sigma=1., *, {_GENERATOR}) -> Tensor",
    draw.cauchy,
    "cauchy",
    "bic",
    _positive("cauchy_", "sigma"),
)
_filling(
    f"log_normal(Tensor self, float mean=1., float std=2., *, {_GENERATOR}) -> Tensor",
    draw.log_normal,
    "log_normal",
    "bic",
    _positive("log_normal_", "std"),
)
_filling(f"random(Tensor self, *, {_GENERATOR}) -> Tensor", draw.randint, "random_", "c")
_filling(
    f"random.from(Tensor self, int from, int? to, *, {_GENERATOR}) -> Tensor",
    draw.randint,
    "random_from_to",
    "c",
    lambda low, high: None if high is None else _check_interval(low, high),
)
_filling(
    f"random.to(Tensor self, int to, *, {_GENERATOR}) -> Tensor",
    lambda gen, shape, dtype, to: draw.randint(gen, shape, dtype, 0, to),
    "random_from_to",
    "c",
    lambda to: _check_interval(0, to),
)


def _normal_kernel(xp: Any, gen: Any, self: Any, mean: float, std: float, generator: Any) -> Any:
    contiguous = bool(self.flags.c_contiguous)
    return in_memory_order(
        self, lambda shape: draw.normal(gen, shape, self.dtype, mean, std, contiguous=contiguous)
    )


def _normal_meta(self: Spec, mean: float, std: float, generator: Any) -> Spec:
    _refuse("normal_kernel_cpu", self.dtype, "bi")
    _check_deviation(mean, std)
    return self.packed


structured(
    f"normal_functional(Tensor self, float mean=0., float std=1., *, {_GENERATOR}) -> Tensor",
    meta=_normal_meta,
    kernel=_normal_kernel,
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    random=True,
    overwrites=True,
    by_value=True,
)


# ------------------------------------------------------- drawn with tensors as parameters --
def _around_meta(mean: Any, std: Any, generator: Any) -> Spec:
    specs = [x for x in (mean, std) if isinstance(x, Spec)]
    for s in specs:
        _refuse("normal_kernel_cpu", s.dtype, "bi")
    if not isinstance(std, Spec):
        _check_deviation(0.0, std)
    shape = broadcast_shapes(*[s.shape for s in specs])
    return Spec.make(shape, specs[0].dtype, common_device(specs))


def _around_kernel(xp: Any, gen: Any, mean: Any, std: Any, generator: Any) -> Any:
    like = mean if hasattr(mean, "dtype") else std
    shape = xp.broadcast_shapes(xp.shape(mean), xp.shape(std))
    if not hasattr(std, "dtype"):
        return draw.normal(gen, shape, like.dtype, 0.0, std) + mean
    if bool((std < 0).any()):
        raise ParameterError("normal expects all elements of std >= 0.0")
    return draw.normal(gen, shape, like.dtype) * std + mean


def _around(line: str, *inputs: str) -> None:
    structured(
        line,
        meta=_around_meta,
        kernel=_around_kernel,
        vjp={name: lambda g: fn.zeros_like(g) for name in inputs},
        moves=True,
        random=True,
        by_value=True,
    )


_around(f"normal.Tensor_float(Tensor mean, float std=1., *, {_GENERATOR}) -> Tensor", "mean")
_around(f"normal.float_Tensor(float mean, Tensor std, *, {_GENERATOR}) -> Tensor", "std")
_around(f"normal.Tensor_Tensor(Tensor mean, Tensor std, *, {_GENERATOR}) -> Tensor", "mean", "std")


def _normal_factory_meta(
    mean: float, std: float, size: Any, generator: Any, dtype: Any, layout: Any, device: Any,
    pin: Any,
) -> Spec:  # fmt: skip
    _check_deviation(mean, std)
    return factory_spec(size, dtype, device)


creation(
    f"normal.float_float(float mean, float std, SymInt[] size, *, {_GENERATOR}, {_OPTIONS})"
    " -> Tensor",
    meta=_normal_factory_meta,
    kernel=lambda xp, gen, mean, std, size, generator, dtype, *rest: draw.normal(
        gen, tuple(size), (dtype or Defaults.dtype).numpy, mean, std
    ),
    random=True,
    by_value=True,
)


def _bernoulli_meta(self: Spec, generator: Any) -> Spec:
    _refuse("bernoulli_tensor_cpu_p_", self.dtype, "bic")
    return self.contiguous_


structured(
    f"bernoulli(Tensor self, *, {_GENERATOR}) -> Tensor",
    meta=_bernoulli_meta,
    kernel=lambda xp, gen, self, generator: draw.bernoulli_tensor(gen, self),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    random=True,
)
structured(
    f"bernoulli.Tensor(Tensor self, Tensor p, *, {_GENERATOR}) -> Tensor",
    meta=lambda self, p, generator: self.contiguous_.with_(
        shape=broadcast_shapes(self.shape, p.shape)
    ),
    kernel=lambda xp, gen, self, p, generator: draw.bernoulli_tensor(
        gen, xp.broadcast_to(p, self.shape), self.dtype
    ),
    vjp={"self p": lambda g, p_spec: (fn.zeros_like(g), fn.new_zeros(g, p_spec.shape))},
    moves=True,
    random=True,
    overwrites=True,
)
_filling(
    f"bernoulli.p(Tensor self, float p, *, {_GENERATOR}) -> Tensor",
    lambda gen, shape, dtype, p: draw.bernoulli_p(gen, shape, p, dtype),
    "bernoulli_scalar_cpu_",
    "c",
    _check_probability,
)


def _multinomial_meta(self: Spec, num_samples: int, replacement: bool, generator: Any) -> Spec:
    if self.dtype.category != 2:
        raise DTypeError(
            f"multinomial only supports floating-point dtypes for input, got: {self.dtype.name}"
        )
    if self.ndim not in (1, 2):
        raise ShapeError("prob_dist must be 1 or 2 dim")
    if num_samples <= 0:
        raise ParameterError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > self.shape[-1]:
        raise ParameterError(
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement"
        )
    return Spec.make((*self.shape[:-1], num_samples), int64, self.device)


structured(
    f"multinomial(Tensor self, SymInt num_samples, bool replacement=False, *, {_GENERATOR})"
    " -> Tensor",
    meta=_multinomial_meta,
    kernel=lambda xp, gen, self, num_samples, replacement, generator: draw.multinomial(
        gen, xp.ascontiguousarray(self), num_samples, replacement
    ),
    moves=True,
    random=True,
)


# ------------------------------------------------------------------------------------- dropout --
def _dropout_kernel(xp: Any, gen: Any, input: Any, p: float, train: bool | None) -> tuple[Any, Any]:
    if train is False or not input.size:
        return input, xp.ones(input.shape, bool)
    mask = draw.bernoulli_p(gen, input.shape, 1 - p)
    # The factor is rounded as `dropout` in torch does: 1 over (1 - p) in the input's type.
    one = input.dtype.type(1)
    scale = one / input.dtype.type(1 - p) if p < 1 else input.dtype.type(0)
    return input * (mask * scale), mask


def _dropout_meta(input: Spec, p: float, train: bool | None) -> tuple[Spec, Spec]:
    if train is not False and 0 < p < 1 and input.numel and input.dtype.category < 2:
        raise DTypeError(
            f"result type Float can't be cast to the desired output type {input.dtype.c_name}"
        )
    return input.packed, input.contiguous_.with_(dtype=bool_)


structured(
    "native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)",
    meta=_dropout_meta,
    kernel=_dropout_kernel,
    vjp={
        "input": lambda g, out_1, p, train: fn.native_dropout_backward(
            g[0], out_1, 1.0 if train is False else 0.0 if p == 1 else 1 / (1 - p)
        )
    },
    random=True,
)
structured(
    "native_dropout_backward(Tensor grad_output, Tensor mask, float scale) -> Tensor",
    meta=lambda grad_output, mask, scale: (
        grad_output if grad_output.dense else grad_output.contiguous_
    ),
    kernel=lambda xp, grad_output, mask, scale: (
        grad_output * (mask * grad_output.dtype.type(scale))
    ),
    vjp={
        "grad_output": lambda g, mask, scale: fn.native_dropout_backward(g, mask, scale),
    },
)


def _check_dropout(p: float) -> None:
    if not 0 <= p <= 1:
        raise ParameterError(f"dropout probability has to be between 0 and 1, but got {p:g}")


@composite("dropout(Tensor input, float p, bool train) -> Tensor")
def dropout(input: Any, p: float, train: bool) -> Any:
    _check_dropout(p)
    if p == 0 or not train or not input._spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    if input._spec.contiguous:
        return fn.native_dropout(input, p, True)[0]
    noise = fn.bernoulli_(fn.empty_like(input), 1 - p)  # in the order of the input's memory
    return fn.mul(input, fn.div_(noise, 1 - p))


@composite("feature_dropout(Tensor input, float p, bool train) -> Tensor")
def feature_dropout(input: Any, p: float, train: bool) -> Any:
    """Dropout of whole channels."""
    _check_dropout(p)
    spec = input._spec
    if p == 0 or not train or not spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    return fn.mul(input, fn.div_(fn.bernoulli_(_channel_noise(input), 1 - p), 1 - p))


def _channel_noise(input: Any) -> Any:
    """Return one element for each channel of each sample."""
    shape = input._spec.shape
    if len(shape) < 2:
        raise ShapeError("Feature dropout requires at least 2 dimensions in the input")
    return fn.new_zeros(input, (*shape[:2], *[1] * (len(shape) - 2)))


_SELU_NEGATIVE_LIMIT = 1.7580993408473766  # minus alpha times scale of selu


@composite("alpha_dropout(Tensor input, float p, bool train) -> Tensor")
def alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """Dropout to selu's lower limit, keeping mean and variance (Klambauer et al., 2017)."""
    _check_dropout(p)
    if p == 0 or not train or not input._spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    return _alpha_dropped(input, fn.bernoulli_(fn.empty_like(input), 1 - p), p)


def _alpha_dropped(input: Any, noise: Any, p: float) -> Any:
    """Return the input where noise is 1 and selu's limit where it is 0, scaled and shifted."""
    scale = 1 / math.sqrt((_SELU_NEGATIVE_LIMIT**2 * p + 1) * (1 - p))
    shift = fn.add_(
        fn.mul_(fn.sub(noise, 1), _SELU_NEGATIVE_LIMIT * scale), _SELU_NEGATIVE_LIMIT * scale * p
    )
    return fn.add(fn.mul(input, fn.mul_(noise, scale)), shift)


@composite("feature_alpha_dropout(Tensor input, float p, bool train) -> Tensor")
def feature_alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """alpha_dropout of whole channels."""
    _check_dropout(p)
    if p == 0 or not train or not input._spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    return _alpha_dropped(input, fn.bernoulli_(_channel_noise(input), 1 - p), p)


# -------------------------------------------------------------------------- generators' states --
def _seed_kernel(xp: Any, gen: Any, seed: int, generator: Any) -> tuple[()]:
    gen.manual_seed(seed)
    return ()


def _check_state(state: Spec, generator: Any) -> tuple[()]:
    if state.dtype is not uint8:
        raise ArgumentError("RNG state must be a torch.ByteTensor")
    if state.shape != (draw.STATE_BYTES,):
        raise ParameterError(
            f"RNG state has {state.numel} bytes, but a CPU generator's has {draw.STATE_BYTES}"
        )
    return ()


def _set_state_kernel(xp: Any, gen: Any, state: Any, generator: Any) -> tuple[()]:
    try:
        gen.set_state(np.ascontiguousarray(state))
    except ValueError as e:
        raise BadValueError(str(e)) from None
    return ()


declare(
    f"farspan::_seed(int seed, *, {_GENERATOR}) -> ()",
    "state",
    meta=lambda seed, generator: (),
    kernel=_seed_kernel,
    random=True,
)
declare(
    f"farspan::_get_rng_state(*, {_GENERATOR}) -> Tensor",
    "state",
    meta=lambda generator: Spec.make((draw.STATE_BYTES,), uint8),
    kernel=lambda xp, gen, generator: gen.get_state(),
    random=True,
)
declare(
    f"farspan::_set_rng_state(Tensor state, *, {_GENERATOR}) -> ()",
    "state",
    meta=_check_state,
    kernel=_set_state_kernel,
    random=True,
)
