"""Files: everything comes back, other tools read them, and no bad file gets past the checks."""

from __future__ import annotations

import io
import json
import os
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import farspan as ft
import numpy as np
import pytest
import safetensors.numpy
from parity import assert_same, randn, to_ft, to_torch


def _bytes_of(obj: Any) -> bytes:
    file = io.BytesIO()
    ft.save(obj, file)
    return file.getvalue()


def _load(content: bytes) -> Any:
    return ft.load(io.BytesIO(content))


def _file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [2], "data_offsets": [0, 2], **changes}


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_dtype_and_shape_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    x = ft.tensor(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).to(getattr(ft, dtype))
    (back,) = _load(_bytes_of([x]))
    assert back.dtype == x.dtype and tuple(back.shape) == shape
    assert back.to(ft.float64).tolist() == x.to(ft.float64).tolist()


def test_training_state_comes_back(tmp_path: Path) -> None:
    net = ft.nn.Sequential(ft.nn.Linear(3, 4), ft.nn.BatchNorm1d(4), ft.nn.Linear(4, 1))
    optimizer = ft.optim.Adam(net.parameters(), lr=0.1)
    net(to_ft(randn(5, 3))).sum().backward()
    optimizer.step()
    path = tmp_path / "state.safetensors"
    ft.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    back = ft.load(path)
    assert back["epoch"] == 3 and type(back["net"]) is OrderedDict
    assert_same(back["net"], to_torch(net.state_dict()))
    assert_same(back["optimizer"], to_torch(optimizer.state_dict()))
    optimizer.load_state_dict(back["optimizer"])
    net.load_state_dict(back["net"])
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -1.5,
        float("inf"),
        float("-inf"),
        "text",
        "ü",
        [],
        {},
        (),
        [1, (2, [3])],
        {1: "a", "1": "b", None: {"x": ()}},
        OrderedDict(b=1, a=2),
        {"tensor": "a"},
        2**80,
    ],
    ids=repr,
)
def test_plain_values_come_back(value: Any) -> None:
    back = _load(_bytes_of(value))
    assert back == value and type(back) is type(value)


def test_flat_dict_is_an_ordinary_file() -> None:
    state = {"b": ft.arange(3), "a": ft.ones(2, 2, dtype=ft.float64), "c": ft.tensor(True)}
    content = _bytes_of(state)
    others = safetensors.numpy.load(content)
    assert {k: v.tolist() for k, v in others.items()} == {k: v.tolist() for k, v in state.items()}
    assert b"__metadata__" not in content
    back = _load(safetensors.numpy.save({"x": np.arange(4, dtype=np.int16)}))
    assert back["x"].dtype == ft.int16 and back["x"].tolist() == [0, 1, 2, 3]


def test_nested_file_is_read_by_other_tools_too() -> None:
    content = _bytes_of({"a": {"b": ft.ones(2)}, "a.b": ft.zeros(1)})
    assert {k: v.tolist() for k, v in safetensors.numpy.load(content).items()} == {
        "a.b": [1.0, 1.0],
        "a.b_": [0.0],
    }
    back = _load(content)
    assert back["a"]["b"].tolist() == [1, 1] and back["a.b"].tolist() == [0]


def test_one_tensor_twice_is_written_once_and_stays_one() -> None:
    x = ft.arange(100)
    content = _bytes_of([x, x])
    assert len(content) < 1200
    back = _load(content)
    assert back[0] is back[1]


def test_loaded_tensor_can_be_written() -> None:
    back = _load(_bytes_of({"x": ft.zeros(2)}))["x"]
    back.add_(1)
    assert back.tolist() == [1, 1]


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, [b"bytes"], {(1, 2): 3}, lambda: 1])
def test_other_objects_are_refused_and_nothing_is_written(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="save: "):
        ft.save(value, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_nesting_has_a_bound() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        _bytes_of(deep)


STRUCTURES: dict[str, Any] = {
    "no tag": {"a": 1, "b": 2},
    "unknown tag": {"run": "x"},
    "unknown tensor": {"tensor": "nothing"},
    "float": {"float": "1e5"},
    "bare list": [1],
    "pair": {"dict": [[1]]},
    "key": {"dict": [[{"list": []}, 1]]},
    "list": {"list": {"a": 1}},
}

BAD: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "header over bound": struct.pack("<Q", 100_000_001) + b"{}",
    "header past the end": struct.pack("<Q", 50) + b"{}",
    "not JSON": _file(b"{x"),
    "not UTF-8": _file(b'{"\xff": 1}'),
    "list": _file([]),
    "number": _file(3),
    "deep": _file(b"[" * 200_000 + b"]" * 200_000),
    "NaN": _file(b'{"a": NaN}'),
    "big number": _file(b'{"a": ' + b"9" * 10_000 + b"}"),
    "name twice": _file(b'{"a": {}, "a": {}}'),
    "metadata": _file({"__metadata__": {"a": 1}}),
    "metadata list": _file({"__metadata__": []}),
    "entry": _file({"a": 1}),
    "missing": _file({"a": {"dtype": "U8", "shape": [0]}}),
    "extra": _file({"a": _entry(more=1)}, b"ab"),
    "dtype": _file({"a": _entry(dtype="O")}, b"ab"),
    "dtype that tensors lack": _file({"a": _entry(dtype="F8_E4M3")}, b"ab"),
    "dtype type": _file({"a": _entry(dtype=["U8"])}, b"ab"),
    "negative shape": _file({"a": _entry(shape=[-2])}, b"ab"),
    "bool shape": _file({"a": _entry(shape=[2, True])}, b"ab"),
    "float shape": _file({"a": _entry(shape=[2.0])}, b"ab"),
    "many dims": _file({"a": _entry(shape=[1] * 100 + [2])}, b"ab"),
    "overflowing shape": _file({"a": _entry(shape=[2**62, 2**62])}, b"ab"),
    "huge empty shape": _file({"a": _entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])}),
    "offsets": _file({"a": _entry(data_offsets=[2, 0])}, b"ab"),
    "one offset": _file({"a": _entry(data_offsets=[0])}, b"ab"),
    "outside": _file({"a": _entry()}, b"a"),
    "hole": _file({"a": _entry(data_offsets=[1, 3])}, b"abc"),
    "rest": _file({"a": _entry()}, b"abc"),
    "overlap": _file({"a": _entry(), "b": _entry(data_offsets=[1, 3])}, b"abc"),
    "same bytes": _file({"a": _entry(), "b": _entry()}, b"ab"),
    "size": _file({"a": _entry(shape=[3])}, b"ab"),
    "booleans": _file({"a": _entry(dtype="BOOL")}, b"\x00\x02"),
    "structure": _file({"__metadata__": {"farspan": "{"}}),
    **{
        f"structure {name}": _file({"__metadata__": {"farspan": json.dumps(value)}})
        for name, value in STRUCTURES.items()
    },
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError):
        _load(BAD[name])


def test_every_cut_of_a_file_is_refused() -> None:
    content = _bytes_of({"a": ft.arange(3), "b": [1, {"c": ft.ones(2)}]})
    for length in range(len(content)):
        with pytest.raises(ValueError):
            _load(content[:length])


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_saving_keeps_what_a_path_is(tmp_path: Path, format: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    ft.save({"x": ft.ones(2)}, pipe, format=format)
    assert pipe.is_fifo() and ft.load(io.BytesIO(os.read(reader, 1 << 16)))["x"].sum().item() == 2
    os.close(reader)
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_bytes(b"old")
    kept.chmod(0o640)
    link.symlink_to(kept)
    ft.save({"x": ft.ones(2)}, os.fsencode(link), format=format)
    assert link.is_symlink() and kept.stat().st_mode & 0o777 == 0o640
    assert ft.load(link)["x"].tolist() == [1.0, 1.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "link", "pipe"]
