"""Layers that learn their input's size from the first input they see.

Until then their parameters are uninitialized: they have a dtype and a device but no shape. The
classes are made from a table, one for each layer that ``farspan.nn`` has.
"""

from __future__ import annotations

import itertools
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.nn.layers import conv, linear, norm
from farspan.nn.module import Module
from farspan.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from farspan.utils.hooks import RemovableHandle


class LazyModuleMixin(Module):
    """What a module with uninitialized parameters inherits first; see ``initialize_parameters``.

    After the first call the object becomes one of ``cls_to_become``, if that is given.
    """

    cls_to_become: type[Any] | None = None
    _load_hook: RemovableHandle
    _initialize_hook: RemovableHandle

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._load_hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._initialize_hook = self.register_forward_pre_hook(
            self._infer_parameters, with_kwargs=True
        )

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Give the parameters the shapes that the first call's arguments ask for."""
        raise NotImplementedError(
            f"initialize_parameters is not implemented for {type(self).__name__}"
        )

    def has_uninitialized_params(self) -> bool:
        """Return whether any parameter or buffer of this module waits for its shape."""
        return any(is_lazy(x) for x in (*self._parameters.values(), *self._buffers.values()))

    def _lazy_load_hook(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the shapes of what is about to be loaded."""
        for name, own in itertools.chain(self._parameters.items(), self._buffers.items()):
            saved = state_dict.get(prefix + name)
            if isinstance(own, (UninitializedParameter, UninitializedBuffer)) and (
                saved is not None and not is_lazy(saved)
            ):
                with farspan.no_grad():
                    own.materialize(saved.shape)

    def _infer_parameters(self, module: Any, args: Any, kwargs: Any = None) -> None:
        module.initialize_parameters(*args, **(kwargs or {}))
        if module.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        for name in ("_initialize_hook", "_load_hook"):
            getattr(module, name).remove()
            delattr(module, name)
        if module.cls_to_become is not None:
            module.__class__ = module.cls_to_become

    def _replicate_for_data_parallel(self) -> Any:
        raise RuntimeError(
            "Modules with uninitialized parameters can't be used with `DataParallel`. Run a dummy "
            "forward pass to correctly initialize the modules"
        )


class _LazyLayer(LazyModuleMixin):
    """A lazy layer with a weight and perhaps a bias."""

    _inputs: str  # the attribute that counts inputs, 0 until they are known
    _outputs: str

    def _wait_for_shapes(self, bias: bool, device: Any, dtype: Any) -> None:
        """Put uninitialized parameters in the places of weight and bias."""
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def _materialize(self, *shape: int) -> None:
        """Give the weight ``shape``, and the bias the number of outputs."""
        with farspan.no_grad():
            self.weight.materialize(shape)
            if self.bias is not None:
                self.bias.materialize((getattr(self, self._outputs),))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as the finished layer does; nothing while shapes are unknown."""
        if not self.has_uninitialized_params() and getattr(self, self._inputs) != 0:
            super().reset_parameters()  # type: ignore[misc]


class LazyLinear(_LazyLayer, linear.Linear):
    """Linear whose ``in_features`` is the last size of the first input."""

    cls_to_become = linear.Linear
    _inputs, _outputs = "in_features", "out_features"

    def __init__(
        self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(0, 0, False)
        self.out_features = out_features
        self._wait_for_shapes(bias, device, dtype)

    def initialize_parameters(self, input: Tensor) -> None:  # type: ignore[override]
        if self.has_uninitialized_params():
            self.in_features = input.shape[-1]
            self._materialize(self.out_features, self.in_features)
        if self.in_features == 0:
            if input.shape[-1] != self.weight.shape[-1]:
                raise AssertionError(
                    f"The in_features inferred from input: {input.shape[-1]} is not equal to "
                    f"in_features from self.weight: {self.weight.shape[-1]}"
                )
            self.in_features = input.shape[-1]


class _LazyConv(_LazyLayer):
    """A convolution whose ``in_channels`` comes from the first input, batched or not."""

    _inputs, _outputs = "in_channels", "out_channels"
    _ndim: int
    _transposed = False
    groups: int
    out_channels: int
    kernel_size: tuple[int, ...]

    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (kernel_size, stride, padding, dilation, groups, False, padding_mode)
        super().__init__(0, 0, *options, device=device, dtype=dtype)
        self.out_channels = out_channels
        self._wait_for_shapes(bias, device, dtype)

    def initialize_parameters(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.has_uninitialized_params():
            return
        ranks = (self._ndim + 1, self._ndim + 2)
        if input.dim() not in ranks:
            raise RuntimeError(
                f"Expected {ranks[0]}D (unbatched) or {ranks[1]}D (batched) input to "
                f"{type(self).__name__}, but got input of size: {input.shape}"
            )
        channels = self.in_channels = input.shape[-ranks[0]]
        if channels % self.groups:
            raise ValueError("in_channels must be divisible by groups")
        rows, columns = self.out_channels, channels // self.groups
        if self._transposed:
            rows, columns = channels, self.out_channels // self.groups
        self._materialize(rows, columns, *self.kernel_size)


class _LazyConvTranspose(_LazyConv):
    _transposed = True

    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (kernel_size, stride, padding, output_padding, groups, False, dilation)
        # Past _LazyConv, whose arguments come in another order.
        LazyModuleMixin.__init__(self, 0, 0, *options, padding_mode, device=device, dtype=dtype)
        self.out_channels = out_channels
        self._wait_for_shapes(bias, device, dtype)


class _LazyNorm(_LazyLayer):
    """A normalization whose ``num_features`` is the second size of the first input."""

    _inputs = _outputs = "num_features"
    affine: bool
    track_running_stats: bool

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        made = {"device": device, "dtype": dtype}
        super().__init__(0, eps, momentum, False, False, **made, bias=False)
        self.affine = affine
        self.track_running_stats = track_running_stats
        if affine:
            self._wait_for_shapes(bias, device, dtype)
        if track_running_stats:
            self.running_mean = UninitializedBuffer(**made)
            self.running_var = UninitializedBuffer(**made)
            self.num_batches_tracked = farspan.tensor(0, dtype=farspan.int64, device=device)

    def initialize_parameters(self, input: Tensor) -> None:  # type: ignore[override]
        if not self.has_uninitialized_params():
            return
        self.num_features = input.shape[1]
        for waiting in (*self._parameters.values(), *self._buffers.values()):
            if isinstance(waiting, (UninitializedParameter, UninitializedBuffer)):
                waiting.materialize((self.num_features,))
        self.reset_parameters()


def _lazy(mixin: type[Any], base: type[Any], ndim: int) -> type[Any]:
    text = f"{base.__name__} whose number of inputs is that of its first input."
    members = {"__doc__": text, "__module__": __name__, "cls_to_become": base}
    if issubclass(mixin, _LazyConv):
        members["_ndim"] = ndim
    return type(f"Lazy{base.__name__}", (mixin, base), members)


#: All lazy layers by name: one for each layer of these kinds that there is.
LAYERS: dict[str, type[Any]] = {"LazyLinear": LazyLinear}
for _mixin, _home, _kind in (
    (_LazyConv, conv, "Conv"),
    (_LazyConvTranspose, conv, "ConvTranspose"),
    (_LazyNorm, norm, "BatchNorm"),
    (_LazyNorm, norm, "InstanceNorm"),
):
    for _n in (1, 2, 3):
        _base = getattr(_home, f"{_kind}{_n}d", None)
        if _base is not None:
            LAYERS[f"Lazy{_kind}{_n}d"] = _lazy(_mixin, _base, _n)
globals().update(LAYERS)
