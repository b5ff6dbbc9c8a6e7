"""Connectionist temporal classification: the loss of all alignments of targets to a sequence.

Graves et al., "Connectionist temporal classification" (2006): alpha and beta run over the targets
with blanks between them, in logarithms, for the whole batch at once. The lengths are values, so
nothing is known of them here: what they must fulfil, the kernel checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import CPU, int64
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite, creation, no_derivative, only, structured
from ..spec import Spec
from .loss import MEAN, reduced

if TYPE_CHECKING:
    from ..dtype import Device


_CHECKER = "ctc_loss_allocate_outputs"  # torch's name of who looks at the arguments


def _check(
    log_probs: Spec, targets: Spec, input_lengths: Spec, target_lengths: Spec, blank: int
) -> None:
    """Raise, in torch's words, what shapes and types tell to be wrong."""
    if log_probs.ndim != 3:
        raise ShapeError(f"log_probs must be (T, N, C), but got {list(log_probs.shape)}")
    only("ctc_loss_cpu", log_probs.dtype, "float32 float64")
    _, batch, labels = log_probs.shape
    if not log_probs.numel:
        raise ShapeError("log_probs tensor must not be empty")
    if targets.ndim not in (1, 2) or (targets.ndim == 2 and targets.shape[0] != batch):
        raise ShapeError(
            f"Expected targets of shape ({batch}, S) or (sum(target_lengths)), but got "
            f"{list(targets.shape)} (while checking arguments for {_CHECKER})"
        )
    if not 0 <= blank < labels:
        raise ParameterError("blank must be in label range")
    for name, spec in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if spec.dtype.category != 1:
            raise DTypeError(f"{name} must be integral")
        if spec.shape != (batch,):
            raise ShapeError(f"{name} must be of size batch_size")


# --------------------------------------------------------------------------------------- kernels --
class _Alignment:
    """The padded targets of a batch with blanks between them, and where a blank may be skipped."""

    def __init__(
        self, xp: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any,
        blank: int,
    ) -> None:  # fmt: skip
        length, batch, labels = log_probs.shape
        for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
            if lengths.size and int(lengths.min()) < 0:
                raise ParameterError(
                    f"Expected {name} to have value at least 0, but got value {int(lengths.min())}"
                )
        if batch and int(input_lengths.max()) > length:
            raise ParameterError(
                f"Expected input_lengths to have value at most {length}, but got value "
                f"{int(input_lengths.max())} (while checking arguments for {_CHECKER})"
            )
        longest = int(target_lengths.max()) if batch else 0
        if targets.ndim == 2:
            if targets.shape[1] < longest:
                raise ParameterError(
                    f"Expected tensor to have size at least {longest} at dimension 1, but got size "
                    f"{targets.shape[1]} for argument #2 'targets' (while checking arguments for "
                    f"{_CHECKER})"
                )
        elif targets.size != (total := sum(target_lengths.tolist())):
            raise ParameterError(
                f"Expected tensor to have size {total} at dimension 0, but got size {targets.size} "
                f"for argument #2 'targets' (while checking arguments for {_CHECKER})"
            )
        # Only now: what has been checked bounds the longest.
        symbols = xp.full((batch, longest), blank, "int64")
        there = xp.arange(longest) < target_lengths[:, None]
        symbols[there] = targets[:, :longest][there] if targets.ndim == 2 else targets
        if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < labels:
            raise ParameterError("ctc_loss: a target is not in the label range")
        self.labels = xp.full((batch, 2 * longest + 1), blank, "int64")
        self.labels[:, 1::2] = symbols
        self.skips = xp.zeros(self.labels.shape, bool)
        self.skips[:, 2:] = (self.labels[:, 2:] != blank) & (
            self.labels[:, 2:] != self.labels[:, :-2]
        )
        self.states = 2 * target_lengths.astype("int64") + 1
        self.inputs = input_lengths.astype("int64")
        self.xp = xp

    def emitted(self, log_probs: Any) -> Any:
        """Return the log probabilities (T, N, states) of each state's label."""
        index = self.xp.broadcast_to(self.labels, (log_probs.shape[0], *self.labels.shape))
        return self.xp.take_along_axis(log_probs, index, 2)

    def ways(self, emitted: Any, skips: Any) -> Any:
        """Return log sums over all ways to each state, for sequences that start at step 0."""
        xp = self.xp
        total = xp.full(emitted.shape, -xp.inf, emitted.dtype)
        if not total.size:
            return total
        total[0, :, :2] = emitted[0, :, :2]
        for t in range(1, emitted.shape[0]):
            last = total[t - 1]
            best = last.copy()
            best[:, 1:] = xp.logaddexp(best[:, 1:], last[:, :-1])
            if last.shape[1] > 2:
                jump = xp.where(skips[:, 2:], last[:, :-2], -xp.inf)
                best[:, 2:] = xp.logaddexp(best[:, 2:], jump)
            total[t] = best + emitted[t]
        return total

    def losses(self, alpha: Any) -> Any:
        """Return minus the log probability of each sample."""
        xp = self.xp
        rows = xp.arange(self.states.size)
        end = xp.maximum(self.inputs - 1, 0)
        last = alpha[end, rows, self.states - 1]
        before = alpha[end, rows, xp.maximum(self.states - 2, 0)]
        total = xp.where(self.states > 1, xp.logaddexp(last, before), last)
        nothing = xp.where(self.states == 1, 0, -xp.inf)
        return -xp.where(self.inputs == 0, nothing, total).astype(alpha.dtype)

    def reversed(self, x: Any) -> Any:
        """Return (T, N, states) with each sample's own steps and states turned around."""
        xp = self.xp
        steps, states = xp.arange(x.shape[0]), xp.arange(x.shape[2])
        t = self.inputs[:, None] - 1 - steps
        s = self.states[:, None] - 1 - states
        rows = xp.arange(x.shape[1])[:, None, None]
        turned = x[xp.maximum(t, 0)[:, :, None], rows, xp.maximum(s, 0)[:, None, :]]
        real = (t >= 0)[:, :, None] & (s >= 0)[:, None, :]
        return xp.where(real, turned, -xp.inf).transpose(1, 0, 2)


def _kernel(
    xp: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int
) -> Any:
    a = _Alignment(xp, log_probs, targets, input_lengths, target_lengths, blank)
    with xp.errstate(invalid="ignore"):
        return a.losses(a.ways(a.emitted(log_probs), a.skips))


def _backward_kernel(
    xp: Any, grad: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any,
    neg_log_likelihood: Any, blank: int, zero_infinity: bool,
) -> Any:  # fmt: skip
    a = _Alignment(xp, log_probs, targets, input_lengths, target_lengths, blank)
    emitted = a.emitted(log_probs)
    # Beta is alpha of everything turned around; a state may be skipped to where it could be left.
    skips = xp.zeros_like(a.skips)
    states = xp.arange(a.labels.shape[1])
    mirror = a.states[:, None] - 1 - states
    ahead = xp.minimum(mirror + 2, a.labels.shape[1] - 1)
    found = xp.take_along_axis(a.skips, xp.clip(ahead, 0, None), 1)
    skips[...] = found & (mirror >= 0) & (states >= 2)
    with xp.errstate(invalid="ignore"):
        beta = a.reversed(a.ways(a.reversed(emitted), skips))
        both = a.ways(emitted, a.skips) + beta
        total = xp.full(log_probs.shape, -xp.inf, log_probs.dtype)
        rows = xp.arange(a.labels.shape[0])
        for s in range(a.labels.shape[1]):  # two states of a sample may share a label
            label = a.labels[:, s]
            total[:, rows, label] = xp.logaddexp(total[:, rows, label], both[:, :, s])
        out = xp.exp(log_probs) - xp.exp(total + neg_log_likelihood[:, None] - log_probs)
        out *= grad[:, None]
    over = xp.arange(log_probs.shape[0])[:, None] >= a.inputs
    if zero_infinity:
        over = over | xp.isinf(neg_log_likelihood)
    out[over] = 0
    return out


# ----------------------------------------------------------------------------------- declaration --
_ARGUMENTS = "Tensor log_probs, Tensor targets, Tensor input_lengths, Tensor target_lengths"


def _meta(
    log_probs: Spec, targets: Spec, input_lengths: Spec, target_lengths: Spec, blank: int, *_: Any
) -> Spec:
    _check(log_probs, targets, input_lengths, target_lengths, blank)
    return log_probs.with_(shape=log_probs.shape[1:2])


def _log_probs_grad(
    g: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, out: Any,
    blank: int, zero_infinity: bool,
) -> Any:  # fmt: skip
    return fn._ctc_loss_backward(
        g, log_probs, targets, input_lengths, target_lengths, out, blank, zero_infinity
    )


structured(
    f"farspan::_ctc_loss({_ARGUMENTS}, int blank, bool zero_infinity) -> Tensor",
    meta=_meta,
    kernel=lambda xp, *args: _kernel(xp, *args[:-1]),
    vjp={"log_probs": _log_probs_grad},
)
structured(
    f"farspan::_ctc_loss_backward(Tensor grad, {_ARGUMENTS}, Tensor neg_log_likelihood, int blank,"
    " bool zero_infinity) -> Tensor",
    meta=lambda grad, log_probs, *rest: log_probs.contiguous_,
    kernel=_backward_kernel,
    vjp={"grad log_probs": no_derivative("aten::_ctc_loss_backward")},
)


def _integers_meta(values: tuple[int, ...], device: Device | None) -> Spec:
    return Spec.make((len(values),), int64, device or CPU)


creation(
    "farspan::_integers(int[] values, *, Device? device=None) -> Tensor",
    meta=_integers_meta,
    kernel=lambda xp, values, device: xp.asarray(values, "int64"),
)


def _reduced(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int,
    reduction: int, zero_infinity: bool,
) -> Any:  # fmt: skip
    batched = log_probs._spec.ndim == 3
    if not batched:
        log_probs = fn.unsqueeze(log_probs, 1)
        if targets._spec.ndim == 1:
            targets = fn.unsqueeze(targets, 0)
    lengths = [x if x._spec.ndim else fn.reshape(x, (1,)) for x in (input_lengths, target_lengths)]
    loss = fn._ctc_loss(log_probs, targets, *lengths, blank, zero_infinity)
    if zero_infinity:
        loss = fn.masked_fill(loss, fn.isinf(loss), 0)
    if reduction == MEAN:
        return fn.mean(fn.div(loss, fn.clamp_min(lengths[1], 1)))
    loss = reduced(loss, reduction)
    return fn.squeeze(loss, 0) if not batched and loss._spec.ndim else loss


@composite(
    "ctc_loss.IntList(Tensor log_probs, Tensor targets, int[] input_lengths, int[] target_lengths,"
    " int blank=0, int reduction=1, bool zero_infinity=False) -> Tensor"
)
def ctc_loss_int_list(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: int = MEAN, zero_infinity: bool = False,
) -> Any:  # fmt: skip
    device = log_probs._spec.device
    inputs = fn._integers(tuple(input_lengths), device=device)
    labels = fn._integers(tuple(target_lengths), device=device)
    return _reduced(log_probs, targets, inputs, labels, blank, reduction, zero_infinity)


@composite(
    "ctc_loss.Tensor(Tensor log_probs, Tensor targets, Tensor input_lengths,"
    " Tensor target_lengths, int blank=0, int reduction=1, bool zero_infinity=False) -> Tensor"
)
def ctc_loss_tensor(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: int = MEAN, zero_infinity: bool = False,
) -> Any:  # fmt: skip
    return _reduced(
        log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity
    )
