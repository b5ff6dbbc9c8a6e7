"""Convolutions of any number of spatial dims, plain and transposed, and their gradients.

Kernels unfold windows of the padded input into columns and multiply matrices. A convolution is
linear in its input and in its weight, so its three maps - forward, gradient of the input, gradient
of the weight - are each other's derivatives: first and second order need nothing else.
A transposed convolution is the gradient of the input of the plain one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import DTypeError, ShapeError
from ..family import common_device, composite, structured
from ..spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints = tuple[int, ...]

#: Bytes of columns held at once; more samples than fit are taken in turns. Measured: from 1 to
#: 16 MiB equally fast, twice as slow beyond the last cache.
_COLUMN_BYTES_MAX = 4 << 20


# ---------------------------------------------------------------------------------------- metas --
def _check(
    input: Spec, weight: Spec, bias: Spec | None, steps: dict[str, Ints], transposed: bool, n: int
) -> None:
    """Raise, in torch's words, what is wrong with a convolution's arguments."""
    ndim = weight.ndim - 2
    for name, given in steps.items():
        if len(given) != ndim:
            raise ShapeError(
                f"expected {name} to be a single integer value or a list of {ndim} values to match "
                f"the convolution dimensions, but got {name}={list(given)}"
            )
    for name in ("stride", "dilation"):
        if min(steps[name], default=1) <= 0:
            raise ShapeError(f"non-positive {name} is not supported")
    for name in ("padding", "output_padding"):
        if min(steps[name], default=0) < 0:
            raise ShapeError(f"negative {name} is not supported")
    if n <= 0:
        raise ShapeError("non-positive groups is not supported")
    if input.ndim != weight.ndim:
        raise ShapeError(
            f"Expected {weight.ndim}-dimensional input for {weight.ndim}-dimensional weight "
            f"{list(weight.shape)}, but got {input.ndim}-dimensional input of size "
            f"{list(input.shape)} instead"
        )
    if weight.shape[0] < n:
        raise ShapeError(
            f"Given groups={n}, expected weight to be at least {n} at dimension 0, but got weight "
            f"of size {list(weight.shape)} instead"
        )
    if weight.shape[0] % n:
        raise ShapeError(
            f"Given groups={n}, expected weight to be divisible by {n} at dimension 0, but got "
            f"weight of size [{list(weight.shape)}] instead"
        )
    channels = weight.shape[0] if transposed else weight.shape[1] * n
    if input.shape[1] != channels:
        kind = f"transposed={int(transposed)}" if transposed else f"groups={n}"
        raise ShapeError(
            f"Given {kind}, weight of size {list(weight.shape)}, expected "
            f"input{list(input.shape)} to have {channels} channels, but got {input.shape[1]} "
            "channels instead"
        )
    made = weight.shape[1] * n if transposed else weight.shape[0]
    if bias is not None and bias.shape != (made,):
        raise ShapeError(
            f"Given {'transposed=1, ' if transposed else ''}weight of size {list(weight.shape)}, "
            f"expected bias to be 1-dimensional with {made} elements, but got bias of size "
            f"{list(bias.shape)} instead"
        )
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype is not input.dtype:
            raise DTypeError(
                f"Input type ({input.dtype.name}) and {name} type ({other.dtype.name}) should be "
                "the same"
            )


def _plain_sizes(size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Ints:
    """Return the spatial sizes of a plain convolution's result."""
    padded = [s + 2 * p for s, p in zip(size, padding, strict=True)]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(r > s for r, s in zip(reach, padded, strict=True)):
        raise ShapeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). Kernel "
            f"size: ({' x '.join(map(str, reach))}). Kernel size can't be greater than actual "
            "input size"
        )
    return tuple((s - r) // t + 1 for s, r, t in zip(padded, reach, stride, strict=True))


def _transposed_sizes(
    size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, extra: Ints
) -> Ints:
    """Return the spatial sizes of a transposed convolution's result."""
    for e, s, d in zip(extra, stride, dilation, strict=True):
        if e >= s and e >= d:
            raise ShapeError(
                "output padding must be smaller than either stride or dilation, but got "
                f"output_padding: {list(extra)} stride: {list(stride)} dilation: {list(dilation)}"
            )
    sizes = tuple(
        (size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + extra[i] + 1
        for i in range(len(size))
    )
    if min(sizes, default=1) <= 0:
        raise ShapeError(
            f"Given input size per channel: ({' x '.join(map(str, size))}). Calculated output size "
            f"per channel: ({' x '.join(map(str, sizes))}). Output size is too small"
        )
    return sizes


def _channels_last(spec: Spec) -> bool:
    """Return whether a batch of images is stored with its channels innermost.

    Of volumes torch keeps that only for the types that oneDNN convolves.
    """
    if spec.ndim not in (4, 5) or spec.shape[1] == 1 or spec.contiguous:
        return False
    if spec.ndim == 5 and spec.dtype.name not in ("float32", "bfloat16", "complex64"):
        return False
    return spec.stride == _innermost(spec.shape)


def _innermost(shape: Ints) -> Ints:
    """Return the strides of (N, C, *) with the channels innermost."""
    stride, step = [0] * len(shape), 1
    for d in (1, *range(len(shape) - 1, 1, -1), 0):
        stride[d] = step
        step *= max(shape[d], 1)
    return tuple(stride)


def _conv_meta(
    input: Spec,
    weight: Spec,
    bias: Spec | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Spec:
    steps = {"stride": stride, "padding": padding, "dilation": dilation,
             "output_padding": output_padding}  # fmt: skip
    _check(input, weight, bias, steps, transposed, groups)
    size, kernel = input.shape[2:], weight.shape[2:]
    if transposed:
        spatial = _transposed_sizes(size, kernel, stride, padding, dilation, output_padding)
        channels = weight.shape[1] * groups
    else:
        spatial = _plain_sizes(size, kernel, stride, padding, dilation)
        channels = weight.shape[0]
    device = common_device([s for s in (input, weight, bias) if s is not None])
    shape = (input.shape[0], channels, *spatial)
    last = _channels_last(input) or _channels_last(weight)
    stride_ = _innermost(shape) if last else None
    return Spec.make(shape, input.dtype, device, stride_)


# -------------------------------------------------------------------------------------- kernels --
# Inside, the batch is the innermost dim: copies and sums then run over long contiguous rows, also
# where images are small (measured on 32 images of 8 x 8: a third faster than batch first).
def _padded(xp: Any, x: Any, padding: Ints) -> Any:
    """Return (batch, channels, *spatial) as (channels, *spatial, batch), with zeros around it."""
    size = [n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True)]
    out = (xp.zeros if any(padding) else xp.empty)((x.shape[1], *size, x.shape[0]), x.dtype)
    inside = [slice(p, p + n) for n, p in zip(x.shape[2:], padding, strict=True)]
    out[(slice(None), *inside)] = _batch_last(x)
    return out


def _batch_last(x: Any) -> Any:
    return x.transpose(*range(1, x.ndim), 0)


def _batch_first(x: Any) -> Any:
    return x.transpose(x.ndim - 1, *range(x.ndim - 1))


def _columns(
    xp: Any, x: Any, kernel: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints, n: int
) -> Any:
    """Return the windows of x as n matrices (channels / n * kernel, out * batch)."""
    x = _padded(xp, x, padding)
    for size, k, m, s, d in zip(x.shape[1:-1], kernel, out, stride, dilation, strict=True):
        if (m - 1) * s + (k - 1) * d >= size or min(s, d) < 0:
            raise ShapeError("the windows of a convolution reach outside of its images")
    steps = x.strides[1:-1]
    shape = (x.shape[0], *kernel, *out, x.shape[-1])
    strides = (
        x.strides[0],
        *[s * d for s, d in zip(steps, dilation, strict=True)],
        *[s * t for s, t in zip(steps, stride, strict=True)],
        x.strides[-1],
    )
    view = xp.lib.stride_tricks.as_strided(x, shape, strides)
    return view.reshape(n, x.shape[0] // n * math.prod(kernel), math.prod(out) * x.shape[-1])


def _grouped(x: Any, groups: int) -> Any:
    """Return (batch, channels, *spatial) as matrices (groups, channels / groups, rest * batch)."""
    return _batch_last(x).reshape(groups, x.shape[1] // groups, -1)


def _turns(batch: int, bytes_each: int) -> Iterator[slice]:
    """Yield the slices of the batch whose columns fit the bound together."""
    step = max(1, _COLUMN_BYTES_MAX // max(bytes_each, 1))
    for start in range(0, batch, step):
        yield slice(start, min(start + step, batch))


def _forward(
    xp: Any, x: Any, weight: Any, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Any:
    """Return the plain convolution of x with weight (out, in / groups, *kernel)."""
    kernel = weight.shape[2:]
    out = _plain_sizes(x.shape[2:], kernel, stride, padding, dilation)
    depth = math.prod(weight.shape[1:])
    result = xp.empty((x.shape[0], weight.shape[0], *out), x.dtype)
    matrix = weight.reshape(groups, -1, depth)
    for turn in _turns(x.shape[0], groups * depth * math.prod(out) * x.itemsize):
        columns = _columns(xp, x[turn], kernel, out, stride, padding, dilation, groups)
        made = xp.matmul(matrix, columns)
        result[turn] = _batch_first(made.reshape(weight.shape[0], *out, -1))
    return result


def _input_gradient(
    xp: Any, g: Any, weight: Any, size: Ints, stride: Ints, padding: Ints, dilation: Ints, n: int
) -> Any:
    """Return the gradient of x, of spatial sizes `size`, given that of the result; n groups."""
    kernel, out = weight.shape[2:], g.shape[2:]
    channels = weight.shape[1] * n
    matrix = weight.reshape(n, -1, math.prod(weight.shape[1:])).swapaxes(1, 2)
    padded = [s + 2 * p for s, p in zip(size, padding, strict=True)]
    result = xp.empty((g.shape[0], channels, *size), g.dtype)
    inside = tuple(slice(p, p + s) for s, p in zip(size, padding, strict=True))
    for turn in _turns(g.shape[0], channels * math.prod((*kernel, *out)) * g.itemsize):
        batch = turn.stop - turn.start
        columns = xp.matmul(matrix, _grouped(g[turn], n)).reshape(channels, *kernel, *out, batch)
        total = xp.zeros((channels, *padded, batch), g.dtype)
        for at in itertools.product(*[range(k) for k in kernel]):
            where = tuple(
                slice(i * d, i * d + (m - 1) * s + 1, s)
                for i, d, m, s in zip(at, dilation, out, stride, strict=True)
            )
            total[(slice(None), *where)] += columns[(slice(None), *at)]
        result[turn] = _batch_first(total[(slice(None), *inside)])
    return result


def _weight_gradient(
    xp: Any, g: Any, x: Any, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Any:
    """Return the gradient of the weight (out, in / groups, *kernel)."""
    out = g.shape[2:]
    depth = x.shape[1] // groups * math.prod(kernel)
    total = xp.zeros((groups, g.shape[1] // groups, depth), g.dtype)
    for turn in _turns(x.shape[0], groups * depth * math.prod(out) * x.itemsize):
        columns = _columns(xp, x[turn], kernel, out, stride, padding, dilation, groups)
        total += xp.matmul(_grouped(g[turn], groups), columns.swapaxes(1, 2))
    return total.reshape(g.shape[1], x.shape[1] // groups, *kernel)


def _conv_kernel(
    xp: Any,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Any:
    if transposed:
        size = _transposed_sizes(
            input.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding
        )
        out = _input_gradient(xp, input, weight, size, stride, padding, dilation, groups)
    else:
        out = _forward(xp, input, weight, stride, padding, dilation, groups)
    if bias is not None:
        out += bias.reshape(-1, *[1] * (out.ndim - 2))
    return out


def _conv_grad(
    g: Any,
    input: Any,
    weight: Any,
    bias_spec: Spec | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    needed: Sequence[bool],
) -> tuple[Any, ...]:
    sizes = None if bias_spec is None else bias_spec.shape
    steps = (stride, padding, dilation, transposed, output_padding, groups)
    found = fn.convolution_backward(g, fn.conj(input), fn.conj(weight), sizes, *steps, needed)
    return tuple(x if wanted else None for x, wanted in zip(found, needed, strict=True))


structured(
    "convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding,"
    " SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor",
    meta=_conv_meta,
    kernel=_conv_kernel,
    vjp={"input weight bias": _conv_grad},
)


# ------------------------------------------------------------------------------------- backward --
def _backward_meta(
    grad_output: Spec,
    input: Spec,
    weight: Spec,
    bias_sizes: Ints | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Spec, ...]:
    out = _conv_meta(
        input, weight, None, stride, padding, dilation, transposed, output_padding, groups
    )
    if grad_output.shape != out.shape:
        raise ShapeError(
            f"grad_output has shape {list(grad_output.shape)}, but the convolution's result has "
            f"{list(out.shape)}"
        )
    wanted = [input.shape, weight.shape, (out.shape[1],)]
    # What is not asked for is empty.
    return tuple(
        Spec.make(shape if asked else (0,), input.dtype, out.device)
        for shape, asked in zip(wanted, output_mask, strict=True)
    )


def _backward_kernel(
    xp: Any,
    grad_output: Any,
    input: Any,
    weight: Any,
    bias_sizes: Ints | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Any, ...]:
    steps = (stride, padding, dilation, groups)
    none = xp.empty((0,), input.dtype)
    of_input, of_weight, of_bias = none, none, none
    if output_mask[0] and transposed:
        of_input = _forward(xp, grad_output, weight, *steps)
    elif output_mask[0]:
        of_input = _input_gradient(xp, grad_output, weight, input.shape[2:], *steps)
    if output_mask[1]:
        wide, narrow = (grad_output, input) if transposed else (input, grad_output)
        of_weight = _weight_gradient(xp, narrow, wide, weight.shape[2:], *steps)
    if output_mask[2]:
        of_bias = grad_output.sum(axis=(0, *range(2, grad_output.ndim)))
    return of_input, of_weight, of_bias


def _double_backward(
    g: Sequence[Any],
    grad_output: Any,
    input: Any,
    weight: Any,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    output_mask: Sequence[bool],
    needed: Sequence[bool],
) -> tuple[Any, ...]:
    """Swap one factor of each bilinear map for the cotangent of its gradient."""
    steps = (stride, padding, dilation, transposed, output_padding, groups)
    of_input, of_weight, of_bias = g
    if input._spec.dtype.is_complex:
        grad_output, input, weight = (fn.conj(x) for x in (grad_output, input, weight))
    found: list[Any] = [None, None, None]
    if needed[0]:
        terms = []
        if output_mask[0]:
            terms.append(fn.convolution(of_input, weight, None, *steps))
        if output_mask[1]:
            terms.append(fn.convolution(input, of_weight, None, *steps))
        if output_mask[2]:
            shape = (1, -1, *[1] * (len(stride)))
            terms.append(fn.expand(fn.view(of_bias, shape), grad_output._spec.shape))
        for term in terms:
            found[0] = term if found[0] is None else fn.add(found[0], term)
    if needed[1] and output_mask[1]:
        mask = (True, False, False)
        found[1] = fn.convolution_backward(grad_output, input, of_weight, None, *steps, mask)[0]
    if needed[2] and output_mask[0]:
        mask = (False, True, False)
        found[2] = fn.convolution_backward(grad_output, of_input, weight, None, *steps, mask)[1]
    return tuple(found)


structured(
    "convolution_backward(Tensor grad_output, Tensor input, Tensor weight, SymInt[]? bias_sizes,"
    " SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed,"
    " SymInt[] output_padding, SymInt groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    meta=_backward_meta,
    kernel=_backward_kernel,
    vjp={"grad_output input weight": _double_backward},
)


# ----------------------------------------------------------------------------------- composites --
def _ints(x: Any, n: int, name: str) -> Ints:
    """Return `x` as n ints; one int stands for all."""
    values = (x,) if isinstance(x, int) else tuple(x)
    if len(values) not in (1, n):
        raise ShapeError(
            f"expected {name} to be a single integer value or a list of {n} values to match the "
            f"convolution dimensions, but got {name}={list(values)}"
        )
    return values * n if len(values) == 1 else values


def _conv(
    n: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_padding: Any = None,
) -> Any:
    """Return a convolution of n spatial dims, over a batch or without one."""
    name = f"conv{n}d" if output_padding is None else f"conv_transpose{n}d"
    if x._spec.ndim not in (n + 1, n + 2):
        raise ShapeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input "
            f"of size: {list(x._spec.shape)}"
        )
    batched = x._spec.ndim == n + 2
    x = x if batched else fn.unsqueeze(x, 0)
    transposed = output_padding is not None
    out = fn.convolution(
        x, weight, bias, _ints(stride, n, "stride"), _ints(padding, n, "padding"),
        _ints(dilation, n, "dilation"), transposed,
        _ints(output_padding or 0, n, "output_padding"), groups,
    )  # fmt: skip
    return out if batched else fn.squeeze(out, 0)


def _named_conv(
    n: int, x: Any, weight: Any, bias: Any, stride: Any, padding: str, dilation: Any, groups: int
) -> Any:
    """Return a convolution whose padding has a name: "valid" is none, "same" keeps the sizes."""
    stride, dilation = _ints(stride, n, "stride"), _ints(dilation, n, "dilation")
    if padding not in ("valid", "same"):
        raise ShapeError(f"Invalid padding string: '{padding}'")
    if padding == "valid":
        return _conv(n, x, weight, bias, stride, 0, dilation, groups)
    if any(s != 1 for s in stride):
        raise ShapeError("padding='same' is not supported for strided convolutions")
    if weight._spec.ndim != n + 2:
        raise ShapeError(
            f"Expected {weight._spec.ndim}-dimensional input for {weight._spec.ndim}-dimensional "
            f"weight {list(weight._spec.shape)}, but got {x._spec.ndim}-dimensional input of size "
            f"{list(x._spec.shape)} instead"
        )
    totals = [d * (k - 1) for d, k in zip(dilation, weight._spec.shape[2:], strict=True)]
    if any(t % 2 for t in totals):  # the odd element goes to the right side
        x = fn.constant_pad_nd(x, [side for t in reversed(totals) for side in (0, t % 2)])
    return _conv(n, x, weight, bias, stride, [t // 2 for t in totals], dilation, groups)


def _declare(n: int) -> None:
    """Declare conv{n}d, with padding by number or by name, and its transposed form."""
    ones, zeros = str([1] * n), str([0] * n)
    ends = f"SymInt[{n}] dilation={ones}, SymInt groups=1) -> Tensor"
    head = f"Tensor input, Tensor weight, Tensor? bias=None, SymInt[{n}] stride={ones}"

    @composite(f"conv{n}d({head}, SymInt[{n}] padding={zeros}, {ends}")
    def conv(
        input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        return _conv(n, input, weight, bias, stride, padding, dilation, groups)

    @composite(f'conv{n}d.padding({head}, str padding="valid", {ends}')
    def named(
        input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: str = "valid",
        dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        return _named_conv(n, input, weight, bias, stride, padding, dilation, groups)

    name = f"conv_transpose{n}d" + ("" if n == 1 else ".input")

    @composite(f"{name}({head}, SymInt[{n}] padding={zeros}, SymInt[{n}] output_padding={zeros},"
               f" SymInt groups=1, SymInt[{n}] dilation={ones}) -> Tensor")  # fmt: skip
    def transposed(
        input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Any:  # fmt: skip
        extra = output_padding or (0,) * n
        return _conv(n, input, weight, bias, stride, padding, dilation, groups, extra)


for _n in (1, 2, 3):
    _declare(_n)
