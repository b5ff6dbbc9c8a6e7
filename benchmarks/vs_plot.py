"""The table and the plot of `vs_torch.py`'s results: README.md and docs/vs_torch.png."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README, PNG = ROOT / "README.md", ROOT / "docs" / "vs_torch.png"
BEGIN, END = "<!-- vs_torch: begin -->", "<!-- vs_torch: end -->"

#: What is drawn: backend, colour, marker, size. torch eager is the line at 1.
SHAPES = {
    "torch-compile": ("#8a8f98", "D", 42),
    "grpc-plain": ("#f2b880", "o", 46),
    "grpc": ("#e07b39", "o", 64),
    "grpc-compiled": ("#1f5fa8", "o", 92),
}
TEXT, FAINT = "#22262b", "#d9dde2"


def table(
    results: dict[str, Any], titles: dict[str, str], rows: list[Any], ratio: Callable[..., Any]
) -> str:
    """Return the table as Markdown: milliseconds of torch eager, every other time over them."""
    names = [n for n in titles if n != "torch" and _measured(results, n)]
    heads = ["a step of", "torch eager, ms", *(titles[n] for n in names)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for row in rows:
        found = results["rows"].get(row.name)
        if found is None or "wall_s" not in found["backends"].get("torch", {}):
            continue
        base = statistics.median(found["backends"]["torch"]["wall_s"]) * 1e3
        cells = [row.title, f"{base:.3g}" if base < 100 else f"{base:.0f}"]
        for name in names:
            value = ratio(found, name, "torch")
            cells.append("-" if value is None else f"{value:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(results: dict[str, Any]) -> str:
    """Return what was measured where, in one sentence or two."""
    of, rows = results["machine"], results["rows"].values()
    loads = [load for row in rows for load in row["load"]]
    rounds = [len(c["wall_s"]) for r in rows for c in r["backends"].values() if "wall_s" in c]
    threads = "one thread" if of["threads"] == 1 else f"{of['threads']} threads"
    return (
        f"Times over torch eager's, medians of at least {min(rounds)} alternating rounds, "
        f"{threads} on either side: {of['cpu']}, {of['cores']} cores shared with others "
        f"(load {min(loads):.1f}-{max(loads):.1f}), torch {of['torch']}, {of['date']}, "
        f"commit {of['commit']}."
    )


def write(
    results: dict[str, Any], titles: dict[str, str], rows: list[Any], ratio: Callable[..., Any],
    bars: list[tuple[str, float | None, float]],
) -> None:  # fmt: skip
    """Write the table between README's markers, and the plot."""
    body = f"{describe(results)}\n\n"
    body += table(results, titles, rows, ratio)
    judged = [(label, value, bar) for label, value, bar in bars if value is not None]
    if judged:
        body += "\n\n| bar | median ratio | at most |\n|---|--:|--:|\n" + "\n".join(
            f"| {label} | {value:.2f}{'' if value <= bar else ' (missed)'} | {bar} |"
            for label, value, bar in judged
        )
    text = README.read_text()
    before, found, rest = text.partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"README.md has no place for the table: {BEGIN} ... {END}")
    README.write_text(f"{before}{BEGIN}\n{body}\n{END}{rest.partition(END)[2]}")
    draw(results, titles, rows, ratio, PNG)


def draw(
    results: dict[str, Any], titles: dict[str, str], rows: list[Any], ratio: Callable[..., Any],
    path: Path,
) -> None:  # fmt: skip
    """Draw each row as a line of dots: the time of each backend over torch eager's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row.name in results["rows"]]
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "text.color": TEXT})
    figure, axes = plt.subplots(figsize=(9.6, 1.6 + 0.34 * len(shown)), dpi=160)
    values = [1.0]
    for y, row in enumerate(reversed(shown)):
        axes.axhline(y, color=FAINT, linewidth=0.8, zorder=0)
        for name, (colour, marker, size) in SHAPES.items():
            value = ratio(results["rows"][row.name], name, "torch")
            if value is not None:
                values.append(value)
                axes.scatter(
                    value, y, s=size, c=colour, marker=marker, zorder=3, linewidths=0.8,
                    edgecolors="white",
                )  # fmt: skip
    axes.set_yticks(range(len(shown)), [row.title for row in reversed(shown)])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    _axis(axes, min(values), max(values))
    handles = [
        axes.scatter([], [], s=size, c=colour, marker=marker, label=titles[name])
        for name, (colour, marker, size) in SHAPES.items()
        if _measured(results, name)
    ]
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles),
        frameon=False, fontsize=9, handletextpad=0.2, columnspacing=1.4,
    )  # fmt: skip
    of = results["machine"]
    threads = "1 thread" if of["threads"] == 1 else f"{of['threads']} threads"
    figure.suptitle(
        "Time of a step over local PyTorch's", x=0.02, ha="left", fontsize=13, fontweight="bold"
    )
    figure.text(
        0.98, 0.012, f"{of['cpu']}, {threads} · torch {of['torch']} · {of['date']}", ha="right",
        fontsize=7.5, color="#6b7280",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.015, 1, 0.985))
    figure.savefig(path)
    plt.close(figure)


def _axis(axes: Any, low: float, high: float) -> None:
    """Give the plot a logarithmic axis in halves and doubles, left of 1 marked as faster."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(low / 1.15, 0.45), max(high * 1.15, 2.2))
    left, right = axes.get_xlim()
    ticks = [2.0**k for k in range(-6, 7) if left <= 2.0**k <= right]
    axes.set_xticks(ticks, [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks])
    axes.minorticks_off()
    axes.axvline(1.0, color=TEXT, linewidth=1.2, zorder=1)
    axes.axvspan(left, 1.0, color="#1f5fa8", alpha=0.05, zorder=0, linewidth=0)
    axes.set_xlabel("← faster          times torch eager          slower →", fontsize=9.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(axis="both", length=0)


def _measured(results: dict[str, Any], name: str) -> bool:
    return any("wall_s" in row["backends"].get(name, {}) for row in results["rows"].values())
