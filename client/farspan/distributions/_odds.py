"""Parameters that are given as probabilities or as logits, each of which follows from the other."""

from __future__ import annotations

from typing import Any

import farspan
from farspan._tensor import Size, Tensor

from .utils import broadcast_all, lazy_property, logits_to_probs, probs_to_logits


def check_one_of(probs: Any, logits: Any) -> None:
    """Raise ValueError unless exactly one is given."""
    if (probs is None) == (logits is None):
        raise ValueError("Either `probs` or `logits` must be specified, but not both.")


class _Given:
    """Remembers by which name the parameter was given."""

    _given: str

    @property
    def _param(self) -> Tensor:
        return getattr(self, self._given)

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter."""
        return self._param.size()

    def _new(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._param.new(*args, **kwargs)


class Binary(_Given):
    """`probs` of one of two outcomes, or `logits`, their log-odds."""

    def _give(self, probs: Any, logits: Any) -> None:
        """Set the parameter that is not None, a number or a tensor."""
        check_one_of(probs, logits)
        self._given = "logits" if probs is None else "probs"
        (value,) = broadcast_all(logits if probs is None else probs)
        setattr(self, self._given, value)

    def _give_with_count(self, total_count: Any, probs: Any, logits: Any) -> None:
        """Set the parameter and `total_count`, broadcast and of one dtype."""
        check_one_of(probs, logits)
        self._given = "logits" if probs is None else "probs"
        count, value = broadcast_all(total_count, logits if probs is None else probs)
        setattr(self, self._given, value)
        self.total_count = count.type_as(value)

    @lazy_property
    def logits(self) -> Tensor:
        return probs_to_logits(self.probs, is_binary=True)

    @lazy_property
    def probs(self) -> Tensor:
        return logits_to_probs(self.logits, is_binary=True)


class OfCategories:
    """The parameters of a distribution over vectors that stands on a `_categorical`."""

    _categorical: Any

    def _new(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._categorical._new(*args, **kwargs)

    @property
    def _param(self) -> Tensor:
        return self._categorical._param

    @property
    def probs(self) -> Tensor:
        """The probabilities, normalized along the last dim."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """The logarithms of the probabilities."""
        return self._categorical.logits

    @property
    def param_shape(self) -> Size:
        return self._categorical.param_shape

    @property
    def _shapes(self) -> tuple[Size, Size]:
        """Batch shape and event shape."""
        return self._categorical.batch_shape, self._categorical.param_shape[-1:]


def counted_out(n: int, batch_shape: Size, expand: bool, like: Tensor) -> Tensor:
    """Return 0 .. n-1 along dim 0 of a batch, with the other's dtype, on its device."""
    values = farspan.arange(n, dtype=like.dtype, device=like.device)
    values = values.view((-1,) + (1,) * len(batch_shape))
    return values.expand((-1, *batch_shape)) if expand else values
