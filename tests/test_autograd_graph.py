"""The graph from outside: nodes, hooks on saved tensors, several gradients, forward mode, modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from beside_torch import failure, same


def ones(t: Any, *shape: int) -> Any:
    return t.ones(*shape, requires_grad=True)


@same
def test_nodes_have_names_edges_and_hooks(t: Any) -> Any:
    a = ones(t, 2)
    y = a * 2
    seen = []
    node = y.grad_fn
    accumulate = node.next_functions[0][0]
    node.metadata["mark"] = 5
    node.register_prehook(lambda grads: (grads[0] * 3,))
    kept = node.register_hook(lambda gi, go: seen.append((gi[0].clone(), go[0].clone())))
    accumulate.register_prehook(lambda grads: (grads[0] * 10,))
    accumulate.register_hook(
        lambda gi, go: seen.append((len(gi), go[0].clone(), accumulate.variable.grad.clone()))
    )
    y.sum().backward()
    first = a.grad.clone()
    kept.remove()
    y = a.exp()
    z = a * a
    replaced = a.sin()
    replaced.grad_fn.register_hook(lambda gi, go: (gi[0] * 0,))
    return [
        type(node).__name__, node.name(), type(accumulate).__name__, len(node.next_functions),
        y.grad_fn.metadata, node.metadata, seen, first, y.grad_fn._saved_result,
        z.grad_fn._saved_self,
        isinstance(node, t.autograd.graph.Node), t.autograd.grad(replaced.sum(), a),
    ]  # fmt: skip


@same
def test_saved_tensors_go_through_hooks(t: Any) -> Any:
    graph = t.autograd.graph
    x = ones(t, 2)
    log = []

    def pack(x: Any) -> Any:
        log.append("pack")
        return x.detach().numpy().copy()

    def unpack(array: Any) -> Any:
        log.append("unpack")
        return t.from_numpy(array)

    with graph.saved_tensors_hooks(pack, unpack):
        z = ((x * x).exp() * x).sum()
    z.backward()
    with graph.saved_tensors_hooks(lambda x: x * 2, lambda x: x):
        doubled = x * x
    with graph.saved_tensors_hooks(lambda x: 5, lambda n: n):
        bad = x * x
    with graph.save_on_cpu():
        kept = (x.exp() * x).sum()

    class Square(t.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2 * ctx.saved_tensors[0]

    with graph.saved_tensors_hooks(lambda x: x * 5, lambda x: x):
        own = Square.apply(x)
    with graph.disable_saved_tensors_hooks("not here"):
        refused = failure(lambda: graph.save_on_cpu().__enter__(), "not here")
    return [
        x.grad, log, t.autograd.grad(doubled.sum(), x),
        failure(lambda: bad.sum().backward(), "unpack_hook"),
        t.autograd.grad(kept, x), t.autograd.grad(own.sum(), x), refused,
    ]  # fmt: skip


@same
def test_hooks_on_several_gradients(t: Any) -> Any:
    a, b, c = ones(t, 2), ones(t, 2), ones(t, 2)
    seen = []
    graph = t.autograd.graph
    every = graph.register_multi_grad_hook(
        (a, b, c), lambda gs: seen.append([g is None for g in gs])
    )
    first = graph.register_multi_grad_hook((a, b), lambda g: seen.append(g.clone()), mode="any")
    (a * b).sum().backward()
    (a * c * b).sum().backward()
    every.remove()
    first.remove()
    (a * b).sum().backward()
    return [seen, failure(lambda: graph.register_multi_grad_hook((a,), print, mode="some"))]


@same
def test_edges_versions_and_writes_to_what_was_saved(t: Any) -> Any:
    graph = t.autograd.graph
    a, b = ones(t, 2), ones(t, 2)
    y = a * b * 2
    edge = graph.get_gradient_edge(y)
    plain = t.ones(2)
    graph.increment_version(plain)
    graph.increment_version([plain, plain])
    x = ones(t, 2)
    z = (x * x).exp()
    graph.increment_version(z)
    with graph.allow_mutation_on_saved_tensors():
        q = a.clone()
        r = q.sin()
        q.sin_()
        mutated = t.autograd.grad(r.sum(), a)
        nested = failure(lambda: graph.allow_mutation_on_saved_tensors().__enter__(), "nested")
    return [
        edge.output_nr, edge.node.name(), t.autograd.grad((y * 3).sum(), edge), plain._version,
        failure(lambda: z.sum().backward(), "modified by an inplace operation"), mutated, nested,
        failure(lambda: graph.get_gradient_edge(plain), "does not require gradients"),
        isinstance(edge, graph.GradientEdge),
    ]  # fmt: skip


@same
def test_dual_tensors_carry_tangents(t: Any) -> Any:
    forward = t.autograd.forward_ad
    x, v = t.tensor([0.5, 2.0]), t.tensor([3.0, -1.0])
    w = t.tensor([1.5, 0.5], requires_grad=True)
    with forward.dual_level():
        dual = forward.make_dual(x, v)
        made = forward.unpack_dual((dual * dual).sin() * w)
        itself = forward.unpack_dual(dual)
        through = t.autograd.grad(made.tangent.sum(), w)
        plain = forward.unpack_dual(x).tangent
        refusals = [
            failure(lambda: forward.enter_dual_level(), "Nested"),
            failure(lambda: forward.make_dual(x, t.ones(3)), "different size"),
            failure(lambda: forward.make_dual(x.long(), v), "Expected primal"),
        ]
    after = forward.unpack_dual(dual).tangent
    level = forward.enter_dual_level()
    forward.exit_dual_level()
    return [
        made.primal, made.tangent, itself.primal, itself.tangent, through, plain, after, level,
        refusals, failure(lambda: forward.make_dual(x, v), "enter_dual_level"),
        failure(lambda: forward.exit_dual_level()),
    ]  # fmt: skip


@same
def test_inference_tensors_stay_outside_of_graphs(t: Any) -> Any:
    a = ones(t, 3)
    with t.inference_mode():
        i = t.ones(3)
        seen = [i.is_inference(), t.is_inference(i), t.is_inference_mode_enabled()]
        seen.append(failure(lambda: i._version, "version counter"))
        v = a.view(3)
        seen += [v.is_inference(), (a * 1).is_inference(), i.view(3).is_inference()]
        i.add_(1)
        with t.inference_mode(False):
            seen += [t.is_inference_mode_enabled(), (a * 1).requires_grad, t.ones(2).is_inference()]

    @t.inference_mode()
    def decorated(x: Any) -> Any:
        return x * 2

    made = decorated(a)
    return [
        *seen, t.is_inference_mode_enabled(), made.is_inference(), made.requires_grad,
        failure(lambda: i.add_(1), "Inplace update to inference tensor"),
        (i * 2).is_inference(), i.clone().is_inference(), i.view(3).is_inference(),
        i.detach().is_inference(), (i + a).requires_grad,
        failure(lambda: i * a, "Inference tensors cannot be saved for backward"),
        failure(lambda: i.requires_grad_(), "inference tensor outside InferenceMode"),
        failure(lambda: v.add_(1), "A view was created in inference mode"),
    ]  # fmt: skip


@same
def test_settings_are_contexts_and_functions(t: Any) -> Any:
    autograd = t.autograd
    x = ones(t, 2)
    with autograd.set_multithreading_enabled(False), autograd.enforce_grad_layout_policy(False):
        (x * 2).sum().backward()

    @autograd.grad_mode.set_multithreading_enabled(False)
    def decorated() -> Any:
        return x * 2

    old = autograd.Variable(t.ones(2), requires_grad=True)
    return [x.grad, decorated(), old.requires_grad, isinstance(x, autograd.Variable), old.is_leaf]


@same
def test_numbers_in_a_freed_graph_count_as_saved(t: Any) -> Any:
    a = ones(t, 3)

    def twice(y: Any) -> str:
        y.sum().backward(retain_graph=False)
        return "none"

    def again(make: Any) -> Any:
        y = make().sum()
        y.backward()
        return failure(lambda: y.backward(), "a second time")

    return [
        again(lambda: a * 2), again(lambda: a / 2), again(lambda: a * a), again(lambda: a.exp()),
        failure(lambda: [(y := (a + 1).sum()).backward(), y.backward()]),
        failure(lambda: [(y := a.view(3, 1).expand(3, 2).sum()).backward(), y.backward()]),
    ]  # fmt: skip


@same
def test_functions_refuse_what_torch_refuses(t: Any) -> Any:
    Function = t.autograd.Function
    x = ones(t, 3)

    def function(backward: Any, forward: Any = lambda ctx, x: x * 2) -> Any:
        return type(
            "F", (Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        )

    def dirty_leaf(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.mul_(2)

    def dirty_lost(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x * 2

    def lists(ctx: Any, x: Any) -> Any:
        return x + 1, [x * 2], "a"

    seen: list[Any] = []

    def look(ctx: Any, *gs: Any) -> Any:
        seen.append([None if g is None else g.clone() for g in gs])
        return gs[0]

    made = function(look, lists).apply(x)
    made[0].sum().backward()
    identity, many = function(lambda ctx, g: g), function(lambda ctx, g: (g, g, g))
    short = function(lambda ctx, g: g[:2])
    written = function(lambda ctx, g: g * 5, dirty_leaf).apply(x * 1)
    return [
        failure(lambda: many.apply(x).sum().backward(), "incorrect number"),
        failure(lambda: short.apply(x).sum().backward(), "invalid gradient"),
        failure(lambda: type("G", (Function,), {"forward": staticmethod(lambda ctx, x: x * 2)})
                .apply(x).sum().backward(), "backward or vjp"),
        failure(lambda: function(look, dirty_leaf).apply(x), "in-place operation"),
        failure(lambda: function(look, dirty_lost).apply(x * 1), "dirty"),
        seen, made[2], x.grad, failure(lambda: identity()(x), "Legacy autograd function"),
        t.autograd.grad(written.sum(), x), function(look, lambda ctx, x: 5).apply(x),
        issubclass(t.autograd.function.InplaceFunction, Function),
        isinstance(written.grad_fn.next_functions, tuple),
    ]  # fmt: skip


@same
def test_profiles_name_ops_and_regions(t: Any) -> Any:
    x = t.ones(4, 4)
    ready = []
    with t.profiler.profile(
        activities=[t.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as prof:
        with t.profiler.record_function("mine"):
            (x @ x).sum()
    with t.autograd.profiler.profile() as old:
        x.exp()
    plan = t.profiler.schedule(wait=1, warmup=1, active=2, repeat=1, skip_first=1)
    with t.profiler.profile(
        schedule=plan, on_trace_ready=lambda p: ready.append(p.step_num)
    ) as steps:
        for _ in range(6):
            x.sin()
            steps.step()
    names = {e.key for e in prof.key_averages()}
    mine = next(e for e in prof.key_averages() if e.key == "mine")
    table = prof.key_averages().table(sort_by="cpu_time_total", row_limit=10)
    return [
        {"mine", "aten::mm", "aten::sum"} <= names, mine.count, mine.cpu_time_total > 0,
        "aten::mm" in table and "Self CPU time total" in table, ready,
        "aten::exp" in {e.key for e in old.function_events}, [str(plan(i)) for i in range(7)],
        t.profiler.ProfilerActivity.CPU in t.profiler.supported_activities(),
        all(np.isfinite(e.cpu_time) for e in prof.key_averages()),
    ]  # fmt: skip


@same
def test_a_leafs_gradients_may_have_another_dtype(t: Any) -> Any:
    x = ones(t, 2)
    found = [x.grad_dtype]
    x.grad_dtype = t.float64
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    found += [x.grad_dtype, x.grad]

    def put(x: Any, name: str, value: Any) -> Any:
        return lambda: setattr(x, name, value)

    found.append(failure(put(x, "grad", t.ones(2)), "grad_dtype 'Double'"))
    found.append(failure(put(x, "grad_dtype", t.float16), "already a gradient"))
    x.grad_dtype = None
    x.grad = t.ones(2).half()
    y = x * 2
    return [
        *found, x.grad_dtype, x.grad, failure(lambda: y.grad_dtype, "leaf tensors"),
        failure(put(y, "grad_dtype", t.float64), "leaf tensors"),
    ]  # fmt: skip
