"""Datasets, samplers and loaders: one seed gives torch's batches in torch's order."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import farspan as ft
import numpy as np
import pytest
import torch
from beside_torch import same
from parity import assert_same, error_of, randn, seeded, to_ft

X, Y = randn(23, 3), torch.arange(23)


def _tensors(t: Any) -> list[Any]:
    return [X, Y] if t is torch else to_ft([X, Y])


def _dataset(t: Any) -> Any:
    return t.utils.data.TensorDataset(*_tensors(t))


def _own(t: Any) -> Any:
    class Own(t.utils.data.Dataset):
        def __getitem__(self, index: int) -> Any:
            return {"x": _tensors(t)[0][index], "n": index, "f": index / 2, "s": str(index)}

        def __len__(self) -> int:
            return 10

    return Own()


LOADERS: dict[str, Any] = {
    "in order": lambda t: t.utils.data.DataLoader(_dataset(t), batch_size=5),
    "shuffled": lambda t: t.utils.data.DataLoader(_dataset(t), batch_size=5, shuffle=True),
    "drop last": lambda t: t.utils.data.DataLoader(_dataset(t), 5, True, drop_last=True),
    "generator": lambda t: t.utils.data.DataLoader(
        _dataset(t), 5, shuffle=True, generator=t.Generator().manual_seed(7)
    ),
    "single samples": lambda t: t.utils.data.DataLoader(_dataset(t), batch_size=None),
    "own dataset": lambda t: t.utils.data.DataLoader(_own(t), batch_size=4, shuffle=True),
    "own collate": lambda t: t.utils.data.DataLoader(_dataset(t), 4, collate_fn=len),
    "subset": lambda t: t.utils.data.DataLoader(
        t.utils.data.Subset(t.utils.data.Subset(_dataset(t), range(5, 20)), [3, -1, 4]), 2
    ),
    "concat": lambda t: t.utils.data.DataLoader(_dataset(t) + _dataset(t), 9),
    "stack": lambda t: t.utils.data.DataLoader(
        t.utils.data.StackDataset(a=_dataset(t), b=_dataset(t)), 9
    ),
    "replacement": lambda t: t.utils.data.DataLoader(
        _dataset(t), 9, sampler=t.utils.data.RandomSampler(_dataset(t), True, 40)
    ),
    "more than all": lambda t: t.utils.data.DataLoader(
        _dataset(t), 9, sampler=t.utils.data.RandomSampler(_dataset(t), num_samples=50)
    ),
    "subset random": lambda t: t.utils.data.DataLoader(
        _dataset(t), 4, sampler=t.utils.data.SubsetRandomSampler([1, 5, 9, 13, 17])
    ),
    "batch sampler": lambda t: t.utils.data.DataLoader(
        _dataset(t), batch_sampler=[[1, 2], [5, 3, 1]]
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loader_yields_torchs_batches(name: str) -> None:
    def epochs(t: Any) -> list[Any]:
        loader = LOADERS[name](t)
        # Two epochs, and a draw after them: the default generator must stand where torch's does.
        return [len(loader), list(loader), list(loader), t.rand(3)]

    mine, theirs = seeded(epochs)
    assert_same(mine, theirs)


def test_weighted_sampler_draws_torchs_indices() -> None:
    mine, theirs = seeded(
        lambda t: list(t.utils.data.WeightedRandomSampler([0.1, 0.0, 3.0, 2.0], 20))
    )
    assert mine == theirs


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_iterable_dataset(drop_last: bool, batch_size: int | None) -> None:
    def batches(t: Any) -> list[Any]:
        class Stream(t.utils.data.IterableDataset):
            def __iter__(self) -> Iterator[int]:
                return iter(range(10))

            def __len__(self) -> int:
                return 10

        stream = Stream() + Stream()
        loader = t.utils.data.DataLoader(
            stream, batch_size=batch_size, drop_last=drop_last and batch_size is not None
        )
        return [len(loader), list(loader)]

    mine, theirs = seeded(batches)
    assert_same(mine, theirs)


@pytest.mark.parametrize("lengths", [[10, 13], [0.5, 0.3, 0.2], [23]])
def test_random_split_equals_torch(lengths: list[Any]) -> None:
    mine, theirs = seeded(
        lambda t: [list(s.indices) for s in t.utils.data.random_split(_dataset(t), lengths)]
    )
    assert mine == theirs
    mine, theirs = seeded(
        lambda t: [
            list(s.indices)
            for s in t.utils.data.random_split(
                _dataset(t), lengths, generator=t.Generator().manual_seed(3)
            )
        ]
    )
    assert mine == theirs


Pair = namedtuple("Pair", ["a", "b"])


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2, 3],
        [1.5, 2.5],
        [True, False],
        ["a", "b"],
        [np.float32(1.5), np.float32(2)],
        [np.arange(3), np.arange(3)],
        [{"a": 1, "b": [1, 2.0]}, {"a": 2, "b": [3, 4.0]}],
        [(1, "x"), (2, "y")],
        [Pair(1, 2.0), Pair(3, 4.0)],
    ],
    ids=str,
)
def test_default_collate_equals_torch(batch: list[Any]) -> None:
    mine = ft.utils.data.default_collate(batch)
    theirs = torch.utils.data.default_collate(batch)
    assert type(mine).__name__ == type(theirs).__name__
    assert_same(mine, theirs)


def test_batch_of_tensors_does_not_alias_the_dataset() -> None:
    dataset = ft.utils.data.TensorDataset(ft.zeros(4))
    (batch,) = next(iter(ft.utils.data.DataLoader(dataset, batch_size=4)))
    batch.add_(1)
    assert dataset.tensors[0].tolist() == [0, 0, 0, 0]


# Each is refused by torch; class and message must be the same.
WRONG: dict[str, Any] = {
    "sizes": lambda d, data: d.TensorDataset(*data[0].tensors, data[0].tensors[0][:2]),
    "batch size": lambda d, data: d.DataLoader(data[0], batch_size=0),
    "sampler": lambda d, data: d.DataLoader(data[0], shuffle=True, sampler=[1]),
    "batch sampler": lambda d, data: d.DataLoader(data[0], 2, batch_sampler=[[1]]),
    "drop last": lambda d, data: d.DataLoader(data[0], None, drop_last=True),
    "prefetch": lambda d, data: d.DataLoader(data[0], prefetch_factor=2),
    "workers": lambda d, data: d.DataLoader(data[0], num_workers=-1),
    "timeout": lambda d, data: d.DataLoader(data[0], timeout=-1),
    "split": lambda d, data: d.random_split(data[0], [1, 2]),
    "samples": lambda d, data: d.RandomSampler(data[0], num_samples=0),
    "concat": lambda d, data: d.ConcatDataset([]),
    "weights": lambda d, data: d.WeightedRandomSampler([[1.0]], 1),
    "collate": lambda d, data: d.default_collate([object()]),
    "ragged": lambda d, data: d.default_collate([[1, 2], [1]]),
    "no getitem": lambda d, data: d.Dataset()[0],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call_is_refused_as_in_torch(name: str) -> None:
    errors = [error_of(lambda t=t: WRONG[name](t.utils.data, [_dataset(t)])) for t in (ft, torch)]
    assert isinstance(errors[0], type(errors[1]))
    assert str(errors[0]) == str(errors[1])


@same
def test_a_complex_number_is_true_unless_both_parts_are_zero(torch: Any) -> Any:
    x = torch.tensor([1j, 0j, 1 + 0j, -0.0 + 0j])
    kept = torch.zeros(4, dtype=torch.bool)
    return x.bool(), x.to(torch.bool), kept.copy_(x), x.any(), x.all(), x.bool().sum()


@same
def test_parts_of_complex_numbers_stay_apart(torch: Any) -> Any:
    inf, nan = float("inf"), float("nan")
    real = torch.tensor([0.0, -0.0, inf, 1.0, nan], dtype=torch.float64)
    imag = torch.tensor([inf, nan, 1.0, -inf, -0.0], dtype=torch.float64)
    made = torch.complex(real, imag), torch.polar(imag, real.nan_to_num(posinf=1.0))
    signs = [torch.signbit(z.real) for z in made[:1]] + [torch.signbit(made[0].imag)]
    return [z.real for z in made], [z.imag for z in made], signs
