"""What single layers need: channels shuffled, instances normalized, rrelu, old convolutions."""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite, refuse, structured
from ..spec import Spec
from .arrange import images_of


# -------------------------------------------------------------------------------------- channels --
def _shuffled(self: Any, groups: int) -> Any:
    """Return (N, C, *) with the groups' first channels first, then their second ones, ..."""
    shape = self._spec.shape
    if len(shape) < 3:
        raise ShapeError(
            f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(shape)}"
        )
    if groups <= 0:
        raise ParameterError(
            f"Number of groups to divide channels in must be positive. Value of groups:{groups}"
        )
    if shape[1] % groups:
        raise ShapeError(
            f"Number of channels must be divisible by groups. Got {shape[1]} channels and {groups} "
            "groups."
        )
    split = fn.reshape(self, (shape[0], groups, shape[1] // groups, *shape[2:]))
    return images_of(fn.transpose(split, 1, 2), shape, self._spec)


for _name in ("channel_shuffle", "native_channel_shuffle"):
    composite(f"{_name}(Tensor self, SymInt groups) -> Tensor")(_shuffled)


# ----------------------------------------------------------------------------------- convolution --
@composite("conv_tbc(Tensor self, Tensor weight, Tensor bias, int pad=0) -> Tensor")
def conv_tbc(self: Any, weight: Any, bias: Any, pad: int = 0) -> Any:
    """The convolution of (time, batch, channels) with a weight (kernel, in, out)."""
    x, w, b = self._spec, weight._spec, bias._spec
    for name, spec, ndim in (("Input", x, 3), ("Weight", w, 3), ("Bias", b, 1)):
        if spec.ndim != ndim:
            raise ShapeError(
                f"{name} must have {ndim} dims{': time, batch, in_channel' if ndim == 3 else ''}."
            )
    if x.shape[2] != w.shape[1]:
        raise ShapeError("Input dim 2 (input channels) is not == dim 1 in the weight tensor")
    if w.shape[2] != b.shape[0]:
        raise ShapeError("Bias size must equal dim 2 in the weight tensor (output channels).")
    if x.dtype is not w.dtype or x.dtype is not b.dtype:
        raise DTypeError("expected input, weight and bias to have the same dtype")
    out = fn.conv1d(fn.permute(self, (1, 2, 0)), fn.permute(weight, (2, 1, 0)), bias, 1, pad)
    return fn.contiguous(fn.permute(out, (2, 0, 1)))


# ------------------------------------------------------------------------------------- instances --
def _updated(running: Any, wide: Any, batch: int) -> None:
    """Write the mean over the batch of what normalizing has made of each sample's statistics."""
    if running is not None:
        fn.copy_(running, fn.mean(fn.reshape(wide, (batch, -1)), (0,)))


@composite(
    "instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean,"
    " Tensor? running_var, bool use_input_stats, float momentum, float eps, bool cudnn_enabled)"
    " -> Tensor"
)
def instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Any:  # fmt: skip
    """Every sample's channel is a channel of one big sample, as in torch."""
    if not use_input_stats and (running_mean is None or running_var is None):
        raise ParameterError(
            "Expected running_mean and running_var to be defined when use_input_stats is false"
        )
    batch, channels, *rest = input._spec.shape

    def repeated(x: Any) -> Any:
        return None if x is None else fn.repeat(x, (batch,))

    mean, variance = repeated(running_mean), repeated(running_var)
    wide = fn.reshape(fn.contiguous(input), (1, batch * channels, *rest))
    out = fn.native_batch_norm(
        wide, repeated(weight), repeated(bias), mean, variance, use_input_stats, momentum, eps
    )[0]
    if use_input_stats:
        _updated(running_mean, mean, batch)
        _updated(running_var, variance, batch)
    return fn.reshape(out, input._spec.shape)


# ----------------------------------------------------------------------------------------- rrelu --
def _rrelu_kernel(
    xp: Any, gen: Any, self: Any, lower: float, upper: float, generator: Any
) -> tuple[Any, Any]:
    """Draw a slope, of 53 bits, for each element that is not positive, in C order."""
    noise = xp.ones(self.shape, self.dtype)
    below = self <= 0
    noise[below] = gen.doubles(int(below.sum())) * (upper - lower) + lower
    return xp.where(below, self * noise, self), noise


def _rrelu_meta(self: Spec, lower: float, upper: float, generator: Any) -> tuple[Spec, Spec]:
    refuse("rrelu_with_noise_out_cpu", self.dtype, "bic")
    return self.contiguous_, self.contiguous_


structured(
    "farspan::_rrelu_with_noise(Tensor self, float lower, float upper, *,"
    " Generator? generator=None) -> (Tensor, Tensor)",
    meta=_rrelu_meta,
    kernel=_rrelu_kernel,
    vjp={"self": lambda g, out_1: fn.mul(g[0], out_1)},
    random=True,
)


@composite(
    "rrelu(Tensor self, Scalar lower=0.125, Scalar upper=0.33333333333333331, bool training=False,"
    " Generator? generator=None) -> Tensor"
)
def rrelu(
    self: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    generator: Any = None,
) -> Any:  # fmt: skip
    if not lower <= upper:
        raise ParameterError(
            f"Lower bound should be less than or equal to the upper bound, got {lower} and {upper}"
        )
    if not math.isfinite(lower) or not math.isfinite(upper):
        raise ParameterError("rrelu: lower and upper bounds must be finite")
    if training:
        return fn._rrelu_with_noise(self, float(lower), float(upper), generator=generator)[0]
    return fn.leaky_relu(self, (lower + upper) / 2)
