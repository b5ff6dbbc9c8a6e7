"""Compiled loops on disk: only this user's whole files are used, and nothing else can harm."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from farspan.core import limits
from farspan_worker.kernels.cpu import loops
from farspan_worker.kernels.cpu.loops import disk, native
from farspan_worker.kernels.cpu.loops.disk import Disk

KEY, BODY = b"a key", bytes(range(256)) * 8


@pytest.fixture
def kept(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "deep" / "loops")


def the_file(kept: Disk) -> Path:
    (file,) = kept.folder.glob("*.loop")
    return file


def test_what_is_written_is_read_by_its_key_alone(kept: Disk) -> None:
    assert kept.read(KEY) is None
    assert kept.write(KEY, BODY)
    assert kept.read(KEY) == BODY and kept.read(b"another") is None
    assert Disk(kept.folder).read(KEY) == BODY
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    assert the_file(kept).stat().st_mode & 0o777 == 0o600


def test_modes_hold_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        with pytest.raises(PermissionError):  # mkdir took the mask
            Disk(tmp_path / "loops")
        os.umask(0o000)
        kept = Disk(tmp_path / "open")
        assert kept.write(KEY, BODY) and kept.read(KEY) == BODY
    finally:
        os.umask(before)


@pytest.mark.parametrize("at", [0, 20, 60, -1])
def test_a_damaged_file_is_ignored_and_written_again(kept: Disk, at: int) -> None:
    kept.write(KEY, BODY)
    data = bytearray(the_file(kept).read_bytes())
    data[at] ^= 1
    the_file(kept).write_bytes(data)
    assert kept.read(KEY) is None
    assert kept.write(KEY, BODY) and kept.read(KEY) == BODY


@pytest.mark.parametrize("size", [0, 5, 40, 100])
def test_a_torn_file_is_ignored(kept: Disk, size: int) -> None:
    kept.write(KEY, BODY)
    os.truncate(the_file(kept), size)
    assert kept.read(KEY) is None


def test_a_file_under_another_ones_name_is_ignored(kept: Disk) -> None:
    kept.write(b"another", b"other code")
    other = the_file(kept)
    kept.write(KEY, BODY)
    (mine,) = set(kept.folder.glob("*.loop")) - {other}
    mine.write_bytes(other.read_bytes())
    assert kept.read(KEY) is None and kept.read(b"another") == b"other code"


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_file_that_others_may_write_or_read_is_ignored(kept: Disk, mode: int) -> None:
    kept.write(KEY, BODY)
    the_file(kept).chmod(mode)
    assert kept.read(KEY) is None
    assert kept.write(KEY, BODY) and kept.read(KEY) == BODY


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o1777])
def test_a_folder_that_others_may_use_is_refused(kept: Disk, mode: int) -> None:
    kept.write(KEY, BODY)
    kept.folder.chmod(mode)
    assert kept.read(KEY) is None and not kept.write(b"another", BODY)
    with pytest.raises(PermissionError, match="must belong to user"):
        Disk(kept.folder)


def test_a_folder_that_inherits_setgid_is_taken(tmp_path: Path) -> None:
    """As folders do in a home or project that a group shares; the bit lets nobody in."""
    tmp_path.chmod(0o2770)
    kept = Disk(tmp_path / "loops")
    kept.folder.chmod(0o2700)
    assert kept.write(KEY, BODY) and Disk(kept.folder).read(KEY) == BODY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_refused(kept: Disk) -> None:
    kept.write(KEY, BODY)
    os.chown(the_file(kept), 12345, -1)
    assert kept.read(KEY) is None
    os.chown(kept.folder, 12345, -1)
    with pytest.raises(PermissionError, match="12345"):
        Disk(kept.folder)


def test_links_are_not_followed(kept: Disk, tmp_path: Path) -> None:
    kept.write(KEY, BODY)
    moved = tmp_path / "elsewhere"
    file = the_file(kept)
    file.rename(moved)
    file.symlink_to(moved)
    assert kept.read(KEY) is None
    (tmp_path / "link").symlink_to(kept.folder)
    with pytest.raises(OSError):
        Disk(tmp_path / "link")


def test_other_things_under_the_name_do_not_block(kept: Disk) -> None:
    kept.write(KEY, BODY)
    file = the_file(kept)
    file.unlink()
    os.mkfifo(file, 0o600)
    assert kept.read(KEY) is None
    file.unlink()
    file.mkdir()
    assert kept.read(KEY) is None and not kept.write(KEY, BODY)
    assert not list(kept.folder.glob("*.part"))


def test_a_full_folder_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    kept = Disk(tmp_path / "loops", bytes_max=40 * 1024)
    for i in range(3 * 32 + 1):
        kept.write(b"%d" % i, BODY)
        file = kept.folder / disk._name(b"%d" % i)
        os.utime(file, (1000 + i, 1000 + i) if i != 5 else None)
    sizes = [file.stat().st_size for file in kept.folder.glob("*.loop")]
    assert sum(sizes) <= 40 * 1024
    assert kept.read(b"96") == BODY and kept.read(b"0") is None and kept.read(b"5") == BODY


def test_a_read_makes_a_file_count_as_used(kept: Disk) -> None:
    kept.write(KEY, BODY)
    os.utime(the_file(kept), (1000, 1000))
    kept.read(KEY)
    assert the_file(kept).stat().st_mtime > 1000


def test_stale_parts_go_and_young_ones_stay(kept: Disk) -> None:
    (kept.folder / "old.part").touch()
    os.utime(kept.folder / "old.part", (1000, 1000))
    (kept.folder / "new.part").touch()
    kept.write(KEY, BODY)
    assert [p.name for p in kept.folder.glob("*.part")] == ["new.part"]


def test_too_much_code_is_not_kept(kept: Disk) -> None:
    assert not kept.write(KEY, bytes(limits.LOOP_OBJECT_BYTES_MAX + 1))
    assert not list(kept.folder.iterdir())


def test_many_threads_and_processes_share_a_folder(kept: Disk) -> None:
    work = (
        "import sys; from pathlib import Path\n"
        "from farspan_worker.kernels.cpu.loops.disk import Disk\n"
        "kept = Disk(Path(sys.argv[1]), 64 << 10)\n"
        "for i in range(300):\n"
        "    key = b'%d' % (i % 23)\n"
        "    found = kept.read(key)\n"
        "    assert found in (None, key * 2000), (key, found)\n"
        "    assert kept.write(key, key * 2000)\n"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", work, str(kept.folder)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    wrong = []

    def read(i: int) -> None:
        key = b"%d" % i
        for _ in range(200):
            found = kept.read(key)
            if found not in (None, key * 2000):
                wrong.append(found)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for other in others:
        _, said = other.communicate(timeout=60)
        assert other.returncode == 0, said
    assert not wrong and not list(kept.folder.glob("*.part"))


def test_the_environment_chooses_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARSPAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert disk.folder_of_user() == Path("/x/cache/farspan/loops")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert disk.folder_of_user() == Path.home() / ".cache/farspan/loops"
    monkeypatch.setenv("FARSPAN_CACHE", "/y")
    assert disk.folder_of_user() == Path("/y/loops")
    for off in ("off", "0"):
        monkeypatch.setenv("FARSPAN_CACHE", off)
        assert disk.folder_of_user() is None and disk.opened() is None


TEXT = """define void @loop(ptr %p) {{
  store double {}, ptr %p
  ret void
}}
"""


@pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())
def test_code_is_compiled_once_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ctypes

    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path))
    first = native.to_object(TEXT.format("2.5"))
    monkeypatch.setattr(native, "compiled", lambda text: pytest.fail("compiled again"))
    assert native.to_object(TEXT.format("2.5")) == first
    code, out = native.Code(first), ctypes.c_double()
    native.function(code.address, 1, ())(ctypes.addressof(out))
    assert out.value == 2.5
    monkeypatch.setattr(native, "compiled", lambda text: b"made anew")
    assert native.to_object(TEXT.format("3.5")) == b"made anew"
    with monkeypatch.context() as m:
        m.setattr(native, "identity", lambda: "another processor")
        assert native.to_object(TEXT.format("2.5")) == b"made anew"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "loops").mkdir(mode=0o755)
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path / "bad"))
    for _ in range(2):
        assert native.to_object(TEXT.format("2.5")) == b"made anew"
    assert caplog.text.count("compiled anew in each process") == 1


@pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())
def test_loading_never_depends_on_where_memory_lies() -> None:
    """With RuntimeDyld and the default code model, this ended the process (SIGABRT) by itself."""
    work = (
        "import ctypes, mmap\n"
        "from farspan_worker.kernels.cpu.loops import native\n"
        f"text = {TEXT!r}\n"
        "text = text.replace('store', '%x = load double, ptr %p %y = fmul double %x, {0}"
        " store').replace('double {},', 'double %y,')\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3,"
        " ctypes.c_long]\n"
        "kept = []\n"
        "for i in range(200):\n"
        "    code = native.Code(native.compiled(text.format(f'{i + 0.3:.17g}')))\n"
        "    kept = [*kept[-20:], code]\n"
        "    x = ctypes.c_double(2)\n"
        "    native.function(code.address, 1, ())(ctypes.addressof(x))\n"
        "    assert x.value == 2 * (i + 0.3), i\n"
        "    libc.mmap(None, 1 << 30, 0, 0x4022, -1, 0)  # reserved, not used\n"
    )
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
