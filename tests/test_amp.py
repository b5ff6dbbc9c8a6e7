"""Autocast chooses torch's dtypes, op by op; a gradient scaler goes through the same scales."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import farspan
import numpy as np
from beside_torch import failure, same

#: Calls on a: (3, 3), b: (3, 3) positive definite, v: (3,), i: (2, 4, 6), k: (5, 4, 3).
CALLS: dict[str, Any] = {
    "mm": lambda t, a, b, v, i, k: t.mm(a, b),
    "matmul": lambda t, a, b, v, i, k: a @ b,
    "matmul vector": lambda t, a, b, v, i, k: a @ v,
    "mv": lambda t, a, b, v, i, k: t.mv(a, v),
    "dot": lambda t, a, b, v, i, k: t.dot(v, v),
    "bmm": lambda t, a, b, v, i, k: t.bmm(a[None], b[None]),
    "addmm": lambda t, a, b, v, i, k: t.addmm(v, a, b),
    "addbmm": lambda t, a, b, v, i, k: t.addbmm(a, a[None], b[None]),
    "baddbmm": lambda t, a, b, v, i, k: t.baddbmm(a[None], a[None], b[None]),
    "einsum": lambda t, a, b, v, i, k: t.einsum("ij,jk->ik", a, b),
    **{f"einsum {e}": lambda t, a, b, v, i, k, e=e: t.einsum(e, *{
        "1": [v], "2": [a], "11": [v, v], "22": [a, b], "21": [a, v], "222": [a, b, a]
    }["".join(str(len(x)) for x in e.partition("->")[0].split(","))])
       for e in ("ij->ji", "i,i->i", "i,j->ij", "ij,ij->", "ij,j->i", "ij,ij->ij", "ij,jk,kl->il",
                 "ij,ik->i", "ij,j->ij")},
    "tensordot": lambda t, a, b, v, i, k: t.tensordot(a, v, 1),
    "tensordot outer": lambda t, a, b, v, i, k: t.tensordot(a, b, 0),
    "tensordot whole": lambda t, a, b, v, i, k: t.tensordot(a, b, 2),
    "inner": lambda t, a, b, v, i, k: t.inner(a, b),
    "multi_dot": lambda t, a, b, v, i, k: t.linalg.multi_dot([a, b, a]),
    "matrix_power": lambda t, a, b, v, i, k: t.linalg.matrix_power(a, 3),
    "bilinear": lambda t, a, b, v, i, k: t.nn.functional.bilinear(a, b, b[None]),
    "det": lambda t, a, b, v, i, k: t.linalg.det(b),
    "linear": lambda t, a, b, v, i, k: t.nn.functional.linear(a, b, v),
    "conv1d": lambda t, a, b, v, i, k: t.conv1d(i, k),
    "conv1d same": lambda t, a, b, v, i, k: t.conv1d(i, k, padding="same"),
    "conv2d": lambda t, a, b, v, i, k: t.conv2d(i[None], k[:, :2, None, :1].reshape(5, 2, 1, 1)),
    "conv_transpose1d": lambda t, a, b, v, i, k: t.conv_transpose1d(i, k.transpose(0, 1)),
    "prelu": lambda t, a, b, v, i, k: t.prelu(a, v),
    "vecdot": lambda t, a, b, v, i, k: t.linalg.vecdot(a, b),
    "attention": lambda t, a, b, v, i, k: t.nn.functional.scaled_dot_product_attention(i, i, i),
    "mse": lambda t, a, b, v, i, k: t.nn.functional.mse_loss(a, b),
    "l1": lambda t, a, b, v, i, k: t.nn.functional.l1_loss(a, b),
    "smooth l1": lambda t, a, b, v, i, k: t.nn.functional.smooth_l1_loss(a, b),
    "huber": lambda t, a, b, v, i, k: t.nn.functional.huber_loss(a, b),
    "bce logits": lambda t, a, b, v, i, k:
        t.nn.functional.binary_cross_entropy_with_logits(a, t.sigmoid(b)),
    "bce": lambda t, a, b, v, i, k:
        t.nn.functional.binary_cross_entropy(t.sigmoid(a), t.sigmoid(b)),
    "cross entropy": lambda t, a, b, v, i, k:
        t.nn.functional.cross_entropy(a, t.tensor([0, 1, 2])),
    "nll": lambda t, a, b, v, i, k: t.nn.functional.nll_loss(a, t.tensor([0, 1, 2])),
    "kl": lambda t, a, b, v, i, k: t.nn.functional.kl_div(a, b),
    "poisson": lambda t, a, b, v, i, k: t.nn.functional.poisson_nll_loss(a, b),
    "triplet": lambda t, a, b, v, i, k: t.nn.functional.triplet_margin_loss(a, b, b * 2),
    "cosine loss": lambda t, a, b, v, i, k:
        t.nn.functional.cosine_embedding_loss(a, b, t.ones(3)),
    "hinge": lambda t, a, b, v, i, k: t.nn.functional.hinge_embedding_loss(a, t.sign(b).detach()),
    "margin": lambda t, a, b, v, i, k: t.nn.functional.margin_ranking_loss(a, b, t.ones(3, 3)),
    "soft margin": lambda t, a, b, v, i, k: t.nn.functional.soft_margin_loss(a, t.sign(b).detach()),
    "cdist": lambda t, a, b, v, i, k: t.cdist(a, b),
    "cholesky": lambda t, a, b, v, i, k: t.linalg.cholesky(b),
    "inverse": lambda t, a, b, v, i, k: t.inverse(b),
    "inv": lambda t, a, b, v, i, k: t.linalg.inv(b),
    "solve": lambda t, a, b, v, i, k: t.linalg.solve(b, a),
    "svdvals": lambda t, a, b, v, i, k: t.linalg.svdvals(a),
    "eigvalsh": lambda t, a, b, v, i, k: t.linalg.eigvalsh(b),
    "qr": lambda t, a, b, v, i, k: t.linalg.qr(a)[1].abs(),
    "cond": lambda t, a, b, v, i, k: t.linalg.cond(b),
    "rank": lambda t, a, b, v, i, k: t.linalg.matrix_rank(b),
    "pinverse": lambda t, a, b, v, i, k: t.pinverse(b),
    "prod": lambda t, a, b, v, i, k: t.prod(v),
    "prod dim": lambda t, a, b, v, i, k: a.prod(1),
    "trace": lambda t, a, b, v, i, k: t.trace(a),
    "rfft": lambda t, a, b, v, i, k: t.fft.rfft(v),
    "polar": lambda t, a, b, v, i, k: t.polar(v.abs(), v),
    "pad": lambda t, a, b, v, i, k: t.nn.functional.pad(i, (1, 1), mode="reflect"),
    "pad edge": lambda t, a, b, v, i, k: t.nn.functional.pad(i, (1, 1), mode="replicate"),
    "view_as_complex": lambda t, a, b, v, i, k: t.view_as_complex(a[:, :2].contiguous()),
    "max_pool3d": lambda t, a, b, v, i, k: t.nn.functional.max_pool3d(i[None, None], (1, 2, 2)),
    "max_pool2d": lambda t, a, b, v, i, k: t.nn.functional.max_pool2d(i[None], 2),
    "max_pool1d": lambda t, a, b, v, i, k: t.nn.functional.max_pool1d(i, 2),
    "cat": lambda t, a, b, v, i, k: t.cat([a, b]),
    "cat mixed": lambda t, a, b, v, i, k: t.cat([a.float(), b.bfloat16()]),
    "stack": lambda t, a, b, v, i, k: t.stack([v, v.float()]),
    "stack of ints": lambda t, a, b, v, i, k: t.stack([t.tensor([1]), t.tensor([2])]),
    "index_copy": lambda t, a, b, v, i, k: t.index_copy(a, 0, t.tensor([1]), b.float()[:1]),
    "add": lambda t, a, b, v, i, k: a + b,
    "softmax": lambda t, a, b, v, i, k: t.softmax(a, 0),
    "sum": lambda t, a, b, v, i, k: a.sum(),
    "exp": lambda t, a, b, v, i, k: a.exp(),
    "layer_norm": lambda t, a, b, v, i, k: t.nn.functional.layer_norm(a, (3,)),
}  # fmt: skip


def inputs(t: Any, dtype: Any, leaf: bool = True) -> list[Any]:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 3, 3))
    arrays = [a, b @ b.T + 2 * np.eye(3), rng.normal(size=3), rng.normal(size=(2, 4, 6)),
              rng.normal(size=(5, 4, 3))]  # fmt: skip
    made = [t.tensor(x, dtype=t.float64).to(dtype) for x in arrays]
    return [x.requires_grad_() if leaf else x for x in made]


@same
def test_every_op_has_torchs_dtype(torch):
    found = []
    for context in (torch.bfloat16, torch.float16):
        for given in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for name, call in CALLS.items():
                xs = inputs(torch, given, leaf=False)
                try:
                    with torch.autocast("cpu", context):
                        out = call(torch, *xs)
                    found.append([name, str(given), str(context), out.dtype, list(out.shape)])
                except (RuntimeError, ValueError, TypeError):
                    found.append([name, str(given), str(context), "refused"])
    return found


@same
def test_modules_have_torchs_dtypes(torch):
    found = []
    x = torch.ones(2, 1, 3)
    with torch.autocast("cpu"):
        for name, options in (
            ("LSTM", {}), ("GRU", {}), ("RNN", {}), ("LSTM", {"bidirectional": True}),
            ("LSTM", {"proj_size": 2}), ("RNN", {"nonlinearity": "relu"}), ("GRU", {"bias": False}),
            ("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {}),
        ):  # fmt: skip
            made = getattr(torch.nn, name)(3, 4, **options)(x[0] if "Cell" in name else x)
            flat = [made] if hasattr(made, "dtype") else made
            found += [
                name,
                [p.dtype if hasattr(p, "dtype") else [q.dtype for q in p] for p in flat],
            ]
        y, w = torch.nn.MultiheadAttention(4, 2)(*[torch.ones(3, 1, 4)] * 3)
        found += [
            y.dtype,
            w.dtype,
            torch.nn.TransformerEncoderLayer(4, 2, 8)(torch.ones(3, 1, 4)).dtype,
        ]
        for layer in (torch.nn.BatchNorm1d(4), torch.nn.LayerNorm(6), torch.nn.GELU()):
            found.append(layer(torch.ones(2, 4, 6)).dtype)
    return found


@same(rtol=3e-2, atol=3e-2)
def test_values_and_gradients_come_back_in_the_dtype_of_leaves(torch):
    found = []
    for name, call in CALLS.items():
        if name in ("rank", "stack of ints", "svdvals", "multi_dot", "matrix_power"):
            continue
        xs = inputs(torch, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            out = call(torch, *xs)
        real = torch.view_as_real(out) if out.is_complex() else out
        real.float().square().sum().backward()
        found += [name, real.detach().float()]
        found += [None if x.grad is None else str(x.grad.dtype) for x in xs]
        if name not in ("cond", "qr", "eigvalsh", "cholesky", "inverse", "inv", "pinverse"):
            found += [None if x.grad is None else x.grad for x in xs]
    return found


@same
def test_contexts_nest_and_decorate(torch):
    found = []
    x = torch.ones(2, 2)

    @torch.autocast("cpu")
    def product(y: Any) -> Any:
        return y @ y

    found += [product(x).dtype, product.__name__]
    with torch.autocast(device_type="cpu", dtype=torch.float16) as context:
        found += [(x @ x).dtype, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")]
        with torch.amp.autocast("cpu", enabled=False):
            found += [(x @ x).dtype, torch.is_autocast_enabled("cpu")]
        with torch.amp.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            found += [(x @ x).dtype, torch.is_autocast_cache_enabled()]
        found += [(x @ x).dtype, torch.mm(x, x, out=torch.empty(2, 2)).dtype]
        found.append(x.clone().addmm_(x, x).dtype)
        with torch.no_grad():
            found.append((x @ x).requires_grad)
    found += [(x @ x).dtype, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")]
    found += [context.device, context.fast_dtype, torch.is_autocast_enabled()]
    try:
        with torch.autocast("cpu"):
            raise KeyError
    except KeyError:
        found.append(torch.is_autocast_enabled("cpu"))
    mode = torch.amp._enter_autocast("cpu")
    found.append((x @ x).dtype)
    torch.amp._exit_autocast(mode)
    return [*found, (x @ x).dtype]


@same
def test_weights_are_cast_once_in_a_context(torch):
    w = torch.ones(2, 2, requires_grad=True)
    x = torch.ones(2, 2)
    with torch.autocast("cpu"):
        before = x @ w
        with torch.no_grad():
            w.mul_(3)
        kept = x @ w  # of the cast that was made before, as in torch
        torch.clear_autocast_cache()
        after = x @ w
    with torch.autocast("cpu", cache_enabled=False):
        first = x @ w
        with torch.no_grad():
            w.mul_(3)
        second = x @ w
    (kept + after).sum().backward()
    return [y.detach().float() for y in (before, kept, after, first, second)] + [w.grad]


@same
def test_switches_of_a_thread(torch):
    found = []
    for device in ("cpu", "cuda", "xpu", "mps", "hpu", "xla", "mtia", "ipu", "maia"):
        found += [torch.get_autocast_dtype(device), torch.amp.is_autocast_available(device)]
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    x = torch.ones(2, 2)
    found += [(x @ x).dtype, torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()]
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    torch.set_autocast_cpu_enabled(False)
    torch.set_autocast_enabled(False)
    for name, dtype in (("cpu", torch.bfloat16), ("gpu", torch.float16), ("ipu", torch.float16),
                        ("xla", torch.bfloat16)):  # fmt: skip
        getattr(torch, f"set_autocast_{name}_dtype")(dtype)
        found.append(getattr(torch, f"get_autocast_{name}_dtype")())
    for name in ("ipu", "xla"):
        getattr(torch, f"set_autocast_{name}_enabled")(False)
        found.append(getattr(torch, f"is_autocast_{name}_enabled")())
    found += [torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()]
    torch.set_autocast_cache_enabled(False)
    found.append(torch.is_autocast_cache_enabled())
    torch.set_autocast_cache_enabled(True)
    return [
        *found, (x @ x).dtype,
        failure(lambda: torch.autocast(3), "Expected `device_type` of type `str`"),
        failure(lambda: torch.autocast("meta"), "unsupported scalarType"),
        failure(lambda: torch.autocast("cpu")(3), "requires a callable"),
        failure(lambda: torch.is_autocast_enabled(3), "must be str, not int"),
        failure(lambda: torch.set_autocast_dtype("cpu", 3), "must be torch.dtype, not int"),
        failure(lambda: torch.set_autocast_enabled("cpu", 3), "must be bool, not int"),
    ]  # fmt: skip


def heard(action: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [f"{w.category.__name__}: {str(w.message).partition(' (Triggered')[0]}" for w in caught]


@same
def test_warnings_and_old_names(torch):
    for module in ("cpu.amp", "cuda.amp"):
        importlib.import_module(f"{torch.__name__}.{module}")
    x = torch.ones(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.cpu.amp.autocast():
            dtypes = [(x @ x).dtype]
        with torch.cuda.amp.autocast():
            dtypes.append((x @ x).dtype)
    return [
        *dtypes,
        heard(lambda: torch.autocast("cpu", torch.float32)),
        heard(lambda: torch.autocast("cuda")),
        heard(lambda: torch.cpu.amp.autocast(dtype=torch.float16)),
        heard(lambda: torch.cuda.amp.autocast(enabled=False)),
        heard(lambda: torch.cpu.amp.GradScaler()),
        heard(lambda: torch.cuda.amp.GradScaler(enabled=False)),
        heard(lambda: torch.amp.GradScaler()),
        heard(lambda: torch.cuda.amp.custom_fwd(lambda ctx: 1)),
        heard(lambda: torch.cuda.amp.custom_bwd(lambda ctx: 1)),
        heard(torch.is_autocast_cpu_enabled),
        heard(lambda: torch.set_autocast_gpu_dtype(torch.float16)),
        torch.cuda.amp.amp_definitely_not_available(),
    ]


@same
def test_functions_of_the_user(torch):
    found = []

    def made(cast_inputs: Any) -> Any:
        class Product(torch.autograd.Function):
            @staticmethod
            @torch.amp.custom_fwd(device_type="cpu", cast_inputs=cast_inputs)
            def forward(ctx: Any, a: Any, b: Any) -> Any:
                ctx.save_for_backward(a, b)
                found.append([a.dtype, torch.is_autocast_enabled("cpu")])
                return a.mm(b)

            @staticmethod
            @torch.amp.custom_bwd(device_type="cpu")
            def backward(ctx: Any, g: Any) -> Any:
                a, b = ctx.saved_tensors
                found.append([g.dtype, torch.is_autocast_enabled("cpu")])
                return g.mm(b.t()), a.t().mm(g)

        return Product.apply

    for cast_inputs in (None, torch.float32):
        for context in (True, False):
            a, b = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
            with torch.autocast("cpu", enabled=context):
                y = made(cast_inputs)(a, b)
            found += [y.dtype]
            y.float().sum().backward()
            found += [a.grad, b.grad]
    return [*found, failure(lambda: torch.amp.custom_fwd(device_type=3)),
            failure(lambda: torch.amp.custom_bwd(device_type=3))]  # fmt: skip


def train(t: Any, name: str, steps: int, **options: Any) -> list[Any]:
    """Train with overflows in the third and sixth step; return losses, scales and parameters."""
    rng = np.random.default_rng(0)
    net = t.nn.Sequential(t.nn.Linear(4, 8), t.nn.ReLU(), t.nn.Linear(8, 3))
    for p in net.parameters():
        p.data = t.tensor(rng.normal(size=tuple(p.shape)).astype("float32") * 0.5)
    optimizer = getattr(t.optim, name)(net.parameters(), **options)
    scaler = t.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    found = [scaler.state_dict()]
    for i in range(steps):
        x = t.tensor(rng.normal(size=(6, 4)).astype("float32"))
        optimizer.zero_grad()
        loss = t.nn.functional.cross_entropy(net(x), t.tensor([0, 1, 2, 0, 1, 2]))
        scaler.scale(loss).backward()
        if i in (0, 2, 5):
            next(net.parameters()).grad.view(-1)[1] = float("inf") if i else float("nan")
        if i % 2:
            scaler.unscale_(optimizer)
            t.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        found.append(scaler.step(optimizer))
        scaler.update()
        found += [loss.detach(), scaler.get_scale(), scaler._get_growth_tracker()]
    return [*found, *[p.detach() for p in net.parameters()], scaler.state_dict()]


@same(rtol=1e-4, atol=1e-5)
def test_training_with_a_scaler(torch):
    found = []
    for name, options in (
        ("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {"lr": 0.01}),
        ("AdamW", {"lr": 0.01, "fused": True}), ("SGD", {"lr": 0.1, "fused": True}),
        ("Adagrad", {"lr": 0.1, "fused": True}), ("RMSprop", {"lr": 0.01, "momentum": 0.5}),
        ("NAdam", {"lr": 0.01}), ("ASGD", {"lr": 0.1}), ("Adafactor", {}), ("Rprop", {}),
        ("RAdam", {"lr": 0.1}), ("Adamax", {"lr": 0.1}), ("Adadelta", {}),
    ):  # fmt: skip
        found += [name, train(torch, name, 8, **options)]
    return found


@same(rtol=2e-2, atol=2e-2)
def test_training_with_autocast_and_scaler(torch):
    rng = np.random.default_rng(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    for p in net.parameters():
        p.data = torch.tensor(rng.normal(size=tuple(p.shape)).astype("float32") * 0.2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu")
    losses = []
    for _ in range(4):
        x = torch.tensor(rng.normal(size=(6, 1, 6, 6)).astype("float32"))
        optimizer.zero_grad()
        with torch.autocast("cpu"):
            out = net(x)
            loss = torch.nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 0, 1, 2]))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses += [out.dtype, loss.dtype, loss.detach()]
    return [*losses, *[p.detach() for p in net.parameters()]]


@same
def test_stages_and_errors_of_a_scaler(torch):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_factor=3.0, backoff_factor=0.25)
    found = [failure(lambda: scaler.step(optimizer), "_scale is None"),
             failure(lambda: scaler.update(), "_scale is None"),
             failure(lambda: scaler.unscale_(optimizer), "_scale is None")]  # fmt: skip
    a, (b, c) = scaler.scale([torch.ones(1), (torch.ones(1), torch.full((1,), 2.0))])
    found += [a, b, c, list(scaler.scale(iter([torch.ones(1)])))]
    found.append(failure(lambda: scaler.scale(3), "outputs must be"))
    found.append(failure(lambda: scaler.step(optimizer), "No inf checks"))
    found.append(failure(lambda: scaler.update(), "No inf checks"))
    scaler.scale((p * 2).sum()).backward()
    scaler.update(2.0)
    scaler.unscale_(optimizer)
    found += [p.grad, failure(lambda: scaler.unscale_(optimizer), "already been called")]
    scaler.step(optimizer)
    found += [failure(lambda: scaler.step(optimizer), "already been called"),
              failure(lambda: scaler.unscale_(optimizer), "after step"),
              failure(lambda: scaler.step(optimizer, closure=lambda: 1), "Closure")]  # fmt: skip
    scaler.update(torch.tensor(8.0))
    state = scaler.state_dict()
    other = torch.amp.GradScaler("cpu")
    other.load_state_dict(state)
    found += [p, state, other.get_scale(), other.get_growth_factor(), other.get_backoff_factor(),
              other.get_growth_interval(), other.is_enabled()]  # fmt: skip
    other.set_growth_factor(1.5)
    other.set_backoff_factor(0.1)
    other.set_growth_interval(7)
    off = torch.amp.GradScaler("cpu", enabled=False)
    p.grad = torch.ones(2)
    off.step(optimizer)
    off.update()
    off.unscale_(optimizer)
    found += [other.state_dict(), off.state_dict(), off.get_scale(), off.scale(3), p]
    half = torch.nn.Parameter(torch.ones(2).half())
    half.grad = torch.ones(2).half()
    found.append(failure(lambda: scaler.unscale_(torch.optim.SGD([half])), "FP16"))
    return [*found, failure(lambda: other.load_state_dict({}), "empty"),
            failure(lambda: torch.amp.GradScaler("cpu", growth_factor=1.0), "growth factor"),
            failure(lambda: torch.amp.GradScaler("cpu", backoff_factor=1.0), "backoff")
            ]  # fmt: skip


@same
def test_optimizers_of_the_user(torch):
    class Plain(torch.optim.Optimizer):
        calls = 0

        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> str:
            type(self).calls += 1
            return "stepped"

    class Scaling(Plain):
        _step_supports_amp_scaling = True

        def step(self, closure: Any = None) -> Any:
            return [float(self.grad_scale), float(self.found_inf)]

    found = []
    for cls in (Plain, Scaling):
        for value in (1.0, float("inf")):
            p = torch.nn.Parameter(torch.ones(2))
            optimizer, scaler = cls([p]), torch.amp.GradScaler("cpu", init_scale=8.0)
            scaler.scale(p.sum()).backward()
            p.grad.mul_(value)
            found += [scaler.step(optimizer), p.grad]
            scaler.update()
            found.append(scaler.get_scale())
    hooked = torch.optim.SGD([p], lr=0.1)
    hooked.register_step_post_hook(lambda *args: found.append("hook"))
    scaler.scale(p.sum()).backward()
    scaler.step(hooked)
    return [*found, Plain.calls]


def test_scaling_does_not_wait() -> None:
    with farspan.connect("local:") as session:
        p = farspan.nn.Parameter(farspan.ones(3))
        optimizer, scaler = farspan.optim.Adam([p]), farspan.amp.GradScaler("cpu")
        for _ in range(2):
            before = session.stats()["sync_points"]
            optimizer.zero_grad()
            scaler.scale(p.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            assert session.stats()["sync_points"] == before


def test_dispatch_looks_nowhere_without_autocast() -> None:
    from farspan import _dispatch
    from farspan.core import call

    with farspan.autocast("cpu"):
        assert _dispatch._casting is not None and call._casting is not None
    assert _dispatch._casting is None and call._casting is None


def test_an_overflow_on_one_device_holds_back_all() -> None:
    with farspan.connect("local:", devices="cpu:2"):
        a = farspan.nn.Parameter(farspan.ones(2))
        b = farspan.nn.Parameter(farspan.ones(2, device="cpu:1"))
        optimizer = farspan.optim.Adam([a, b], lr=0.1)
        scaler = farspan.amp.GradScaler("cpu", init_scale=4.0)
        for bad in (False, True):
            optimizer.zero_grad()
            scaler.scale(a.sum() + b.to("cpu").sum()).backward()
            if bad:
                b.grad.mul_(float("inf"))
            scaler.step(optimizer)
            scaler.update()
            np.testing.assert_allclose([*a.tolist(), *b.tolist()], 0.9, rtol=1e-6)
        assert scaler.get_scale() == 2.0


@same
def test_the_module_of_the_cpu(torch):
    cpu = importlib.import_module(f"{torch.__name__}.cpu")
    cpu.set_device("cpu")
    cpu.synchronize()
    stream, event = cpu.Stream(), cpu.Event()
    event.record(stream)
    event.wait()
    event.synchronize()
    stream.wait_event(event)
    stream.record_event()
    stream.wait_stream(cpu.current_stream())
    with cpu.stream(stream):
        inside = cpu.current_stream() is stream
    with cpu.StreamContext(None):
        outside = cpu.current_stream() is stream
    return [cpu.is_available(), cpu.is_initialized(), cpu.device_count(), cpu.current_device(),
            event.query(), inside, outside, hasattr(cpu.get_capabilities(), "keys")]  # fmt: skip


@same
def test_a_cached_cast_is_one_for_all_grad_modes(torch):
    w = torch.ones(2, 2, requires_grad=True)
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            a = x @ w
            w.mul_(2)
            b = x @ w
        c = x @ w
        with torch.inference_mode():
            d = x @ w
    c.sum().backward()
    return [t.float() for t in (a, b, c, d)], w.grad, c.requires_grad
