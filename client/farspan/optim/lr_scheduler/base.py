"""LRScheduler: what all schedulers share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from farspan._tensor import Tensor
from farspan.optim.optimizer import Optimizer

_MORE = "See more details at https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where "
    "possible. Please use `scheduler.step()` to step the scheduler. During the deprecation, if "
    "epoch is different from None, the closed form is used instead of the new chainable form, "
    "where available. Please open an issue if you are unable to replicate your use case: "
    "https://github.com/pytorch/pytorch/issues/new/choose."
)


class LRScheduler:
    """The parent of schedulers that step once an epoch (or batch); subclasses write ``get_lr``.

    last_epoch: -1 for a new run, else the epoch after which a loaded optimizer stands. A rate
    that is a tensor stays that tensor and is filled, which does not wait.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        require_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", own(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                    "scheduler with last_epoch >= 0.\n"
                    "This typically happens when:\n"
                    "1. You're trying to resume training from a checkpoint but haven't properly "
                    "loaded the optimizer state\n"
                    "2. You're using last_epoch >= 0 for a fresh training run (not recommended)"
                )
        self.base_lrs = [own(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        if not hasattr(optimizer, "_step_of_schedulers"):
            optimizer._step_of_schedulers = vars(optimizer).get("step")  # type: ignore[attr-defined]
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> dict[str, Any]:
        """Return all that the scheduler keeps, but for the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> list[Any]:
        """Return the rates that the last step set, one a group."""
        return self._last_lr

    def get_lr(self) -> list[Any]:
        """Return the rates of ``last_epoch``; called by ``step``, not by users."""
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch and set its rates. Call it after ``optimizer.step()``."""
        if self._step_count == 1:
            self._warn_of_order()
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _warn_of_order(self) -> None:
        step = vars(self.optimizer).get("step")
        if step is not getattr(self.optimizer, "_step_of_schedulers", step):
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler "
                "initialization. Please, make sure to call `optimizer.step()` before "
                f"`lr_scheduler.step()`. {_MORE}",
                UserWarning,
                stacklevel=3,
            )
        elif not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch "
                "1.1.0 and later, you should call them in the opposite order: `optimizer.step()` "
                "before `lr_scheduler.step()`.  Failure to do this will result in PyTorch "
                f"skipping the first value of the learning rate schedule. {_MORE}",
                UserWarning,
                stacklevel=3,
            )

    def _warn_outside_step(self) -> None:
        """Warn those who call ``get_lr`` themselves; called first in each."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use "
                "`get_last_lr()`.",
                UserWarning,
                stacklevel=3,
            )

    def _update_lr(self, epoch: int | None = None) -> None:
        self._get_lr_called_within_step = True
        try:
            if epoch is None:
                self.last_epoch += 1
                rates = self.get_lr()
            else:
                self.last_epoch = epoch
                rates = getattr(self, "_get_closed_form_lr", self.get_lr)()
        finally:
            self._get_lr_called_within_step = False
        self._set(rates)

    def _set(self, rates: Iterable[Any]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            put(group, rate)
        self._last_lr = self._rates()

    def _rates(self, factor: float | None = None) -> list[Any]:
        """Return the present rates, times ``factor`` if it is given."""
        rates = [own(group["lr"]) for group in self.optimizer.param_groups]
        return rates if factor is None else [rate * factor for rate in rates]


class _LRScheduler(LRScheduler):
    """The name of LRScheduler in old programs."""


def require_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


def own(rate: Any) -> Any:
    """Return a rate that later steps do not change: of a tensor, a copy."""
    return rate.clone() if isinstance(rate, Tensor) else rate


def put(group: dict[str, Any], rate: Any, name: str = "lr") -> None:
    """Set an option of a group; one that is a tensor stays the same tensor."""
    if isinstance(group[name], Tensor):
        group[name].fill_(rate.reshape(()) if isinstance(rate, Tensor) else rate)
    else:
        group[name] = rate


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """Return one value a group from one value for all or a sequence of them."""
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has "
            f"{len(values)} values, param_groups has {count}."
        )
    return [own(v) for v in values]


class MomentumCycle:
    """Sets the momentum of an optimizer, or Adam's first beta, between two ends."""

    use_beta1: bool
    optimizer: Optimizer

    def _find_momentum(self, lows: Any, highs: Any, last_epoch: int) -> tuple[list[Any], list[Any]]:
        """Check that there is one, and start it high. Returns the lows and highs of all groups."""
        optimizer = self.optimizer
        if not optimizer.defaults.keys() & {"momentum", "betas"}:
            raise ValueError(
                "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
            )
        self.use_beta1 = "betas" in optimizer.defaults
        highs = per_group("max_momentum", optimizer, highs)
        lows = per_group("base_momentum", optimizer, lows)
        if last_epoch == -1:
            for low, high, group in zip(lows, highs, optimizer.param_groups, strict=True):
                self._set_momentum(group, high)
                group["max_momentum"] = high
                group["base_momentum"] = low
        return lows, highs

    def _set_momentum(self, group: dict[str, Any], momentum: Any) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum
