"""A tensor's place in the graph, as users see it: `requires_grad`, `grad`, `backward`, `data`.

The graph itself is `core/tape.py`, the pass `_autograd.py`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from . import _autograd, _dispatch, _tensor_hooks
from . import _grad_dtype as grad_dtypes
from ._gather import Fields
from .core import command as cmd
from .core import tape
from .core.call import fn
from .core.errors import AutogradError, DTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._tensor import Tensor


class AutogradMethods(Fields):
    """Methods of Tensor that ask for gradients, keep them, or leave the graph."""

    __slots__ = ()

    @property
    def requires_grad(self) -> bool:
        return tape.edge_of(self) is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for gradients of this leaf, or stop asking. Returns self."""
        have = self.requires_grad
        if not requires_grad:
            if have and not self.is_leaf:
                raise AutogradError(
                    "you can only change requires_grad flags of leaf variables. If you want to use "
                    "a computed variable in a subgraph that doesn't require differentiation use "
                    "var_no_grad = var.detach()."
                )
            if have:  # graphs that hold the node know it again when it is switched on
                self._leaf, self._node = self._node, None  # type: ignore[assignment]
        elif not have:
            if self._inference and not _dispatch.mode.inference:
                raise AutogradError(
                    "Setting requires_grad=True on inference tensor outside InferenceMode is not "
                    "allowed."
                )
            if self.dtype.category < 2:
                raise DTypeError("only Tensors of floating point dtype can require gradients")
            self._node = self._leaf or tape.Leaf(weakref.ref(self))
        return self

    @property
    def is_leaf(self) -> bool:
        edge = tape.edge_of(self)
        return edge is None or type(edge[0]) is tape.Leaf

    @property
    def grad_fn(self) -> Any:
        """The graph's node that made this tensor; None for leaves."""
        edge = tape.edge_of(self)
        if edge is None or type(edge[0]) is tape.Leaf:
            return None
        from ._grad_fn import GradFn

        return GradFn(edge[0])

    @property
    def output_nr(self) -> int:
        return self._index

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward passes have summed up, or None."""
        if self._grad is None and not self.is_leaf and not self._retains:
            import warnings

            warnings.warn(
                "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its "
                ".grad attribute won't be populated during autograd.backward(). If you indeed want "
                "the .grad field to be populated for a non-leaf Tensor, use .retain_grad() on it.",
                UserWarning,
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Fields):
                raise TypeError(
                    f"assigned grad expected to be a Tensor or None but got {type(value).__name__}"
                )
            if value._spec.shape != self._spec.shape:
                raise ShapeError(
                    f"assigned grad has data of a different size: {list(value.shape)} for "
                    f"{list(self.shape)}"
                )
            if value.dtype is not self.dtype or self._grad_dtype is not False:
                grad_dtypes.check(self, value)
        self._grad = value

    grad_dtype = property(grad_dtypes.read, grad_dtypes.write)

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Add to the `grad` of every leaf the gradient of this tensor. Does not wait.

        gradient: of this tensor's shape; needed unless it has one element. Raises AutogradError if
        nothing here requires grad, the graph was freed, or a saved tensor was changed in place.
        """
        _autograd.backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def retain_grad(self) -> None:
        """Keep the gradient of this tensor too, though it is no leaf."""
        if not self.requires_grad:
            raise AutogradError("can't retain_grad on Tensor that has requires_grad=False")
        if not self.is_leaf:
            self._retains = True
            _tensor_hooks.remember_retained(self)

    @property
    def retains_grad(self) -> bool:
        return self._retains

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call `hook(grad)` in every backward pass when this tensor's gradient is complete.

        It runs here, on the client; what it returns, if not None, takes the gradient's place.
        """
        return _tensor_hooks.add_hook(self, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call `hook(self)` after every backward pass that added to the `grad` of this leaf."""
        return _tensor_hooks.add_post_hook(self, hook)

    @property
    def data(self) -> Tensor:
        """The same values without history; writes to it are not noticed by backward passes."""
        return fn._data(self)

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, Fields):
            raise TypeError(f"Variable data has to be a tensor, but got {type(new).__name__}")
        if self.requires_grad and new.dtype.category < 2:
            raise DTypeError(
                "data set to a tensor that requires gradients must be floating point or complex "
                "dtype"
            )
        fresh = fn.detach(new)  # under an id of its own: the engine must tell the two apart
        have, other = self._ref, fresh._ref
        if self._node is not None and (have.session, have.device) == (other.session, other.device):
            have.session.issue(have.device, cmd.LINK, 0, (have.id, other.id), (), ())
        self._become(fresh)

    def _is_view(self) -> bool:
        """Return whether autograd knows the tensor as a view of another one, its `_base`."""
        return self._base is not None

    @property
    def _version(self) -> int:
        if self._inference:
            raise AutogradError("Inference tensors do not track version counter.")
        return self._storage.version

    def detach_(self) -> Tensor:
        """Forget the history of this tensor."""
        if self._base is not None:
            raise AutogradError("Can't detach views in-place. Use detach() instead.")
        self._become(fn.detach(self))  # under a new id: the engine knows the old one's graph
        self._node = self._leaf = None
        return self

    def is_inference(self) -> bool:
        """Return whether it was made in inference mode, and so never enters a graph."""
        return self._inference
