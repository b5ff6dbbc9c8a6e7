"""Samples of distributions: draws into a tensor, or with tensors as parameters.

A draw into a tensor fills it in the order of its memory, as torch's serial kernels do; its in-place
form (`uniform_`) is what users call. The numbers are those of `core/random.py`, which are torch's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import random as draw
from ..call import fn
from ..dtype import Defaults, int64
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import common_device, creation, factory_spec, structured
from ..memory_order import in_memory_order
from ..op import Op
from ..spec import Spec, broadcast_shapes
from .create import OPTIONS
from .random import GENERATOR, check_interval, refuse

if TYPE_CHECKING:
    from collections.abc import Callable


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
        refuse(kernel_name, self.dtype, kinds)
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
    f"uniform(Tensor self, float from=0., float to=1., *, {GENERATOR}) -> Tensor",
    draw.uniform,
    "check_uniform_bounds",
    "bi",
    _check_bounds,
)
_filling(
    f"exponential(Tensor self, float lambd=1., *, {GENERATOR}) -> Tensor",
    draw.exponential,
    "exponential",
    "bic",
    _positive("exponential_", "lambda"),
)
_filling(
    f"geometric(Tensor self, float p, *, {GENERATOR}) -> Tensor",
    draw.geometric,
    "geometric",
    "bc",
    _check_success,
)
_filling(
    f"cauchy(Tensor self, float median=0., float sigma=1., *, {GENERATOR}) -> Tensor",
    draw.cauchy,
    "cauchy",
    "bic",
    _positive("cauchy_", "sigma"),
)
_filling(
    f"log_normal(Tensor self, float mean=1., float std=2., *, {GENERATOR}) -> Tensor",
    draw.log_normal,
    "log_normal",
    "bic",
    _positive("log_normal_", "std"),
)
_filling(f"random(Tensor self, *, {GENERATOR}) -> Tensor", draw.randint, "random_", "c")
_filling(
    f"random.from(Tensor self, int from, int? to, *, {GENERATOR}) -> Tensor",
    draw.randint,
    "random_from_to",
    "c",
    lambda low, high: None if high is None else check_interval(low, high),
)
_filling(
    f"random.to(Tensor self, int to, *, {GENERATOR}) -> Tensor",
    lambda gen, shape, dtype, to: draw.randint(gen, shape, dtype, 0, to),
    "random_from_to",
    "c",
    lambda to: check_interval(0, to),
)


def _normal_kernel(xp: Any, gen: Any, self: Any, mean: float, std: float, generator: Any) -> Any:
    contiguous = bool(self.flags.c_contiguous)
    return in_memory_order(
        self, lambda shape: draw.normal(gen, shape, self.dtype, mean, std, contiguous=contiguous)
    )


def _normal_meta(self: Spec, mean: float, std: float, generator: Any) -> Spec:
    refuse("normal_kernel_cpu", self.dtype, "bi")
    _check_deviation(mean, std)
    return self.packed


structured(
    f"normal_functional(Tensor self, float mean=0., float std=1., *, {GENERATOR}) -> Tensor",
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
        refuse("normal_kernel_cpu", s.dtype, "bi")
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


_around(f"normal.Tensor_float(Tensor mean, float std=1., *, {GENERATOR}) -> Tensor", "mean")
_around(f"normal.float_Tensor(float mean, Tensor std, *, {GENERATOR}) -> Tensor", "std")
_around(f"normal.Tensor_Tensor(Tensor mean, Tensor std, *, {GENERATOR}) -> Tensor", "mean", "std")


def _normal_factory_meta(
    mean: float, std: float, size: Any, generator: Any, dtype: Any, layout: Any, device: Any,
    pin: Any,
) -> Spec:  # fmt: skip
    _check_deviation(mean, std)
    return factory_spec(size, dtype, device)


creation(
    f"normal.float_float(float mean, float std, SymInt[] size, *, {GENERATOR}, {OPTIONS})"
    " -> Tensor",
    meta=_normal_factory_meta,
    kernel=lambda xp, gen, mean, std, size, generator, dtype, *rest: draw.normal(
        gen, tuple(size), (dtype or Defaults.dtype).numpy, mean, std
    ),
    random=True,
    by_value=True,
)


def _bernoulli_meta(self: Spec, generator: Any) -> Spec:
    refuse("bernoulli_tensor_cpu_p_", self.dtype, "bic")
    return self.contiguous_


structured(
    f"bernoulli(Tensor self, *, {GENERATOR}) -> Tensor",
    meta=_bernoulli_meta,
    kernel=lambda xp, gen, self, generator: draw.bernoulli_tensor(gen, self),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    random=True,
)
structured(
    f"bernoulli.Tensor(Tensor self, Tensor p, *, {GENERATOR}) -> Tensor",
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
    f"bernoulli.p(Tensor self, float p, *, {GENERATOR}) -> Tensor",
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
    f"multinomial(Tensor self, SymInt num_samples, bool replacement=False, *, {GENERATOR})"
    " -> Tensor",
    meta=_multinomial_meta,
    kernel=lambda xp, gen, self, num_samples, replacement, generator: draw.multinomial(
        gen, xp.ascontiguousarray(self), num_samples, replacement
    ),
    moves=True,
    random=True,
)
