"""Draw the figures of peers.py, seconds.py, scaling.py or samplers.py, without measuring again.

    python benchmarks/plots.py RESULTS.json ... FOLDER

Each results file becomes one PNG of its name in FOLDER, with a transparent background, legible on light and on dark.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report import output_path
from systems import SYSTEMS

INK = "#7d8590"
OURS, PEER = "#2f81f7", "#8b949e"
FAINT = 0.45  # opacity of what is drawn behind
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.dpi": 160,
}
_GB = 1e9
NAMED = ("ddpm", "euler", "euler_a", "unipc", "dpmpp_2m", "dpmpp_2m/trailing")
"""Samplers whose lines have a colour of their own."""


def plot_peers(figures: dict[str, Any]) -> Figure:
    """Draw a bar a system: step, decode, whole picture, and peak memory with its anonymous part."""
    measurements = figures["measurements"]
    names = list(measurements)[::-1]  # bars are stacked from below
    colors = [PEER if SYSTEMS[name].files else OURS for name in names]
    figure = Figure(figsize=(11, 0.9 + 0.42 * 2 * len(names)), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    size, steps = f"{figures['workload']['width']}×{figures['workload']['height']}", figures["workload"]["steps"]
    panels = {
        "step": f"Guided step at {size}, s",
        "decode": f"VAE decode at {size}, s",
        "picture": f"Whole picture of {steps} steps, from process start, s",
    }

    def medians(name: str, unit: float = 1.0) -> list[float]:
        return [measurements[system][name]["median"] / unit for system in names]

    titles = [f"{SYSTEMS[name].title} ({figures['precisions'][name]})" for name in names]
    for place, (name, title) in zip(axes.flat, panels.items(), strict=False):
        _bars(place, titles, medians(name), colors, title)
    memory = axes.flat[-1]
    _bars(memory, titles, medians("peak_rss_bytes", _GB), colors, "Peak memory, GB (solid: anonymous)", opacity=FAINT)
    memory.barh(titles, medians("peak_anonymous_bytes", _GB), color=colors, height=0.6)
    return figure


def _bars(
    axes: Axes, titles: Sequence[str], values: Sequence[float], colors: Sequence[str], title: str, opacity: float = 1.0
) -> None:
    bars = axes.barh(titles, values, color=colors, height=0.6, alpha=opacity)
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_title(title)
    axes.margins(x=0.12)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0, labelbottom=False)


def plot_scaling(figures: dict[str, Any]) -> Figure:
    """Draw time above and memory below, against what was varied: pixels, threads, count."""
    columns = len(figures["measurements"])
    figure = Figure(figsize=(max(3 * columns, 4), 5), layout="constrained")
    axes = figure.subplots(2, columns, sharex="col", squeeze=False)
    for column, (kind, rows) in enumerate(figures["measurements"].items()):
        points = sorted(rows.items(), key=lambda item: item[1]["pixels"] if kind == "size" else int(item[0]))
        x = [row["pixels"] / 1e6 if kind == "size" else int(value) for value, row in points]
        seconds, memory = axes[0][column], axes[1][column]
        for name, style in (("step", "o-"), ("decode", "o--")):
            seconds.plot(x, [row[name] for _, row in points], style, color=OURS, label=name, markersize=4)
        for name, label, style in (
            ("peak_rss_bytes", "peak RSS", "o--"),
            ("peak_anonymous_bytes", "peak anonymous", "o-"),
        ):
            memory.plot(x, [row[name] / _GB for _, row in points], style, color=PEER, label=label, markersize=4)
        memory.set_xlabel("megapixels" if kind == "size" else kind)
        if kind != "size":
            memory.set_xticks(x)
        for place in (seconds, memory):
            place.set_ylim(bottom=0)
            place.grid(axis="y", color=INK, alpha=0.2)
    for place, title in ((axes[0][0], "seconds"), (axes[1][0], "GB")):
        place.set_title(title)
        place.legend()
    return figure


def plot_samplers(figures: dict[str, Any]) -> Figure:
    """Draw both measures against the evaluations of the U-Net: a line a sampler, some of them named."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    far, shown = figure.subplots(1, 2)
    budgets = figures["workload"]["evaluations"]
    named = {name: f"C{i}" for i, name in enumerate(NAMED)}
    for name, measured in sorted(figures["measurements"].items(), key=lambda item: item[0] in named):
        look = {"color": named.get(name, PEER), "alpha": 1 if name in named else FAINT, "lw": 2 if name in named else 1}
        rows = [measured[str(n)] for n in budgets]
        if rows[0]["distance"] is not None:
            far.plot(budgets, [row["distance"]["median"] for row in rows], **look)
        shown.plot(
            budgets, [100 * row["shown"]["share"] for row in rows], **look, label=name if name in named else None
        )
    far.set_yscale("log")
    far.set_title(f"Distance from the solution ({figures['workload']['solution']} evaluations), RMS of 255")
    shown.set_title("Shown of what was asked, %")
    for axes in (far, shown):
        axes.set_xscale("log")
        axes.set_xticks(budgets, [str(n) for n in budgets])
        axes.minorticks_off()
        axes.set_xlabel("evaluations of the U-Net")
        axes.grid(axis="y", color=INK, alpha=0.2)
    shown.legend(loc="lower right")
    return figure


def plot_seconds(figures: dict[str, Any]) -> Figure:
    """Draw a panel a way, and in it a bar a system and VAE: from the start of a process, and, solid, once loaded."""
    rows: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for one in figures["measurements"]:
        system, way, vae = one["measurement"]
        rows.setdefault(way, []).append((system, vae, one["figures"]))
    bars = [len(measured) for measured in rows.values()]
    heights = [2 + max(bars[i : i + 2]) for i in range(0, len(bars), 2)]
    figure = Figure(figsize=(13, 0.27 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
    for place in axes.flat[len(rows) :]:
        place.set_axis_off()
    for place, (way, measured) in zip(axes.flat, rows.items(), strict=False):
        measured = measured[::-1]  # bars are stacked from below
        names = [f"{SYSTEMS[system].title} ({figures['precisions'][system]}), {vae} VAE" for system, vae, _ in measured]
        colors = [PEER if SYSTEMS[system].files else OURS for system, _, _ in measured]
        started = [found["picture"]["median"] for _, _, found in measured]
        _bars(place, names, started, colors, f"{figures['ways'][way]['title']}, s", opacity=FAINT)
        loaded = [found["again"]["median"] if found["again"] else 0.0 for _, _, found in measured]
        place.barh(names, loaded, color=colors, height=0.6)
    return figure


PLOTS: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "peers": plot_peers,
    "scaling": plot_scaling,
    "samplers": plot_samplers,
    "seconds": plot_seconds,
}
"""By the benchmark that the figures name."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json", help="what --output of these wrote")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the pictures go")
    arguments = parser.parse_args()
    mpl.use("Agg")
    for path in arguments.results:
        try:
            figures = json.loads(path.read_text())
            plot = PLOTS[figures["benchmark"]]
        except (OSError, ValueError, KeyError, TypeError):
            parser.error(f"{path} holds no figures of {' or '.join(PLOTS)}; give what their --output wrote")
        try:
            picture = output_path(str(arguments.folder / f"{path.stem}.png"))
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        with mpl.rc_context(STYLE):
            plot(figures).savefig(picture)


if __name__ == "__main__":
    main()
