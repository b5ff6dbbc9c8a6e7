"""Averages of weights over training (SWA, EMA), with their scheduler and batch-norm pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.layers.norm import _BatchNorm
from farspan.nn.module import Module
from farspan.optim.lr_scheduler.base import LRScheduler, per_group
from farspan.optim.optimizer import Optimizer

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[Any, Any, Any], None]


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """Return a function that moves a list of averages towards a list of values."""
    _check_decay(decay)

    @farspan.no_grad()
    def ema_update(averages: Any, values: Any, num_averaged: Any) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            fn._average_step_(averages, values, 1 - decay)
            return
        for average, value in zip(averages, values, strict=True):
            average.copy_(average * decay + value * (1 - decay))

    return ema_update  # type: ignore[no-any-return]


def get_swa_multi_avg_fn() -> MultiAverage:
    """Return a function that takes a list of values into a list of equal-weight averages."""

    @farspan.no_grad()
    def swa_update(averages: Any, values: Any, num_averaged: Any) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            count = {"count": num_averaged} if isinstance(num_averaged, Tensor) else {}
            fn._average_step_(averages, values, 0.0 if count else 1 / (num_averaged + 1), **count)
            return
        for average, value in zip(averages, values, strict=True):
            average.add_((value - average) / (num_averaged + 1))

    return swa_update  # type: ignore[no-any-return]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """Return a function of an average and a value that gives the next average."""
    _check_decay(decay)

    @farspan.no_grad()
    def ema_update(ema_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        return decay * ema_param + (1 - decay) * current_param  # type: ignore[no-any-return]

    return ema_update  # type: ignore[no-any-return]


def get_swa_avg_fn() -> Average:
    """Return a function of an average of n values and another value that gives that of n + 1."""

    @farspan.no_grad()
    def swa_update(averaged_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        return averaged_param + (current_param - averaged_param) / (num_averaged + 1)  # type: ignore[no-any-return]

    return swa_update  # type: ignore[no-any-return]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )


class AveragedModel(Module):
    """A copy of a model whose parameters are averages: ``update_parameters(model)`` after steps.

    avg_fn: takes (average, value, count) and returns the next average; by default all weigh the
    same. multi_avg_fn: the same over lists, in place. use_buffers: average the buffers too; else
    they are copied. Nothing waits, but for a user's avg_fn that reads.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        count = farspan.tensor(0, dtype=farspan.long, device=device)
        self.register_buffer("n_averaged", count)
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of ``model`` into the average; the first time, copy them. Waits
        until it is known whether this is the first time."""
        pairs = list(zip(self._averaged(self.module), self._averaged(model), strict=False))
        averages = [average.detach() for average, _ in pairs]
        values = [value.detach().to(average.device) for average, value in pairs]
        if bool(self.n_averaged == 0):
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
        elif self.avg_fn is not None and self.multi_avg_fn is None:
            self._update_each(self.avg_fn, averages, values)
        else:
            for mine, theirs in _alike(averages, values):
                if self.multi_avg_fn is not None:
                    self.multi_avg_fn(mine, theirs, self.n_averaged.to(mine[0].device))
                elif mine[0].is_floating_point() or mine[0].is_complex():
                    get_swa_multi_avg_fn()(mine, theirs, self.n_averaged.to(mine[0].device))
                else:
                    self._update_each(get_swa_avg_fn(), mine, theirs)
        if not self.use_buffers:
            for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                mine.detach().copy_(theirs.detach().to(mine.device))
        self.n_averaged += 1

    def _update_each(self, average_of: Average, averages: Any, values: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            average.copy_(average_of(average, value, self.n_averaged.to(average.device)))

    def _averaged(self, model: Module) -> Iterable[Tensor]:
        if self.use_buffers:
            return itertools.chain(model.parameters(), model.buffers())
        return model.parameters()


def _alike(averages: list[Tensor], values: list[Tensor]) -> Iterable[tuple[Any, Any]]:
    """Yield lists of pairs that share device and dtype."""
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for average, value in zip(averages, values, strict=True):
        mine, theirs = groups.setdefault((average.device, average.dtype), ([], []))
        mine.append(average)
        theirs.append(value)
    return groups.values()


@farspan.no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all batch norms anew, by one pass over ``loader``.

    loader: batches, or lists and tuples of which the first is the input.
    """
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    for norm in momenta:
        norm.reset_running_stats()
    if not momenta:
        return
    was_training = model.training
    model.train()
    for norm in momenta:
        norm.momentum = None  # an average in which all batches weigh the same
    for batch in loader:
        x = batch[0] if isinstance(batch, (list, tuple)) else batch
        model(x if device is None else x.to(device))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """From the present rate to ``swa_lr`` over ``anneal_epochs``, then constant."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        rates = per_group("swa_lr", optimizer, swa_lr)
        for rate, group in zip(rates, optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_strategy = anneal_strategy
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def anneal_func(self, t: float) -> float:
        """Return how much of the way is done at the part ``t`` of the time."""
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[Any]:
        self._warn_outside_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        span = max(1, self.anneal_epochs)
        before, now = [self.anneal_func(max(0, min(1, n / span))) for n in (step - 1, step)]
        rates = []
        for group in self.optimizer.param_groups:
            target = group["swa_lr"]
            start = target if before == 1 else (group["lr"] - before * target) / (1 - before)
            rates.append(target * now + start * (1 - now))
        return rates
