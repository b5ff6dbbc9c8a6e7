"""torch's own checkpoints: read without running them, written so that torch opens them."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from typing import Any

import farspan
import numpy as np
import pytest
import torch


def of_torch(obj: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(obj, file)
    file.seek(0)
    return file


def of_farspan(obj: Any) -> io.BytesIO:
    file = io.BytesIO()
    farspan.save(obj, file, format="torch")
    file.seek(0)
    return file


def checkpoint(lib: Any) -> dict[str, Any]:
    """Return what a training script saves: weights, optimizer state, and all kinds of data."""
    lib.manual_seed(0)
    net = lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.BatchNorm1d(4), lib.nn.LSTM(4, 2))
    optimizer = lib.optim.Adam(net[:2].parameters(), lr=0.01)
    net[:2](lib.ones(5, 3)).sum().backward()
    optimizer.step()
    base = lib.arange(12.0).reshape(3, 4)
    return {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "base": base,
        "view": base[1:, ::2],
        "transposed": base.T,
        "half": lib.ones(3).bfloat16(),
        "parameter": net[0].weight,
        "leaf": lib.ones(2, requires_grad=True),
        "empty": lib.empty(0, 3),
        "scalar": lib.tensor(3),
        "mask": lib.tensor([True, False]),
        "complex": lib.tensor([1 + 2j]),
        "dtype": lib.float32,
        "device": lib.device("cpu"),
        "size": lib.Size([1, 2]),
        "plain": (1, -3, 2**70, "é", None, True, 1.5, float("inf"), 1 + 2j),
        "nested": [{"a": [(), [], {}]}, OrderedDict(b=1)],
        "set": {1, 2},
    }


def text(x: Any) -> Any:
    """Return an object that two libraries can be compared by."""
    if isinstance(x, (torch.Tensor, farspan.Tensor)):
        values = x.detach().float() if "bfloat16" in str(x.dtype) else x.detach()
        return str(x.dtype), tuple(x.shape), tuple(x.stride()), x.requires_grad, values.tolist()
    if isinstance(x, dict):
        return type(x).__name__, [(text(k), text(v)) for k, v in x.items()]
    if isinstance(x, (list, tuple, set)):
        return type(x).__name__, [text(i) for i in x]
    return type(x).__name__ if isinstance(x, type) else str(x)


def test_checkpoints_of_torch_are_read() -> None:
    theirs = checkpoint(torch)
    ours = farspan.load(of_torch(theirs))
    assert text(ours) == text(theirs)
    assert isinstance(ours["parameter"], farspan.nn.Parameter)
    assert ours["model"]._metadata == theirs["model"]._metadata


def test_checkpoints_are_written_for_torch() -> None:
    ours = checkpoint(farspan)
    file = of_farspan(ours)
    theirs = torch.load(file, weights_only=True)
    assert text(theirs) == text(ours)
    assert isinstance(theirs["parameter"], torch.nn.Parameter)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 2))
    net.load_state_dict(theirs["model"])
    file.seek(0)
    assert text(farspan.load(file)) == text(ours)


def test_shared_memory_stays_shared_both_ways() -> None:
    ours = farspan.load(of_torch(checkpoint(torch)))
    ours["base"][1, 0] = 50.0
    assert ours["view"][0, 0].item() == 50.0 and ours["transposed"][0, 1].item() == 50.0
    theirs = torch.load(of_farspan(ours), weights_only=True)
    theirs["base"][1, 0] = 7.0
    assert theirs["view"][0, 0].item() == 7.0
    assert len([n for n in zipfile.ZipFile(of_farspan([ours["base"], ours["view"]])).namelist()
                if "/data/" in n]) == 1  # fmt: skip


def test_files_can_be_mapped_into_memory(tmp_path: Any) -> None:
    path = tmp_path / "weights.pt"
    farspan.save({"w": farspan.arange(1000.0)}, path, format="torch")
    assert torch.load(path, mmap=True, weights_only=True)["w"].sum() == 499500
    assert farspan.load(path, mmap=True)["w"].sum() == 499500


@pytest.mark.parametrize(
    "where", ["cpu", {"cuda:0": "cpu"}, lambda storage, location: storage, lambda s, _: s.cpu()]
)
def test_map_location_takes_torchs_forms(where: Any) -> None:
    loaded = farspan.load(of_torch({"x": torch.ones(2)}), map_location=where)
    assert str(loaded["x"].device) == "cpu"


class Command:
    """An object whose pickle runs a function of the attacker's choice."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def with_pickle(content: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(16))
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "obj",
    [
        Command(print, "run"), Command(eval, "1"), Command(np.array, [1]), torch.nn.Linear(1, 1),
        Command(getattr, "x", "upper"), {"a": [Command(exec, "x = 1")]}, np.array([1.0]),
    ],
)  # fmt: skip
def test_code_and_objects_of_classes_are_refused_by_name(obj: Any) -> None:
    with pytest.raises(ValueError, match="data only"):
        farspan.load(with_pickle(pickle.dumps(obj, protocol=2)))


STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no end|damaged"),
        (b"\x80\x02N", "no end|damaged"),
        (b"\x80\x02.", "damaged|other than one"),
        (b"\x80\x02(K\x01t", "no end|damaged"),
        (b"\x80\x02K\x01K\x02.", "other than one"),
        (b"\x80\x02)R.", "damaged"),
        (b"\x80\x02K\x01)R.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02}K\x01s.", "damaged"),
        (b"\x80\x02}}b.", "damaged"),
        (b"\x80\x02}]K\x01s.", "damaged"),  # a list as a key
        (b"\x80\x02ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x01\x86b.", "damaged"),
        (b"\x80\x02(i__main__\nx\n.", "does not need"),
        (REBUILD + STORAGE + b"K\x00K\x05\x85K\x01\x85tR.", "beyond"),
        (REBUILD + STORAGE + b"K\x03K\x02\x85K\x01\x85tR.", "beyond"),
        (REBUILD + STORAGE + b"J\xff\xff\xff\xffK\x02\x85K\x01\x85tR.", "damaged"),
        (REBUILD + STORAGE + b"K\x00K\x02\x85K\x01K\x01\x86tR.", "strides"),
        (REBUILD + b"K\x01K\x00K\x02\x85K\x01\x85tR.", "damaged"),
        (REBUILD + STORAGE.replace(b"K\x04", b"K\x05") + b"K\x00)))tR.", "16 bytes for 5"),
        (REBUILD + STORAGE.replace(b"\x000X", b"\x001X") + b"K\x00)))tR.", "missing"),
    ],
)  # fmt: skip
def test_damaged_pickles_are_value_errors(content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        farspan.load(with_pickle(content))


def number(n: int) -> bytes:
    size = n.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + n.to_bytes(size, "little")


def window(offset: int, size: list[int], stride: list[int], storage: bytes = STORAGE) -> bytes:
    sizes = [b"(" + b"".join(map(number, n)) + b"t" for n in (size, stride)]
    return REBUILD[2:] + storage + number(offset) + sizes[0] + sizes[1] + b"tR"


INTEGERS = STORAGE.replace(b"Float", b"Int")
DOUBLED = b"q\x00h\x00\x86" * 60  # a pair of the same twice: 2**60 leaves
HOSTILE = {
    "more elements than fit": (window(0, [2**61, 2**61], [0, 0]), "too many elements"),
    "none of very many": (window(0, [0, 2**61, 2**61], [1, 1, 1]), "too many elements"),
    "none far away": (window(2**60, [0], [1]), "beyond"),
    "dims": (window(0, [1] * 65, [1] * 65), "65 dims"),
    "two types": (b"]" + window(0, [4], [1]) + b"a" + window(0, [4], [1], INTEGERS) + b"a", "two"),
    "integer leaf": (window(0, [1], [1], INTEGERS)[:-2] + b"\x88tR", "requires a gradient"),
    "integer parameter": (
        b"ctorch._utils\n_rebuild_parameter\n(" + window(0, [1], [1], INTEGERS) + b"\x88)tR",
        "requires a gradient",
    ),
    "device": (b"ctorch\ndevice\nX\x03\x00\x00\x00foo\x85R", "foo"),
    "hash of shared pairs": (b"})" + DOUBLED + b"Ns", "key of more than 64"),
    "set of shared pairs": (b"c__builtin__\nset\n])" + DOUBLED + b"a\x85R", "key of more than 64"),
    "size of shared pairs": (b"ctorch\nSize\n)" + DOUBLED + b"\x85R", "other than sizes"),
    "hash of a deep tuple": (b"})" + b"\x85" * 200_000 + b"Ns", "key of more than 64"),
    "hashes that collide": (
        b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 40_000)) + b"u",
        "65 bits",
    ),
    "a mark at each of many objects": (b"N" * 500_000 + b"(t" * 100_000, "other than one"),
    "a constructor": (b"c__builtin__\nset\n", "constructor"),
    "a hidden constructor": (b"](c__builtin__\nset\nte", "damaged"),
    "a storage": (b"]" + STORAGE + b"a", "storage"),
    "a mark": (b"](a", "damaged"),
    "a call of data": (b"ctorch\nfloat32\n)R", "not a constructor"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_value_errors_at_once(name: str) -> None:
    content, says = HOSTILE[name]
    with pytest.raises(ValueError, match=says):
        farspan.load(with_pickle(b"\x80\x02" + content + b"."))
    assert farspan.ones(2).sum().item() == 2  # the session goes on


def test_changed_pickles_are_value_errors_or_other_data() -> None:
    file = of_torch({"a": torch.arange(4.0), "b": [1, "x", (2.5, None)], "c": {1}})
    whole = zipfile.ZipFile(file).read("archive/data.pkl")
    draw = random.Random(1)
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            broken[draw.randrange(len(broken))] = draw.choice((*b"()te.RQqhsu}]aK0", 0, 255))
        try:
            farspan.load(with_pickle(bytes(broken)))
        except ValueError:
            pass
    assert farspan.ones(2).sum().item() == 2


def test_records_that_overlap_are_refused_before_memory_is_taken() -> None:
    file = io.BytesIO()
    ids = b"".join(STORAGE.replace(b"\x000X", bytes([0, 48 + i]) + b"X") + b"0" for i in range(10))
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(10):
            archive.writestr(f"a/data/{i}", bytes(16))
        archive.writestr("a/data.pkl", b"\x80\x02" + ids + b"N.")
        for info in archive.infolist()[:10]:
            info.file_size = info.compress_size = 900  # as if each reached over the next ones
    with pytest.raises(ValueError, match="load:"):
        farspan.load(io.BytesIO(file.getvalue()))


def test_memory_of_two_types_is_not_written() -> None:
    x = farspan.ones(4)
    with pytest.raises(RuntimeError, match=r"float32 and torch.int32 view the same memory"):
        of_farspan([x, x.view(farspan.int32)])
    both = farspan.load(of_farspan([x, x.view(farspan.int32).clone()]))
    assert [str(t.dtype) for t in both] == ["torch.float32", "torch.int32"]


def test_compressed_records_and_other_archives_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    for content, says in ((file.getvalue(), "compressed"), (b"PK\x03\x04", "archive")):
        with pytest.raises(ValueError, match=says):
            farspan.load(io.BytesIO(content))
    legacy = io.BytesIO()
    torch.save({"x": torch.ones(1)}, legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"before version 1\.6"):
        farspan.load(io.BytesIO(legacy.getvalue()))


def test_no_flipped_or_missing_byte_is_more_than_a_value_error() -> None:
    whole = of_torch({"a": torch.arange(4.0), "b": [1, "x", (2.5, None)]}).getvalue()
    draw = random.Random(0)
    for i in range(1500):
        broken = bytearray(whole)
        if i % 3:
            for _ in range(draw.randint(1, 4)):
                broken[draw.randrange(4, len(broken))] = draw.randrange(256)
        else:
            del broken[draw.randrange(4, len(broken)) :]
        try:
            farspan.load(io.BytesIO(bytes(broken)))
        except ValueError:
            pass  # a flip in a number or a name can also give another valid file


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match="Command cannot be saved"):
        of_farspan({"a": Command(print)})
    with pytest.raises(ValueError, match="neither"):
        farspan.save({}, io.BytesIO(), format="pickle")
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        of_farspan(deep)
