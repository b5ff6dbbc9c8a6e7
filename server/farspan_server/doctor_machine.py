"""Checks of this machine: versions, kernels, limits, memory, the journals' disk, certificates."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import re
import resource
import stat
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from farspan.core import limits

from farspan_server.doctor import FAIL, OK, SKIP, WARN, Asked, Found

FILES_MIN: Final = 4_096  # open files: two a worker, one a client and three a session's journal
SYNC_S_SLOW: Final = 0.02  # a durable frame waits about so long; disks with a cache take 1 ms
DAYS_WARN: Final = 30  # until a certificate ends
_SYNCS: Final = 20  # measured

#: Packages that the extras bring and what is missing without them.
_PARTS: Final = {
    "numpy": "",
    "grpcio": "",
    "protobuf": "",
    "ml_dtypes": "",
    "ray": "GPU workers and clusters (farspan up --no-ray does without)",
    "prometheus_client": "metrics (--metrics-port)",
    "cryptography": "certificates and links over TLS",
}


def versions(asked: Asked) -> Iterator[Found]:
    """Whether the packages that farspan requires are there, as new as it requires."""
    try:
        required = importlib.metadata.requires("farspan") or []
        mine = importlib.metadata.version("farspan")
    except importlib.metadata.PackageNotFoundError:
        yield Found(
            "versions", WARN, "farspan is not installed as a package; what it requires is unknown",
            "pip install 'farspan[server]'",
        )  # fmt: skip
        return
    least = {name: version for name, version in map(_requirement, required) if version}
    said = [f"farspan {mine}, Python {sys.version.split()[0]}"]
    for name, missing in _PARTS.items():
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            level = WARN if missing else FAIL
            what = f"{name} is missing" + (f": no {missing}" if missing else "")
            yield Found("versions", level, what, "pip install 'farspan[server]'")
            continue
        said.append(f"{name} {there}")
        wanted = least.get(name.replace("_", "-"), least.get(name, ""))
        if wanted and _numbers(there) < _numbers(wanted):
            yield Found(
                "versions", FAIL, f"{name} {there} is older than {wanted}, which farspan requires",
                f"pip install -U '{name}>={wanted}'",
            )  # fmt: skip
    yield Found("versions", OK, ", ".join(said))


def _requirement(text: str) -> tuple[str, str]:
    """Return the name and the least version of a requirement."""
    found = re.match(r"([A-Za-z0-9_.-]+)[^;>=]*(?:>=|==)\s*([0-9.]+)", text)
    return (found[1], found[2].rstrip(".")) if found else (text, "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def protobuf(asked: Asked) -> Iterator[Found]:
    """Whether messages are encoded by the native runtime."""
    from farspan.wire import runtime

    version, kind = runtime.protobuf()
    if kind == "python":
        yield Found(
            "protobuf", WARN, f"protobuf {version} runs in pure Python, ten times slower",
            "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a wheel for this platform",
        )  # fmt: skip
    else:
        yield Found("protobuf", OK, f"protobuf {version} runs natively ({kind})")


def kernels(asked: Asked) -> Iterator[Found]:
    """Whether workers here have fast kernels."""
    from farspan_worker import kernels as there

    if os.environ.get("FARSPAN_KERNELS") == "plain":
        yield Found(
            "kernels", WARN, "FARSPAN_KERNELS=plain: numpy computes", "unset it, but to compare"
        )
        return
    for name, why in (("oneDNN", there.missing()), ("llvmlite", there.slower())):
        if why:
            yield Found("kernels", WARN, f"no {name}: {why}", "pip install 'farspan[cpu]'")
        else:
            yield Found("kernels", OK, f"{name} is there")


def processor(asked: Asked) -> Iterator[Found]:
    """What the bits of results depend on here; other machines' workers should say the same."""
    from farspan_worker.numerics import numerics_key
    from farspan_worker.process import cores

    key = numerics_key()
    if not re.search(r"\bv[34]", key):
        yield Found(
            "processor", WARN, f"{cores()} core(s) without AVX2: {key}",
            "loops run at half the speed; a virtual machine may be allowed more (host-passthrough)",
        )  # fmt: skip
    else:
        yield Found("processor", OK, f"{cores()} core(s), {key}")


def files(asked: Asked) -> Iterator[Found]:
    """How many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_MIN:
        yield Found(
            "open files", WARN, f"a process may open {soft} (at most {hard}); a gateway with "
            f"hundreds of sessions needs {FILES_MIN}",
            f"ulimit -n {FILES_MIN}, or LimitNOFILE= of its systemd unit",
        )  # fmt: skip
    else:
        yield Found("open files", OK, f"a process may open {soft}")


def memory(asked: Asked) -> Iterator[Found]:
    """Whether a client and a worker on this host can share memory."""
    try:
        os.close(os.memfd_create("farspan-doctor"))
    except (AttributeError, OSError) as error:
        yield Found(
            "shared memory", WARN, f"memory files cannot be made ({error}): tensors between "
            "processes of this host go through sockets", "use Linux; a container must allow it",
        )  # fmt: skip
        return
    try:
        free = _free_bytes(Path("/dev/shm"))
    except OSError as error:
        yield Found(
            "shared memory", WARN, f"/dev/shm cannot be read (errno {error.errno}): Ray needs it",
            "mount a tmpfs there",
        )  # fmt: skip
        return
    least = 128 * limits.MiB
    if free < least:
        yield Found(
            "shared memory", WARN, f"/dev/shm has {free >> 20} MiB free; a node of Ray takes "
            f"{least >> 20}", "docker run --shm-size 256m, or shm_size in the compose file",
        )  # fmt: skip
    else:
        yield Found("shared memory", OK, f"memory files work; /dev/shm has {free >> 20} MiB free")


# --- the journals' disk --------------------------------------------------------------------------
def journal(asked: Asked) -> Iterable[Found]:
    """Whether sessions can be kept in a directory: access, room, and how long a sync takes."""
    path = asked.journal
    if path is None:
        return [Found("journal", SKIP, "no --journal DIRECTORY")]
    try:
        return list(_journal(path))
    except OSError as error:
        return [
            Found(
                "journal", FAIL, f"{path}: {error.strerror}",
                "make it writable for the gateway's user, or name another directory",
            )
        ]  # fmt: skip


def _journal(path: Path) -> Iterator[Found]:
    about = path.stat()
    mode = stat.S_IMODE(about.st_mode)
    if about.st_uid != os.getuid() or mode & 0o077:
        yield Found(
            "journal", WARN, f"{path} belongs to user {about.st_uid}, mode {mode:03o}; journals "
            "hold tensors", f"chown it to the gateway's user, and chmod 700 {path}",
        )  # fmt: skip
    free, least = _free_bytes(path), limits.DISK_FREE_BYTES_MIN
    if free < least:
        yield Found(
            "journal", FAIL, f"{free >> 20} MiB are free; below {least >> 20} a gateway takes no "
            "new sessions", "make room, or name a directory on a larger disk",
        )  # fmt: skip
    else:
        yield Found("journal", OK, f"{free >> 30} GiB are free in {path}")
    kind = _file_system(path)
    if kind in ("tmpfs", "ramfs", "overlay"):
        yield Found(
            "journal", WARN, f"it lies on {kind}, which goes with the machine or container",
            "name a directory on a disk or a volume, or call the sessions snapshot-only",
        )  # fmt: skip
    took = _sync_times(path)
    median, worst = statistics.median(took), max(took)
    said = f"a sync takes {1e3 * median:.2f} ms (median of {len(took)}, at most {1e3 * worst:.1f})"
    if median > SYNC_S_SLOW:
        yield Found(
            "journal", WARN, f"{said}; what is durable waits for it",
            "use a local disk with a write cache that survives a loss of power, not a network's",
        )  # fmt: skip
    else:
        yield Found("journal", OK, said)


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _file_system(path: Path) -> str:
    """Return the kind of file system that holds a path, as /proc/mounts names it."""
    best, kind = "", ""
    where = str(path.resolve())
    for line in _read(Path("/proc/mounts")).splitlines():
        _, mount, name, *_ = line.split()
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _sync_times(directory: Path) -> list[float]:
    """Return the seconds that each of some syncs of 4 KiB took. OSError."""
    path = directory / f".farspan-doctor-{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    took = []
    try:
        for _ in range(_SYNCS):
            os.write(fd, bytes(4096))
            begun_s = time.perf_counter()
            os.fdatasync(fd)
            took.append(time.perf_counter() - begun_s)
    finally:
        os.close(fd)
        path.unlink()
    return took


# --- certificates --------------------------------------------------------------------------------
def certificates(asked: Asked) -> Iterable[Found]:
    """Whether PEM files hold certificates that are valid, and for how long."""
    paths = [*asked.tls_certificates, *(each for each in (asked.ca, asked.cert) if each)]
    if not paths:
        return [Found("certificates", SKIP, "no certificate files given")]
    return [_certificate(path) for path in paths]


def _certificate(path: Path) -> Found:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        return Found(
            "certificates", FAIL, f"{path}: {error}", "give a file with certificates in PEM"
        )
    return lifetime("certificates", str(path), found[0].not_valid_before_utc, min(
        each.not_valid_after_utc for each in found
    ))  # fmt: skip


def lifetime(check: str, what: str, begins: Any, ends: Any) -> Found:
    """Return whether a certificate is valid now, and for how many days more."""
    now = datetime.datetime.now(datetime.UTC)
    days = (ends - now).days
    again = "make a new one (`farspan certs` for development) and have the gateway read it"
    if now < begins:
        return Found(
            check, FAIL, f"{what} is valid from {begins:%Y-%m-%d %H:%M} UTC on",
            "mend the clock of this machine, or wait",
        )  # fmt: skip
    if now > ends:
        return Found(check, FAIL, f"{what} ended on {ends:%Y-%m-%d}", again)
    level = WARN if days < DAYS_WARN else OK
    return Found(
        check, level, f"{what} is valid for {days} days more", again if level == WARN else ""
    )
