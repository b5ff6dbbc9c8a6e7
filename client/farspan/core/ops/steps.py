"""More optimizer steps: each rule is written once, for kernels and for differentiable steps.

A rule takes a namespace (numpy's, or farspan's where a step is differentiated), one parameter, its
gradient, its state and the options, and returns the new parameter; new states it puts into `s`.
From each follows one operator over lists, `_<name>_step_`, which is applied whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..dtype import Defaults
from ..errors import ShapeError
from ..op import declare
from .optim import check_counters, check_lists, lerp, narrow, parts, skipped, wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..spec import Spec

Update = Callable[[Any, Any, Any, dict[str, Any], dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one parameter is updated, and what it keeps from step to step."""

    update: Update
    #: State tensors of the parameter's shape; the option without which they are absent.
    states: Mapping[str, str]
    scalars: tuple[str, ...]  # 0-d states beside the count of steps
    options: str  # the part of the schema after lr: "float alpha, bool centered"


#: By name, all rules: also those of SGD and Adam, whose kernels are written out in `optim.py`.
RULES: Final[dict[str, Rule]] = {}


def _rule(
    name: str,
    states: Mapping[str, str],
    options: str,
    scalars: tuple[str, ...] = (),
    op: bool = True,
) -> Callable[[Update], Update]:
    """Enter an update among the RULES and, unless `op` is False, declare its operator."""

    def enter(update: Update) -> Update:
        rule = RULES[name] = Rule(update, states, scalars, options)
        if op:
            _declare(name, rule)
        return update

    return enter


def _declare(name: str, rule: Rule) -> None:
    lists = [f"{n}s" for n in (*rule.states, *rule.scalars)] + ["state_steps"]
    written = ", ".join(f"Tensor({chr(98 + i)}!)[] {n}" for i, n in enumerate(lists))
    names = ["lr", *[o.split()[1] for o in rule.options.split(", ")]]
    declare(
        f"farspan::_{name}_step_(Tensor(a!)[] self, Tensor[] grads, {written}, *, float lr,"
        f" {rule.options}, Tensor? rate=None, Tensor? found_inf=None) -> ()",
        "step",
        meta=_meta_of(rule, lists),
        kernel=_kernel_of(rule, lists, names),
    )


def _meta_of(rule: Rule, lists: Sequence[str]) -> Callable[..., tuple[()]]:
    def meta(self: Sequence[Spec], grads: Sequence[Spec], *rest: Any) -> tuple[()]:
        check_lists(self, grads=grads)
        for name, specs, state in zip(lists, rest, rule.states, strict=False):
            if specs or not rule.states[state]:
                check_lists(self, **{name: specs})
        for name, specs in list(zip(lists, rest, strict=False))[len(rule.states) :]:
            check_counters(self, name, specs)
        return ()

    return meta


def _kernel_of(rule: Rule, lists: Sequence[str], names: Sequence[str]) -> Callable[..., tuple[()]]:
    """Return the kernel: the rule for each parameter, of complex ones for both their parts."""

    def kernel(xp: Any, self: Sequence[Any], grads: Sequence[Any], *rest: Any) -> tuple[()]:
        o = dict(zip(names, rest[len(lists) :], strict=False))
        rate, found_inf = rest[-2:]
        if skipped(found_inf):
            return ()
        if rate is not None:
            o["lr"] = float(rate)
        given = dict(zip([*rule.states, *rule.scalars, "step"], rest, strict=False))
        for name, option in rule.states.items():
            if not given[name] and (not option or o[option]):
                raise ShapeError(f"a step with {option or name} needs {name}s")
        kept = [name for name in rule.states if given[name]]
        for i, array in enumerate(self):
            given["step"][i][...] += 1
            numbers = {n: float(given[n][i]) for n in (*rule.scalars, "step")}
            for name in rule.scalars[:1]:
                numbers["round"] = given[name][i].dtype.type
            stored = [array, grads[i], *[given[n][i] for n in kept]]
            computed = [wide(a) for a in stored]
            for param, grad, *states in parts(*computed):
                s = dict(zip(kept, states, strict=True)) | numbers
                before = list(s.values())[: len(kept)]
                param[...] = update(rule, xp, param, grad, s, o)
                for array_of, name in zip(before, kept, strict=True):
                    array_of[...] = s[name]
            for name in rule.scalars:
                given[name][i][...] = s[name]
            for new, old in zip(computed, stored, strict=True):
                if old is not grads[i]:
                    narrow(new, old)
        return ()

    return kernel


def update(rule: Rule, xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Return the new parameter: what all rules share comes first, then the rule's own part."""
    if o.get("maximize"):
        g = -g
    decay = o.get("weight_decay", 0)
    if not isinstance(decay, (int, float)) or decay != 0:
        if o.get("decoupled"):
            p = p * (1 - o["lr"] * decay)
        else:
            g = g + p * decay
    return rule.update(xp, p, g, s, o)


def _towards(start: Any, end: Any, weight: Any) -> Any:
    return start + (end - start) * weight


def _squares(s: dict[str, Any], name: str, g: Any, keep: Any) -> Any:
    """Decay the running mean of squares and return it."""
    s[name] = s[name] * keep + g * g * (1 - keep)
    return s[name]


# ------------------------------------------------------------------------ sgd, adam: in optim.py --
@_rule(
    "sgd",
    {"momentum_buffer": "momentum"},
    "float momentum, float dampening, bool nesterov",
    op=False,
)
def _sgd(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    if o["momentum"]:
        if o["first"]:
            buffer = g.detach()  # as torch does; this rule only serves recorded steps
        else:
            buffer = s["momentum_buffer"] * o["momentum"] + g * (1 - o["dampening"])
        s["momentum_buffer"] = buffer
        g = g + buffer * o["momentum"] if o["nesterov"] else buffer
    return p - g * o["lr"]


@_rule(
    "adam", {"exp_avg": "", "exp_avg_sq": "", "max_exp_avg_sq": "amsgrad"}, "bool amsgrad", op=False
)
def _adam(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    s["exp_avg"] = _towards(s["exp_avg"], g, 1 - o["beta1"])
    square = _squares(s, "exp_avg_sq", g, o["beta2"])
    if o["amsgrad"]:
        square = s["max_exp_avg_sq"] = xp.maximum(s["max_exp_avg_sq"], square)
    scale = (1 - o["beta2"] ** s["step"]) ** 0.5
    return p - s["exp_avg"] / (xp.sqrt(square) / scale + o["eps"]) * (
        o["lr"] / (1 - o["beta1"] ** s["step"])
    )


# ------------------------------------------------------------------------------ adaptive rates --
@_rule(
    "adadelta",
    {"square_avg": "", "acc_delta": ""},
    "float rho, float eps, float weight_decay, bool maximize",
)
def _adadelta(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Zeiler, 2012: steps as large as past steps were, per unit of past gradients."""
    square = _squares(s, "square_avg", g, o["rho"])
    delta = xp.sqrt(s["acc_delta"] + o["eps"]) / xp.sqrt(square + o["eps"]) * g
    _squares(s, "acc_delta", delta, o["rho"])
    return p - delta * o["lr"]


@_rule("adagrad", {"sum": ""}, "float lr_decay, float eps, float weight_decay, bool maximize")
def _adagrad(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Duchi, Hazan and Singer, 2011: divided by the root of the sum of all squares."""
    s["sum"] = s["sum"] + g * g
    rate = o["lr"] / (1 + (s["step"] - 1) * o["lr_decay"])
    return p - g / (xp.sqrt(s["sum"]) + o["eps"]) * rate


@_rule(
    "rmsprop",
    {"square_avg": "", "momentum_buffer": "momentum", "grad_avg": "centered"},
    "float alpha, float eps, float weight_decay, float momentum, bool centered, bool maximize",
)
def _rmsprop(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Hinton's lecture 6e; centered: by the deviation instead of the root of squares."""
    variance = _squares(s, "square_avg", g, o["alpha"])
    if o["centered"]:
        s["grad_avg"] = _towards(s["grad_avg"], g, 1 - o["alpha"])
        variance = variance - s["grad_avg"] * s["grad_avg"]
    step = g / (xp.sqrt(variance) + o["eps"])
    if o["momentum"] > 0:
        step = s["momentum_buffer"] = s["momentum_buffer"] * o["momentum"] + step
    return p - step * o["lr"]


@_rule(
    "adamax",
    {"exp_avg": "", "exp_inf": ""},
    "float beta1, float beta2, float eps, float weight_decay, bool maximize",
)
def _adamax(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Kingma and Ba, 2015, section 7.1: Adam by the largest gradient."""
    s["exp_avg"] = _towards(s["exp_avg"], g, 1 - o["beta1"])
    s["exp_inf"] = xp.maximum(s["exp_inf"] * o["beta2"], xp.abs(g) + o["eps"])
    return p - s["exp_avg"] / s["exp_inf"] * (o["lr"] / (1 - o["beta1"] ** s["step"]))


@_rule(
    "nadam",
    {"exp_avg": "", "exp_avg_sq": ""},
    "float beta1, float beta2, float eps, float weight_decay, float momentum_decay,"
    " bool maximize, bool decoupled",
    ("mu_product",),
)
def _nadam(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Dozat, 2016: Adam with Nesterov's look ahead; the momentum grows with the steps."""
    step = s["step"]
    mu, mu_next = [
        o["beta1"] * (1.0 - 0.5 * 0.96 ** (n * o["momentum_decay"])) for n in (step, step + 1)
    ]
    rounded = s["round"]  # torch multiplies a float32 tensor by a number
    product = s["mu_product"] = float(rounded(rounded(s["mu_product"]) * rounded(mu)))
    s["exp_avg"] = _towards(s["exp_avg"], g, 1 - o["beta1"])
    square = _squares(s, "exp_avg_sq", g, o["beta2"])
    root = xp.sqrt(square / (1 - o["beta2"] ** step)) + o["eps"]
    p = p - g / root * (o["lr"] * (1.0 - mu) / (1.0 - product))
    return p - s["exp_avg"] / root * (o["lr"] * mu_next / (1.0 - product * mu_next))


@_rule(
    "radam",
    {"exp_avg": "", "exp_avg_sq": ""},
    "float beta1, float beta2, float eps, float weight_decay, bool maximize, bool decoupled",
)
def _radam(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Liu et al., 2020: Adam that trusts its second moment only once it has seen enough."""
    step, beta2 = s["step"], o["beta2"]
    s["exp_avg"] = _towards(s["exp_avg"], g, 1 - o["beta1"])
    square = _squares(s, "exp_avg_sq", g, beta2)
    average = s["exp_avg"] / (1 - o["beta1"] ** step)
    correction = 1 - beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / correction
    if length <= 5.0:
        return p - average * o["lr"]
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    adaptive = correction**0.5 / (xp.sqrt(square) + o["eps"])
    return p - average * o["lr"] * adaptive * rectified**0.5


@_rule(
    "asgd",
    {"ax": ""},
    "float lambd, float alpha, float t0, float weight_decay, bool maximize",
    ("eta", "mu"),
)
def _asgd(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Polyak and Juditsky, 1992: `ax` is the average of the parameters after step t0."""
    p = p * (1 - o["lambd"] * s["eta"]) - g * s["eta"]
    s["ax"] = p if s["mu"] == 1 else _towards(s["ax"], p, s["mu"])
    rounded = Defaults.dtype.numpy.type  # torch makes tensors of these numbers, of any state
    s["eta"] = float(rounded(o["lr"] / (1 + o["lambd"] * o["lr"] * s["step"]) ** o["alpha"]))
    s["mu"] = float(rounded(1 / max(1, s["step"] - o["t0"])))
    return p


@_rule(
    "rprop",
    {"prev": "", "step_size": ""},
    "float etaminus, float etaplus, float step_size_min, float step_size_max, bool maximize",
)
def _rprop(xp: Any, p: Any, g: Any, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """Riedmiller and Braun, 1993: only signs count; a change of sign waits for one step."""
    agreement = xp.sign(g * s["prev"])
    turned = agreement < 0
    factor = xp.where(agreement > 0, o["etaplus"], xp.where(turned, o["etaminus"], 1.0))
    s["step_size"] = xp.clip(s["step_size"] * factor, o["step_size_min"], o["step_size_max"])
    s["prev"] = xp.where(turned, 0.0, g)
    return p - xp.sign(s["prev"]) * s["step_size"]


# ------------------------------------------------------------------------------------ averages --
def _average_meta(self: Sequence[Spec], values: Sequence[Spec], *rest: Any) -> tuple[()]:
    check_lists(self, values=values)
    return ()


def _average_kernel(
    xp: Any, self: Sequence[Any], values: Sequence[Any], weight: float, count: Any
) -> tuple[()]:
    if count is not None:
        weight = 1 / (float(count) + 1)
    for array, value in zip(self, values, strict=True):
        average = wide(array)
        lerp(average, wide(value), weight)
        narrow(average, array)
    return ()


declare(
    "farspan::_average_step_(Tensor(a!)[] self, Tensor[] values, float weight, Tensor? count=None)"
    " -> ()",
    "step",
    meta=_average_meta,
    kernel=_average_kernel,
)
