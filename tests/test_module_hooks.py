"""Hooks of modules: what they are given, in which order, and what their results replace."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from beside_torch import failure, leaf, same


def total(x: Any) -> Any:
    return None if x is None else round(float(x.detach().sum()), 3)


def net(t: Any) -> Any:
    t.manual_seed(3)
    return t.nn.Sequential(t.nn.Linear(3, 4), t.nn.Tanh(), t.nn.Linear(4, 2))


@same
def test_forward_hooks_in_all_their_forms(torch: Any) -> Any:
    log: list[Any] = []
    m = torch.nn.Linear(2, 2)
    torch.nn.init.ones_(m.weight)
    x = torch.ones(1, 2)
    handles = [
        m.register_forward_pre_hook(lambda mod, args: log.append("pre")),
        m.register_forward_pre_hook(lambda mod, args: (args[0] * 2,), prepend=True),
        m.register_forward_pre_hook(
            lambda mod, args, kwargs: (args, {}) if kwargs else None, with_kwargs=True
        ),
        m.register_forward_hook(lambda mod, args, out: log.append(total(args[0]))),
        m.register_forward_hook(lambda mod, args, out: out * 3, prepend=True),
        m.register_forward_hook(
            lambda mod, args, kwargs, out: log.append(sorted(kwargs)), with_kwargs=True
        ),
    ]
    out = [m(x).detach() - 3 * m.bias.detach()]
    for handle in handles:
        handle.remove()
    out.append(m(x).detach() - m.bias.detach())
    m.register_forward_pre_hook(lambda mod, args, kwargs: 3, with_kwargs=True)
    return out, log, failure(lambda: m(x), "forward pre-hook must return None or a tuple of")


@same
def test_always_called_hooks_run_after_a_failure(torch: Any) -> Any:
    log: list[Any] = []
    m = torch.nn.Linear(2, 2)
    m.register_forward_hook(lambda mod, args, out: log.append("never"))
    m.register_forward_hook(lambda mod, args, out: log.append(out), always_call=True)
    m.register_forward_hook(lambda mod, args, out: 1 / 0, always_call=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        outcome = failure(lambda: m(torch.ones(1, 3)))
    return outcome, log, [str(w.message)[:60] for w in seen]


@same
def test_full_backward_hooks_see_and_replace_gradients(torch: Any) -> Any:
    log: list[Any] = []
    m = net(torch)
    m[0].register_full_backward_hook(
        lambda mod, gi, go: log.append(("0", [total(g) for g in (*gi, *go)]))
    )
    handle = m[2].register_full_backward_hook(lambda mod, gi, go: (gi[0] * 2,))
    m[2].register_full_backward_hook(
        lambda mod, gi, go: log.append(("2", [total(g) for g in (*gi, *go)])), prepend=True
    )
    m[1].register_full_backward_pre_hook(lambda mod, go: (go[0] * 3,))
    m[1].register_full_backward_pre_hook(lambda mod, go: log.append("pre"), prepend=True)
    x = leaf(torch, 5, 3)
    m(x).sum().backward()
    grads = [x.grad, *(p.grad.clone() for p in m.parameters())]
    handle.remove()
    m.zero_grad()
    m(x.detach()).sum().backward()  # no input asks for a gradient: the hook comes at the output
    return log, grads, [p.grad for p in m.parameters()], len(m[2]._backward_hooks)


@same
def test_backward_hooks_with_several_inputs_and_outputs(torch: Any) -> Any:
    log: list[Any] = []

    class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, a: Any, b: Any, c: int, d: Any = None) -> Any:
            return a * 2 + b, a * 3, b.detach(), c

    m = Two()
    m.register_full_backward_hook(lambda mod, gi, go: log.append([total(g) for g in (*gi, *go)]))
    a, b = leaf(torch, 2), leaf(torch, 2, seed=1)
    out = m(a, b, 5)
    out[0].sum().backward()
    got = [a.grad, b.grad, out[3], [o.requires_grad for o in out[:3]], out[0].grad_fn.name()]
    m(a, b.detach(), 5)[1].sum().backward()
    m.register_full_backward_hook(lambda mod, gi, go: (gi[0],))
    with torch.no_grad():
        got.append(m(a, b, 1)[0].requires_grad)
    return got, a.grad, log, failure(lambda: m(a, b, 1)[0].sum().backward(), "grad_input")


@same
def test_backward_hooks_in_second_derivatives(torch: Any) -> Any:
    log: list[Any] = []
    m = net(torch)
    m.register_full_backward_hook(lambda mod, gi, go: log.append([total(g) for g in (*gi, *go)]))
    x = leaf(torch, 5, 3)
    (g,) = torch.autograd.grad(m(x).pow(2).sum(), x, create_graph=True)
    g.pow(2).sum().backward()
    return log, x.grad, m[0].weight.grad


@same
def test_full_and_regular_backward_hooks_exclude_each_other(torch: Any) -> Any:
    log: list[Any] = []
    a, b = torch.nn.Tanh(), torch.nn.Tanh()
    a.register_backward_hook(lambda mod, gi, go: log.append([total(g) for g in (*gi, *go)]))
    b.register_full_backward_hook(lambda mod, gi, go: None)
    x = leaf(torch, 3)
    a(x).sum().backward()
    return (
        log,
        x.grad,
        failure(lambda: a.register_full_backward_hook(print), "both regular backward hooks"),
        failure(lambda: b.register_backward_hook(print), "both regular backward hooks"),
    )


@same
def test_global_hooks_come_before_the_modules_own(torch: Any) -> Any:
    log: list[Any] = []
    module = torch.nn.modules.module

    def say(word: str) -> Any:
        return lambda mod, *args: log.append((word, type(mod).__name__))

    m = net(torch)
    m[1].register_forward_hook(say("own"))
    handles = [
        module.register_module_forward_pre_hook(say("pre")),
        module.register_module_forward_hook(say("after")),
        module.register_module_forward_hook(
            lambda mod, args, kwargs, out: log.append(len(kwargs)), with_kwargs=True
        ),
        module.register_module_forward_hook(say("always"), always_call=True),
        module.register_module_full_backward_pre_hook(say("backward pre")),
        module.register_module_full_backward_hook(say("backward")),
    ]
    x = leaf(torch, 2, 3)
    m(x).sum().backward()
    failed = failure(lambda: module.register_module_backward_hook(print), "both regular")
    for handle in handles:
        handle.remove()
    m(x)
    return log, failed, x.grad


@same
def test_registration_hooks_may_replace_what_is_registered(torch: Any) -> Any:
    log: list[Any] = []
    module = torch.nn.modules.module

    def note(mod: Any, name: str, value: Any) -> None:
        log.append((type(mod).__name__, name, type(value).__name__))

    handles = [
        module.register_module_buffer_registration_hook(lambda m, n, b: b * 2),
        module.register_module_buffer_registration_hook(note),
        module.register_module_parameter_registration_hook(note),
        module.register_module_module_registration_hook(note),
    ]
    m = torch.nn.Module()
    m.register_buffer("b", torch.ones(2))
    m.w = torch.nn.Parameter(torch.ones(1))
    m.child = torch.nn.Linear(1, 1)
    m.child = torch.nn.Tanh()
    m.add_module("other", torch.nn.ReLU())
    for handle in handles:
        handle.remove()
    m.register_module("last", None)
    return log, m.b, list(m._modules)


@same
def test_state_dict_hooks(torch: Any) -> Any:
    log: list[Any] = []
    m = net(torch)
    m[0].register_state_dict_pre_hook(lambda mod, prefix, keep: log.append((prefix, keep)))
    m[0].register_state_dict_post_hook(
        lambda mod, state, prefix, meta: state.__delitem__(prefix + "bias")
    )
    m._register_state_dict_hook(lambda mod, state, prefix, meta: {**state, "extra": 1})
    saved = m.state_dict(keep_vars=True)
    again = net(torch)
    again[0].register_load_state_dict_pre_hook(
        lambda mod, state, prefix, *rest: log.append((type(mod).__name__, prefix, sorted(state)))
    )
    again._register_load_state_dict_pre_hook(lambda state, *rest: state.pop("extra"))
    again[0].register_load_state_dict_post_hook(
        lambda mod, keys: keys.missing_keys.remove("0.bias")
    )
    loaded = again.load_state_dict(saved)

    def bad(mod: Any, *rest: Any) -> Any:
        return 3

    again.register_state_dict_post_hook(bad)
    other = net(torch)
    other.register_load_state_dict_post_hook(bad)
    return (
        log,
        sorted(saved),
        str(loaded),
        failure(again.state_dict, "state_dict post-hook must return None"),
        failure(lambda: again._register_state_dict_hook(bad), "Cannot register the same"),
        failure(lambda: other.load_state_dict(net(torch).state_dict()), "not expected"),
    )


@same
def test_hooks_survive_copies(torch: Any) -> Any:
    log: list[Any] = []
    m = torch.nn.Tanh()
    m.register_forward_hook(lambda mod, args, out: log.append(mod.name))
    m.name = "first"
    deep, shallow = copy.deepcopy(m), copy.copy(m)
    deep.name, shallow.name = "deep", "shallow"
    for each in (m, deep, shallow):
        each(torch.ones(1))
    m.compile()
    m(torch.ones(1))
    return log


@same
def test_regular_backward_hooks_see_the_last_node(torch: Any) -> Any:
    log: list[Any] = []

    class Two(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return {"first": (x * y).sin(), "second": x.cos()}

    def note(mod: Any, gi: Any, go: Any) -> None:
        log.append([*gi, *go])

    x, y = leaf(torch, 3), leaf(torch, 3, seed=1)
    two, chain = Two(), torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Sigmoid())
    two.register_backward_hook(note)
    chain.register_backward_hook(lambda mod, gi, go: (gi[0] * 2,))
    out = two(x, chain(y))
    (out["first"] + out["second"]).sum().backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        two(x, y), chain(y)
    return log, x.grad, y.grad, [str(w.message) for w in caught]


@same
def test_writing_behind_a_backward_hook_raises(torch: Any) -> Any:
    tanh, relu = torch.nn.Tanh(), torch.nn.ReLU(inplace=True)
    for module in (tanh, relu):
        module.register_full_backward_hook(lambda *_: None)
    x = leaf(torch, 2, 3)
    y = tanh(x)

    def unrecorded() -> None:
        with torch.no_grad():
            y.mul_(2)

    words = "modified inplace. This view was created inside a custom Function"
    return [
        failure(
            lambda: y.add_(1), f"Output 0 of BackwardHookFunction is a view and is being {words}"
        ),
        failure(lambda: y[0].add_(1), f"Output 0 of Select is a view and is being {words}"),
        failure(lambda: relu(x * 1), words),
        failure(unrecorded),
    ]


@same
def test_writing_to_what_a_function_handed_through_raises(torch: Any) -> Any:
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g

    class Flat(Same):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view(-1)

    class Copy(Same):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

    x = leaf(torch, 4)
    kinds = [failure(lambda c=c: c.apply(x * 1).add_(1)) for c in (Same, Flat, Copy)]
    parts = failure(lambda: (x * 1).chunk(2)[0].add_(1), "Output 0 of Split is a view")
    return kinds, parts, Same.apply(x.detach()).add_(1)
