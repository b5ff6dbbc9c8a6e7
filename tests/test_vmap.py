"""vmap: for every op of the table, a batched call equals its samples' calls; then torch's cases."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import test_laws as laws
from beside_torch import failure, same
from farspan._tensor import Tensor
from samples import BFloat16, Call, Strided

SAMPLES = 3
RANDOM = [n for n in laws.PRIMITIVES if laws.TABLE[n].random]
#: Ops whose results depend on values in shape, or that only tell of a generator.
NOT_BATCHED = {n for n in laws.PRIMITIVES if laws.TABLE[n].dynamic or laws.TABLE[n].family in
               ("state", "step")}  # fmt: skip

#: Ops whose samples cannot be shuffled and stay legal: offsets must begin at 0.
REFUSE = {"_embedding_bag", "_bag_of"}


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


def _several(x: Any, seed: int) -> Any:
    """Return an array of SAMPLES arrays like x: itself, and shuffles of it along its first dim."""
    if isinstance(x, (Strided, BFloat16)):
        return type(x)(_several(x.values, seed))
    rng = np.random.default_rng(seed)
    rows = [x] + [rng.permutation(x) if x.ndim else x for _ in range(SAMPLES - 1)]
    return np.stack(rows)


def _arrays(x: Any) -> bool:
    return isinstance(x, (np.ndarray, Strided, BFloat16))


def _flat(c: Call) -> tuple[list[Any], Any]:
    """Return the arrays among the arguments, and a function that puts others in their places."""
    found: list[Any] = []

    def take(x: Any) -> Any:
        if _arrays(x):
            found.append(x)
            return lambda: next(rest)
        if isinstance(x, (list, tuple)):
            inner = [take(i) for i in x]
            return lambda: [i() for i in inner]
        return lambda: x

    makers = [take(a) for a in c.args]
    named = {k: take(v) for k, v in c.kwargs.items()}
    rest: Any = iter(())

    def put(arrays: Any) -> tuple[list[Any], dict[str, Any]]:
        nonlocal rest
        rest = iter(arrays)
        return [m() for m in makers], {k: m() for k, m in named.items()}

    return found, put


def _checked_call(op: Any, c: Call, which: set[int]) -> bool:
    """Compare one batched call, with the arrays in `which` batched; False if samples refuse."""
    arrays, put = _flat(c)
    ours = [laws.to_ours(_several(a, i) if i in which else a) for i, a in enumerate(arrays)]

    def call(*tensors: Any) -> Any:
        args, kwargs = put(tensors)
        found = laws.as_tuple(laws.run_ours(op, c, args, kwargs))
        return tuple(x for x in found if isinstance(x, Tensor))

    rows: list[Any] = []
    values: list[Any] = []
    try:
        for k in range(SAMPLES):
            rows.append(call(*[x[k] if i in which else x for i, x in enumerate(ours)]))
            values.append([r.detach()._fetch() for r in rows[-1]])
    except laws.REFUSALS:
        return False
    dims = tuple(0 if i in which else None for i in range(len(arrays)))
    try:
        made = farspan.vmap(call, in_dims=dims)(*ours)
    except RuntimeError as e:  # a mask of its own for each sample selects another count in each
        assert op.base == "index_put" and "dynamic shape" in str(e)
        return True
    row = laws.ROWS.get(op.name, laws.Row())
    for i, got in enumerate(made):
        assert got.shape[1:] == rows[0][i].shape, f"{op.name}: {got.shape}, {rows[0][i].shape}"
        assert got.dtype is rows[0][i].dtype, op.name
        if row.values and got.numel():
            want = np.stack([v[i] for v in values])
            have = got.detach()._fetch()
            kind = np.complex128 if got.is_complex() else np.float64
            np.testing.assert_allclose(
                have.astype(kind), want.astype(kind), rtol=1e-4, atol=1e-5, err_msg=f"{op.name} {c}"
            )
    return True


def _choices(count: int) -> list[set[int]]:
    every = set(range(count))
    return [every] if count == 1 else [every, {0}, {count - 1}]


@pytest.mark.parametrize("name", [n for n in laws.PRIMITIVES if n not in {*NOT_BATCHED, *RANDOM}])
def test_a_batched_call_is_its_samples_calls(name: str) -> None:
    op = laws.TABLE[name]
    row = laws.ROWS.get(name, laws.Row())
    checked = 0
    for dtype in ("float32", "int64", "complex64", "float64"):
        if not checked and (row.dtypes is None or dtype in row.dtypes):
            for c in laws.calls_of(op, dtype):
                arrays, _ = _flat(c)
                for which in _choices(len(arrays)) if arrays else ():
                    checked += _checked_call(op, c, which)
    assert checked or name in REFUSE or not any(a.kind == "T" for a in op.args)


# -------------------------------------------------------------------------------- beside torch --
def drawn(t: Any, *shape: int, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).uniform(-2, 2, shape).astype("float32")
    return t.tensor(values)


@same
def test_in_dims_out_dims_trees_and_keywords(t: Any) -> Any:
    x, y = drawn(t, 3, 4), drawn(t, 4, 3, seed=1)

    def of_tree(d: Any, z: Any) -> Any:
        return {"a": d["x"] * 2, "b": [d["y"][0] + z]}

    tree = t.vmap(of_tree, in_dims=({"x": 0, "y": 1}, None))({"x": x, "y": [y]}, t.ones(4))
    return [
        t.vmap(lambda a, b: a * b, in_dims=(0, 1))(x, y),
        t.vmap(lambda a, b: a + b, in_dims=(-1, -2), out_dims=1)(x, y),
        t.vmap(lambda a: (a, a.sum()), out_dims=(1, 0))(x),
        t.vmap(lambda a: (a, 5), out_dims=(0, None))(x)[0],
        t.vmap(lambda a: t.ones(2))(x),
        t.vmap(lambda a, k=1: a * k)(x, k=3),
        tree["a"], tree["b"],
        t.func.vmap(lambda a: a * 2, chunk_size=2)(x),

    ]  # fmt: skip


@same
def test_vmap_refuses(t: Any) -> Any:
    x = drawn(t, 3, 4)
    vmap = t.vmap
    written = t.zeros(4)
    return [
        failure(lambda: vmap(lambda a: a.sum().item())(x), "vmap", ".item()"),
        failure(lambda: vmap(lambda a: 1 if a.sum() > 0 else 2)(x), "control flow"),
        failure(lambda: vmap(lambda a: a.nonzero())(x), "dynamic shape"),
        failure(lambda: vmap(lambda a: a[a > 0])(x), "dynamic shape"),
        failure(lambda: vmap(lambda a: a.unique())(x), "dynamic shape"),
        failure(lambda: vmap(lambda a: a.tolist())(x)),
        failure(lambda: vmap(lambda a: a.requires_grad_())(x), "functorch transform"),
        failure(lambda: vmap(lambda a: written.copy_(a))(x), "not possible"),
        failure(lambda: vmap(lambda a: written.add_(a))(x)),
        failure(lambda: vmap(lambda a: t.rand(3))(x), "randomness error mode"),
        failure(lambda: vmap(lambda a: a, randomness="some")(x), "Only allowed values"),
        failure(lambda: vmap(lambda a: 5)(x), "must only return Tensors"),
        failure(lambda: vmap(lambda a: a, out_dims=None)(x), "can not return a BatchedTensor"),
        failure(lambda: vmap(lambda a: a, out_dims="0")(x), "`out_dims` must be"),
        failure(lambda: vmap(lambda a: a, out_dims=(0, 0))(x), "out_dims is not compatible"),
        failure(lambda: vmap(lambda a, b: a)(x, x.t()), "same size"),
        failure(lambda: vmap(lambda a: a, in_dims=2)(x), "in_dim=2"),
        failure(lambda: vmap(lambda a: a, in_dims="0")(x), "expected `in_dims`"),
        failure(lambda: vmap(lambda a: a, in_dims=(0, 0))(x), "in_dims is not compatible"),
        failure(lambda: vmap(lambda a: a, in_dims=None)(x)),
        failure(lambda: vmap(lambda: 1)(), "no inputs"),
        failure(lambda: vmap(lambda a: a)(3.0), "non-Tensor"),
        failure(lambda: vmap(lambda a: a, chunk_size=0)(x), "chunk_size"),
        failure(lambda: vmap(lambda a: a.sum().backward())(x), "functorch transform"),
    ]


@same
def test_nested_vmap_and_what_it_captures(t: Any) -> Any:
    x, y = drawn(t, 3, 4), drawn(t, 5, 4, seed=1)
    outer = t.vmap(lambda a: t.vmap(lambda b: a @ b)(y))(x)
    crossed = t.vmap(lambda a: t.vmap(lambda b: (a * b).sum(), in_dims=1)(x.t()[:, :3].t()[:, :3]))(
        drawn(t, 6, 3)
    )
    deep = t.vmap(t.vmap(t.vmap(lambda a: a.softmax(0))))(drawn(t, 2, 3, 4, 5))
    mixed = t.vmap(lambda a: t.vmap(lambda b: t.vmap(lambda c: a + b * c)(a))(y[:, 0]))(x)
    return [outer, crossed, deep, mixed]


@same
def test_layers_under_vmap(t: Any) -> Any:
    functional = t.nn.functional
    x, w = drawn(t, 5, 2, 3, 6, 6), drawn(t, 5, 4, 3, 2, 2, seed=1)
    v = drawn(t, 5, 4, seed=2)
    return [
        t.vmap(functional.conv2d)(x, w, v),
        t.vmap(lambda x: functional.conv2d(x, w[0], v[0]))(x),
        t.vmap(lambda w, b: functional.conv2d(x[0], w, b))(w, v),
        t.vmap(lambda b: functional.conv2d(x[0], w[0], b))(v),
        t.vmap(lambda x: functional.conv2d(x, t.ones(3, 1, 2, 2), groups=3))(x),
        t.vmap(lambda x, w: functional.conv_transpose2d(x, w.transpose(0, 1)))(x, w),
        t.vmap(lambda x: functional.conv1d(x, t.ones(2, 3, 2), padding=1))(x[..., 0]),
        t.vmap(functional.linear)(v[:, None], drawn(t, 5, 3, 4, seed=3), drawn(t, 5, 3, seed=4)),
        t.vmap(lambda x: functional.max_pool2d(x, 2))(x),
        t.vmap(lambda x: functional.avg_pool2d(x, 2))(x),
        t.vmap(lambda x: functional.adaptive_avg_pool2d(x, 2))(x),
        t.vmap(lambda x: functional.pad(x, (1, 1, 2, 0), mode="reflect"))(x),
        t.vmap(lambda x: functional.unfold(x, 2))(x),
        t.vmap(lambda x: functional.batch_norm(x, None, None, training=True))(x),
        t.vmap(lambda x, w: functional.group_norm(x.transpose(0, 1), 1, w[:2], w[2:]))(x, v),
        t.vmap(lambda x, w: functional.layer_norm(x, (4,), w))(drawn(t, 5, 2, 4), v),
        t.vmap(lambda x: functional.scaled_dot_product_attention(x, x, x))(x),
        t.vmap(functional.embedding)(t.tensor([[1, 4], [0, 0]]), drawn(t, 2, 5, 3)),
    ]  # fmt: skip


@same
def test_losses_reduce_within_each_sample(t: Any) -> Any:
    functional = t.nn.functional
    x, y = drawn(t, 5, 3, 4), drawn(t, 5, 3, 4, seed=1)
    at = t.tensor([[0, 1, -100], [3, 3, 3], [1, 2, 0], [0, 0, 1], [2, -100, -100]])
    found = []
    for reduction in ("none", "mean", "sum"):
        found += [
            t.vmap(lambda a, b, r=reduction: functional.mse_loss(a, b, reduction=r))(x, y),
            t.vmap(lambda a, b, r=reduction: functional.cross_entropy(a, b, reduction=r))(x, at),
            t.vmap(
                lambda a, b, r=reduction: functional.binary_cross_entropy_with_logits(
                    a, b.sigmoid(), reduction=r
                )
            )(x, y),
            t.vmap(
                lambda a, b, r=reduction: functional.nll_loss(
                    a, b, weight=t.tensor([1.0, 2.0, 0.5, 3.0]), reduction=r
                )
            )(x, at),
        ]
    return found


@same
def test_indexing_under_vmap(t: Any) -> Any:
    x = drawn(t, 3, 4, 5, 2)
    i, j = t.tensor([[0, 3], [1, 1], [2, 0]]), t.tensor([[4, 0], [1, 2], [3, 3]])
    number = t.tensor([2, 0, 1])

    def writes(a: Any, i: Any, j: Any) -> Any:
        b = a.clone()
        b[i] = 1.0
        b[i, j] = b[j % 4, i]
        b.index_put_((i, j), a[:2, 0], accumulate=True)
        b[..., 0] = a.sum()
        return b

    return [
        t.vmap(lambda a, i: a[i])(x, i), t.vmap(lambda a, i: a[:, i])(x, i),
        t.vmap(lambda a, i, j: a[i, j])(x, i, j),
        t.vmap(lambda a, i, j: a[:, i, :][j % 2])(x, i, j),
        t.vmap(lambda a, i, j: a[i, :, j % 2])(x, i, j),
        t.vmap(lambda i: x[0][i])(i), t.vmap(lambda a: a[i[0], :, j[0] % 2])(x),
        t.vmap(lambda a, n: a[n])(x, number), t.vmap(lambda a, n: a[1:, n, None])(x, number),
        t.vmap(writes)(x, i, j),
        t.vmap(lambda a, i: a.index_select(1, i))(x, i),
        t.vmap(lambda a, i: a.index_add(0, i, a[:2]))(x, i),
        t.vmap(lambda a, i: a.gather(0, i[:, None, None].expand(2, 5, 2)))(x, i),
        t.vmap(lambda a, i: a.scatter(0, i[:, None, None].expand(2, 5, 2), 0.0))(x, i),
        t.vmap(lambda a, i: t.take_along_dim(a, i[:, None, None], 0))(x, i),
        t.vmap(lambda a: a.masked_fill(a > 0, 0.0))(x), t.vmap(lambda a: t.where(a > 0, a, 0.0))(x),
        t.vmap(lambda a, i: t.nn.functional.one_hot(i, 5))(x, i),
    ]  # fmt: skip


@same
def test_writes_under_vmap_and_their_gradients(t: Any) -> Any:
    x = drawn(t, 3, 4).requires_grad_()

    def f(a: Any) -> Any:
        b = t.zeros_like(a)
        b[1:] = a[:-1] * 2
        b.mul_(a)
        c = b[:2]
        c.add_(a.sum())
        b.t_()
        b.relu_()
        return b * a

    made = t.vmap(f)(x)
    return [made, t.autograd.grad(made.sum(), x)]


@same
def test_random_numbers_under_vmap_are_torchs(t: Any) -> Any:
    x = drawn(t, 20, 3)
    t.manual_seed(3)
    functional = t.nn.functional
    found = []
    for mode in ("different", "same"):
        found += [
            t.vmap(lambda a: functional.dropout(a, 0.5), randomness=mode)(x),
            t.vmap(lambda a: a + t.randn(3), randomness=mode)(x),
            t.vmap(lambda a: t.rand_like(a), randomness=mode)(x),
            t.vmap(lambda a: a.clone().uniform_(), randomness=mode)(x),
            t.vmap(lambda a: t.randint(5, (4,)), randomness=mode)(x),
            t.vmap(lambda a: t.randperm(4), randomness=mode)(x[:3]),
        ]
    both = t.vmap(
        lambda a: t.vmap(lambda b: t.rand(2), randomness="same")(a), randomness="different"
    )
    unbatched = lambda a: t.zeros(3).normal_()  # noqa: E731
    return [
        *found, both(x),
        failure(lambda: t.vmap(unbatched, randomness="different")(x), "inplace randomness"),
        failure(lambda: t.vmap(lambda a: t.bernoulli(a.sigmoid()), randomness="same")(x)),
    ]  # fmt: skip


@same
def test_functions_with_a_backward_of_their_own_under_vmap(t: Any) -> Any:
    class Cube(t.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any) -> Any:
            return x**3, 3 * x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(inputs[0], output[1])

        @staticmethod
        def backward(ctx: Any, g: Any, gd: Any) -> Any:
            x, d = ctx.saved_tensors
            return g * d + gd * 6 * x

    class Mul(t.autograd.Function):
        @staticmethod
        def forward(x: Any, y: Any) -> Any:
            return x * y

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, y = ctx.saved_tensors
            return g * y, g * x

        @staticmethod
        def jvp(ctx: Any, tx: Any, ty: Any) -> Any:
            x, y = ctx.saved_tensors
            return tx * y + x * ty

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Any, y: Any) -> Any:
            x = x if in_dims[0] is None else x.movedim(in_dims[0], 0)
            y = y if in_dims[1] is None else y.movedim(in_dims[1], 0)
            return Mul.apply(x, y), 0

    class Plain(t.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

    x, y = drawn(t, 5, 3), drawn(t, 5, 3, seed=1)
    grad = t.func.grad
    return [
        t.vmap(lambda x: Cube.apply(x)[0])(x),
        t.vmap(grad(lambda x: Cube.apply(x)[0].sum()))(x),
        grad(lambda x: t.vmap(lambda z: Cube.apply(z)[0])(x).sum())(x),
        t.func.jacrev(lambda x: Cube.apply(x)[0])(x[0]),
        t.vmap(t.vmap(lambda x: Cube.apply(x)[0]))(x),
        t.vmap(Mul.apply)(x, y), t.vmap(Mul.apply, in_dims=(0, None))(x, y[0]),
        t.vmap(grad(lambda x, y: Mul.apply(x, y).sum(), argnums=(0, 1)))(x, y),
        t.func.jvp(Mul.apply, (x, y), (y, x)),
        failure(lambda: t.vmap(Plain.apply)(x), "setup_context"),
        failure(lambda: grad(lambda x: Plain.apply(x).sum())(x), "setup_context"),
    ]  # fmt: skip


def test_nothing_of_vmap_stays_behind() -> None:
    plain = Tensor.__dict__["_apply"]
    farspan.vmap(lambda x: x * 2)(farspan.ones(3))
    assert Tensor.__dict__["_apply"].__func__ is plain.__func__


def test_a_batched_tensor_shows_its_levels() -> None:
    shown: list[str] = []
    farspan.vmap(lambda x: shown.append(repr(x)) or x)(farspan.ones(2))  # type: ignore[func-returns-value]
    assert shown == ["BatchedTensor(lvl=1, bdim=0, value=\n    tensor([1., 1.])\n)"]


def test_a_number_is_written_under_each_samples_own_mask() -> None:
    def write(x: Any) -> Any:
        y = x.clone()
        y[x > 0] = -1.0
        return y

    x = farspan.tensor([[1.0, -2.0], [-3.0, 4.0]])
    assert farspan.vmap(write)(x).tolist() == [[-1.0, -2.0], [-3.0, -1.0]]
