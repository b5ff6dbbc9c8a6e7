"""Names of nn, nn.functional and utils.data that other tests do not call beside torch.

Each test runs on both libraries and returns what must be equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from beside_torch import failure, grad_of, leaf, same


def fixed(t: Any, module: Any) -> Any:
    """Give the parameters the same numbers in both libraries."""
    with t.no_grad():
        for i, p in enumerate(module.parameters()):
            values = np.random.default_rng(i).normal(0, 0.4, tuple(p.shape)).astype("float32")
            p.copy_(t.tensor(values))
    return module


def both(t: Any, loss: Any, *inputs: Any) -> list[Any]:
    """Return the loss and the gradients of the inputs that need one."""
    made = loss(*inputs)
    return [made, *grad_of(t, made, *[x for x in inputs if x.requires_grad])]


@same
def test_losses_of_two_tensors(t: Any) -> Any:
    x, y, found = leaf(t, 3, 4), leaf(t, 3, 4, seed=1).detach(), []
    sign = t.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, -1.0], [1.0, 1.0, -1.0, 1.0]])
    for reduction in ("none", "mean", "sum"):
        to = {"reduction": reduction}
        found += [
            both(t, t.nn.BCELoss(**to), x.sigmoid(), y.sigmoid()),
            both(t, t.nn.BCELoss(weight=y.abs(), **to), x.sigmoid(), y.sigmoid()),
            both(t, t.nn.SoftMarginLoss(**to), x, sign),
            both(t, t.nn.HingeEmbeddingLoss(margin=0.5, **to), x, sign),
            both(t, t.nn.PoissonNLLLoss(**to), x, y.abs()),
            both(t, t.nn.PoissonNLLLoss(log_input=False, full=True, eps=1e-6, **to), x.abs(), y),
            both(t, t.nn.GaussianNLLLoss(full=True, **to), x, y, y.abs() + 0.1),
        ]
    return [*found, failure(lambda: t.nn.BCELoss(reduction="most")(x.sigmoid(), y.sigmoid()))]


@same
def test_losses_of_several_tensors(t: Any) -> Any:
    a, b, c = leaf(t, 3, 4), leaf(t, 3, 4, seed=1), leaf(t, 3, 4, seed=2)
    sign, classes, found = t.tensor([1, -1, 1]), t.tensor([2, 0, 3]), []
    for reduction in ("none", "mean", "sum"):
        to = {"reduction": reduction}
        found += [
            both(t, t.nn.CosineEmbeddingLoss(margin=0.1, **to), a, b, sign),
            both(t, t.nn.MarginRankingLoss(margin=0.2, **to), a[:, 0], b[:, 0], sign),
            both(t, t.nn.TripletMarginLoss(margin=0.7, p=2, swap=True, **to), a, b, c),
            both(t, t.nn.NLLLoss(ignore_index=0, **to), a.log_softmax(1), classes),
            both(t, t.nn.NLLLoss(weight=t.arange(1.0, 5.0), **to), a.log_softmax(1), classes),
        ]
    return [
        *found, both(t, t.nn.CosineSimilarity(dim=1, eps=1e-6), a, b),
        both(t, t.nn.CosineSimilarity(0), a, b), both(t, t.nn.PairwiseDistance(p=1), a, b),
        both(t, t.nn.PairwiseDistance(keepdim=True), a, b),
        [repr(m) for m in (t.nn.BCELoss(), t.nn.NLLLoss(), t.nn.CosineSimilarity(),
                           t.nn.PairwiseDistance(), t.nn.TripletMarginLoss())],
    ]  # fmt: skip


@same
def test_activations_as_functions(t: Any) -> Any:
    x, f = leaf(t, 3, 4), t.nn.functional
    return [
        both(t, f.logsigmoid, x), both(t, f.softsign, x), both(t, f.tanhshrink, x),
        f.softmin(x, dim=1), f.softmin(x, 0, dtype=t.float64), f.softmin(input=x, dim=-1),
        f.relu_(x.detach().clone()), f.softsign(input=x), f.tanhshrink(input=x),
    ]  # fmt: skip


@same
def test_embedding_and_norms_as_functions(t: Any) -> Any:
    weight, f, at = leaf(t, 5, 3), t.nn.functional, t.tensor([[1, 4], [0, 1]])
    x, scale, shift = (leaf(t, *n, seed=3, dtype="float64") for n in ((2, 3, 5), (3,), (3,)))
    mean, var = t.zeros(3, dtype=t.float64), t.ones(3, dtype=t.float64)
    padded = f.embedding(at, weight, padding_idx=1)
    return [
        f.embedding(at, weight), grad_of(t, padded, weight), f.embedding(at, weight.detach() * 3,
        max_norm=1.0), grad_of(t, f.embedding(at, weight, scale_grad_by_freq=True), weight),
        both(t, lambda *a: f.instance_norm(a[0], weight=a[1], bias=a[2]), x, scale, shift),
        f.instance_norm(x, mean, var, use_input_stats=True, momentum=0.3), mean, var,
        f.instance_norm(x, mean, var, use_input_stats=False, eps=1e-3),
        f.batch_norm(x, mean, var, scale, shift, training=True), mean, var,
        failure(lambda: f.instance_norm(t.ones(2, 3, 1)), "more than 1 spatial element"),
        failure(lambda: f.embedding(at.float(), weight)),
    ]  # fmt: skip


@same
def test_dropouts_of_channels(t: Any) -> Any:
    f, x = t.nn.functional, t.ones(4, 6, 5)
    t.manual_seed(2)
    return [
        f.dropout1d(x, 0.4), f.dropout1d(x, training=False), f.dropout2d(x[..., None], p=0.3),
        f.dropout1d(x.clone(), 0.5, True, True), f.dropout3d(x[..., None, None], 0.5),
        failure(lambda: f.dropout1d(x, 1.5), "between 0 and 1"),
        failure(lambda: f.dropout1d(x[0, 0])),
    ]  # fmt: skip


@same
def test_attention_as_a_function(t: Any) -> Any:
    layer = fixed(t, t.nn.MultiheadAttention(4, 2))
    q, k = leaf(t, 3, 2, 4), leaf(t, 5, 2, 4, seed=1)
    weights = (layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0,
               layer.out_proj.weight, layer.out_proj.bias)  # fmt: skip
    hidden = t.tensor([[False] * 4 + [True], [False] * 5])

    def attend(*inputs: Any, **more: Any) -> Any:
        return t.nn.functional.multi_head_attention_forward(*inputs, 4, 2, *weights, **more)

    out, how = attend(q, k, k)
    return [
        out, how, *grad_of(t, out, q, k), attend(q, k, k, need_weights=False),
        attend(q, k, k, key_padding_mask=hidden, average_attn_weights=False),
        attend(q, k, k, attn_mask=t.ones(3, 5).triu(2).bool(), training=False),
        layer(q, k, k), failure(lambda: attend(q[..., :3], k, k)),
    ]  # fmt: skip


@same
def test_transformer_decoders(t: Any) -> Any:
    found = []
    for first, act in ((False, "relu"), (True, "gelu")):
        layer = fixed(t, t.nn.TransformerDecoderLayer(
            4, 2, dim_feedforward=6, dropout=0.0, activation=act, norm_first=first,
            batch_first=True))  # fmt: skip
        stack = fixed(t, t.nn.TransformerDecoder(layer, num_layers=2, norm=t.nn.LayerNorm(4)))
        target, memory = leaf(t, 2, 3, 4), leaf(t, 2, 5, 4, seed=1)
        mask = t.nn.Transformer.generate_square_subsequent_mask(3)
        out = stack(target, memory, tgt_mask=mask, tgt_is_causal=True)
        found += [layer(target, memory), out, *grad_of(t, out, target, memory)]
        found.append([name for name, _ in stack.named_parameters()])
    return found


@same
def test_transforms_of_variables(t: Any) -> Any:
    d, x = t.distributions, t.tensor([[0.3, 1.2, -0.5], [0.1, 0.2, 0.3], [1.0, -1.0, 0.4]])
    made = [
        d.SigmoidTransform(), d.SoftplusTransform(), d.identity_transform,
        d.LowerCholeskyTransform(),
        d.StackTransform([d.ExpTransform(), d.TanhTransform(), d.AffineTransform(1, 2)], dim=1),
        d.CatTransform([d.ExpTransform(), d.identity_transform], dim=1, lengths=[1, 2]),
        d.PositiveDefiniteTransform(), d.biject_to(d.constraints.positive),
        d.transform_to(d.constraints.interval(1.0, 3.0)), d.biject_to(d.constraints.simplex),
        d.transform_to(d.constraints.real),
    ]  # fmt: skip
    return [[f(x), type(f).__name__, f.bijective] for f in made] + [made[0].inv(made[0](x))]


@same
def test_samplers_and_chains(t: Any) -> Any:
    data = t.utils.data

    class Count(data.IterableDataset):
        def __init__(self, n: int) -> None:
            self.n = n

        def __iter__(self) -> Any:
            return iter(range(self.n))

        def __len__(self) -> int:
            return self.n

    class Backwards(data.Sampler):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.n = n

        def __iter__(self) -> Any:
            return iter(range(self.n - 1, -1, -1))

    chain = data.ChainDataset([Count(3), Count(2)])
    batches = data.BatchSampler(data.SequentialSampler(range(7)), batch_size=3, drop_last=False)
    return [
        list(chain), len(chain), list(Count(2) + Count(1)), list(batches), len(batches),
        list(data.BatchSampler(Backwards(7), 3, True)), len(data.SequentialSampler("abc")),
        [b.tolist() for b in data.DataLoader(range(6), sampler=Backwards(6), batch_size=4)],
        [b.tolist() for b in data.DataLoader(chain, batch_size=2)],
        data.default_convert([np.arange(3), {"a": np.float32(1.5)}, "text", 7])[0],
        data.default_convert({"a": np.ones(2)})["a"], data.default_convert("text"),
        failure(lambda: data.BatchSampler(Backwards(3), 0, False), "positive integer"),
        failure(lambda: data.BatchSampler(Backwards(3), 2, "no"), "boolean"),
    ]  # fmt: skip
