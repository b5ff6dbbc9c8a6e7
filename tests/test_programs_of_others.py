"""What programs that others wrote met: each of these was once not what torch does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from beside_torch import failure, same


@same
def test_numbers_like_a_tensor_come_in_the_order_of_the_new_tensor_s_memory(torch: Any) -> Any:
    repeated = torch.zeros(3, 1, 20).expand(3, 5, 20)
    turned = torch.zeros(4, 5, 6).permute(1, 2, 0)
    images = torch.empty(2, 3, 4, 4, memory_format=torch.channels_last)
    made = []
    torch.manual_seed(3)
    for x in (repeated, repeated.permute(1, 0, 2), turned, images, turned[:, ::2]):
        made += [torch.randn_like(x), torch.rand_like(x), torch.randint_like(x, 9)]
        made += [torch.randn_like(x, memory_format=torch.contiguous_format), torch.rand(3)]
    return made, [tuple(x.stride()) for x in made], images.stride()


@same
def test_einsum_mixes_dtypes_where_nothing_is_contracted(torch: Any) -> Any:
    a, b = torch.arange(6).reshape(2, 3), torch.arange(12.0).reshape(3, 4) / 7
    c = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    made = [
        torch.einsum("i,j->ij", a[0], b[0]),
        torch.einsum("ij,ij->ij", a, c),
        torch.einsum("ij,->ij", a, torch.tensor(0.5)),
        torch.einsum("i,j,k->ijk", a[0], b[0], c[0]),
        torch.einsum("ij,k->ik", a.int(), b[0]),
        torch.einsum("ij,jk->ik", a[:, :1], b[:1]),
        torch.einsum("ij,ij->ij", a > 1, a > 2),
    ]
    refused = [
        failure(lambda: torch.einsum(equation, *operands), "expected scalar type")
        for equation, operands in (
            ("ij,jk->ik", (a, b)),
            ("ij,ij->", (a, c)),
            ("ij,ij->i", (c, a)),
            ("ij,ij->j", (a, a > 2)),
        )
    ]  # fmt: skip
    refused += [failure(lambda: f(a[0], b[0, :3])) for f in (torch.inner, torch.dot)]
    refused += [failure(lambda: torch.tensordot(a[0], b[0, :3], 1), "same dtype")]
    x = torch.arange(3.0, requires_grad=True)
    torch.einsum("i,j->ij", a[0], x).sum().backward()
    return made, refused, x.grad


@same
def test_grad_takes_only_inputs_and_refusals_say_what_torch_says(torch: Any) -> Any:
    x = torch.arange(3.0, requires_grad=True)
    g = torch.autograd.grad(
        outputs=(x * x).sum(), inputs=x, create_graph=True, retain_graph=True, only_inputs=True
    )
    return [
        *g,
        failure(lambda: torch.ones(2, 4, 5) + torch.ones(2, 3, 6), "tensor a (5)", "dimension 2"),
        failure(lambda: torch.ones(2, 4, 1) + torch.ones(2, 3, 6), "tensor a (4)", "dimension 1"),
        failure(lambda: torch.empty((2, 3.0)), "unpack the object at pos 2"),
        failure(lambda: torch.empty((2.0, 3)), "element of type float at pos 0"),
        failure(lambda: torch.cuda.FloatTensor(2), "torch.cuda.FloatTensor not available"),
        isinstance(x, torch.FloatTensor),
        isinstance(x, torch.cuda.FloatTensor),
        x.type(),
        x.type("torch.DoubleTensor"),
        x.type(torch.LongTensor).type(),
        repr(torch.cuda.HalfTensor),
        repr(torch.LongTensor),
        failure(lambda: x.type("torch.NoTensor"), "invalid type"),
        torch.spmm(torch.eye(2), torch.ones(2, 3)),
        torch.dsmm(torch.eye(2), torch.ones(2, 3)),
        failure(lambda: torch.ones(2).cuda("cpu"), "must be cuda device"),
    ]


@same
def test_the_parts_of_checkpoint_can_be_used_alone(torch: Any) -> Any:
    parts = torch.utils.checkpoint
    x, y = torch.ones(2, requires_grad=True), torch.ones(2)
    a, b, c = parts.detach_variable((x * 2, y, 3))
    with pytest.warns(UserWarning, match="None of the inputs"):
        parts.check_backward_validity([y, 3])
    devices, states = parts.get_device_states(x, y)
    parts.set_device_states(devices, states)
    first, second = parts.noop_context_fn()
    with first, second:
        pass
    return a, a.requires_grad, a.is_leaf, b.requires_grad, c, devices, states, failure(
        lambda: parts.detach_variable([x]), "Only tuple of tensors"
    )  # fmt: skip


@same
def test_draws_with_replacement_are_made_as_they_are_read(torch: Any) -> Any:
    torch.manual_seed(5)
    sampler = torch.utils.data.RandomSampler(range(7), replacement=True, num_samples=10**10)
    return list(itertools.islice(sampler, 70)), len(sampler)


@same
def test_a_class_written_for_torchscript_is_a_module(torch: Any) -> Any:
    class Block(torch.jit.ScriptModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 3)

        @torch.jit.script_method
        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.layer(x)

    torch.manual_seed(0)
    block = Block()
    kinds = [isinstance(block, kind) for kind in (torch.jit.ScriptModule, torch.nn.Module)]
    return block(torch.ones(2)), list(block.state_dict()), kinds
