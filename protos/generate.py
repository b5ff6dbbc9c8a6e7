"""Writes what is generated and committed; `--check` says whether it is fresh.

From the .proto files: client/farspan/_pb. From the op table (`tables.py`): core/_binders.py and
docs/ops.md; `--tables` writes only these and needs no protoc.

The committed code comes from an old protoc (grpcio-tools 1.66, protoc 5.27) because generated code
runs on protobuf runtimes of its own version and newer, never older.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import tables

PROTOS = Path(__file__).resolve().parent
TARGET = PROTOS.parent / "client" / "farspan" / "_pb"
PINNED = "1.66"
_DESCRIPTOR = re.compile(r"AddSerializedFile\((b'.*')\)")
_PACKAGE = '"""Code generated from protos/ by protos/generate.py; do not edit."""\n'


def compile_protos(target: Path) -> list[Path]:
    """Compile every .proto below PROTOS into `target` and return the modules' relative paths."""
    from grpc_tools import protoc

    sources = sorted(str(p.relative_to(PROTOS)) for p in PROTOS.rglob("*.proto"))
    if protoc.main(["protoc", f"-I{PROTOS}", f"--python_out={target}", *sources]):
        raise SystemExit("protoc failed")
    modules = [Path(s[: -len(".proto")] + "_pb2.py") for s in sources]
    for folder in {p for m in modules for p in m.parents}:
        (target / folder / "__init__.py").write_text(_PACKAGE)
    return modules


def meaning(module: Path) -> str:
    """Return the serialised descriptor: all that a module says, the same from every protoc."""
    found = _DESCRIPTOR.search(module.read_text()) if module.exists() else None
    return found.group(1) if found else ""


def write_tables() -> None:
    """Write the files that follow from the op table."""
    for path, text in tables.texts().items():
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when stale")
    parser.add_argument("--tables", action="store_true", help="only what the op table gives")
    options = parser.parse_args()
    if options.tables and not options.check:
        write_tables()
        return 0
    if not options.check:
        write_tables()
        version = metadata.version("grpcio-tools")
        if not version.startswith(PINNED + "."):
            raise SystemExit(f"generate with grpcio-tools {PINNED}.*, this is {version}")
        TARGET.mkdir(parents=True, exist_ok=True)
        compile_protos(TARGET)
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        modules = compile_protos(Path(fresh))
        stale = [str(m) for m in modules if meaning(Path(fresh) / m) != meaning(TARGET / m)]
    for path, text in tables.texts().items():
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"stale, run protos/generate.py: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
