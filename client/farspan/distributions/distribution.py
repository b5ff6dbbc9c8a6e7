"""Distribution: what all distributions are - shapes, checked parameters, expansion, sampling.

A subclass names in `_expands` the attributes that have the batch's dims first (tensors, or other
distributions) and in `_keeps` those that an expanded copy shares; then `expand` needs no more code.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import farspan
from farspan._tensor import Size, Tensor

from . import constraints
from .utils import lazy_property

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Distribution"]


class Distribution:
    """The base of distributions: a batch of them, each over events of one shape.

    batch_shape: of the parameters. event_shape: of one draw. validate_args: whether parameters and
    values are checked, which waits once for each object and call; None: the default, which is on
    unless Python runs with -O. Raises ValueError for parameters outside of `arg_constraints`.
    """

    has_rsample: Any = False
    has_enumerate_support: Any = False
    _validate_args = __debug__
    _keeps: tuple[str, ...] = ()

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Switch the checks of distributions made from now on, and with them their waiting."""
        if value not in [True, False]:
            raise ValueError
        Distribution._validate_args = value

    def __init__(
        self,
        batch_shape: Sequence[int] = (),
        event_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self._batch_shape = Size(batch_shape)
        self._event_shape = Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._validate_parameters()
        super().__init__()

    def _validate_parameters(self) -> None:
        """Raise ValueError for the first parameter outside of its constraint. Waits once."""
        try:
            wanted = self.arg_constraints
        except NotImplementedError:
            warnings.warn(
                f"{self.__class__} does not define `arg_constraints`. Please set "
                "`arg_constraints = {}` or initialize the distribution with `validate_args=False` "
                "to turn off validation.",
                stacklevel=4,
            )
            return
        checks = []
        for name, constraint in wanted.items():
            if constraints.is_dependent(constraint):
                continue
            lazy = isinstance(getattr(type(self), name, None), lazy_property)
            if lazy and name not in self.__dict__:
                continue  # it follows from another parameter
            value = getattr(self, name)
            checks.append((name, constraint, value, constraint.check(value).all()))
        if not checks:
            return
        flags = [c[3] for c in checks]
        for (name, constraint, value, _), valid in zip(checks, _read(flags), strict=True):
            if not valid:
                raise ValueError(
                    f"Expected parameter {name} ({type(value).__name__} of shape "
                    f"{tuple(value.shape)}) of distribution {self!r} to satisfy the constraint "
                    f"{constraint!r}, but found invalid values:\n{value}"
                )

    # ------------------------------------------------------------------------------ expansion --
    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the distribution with its batch expanded to this shape, without new memory."""
        home = next((c for c in type(self).__mro__ if "_expands" in vars(c)), None)
        if home is None:
            raise NotImplementedError
        new = self._get_checked_instance(home, _instance)
        self._expand_into(new, Size(batch_shape))
        Distribution.__init__(new, Size(batch_shape), self._event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        old = len(self._batch_shape)
        for name in self._expands:
            if name in self.__dict__:
                value = getattr(self, name)
                tail = value.batch_shape if isinstance(value, Distribution) else value.shape
                setattr(new, name, value.expand(batch_shape + tail[old:]))
        for name in self._keeps:
            if name in self.__dict__:
                setattr(new, name, getattr(self, name))

    def _get_checked_instance(self, cls: type, _instance: Any = None) -> Any:
        if _instance is None and type(self).__init__ != cls.__init__:
            raise NotImplementedError(
                f"Subclass {self.__class__.__name__} of {cls.__name__} that defines a custom "
                "__init__ method must also define a custom .expand() method."
            )
        return self.__new__(type(self)) if _instance is None else _instance

    # ---------------------------------------------------------------------- what it is and does --
    @property
    def batch_shape(self) -> Size:
        """The shape of the batch of distributions."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of one draw of one distribution."""
        return self._event_shape

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The constraint of each parameter, by name."""
        raise NotImplementedError

    @property
    def support(self) -> Any:
        """The constraint that holds for draws."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """The mean, of batch and event shape."""
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """The likeliest value."""
        raise NotImplementedError(f"{self.__class__} does not implement mode")

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each element."""
        return self.variance.sqrt()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws of shape sample_shape + batch_shape + event_shape, without gradients."""
        with farspan.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws whose gradients reach the parameters: pathwise derivatives."""
        raise NotImplementedError

    def sample_n(self, n: int) -> Tensor:
        """Return n draws. Deprecated: write ``sample((n,))``."""
        warnings.warn(
            "`sample_n(n)` will be deprecated. Use `sample((n,))` instead.",
            FutureWarning,
            stacklevel=2,
        )
        return self.sample(Size((n,)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log of the density, or of the probability, at `value`, event by event."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of a draw up to `value`."""
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile: the inverse of `cdf`."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all values of a discrete distribution along dim 0, for each of the batch."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """Return the entropy in nats, of batch shape."""
        raise NotImplementedError

    def perplexity(self) -> Tensor:
        """Return exp of the entropy."""
        return farspan.exp(self.entropy())

    def _extended_shape(self, sample_shape: Sequence[int] = ()) -> Size:
        """Return the shape of draws."""
        return Size(sample_shape) + self._batch_shape + self._event_shape

    # ------------------------------------------------------------------------------ validation --
    def _check(self, value: Any) -> None:
        """Validate a value unless the checks are off."""
        if self._validate_args:
            self._validate_sample(value)

    def _validate_sample(self, value: Tensor) -> None:
        """Raise ValueError for a shape that does not fit, or a value outside of the support."""
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        shape = value.size()
        if shape[len(shape) - len(self._event_shape) :] != self._event_shape:
            raise ValueError(
                f"The right-most size of value must match event_shape: {shape} vs "
                f"{self._event_shape}."
            )
        expected = self._batch_shape + self._event_shape
        for i, j in zip(reversed(shape), reversed(expected), strict=False):
            if i != 1 and j != 1 and i != j:
                raise ValueError(
                    f"Value is not broadcastable with batch_shape+event_shape: {shape} vs "
                    f"{expected}."
                )
        try:
            support = self.support
        except NotImplementedError:
            warnings.warn(
                f"{self.__class__} does not define `support` to enable sample validation. Please "
                "initialize the distribution with `validate_args=False` to turn off validation.",
                stacklevel=4,
            )
            return
        assert support is not None
        if not support.check(value).all():
            raise ValueError(
                f"Expected value argument ({type(value).__name__} of shape {tuple(shape)}) to be "
                f"within the support ({support!r}) of the distribution {self!r}, but found invalid "
                f"values:\n{value}"
            )

    def __repr__(self) -> str:
        given = [(k, self.__dict__[k]) for k in self.arg_constraints if k in self.__dict__]
        shown = ", ".join(f"{k}: {v if v.numel() == 1 else v.size()}" for k, v in given)
        return f"{self.__class__.__name__}({shown})"


def _read(flags: list[Any]) -> list[bool]:
    """Return the values of 0-d bool tensors by one wait."""
    if len(flags) == 1 or len({f.device for f in flags}) > 1:
        return [bool(f) for f in flags]
    return farspan.stack(flags).tolist()
