"""Which public names of torch farspan has, proven by the tests; writes docs/coverage.md.

    python benchmarks/api_coverage.py [--recorded FOLDER] [--usage usage.json] [--write]

Runs the test suite under `tests/recorder.py` unless given what an earlier run recorded. A name is
`same` if a test called it beside torch and passed, `differs` where the table below says how,
`untested` if it is there but no test compared it, `missing`, or `not planned` with the reason.
--usage weighs names by how often programs use them: {"names": {"torch.nn.Linear": n}, "tensor":
{"view": n}}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from api_names import NAMESPACES, full, public_names, resolve, why_not  # noqa: E402

#: Names that are there and do something else than in torch, with how.
DIFFERS = {
    "Event": "always torch.cuda's: takes no device",
    "Stream": "always torch.cuda's, for device='cpu' too: waiting fails without a GPU",
    "compile": "returns the function, which runs eagerly",
    "set_num_threads": "noted only: a worker's threads are its operator's choice",
    "set_num_interop_threads": "noted only: commands of a device run in order",
    "set_flush_denormal": "False: denormal numbers are kept",
    "Tensor.__reduce_ex__": "refused: pickles run code; torch.save, or .numpy()",
    "Tensor.share_memory_": "the tensor is in a worker's memory, which every user shares",
}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as made:
        folder = options.recorded or Path(made)
        if not options.recorded:
            command = [sys.executable, "-m", "pytest", "-q", f"--record-names={folder}", "tests"]
            subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        proven = {n for file in folder.glob("*.json") for n in json.loads(file.read_text())}
    status = statuses(proven)
    report(status, json.loads(options.usage.read_text()) if options.usage else None)
    if options.write:
        (ROOT / "docs" / "coverage.md").write_text(page(status))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recorded", type=Path, help="a folder of an earlier run")
    parser.add_argument("--usage", type=Path, help="counts by name, as JSON")
    parser.add_argument("--write", action="store_true", help="write docs/coverage.md")
    return parser.parse_args()


def statuses(proven: set[str]) -> dict[str, dict[str, str]]:
    """Return {namespace: {name: status}}."""
    import farspan
    import torch

    found: dict[str, dict[str, str]] = {}
    for space in NAMESPACES:
        home = resolve(farspan, space)
        row = found[space] = {}
        for name in public_names(torch, space):
            known_as = full(space, name)
            reason = why_not(space, name)
            if reason is not None:
                row[name] = f"not planned: {reason}"
            elif home is None or not hasattr(home, name):
                row[name] = "missing"
            elif known_as in DIFFERS:
                row[name] = f"differs: {DIFFERS[known_as]}"
            else:
                row[name] = "same" if known_as in proven else "untested"
    return found


def report(status: dict[str, dict[str, str]], usage: dict[str, dict[str, int]] | None) -> None:
    """Print the figures by namespace, and weighted by use."""
    total: Counter[str] = Counter()
    for space, row in status.items():
        kinds = Counter(s.partition(":")[0] for s in row.values())
        total += kinds
        scope = sum(kinds.values()) - kinds["not planned"]
        here = kinds["same"] + kinds["differs"]
        print(f"torch.{space:28} {here:4} of {scope:4} ({here / max(scope, 1):.0%})  {dict(kinds)}")
    scope = total.total() - total["not planned"]
    here = total["same"] + total["differs"]
    print(f"all {here} of {scope} ({here / scope:.1%}); {dict(total)}")
    if usage is None:
        return
    counts = Counter()
    for name, n in [
        *usage["names"].items(), *((f"torch.Tensor.{k}", n) for k, n in usage["tensor"].items())
    ]:  # fmt: skip
        space, _, last = name.removeprefix("torch.").rpartition(".")
        state = status.get(space, {}).get(last, "not planned")
        counts[state.partition(":")[0]] += n
    scope = counts.total() - counts["not planned"]
    here = counts["same"] + counts["differs"]
    print(f"weighted by use: {here} of {scope} ({here / scope:.1%}); {dict(counts)}")


#: Where torch's own tests hold to what follows from its implementation alone.
ACCIDENTS = """\
## Accidents that are not followed

Torch's own tests were run on farspan, too. These results follow from how torch is made, not from
what it promises, and farspan gives others:

| in torch 2.13 | here |
|---|---|
| `ndarray + tensor` raises TypeError, `tensor + ndarray` does not | both give the tensor |
| `masked_fill_`, `index_fill_`, `index_put_` into an expanded tensor only warn | refused |
| `view_as_real(a).transpose_(0, 1)`, then written: `a.grad` is transposed | as of `transpose` |
| `EmbeddingBag(include_last_offset=True)`: mode `max` ignores the last offset | it counts |
| in inference mode a view of what has `requires_grad` has it, without `grad_fn` | has it not |
| `unique()` has `requires_grad`, and `backward` through it fails | has it not |
| new memory is filled in deterministic mode: `fill_uninitialized_memory` | it is always zero |
| modules and tensors are pickled | refused: `torch.save` a state_dict |
"""


def page(status: dict[str, dict[str, str]]) -> str:
    """Return docs/coverage.md."""
    lines = [
        "# Coverage of torch's public names",
        "",
        "Generated by `python benchmarks/api_coverage.py --write` from torch 2.13's namespaces and",
        "what the tests called beside torch. *Same*: a test got torch's result from it.",
        "",
        *ACCIDENTS.splitlines(),
        "",
    ]
    for space, row in status.items():
        lines += [f"## torch.{space}" if space else "## torch", ""]
        by_state: dict[str, list[str]] = {}
        for name, state in row.items():
            by_state.setdefault(state, []).append(name)
        for state in sorted(by_state, key=lambda s: (s != "same", s)):
            names = ", ".join(f"`{n}`" for n in by_state[state])
            lines += [f"**{state}** ({len(by_state[state])}): {names}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
