"""`python -m farspan run script.py`: a PyTorch program as it is, on farspan.

Every other subcommand belongs to the service and is handed on to `farspan_server`.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from io import open_code
from pathlib import Path
from types import ModuleType


def main(argv: list[str] | None = None) -> None:
    """Run the command line: `run` here, anything else as `python -m farspan_server`."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        run(arguments[1:])
        return
    command = [sys.executable, "-m", "farspan_server", *arguments]
    os.execv(sys.executable, command)


def run(argv: list[str]) -> None:
    """Run a script or a module as `__main__`, with `import torch` meaning farspan.

    Exits as the program does. Errors of the command line exit with status 2.
    """
    options = _parser().parse_args(argv)
    if not options.program:
        _parser().error("which program? `farspan run script.py` or `farspan run -m module`")
    # In the environment, so that the first tensor here and in child processes opens the same.
    for name, value in (("ADDRESS", options.connect), ("DEVICES", options.devices)):
        if value:
            os.environ[f"FARSPAN_{name}"] = value
    from farspan._as_torch import install

    install()
    program, *rest = options.program
    sys.argv = [program, *rest]
    if options.module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    if not Path(program).exists():
        _parser().error(f"there is no file {program!r}")
    if not Path(program).is_file():  # a folder or an archive with a __main__.py
        runpy.run_path(program, run_name="__main__")
        return
    sys.path.insert(0, str(Path(program).resolve().parent))
    # runpy would take the module away at its end, while the program's threads go on.
    module = ModuleType("__main__")
    module.__file__ = program
    sys.modules["__main__"] = module
    with open_code(program) as file:
        code = compile(file.read(), program, "exec")
    exec(code, vars(module))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="farspan run",
        usage="farspan run [--connect ADDRESS] [--devices LIST] (script.py | -m module) [args ...]",
        description="Run a PyTorch program on farspan as it is: `import torch` means farspan "
        "in this process and in those it starts.",
    )
    parser.add_argument(
        "--connect",
        metavar="ADDRESS",
        help="local: (the default) or grpc://host:port; the token is read from FARSPAN_TOKEN",
    )
    parser.add_argument("--devices", metavar="LIST", help='such as "cpu:2" or "cuda:1"')
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
