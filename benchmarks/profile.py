"""The way of one operation: a trace of a few training steps for https://ui.perfetto.dev.

Prints how long each phase of a frame's way took, client to kernel and back, and writes the trace.

    python benchmarks/profile.py [--steps 5] [--row tiny] [--address grpc://... --token-file F]
"""

from __future__ import annotations

import sys

if __name__ == "profile":
    # A script beside this file has imported something that imports the standard library's module
    # of this name (cProfile does, torch imports that); let it have that one.
    import importlib.util
    import sysconfig

    _spec = importlib.util.spec_from_file_location(
        "profile", f"{sysconfig.get_path('stdlib')}/profile.py"
    )
    assert _spec is not None and _spec.loader is not None
    sys.modules["profile"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["profile"])


def main() -> None:
    import argparse
    import os
    from pathlib import Path

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import farspan
    from overhead import service
    from vs_rows import BY_NAME, unwrapped

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--row", choices=BY_NAME, default="tiny", help="of vs_torch.py")
    parser.add_argument("--compiled", action="store_true", help="the step through farspan.compile")
    parser.add_argument("--address", help="local:, or a service; default one that runs meanwhile")
    parser.add_argument("--token-file")
    parser.add_argument("--trace", type=Path, default=Path("trace.json"))
    parser.add_argument("--smoke", action="store_true", help="local:, tiny sizes")
    options = parser.parse_args()
    address = "local:" if options.smoke else options.address
    with (
        service(address, options.token_file) as (where, token),
        farspan.connect(where, token=token) as session,
    ):
        farspan.manual_seed(0)
        work = BY_NAME[options.row].build(farspan, unwrapped, options.smoke)
        step = farspan.compile(work.step) if options.compiled else work.step
        for _ in range(3):
            work.read(work.run(step, 3))
        with session.profile(options.trace) as profile:
            work.read(work.run(step, options.steps))
        print(f"{BY_NAME[options.row].title}: {options.steps} steps at {where}")
        print(profile.table())
        print(f"\n{'in the workers':36}{'times':>8}{'us in all':>12}")
        for name, (count, total_us) in list(profile.kernels().items())[:20]:
            print(f"{name:36}{count:8}{total_us:12.1f}")
        for note in profile.notes:
            print(note)
        print(f"{len(profile.events)} events in {options.trace}; open it in ui.perfetto.dev")


if __name__ == "__main__":
    main()
