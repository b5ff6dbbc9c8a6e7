"""LBFGS, which calls its closure several times a step; the line search is in `_line_search.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.optim._line_search import strong_wolfe
from farspan.optim.optimizer import Optimizer, as_float, require_rate

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """Quasi-Newton steps from the last ``history_size`` changes of the gradient (Nocedal, 1980).

    ``step(closure)`` waits: how far to go depends on losses. All state is kept with the first
    parameter, over one flat vector of all of them.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        require_rate(lr)
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self._params = self.param_groups[0]["params"]

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Take up to ``max_iter`` steps. Returns the loss that ``closure`` returned first."""

        def evaluate() -> Any:
            with farspan.enable_grad():
                return closure()

        with farspan.no_grad():
            return self._iterate(evaluate)

    def _iterate(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        state = self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first_loss = closure()
        loss, evaluations = float(first_loss), 1
        state["func_evals"] += 1
        gradient = self._flat_gradient()
        if _largest(gradient) <= group["tolerance_grad"]:
            return first_loss
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(state, gradient, group["history_size"])
            if state.get("prev_flat_grad") is None:
                state["prev_flat_grad"] = gradient.clone()
            else:
                state["prev_flat_grad"].copy_(gradient)
            before, state["prev_loss"] = loss, loss
            rate = group["lr"]
            if isinstance(rate, Tensor):
                rate = rate.reshape(())
            state["t"] = rate
            if state["n_iter"] == 1:
                state["t"] = min(1.0, 1.0 / gradient.abs().sum()) * rate
            slope = gradient.dot(direction)
            if slope > -group["tolerance_change"]:
                break
            last = iteration == group["max_iter"]
            room = group["max_eval"] - evaluations
            moved = self._move(closure, state, loss, gradient, slope, room, last)
            loss, gradient, taken, done = moved
            evaluations += taken
            state["func_evals"] += taken
            if last or evaluations >= group["max_eval"] or done:
                break
            if _largest(direction.mul(state["t"])) <= group["tolerance_change"]:
                break
            if abs(loss - before) < group["tolerance_change"]:
                break
        return first_loss

    def _direction(self, state: dict[str, Any], gradient: Tensor, size: int) -> Tensor:
        """Remember how the gradient changed, and return where to go (two-loop recursion)."""
        if state["n_iter"] == 1:
            state.update(d=gradient.neg(), t=None, old_dirs=[], old_stps=[], ro=[], H_diag=1)
            return state["d"]  # type: ignore[no-any-return]
        dirs, steps, ro = state["old_dirs"], state["old_stps"], state["ro"]
        change = gradient.sub(state["prev_flat_grad"])
        step = state["d"].mul(state["t"])
        curvature = change.dot(step)
        if curvature > 1e-10:
            if len(dirs) == size:
                for history in (dirs, steps, ro):
                    history.pop(0)
            dirs.append(change)
            steps.append(step)
            ro.append(1.0 / curvature)
            state["H_diag"] = curvature / change.dot(change)
        al = state.setdefault("al", [None] * size)
        r = gradient.neg()
        for i in reversed(range(len(dirs))):
            al[i] = steps[i].dot(r) * ro[i]
            r.sub_(dirs[i] * al[i])
        r = farspan.mul(r, state["H_diag"])
        for i in range(len(dirs)):
            r.add_(steps[i] * (al[i] - dirs[i].dot(r) * ro[i]))
        state["d"] = r
        return r

    def _move(
        self,
        closure: Callable[[], Any],
        state: dict[str, Any],
        loss: float,
        gradient: Tensor,
        slope: Tensor,
        room: int,
        last: bool,
    ) -> tuple[float, Tensor, int, bool]:
        """Go along the direction; return loss, gradient, evaluations, and whether it is flat."""
        group = self.param_groups[0]
        if group["line_search_fn"] is None:
            self._add(state["t"], state["d"])
            if last:  # nobody would look at the loss there
                return loss, gradient, 0, False
            loss = float(closure())
            gradient, taken = self._flat_gradient(), 1
        elif group["line_search_fn"] != "strong_wolfe":
            raise RuntimeError("only 'strong_wolfe' is supported")
        else:
            start = [param.clone() for param in self._params]

            def look(t: Any, direction: Tensor) -> tuple[float, Tensor]:
                self._add(t, direction)
                there = float(closure()), self._flat_gradient()
                for param, value in zip(self._params, start, strict=True):
                    param.copy_(value)
                return there

            loss, gradient, state["t"], taken = strong_wolfe(
                look, state["t"], state["d"], loss, gradient, slope, most=room
            )
            self._add(state["t"], state["d"])
        return loss, gradient, taken, bool(_largest(gradient) <= group["tolerance_grad"])

    def _flat_gradient(self) -> Tensor:
        views = []
        for param in self._params:
            grad = farspan.zeros_like(param) if param.grad is None else param.grad
            real = farspan.view_as_real(grad) if grad.is_complex() else grad
            views.append(real.reshape(-1))
        return farspan.cat(views, 0)

    def _add(self, size: Any, update: Tensor) -> None:
        offset = 0
        for param in self._params:
            real = farspan.view_as_real(param) if param.is_complex() else param
            part = update[offset : offset + real.numel()].view(real.shape)
            real.add_(part * size)
            offset += real.numel()


def _largest(x: Tensor) -> float:
    return as_float(x.abs().max())
