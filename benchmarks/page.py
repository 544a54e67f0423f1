"""`python -m benchmarks.page`: tables and figures of the recorded results, for README and book.

The text of both is written by hand; what stands between `<!-- speed: ... -->` and `<!-- end -->` is made here from the
JSON files in `benchmarks/results/`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from metabook.full_scale import Run, load_runs, paired

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, README, FIGURES = ROOT / "book" / "speed.md", ROOT / "README.md", ROOT / "book" / "_static" / "speed"

PEERS = ("higher", "torchopt", "learn2learn", "jax")
OURS = {
    "metabook": "metabook",
    "metabook + reuse_memory": "kept",
    "metabook traced": "traced",
    "metabook compiled": "compiled",
}
IN_README = (
    "sinusoid MAML, 25 tasks",
    "sinusoid MAML, 1000 tasks",
    "Conv4 MAML, 5 inner steps, 4 tasks",
    "Conv4 ANIL, 5 inner steps, 4 tasks",
    "Conv4 ProtoNet, 5-way 5-shot, 4 episodes",
)


ON_A_GPU = {
    "metabook": "metabook",
    "metabook traced": "traced",
    "traced, tf32": "traced, tf32",
    "traced, bfloat16": "traced, bfloat16",
}
PRECISIONS = ("float32", "tf32", "bfloat16")


def main() -> None:
    """Write everything anew."""
    import matplotlib

    matplotlib.use("svg")
    records = load()
    FIGURES.mkdir(exist_ok=True)
    draw_ratios(records["training"], FIGURES / "ratios.svg")
    draw_memory(records["memory"], FIGURES / "memory.svg")
    for path in (PAGE, README):
        path.write_text(filled(path.read_text(encoding="utf-8"), records), encoding="utf-8")


def load() -> dict:
    """The recorded results by the name of their file; those of "precision" are runs of `experiments/omniglot.py`."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    return records | {"precision": load_runs(RESULTS / "precision")}


def filled(text: str, records: dict) -> str:
    """The text with what its marks ask for between them."""
    parts: dict[str, Callable[[], str]] = {
        "training": lambda: training_table(records["training"]),
        "short": lambda: training_table(records["training"], IN_README),
        "evaluation": lambda: evaluation_table(records["training"]),
        "sampling": lambda: sampling_table(records["training"]),
        "memory": lambda: memory_table(records["memory"]),
        "machine": lambda: machine(records["training"]),
        "gpu": lambda: training_table(records["gpu"], ours=ON_A_GPU, peers=PEERS[:2]),
        "gpu_machine": lambda: machine(records["gpu"]),
        "gpu_step": lambda: gpu_step_table(records["gpu-step"]),
        "precision": lambda: precision_table(records["precision"]),
    }

    def fill(match: re.Match) -> str:
        return f"<!-- speed: {match[1]} -->\n{parts[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- speed: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def speedup(row: dict, name: str) -> float | None:
    """How many times as many tasks per second as the loop, the median over the rounds."""
    loop, other = (row["results"].get(who, {}).get("seconds") for who in ("loop", name))
    if not loop or not other:
        return None
    return statistics.median(a / b for a, b in zip(loop, other, strict=True))


def training_table(
    results: dict, only: tuple[str, ...] | None = None, ours: dict[str, str] = OURS, peers: tuple[str, ...] = PEERS
) -> str:
    """Speed as multiples of the loop, one line per workload that trains."""
    lines = [
        _cells("workload", "loop, tasks/s", *ours.values(), *peers),
        _cells("---", *["---:"] * (1 + len(peers) + len(ours))),
    ]
    for row in results["rows"]:
        name = row["workload"]["name"]
        if row["workload"]["method"] in ("evaluation", "sampling") or (only and name not in only):
            continue
        bold = [f"**{_times(speedup(row, one))}**" if speedup(row, one) else "" for one in ours]
        others = [_times(speedup(row, peer)) for peer in peers]
        lines.append(_cells(name, _rate(row["results"]["loop"]["tasks_per_second"]), *bold, *others))
    return "\n".join(lines)


def gpu_step_table(results: dict) -> str:
    """What one step on a GPU is made of."""
    quantities: dict[str, Callable[[dict], str]] = {
        "launches by the host": lambda row: f"{row['launches']:,.0f}",
        "of them graphs": lambda row: f"{row['graphs']:.0f}",
        "copies to and from the host": lambda row: f"{row['copies to the GPU'] + row['copies to the host']:.0f}",
        "times that the host waits": lambda row: f"{sum(row['waits'].values())}",
        "time of all kernels": lambda row: f"{row['kernels, ms']:.1f} ms",
        "time of a step": lambda row: f"{1e3 * row['drawing']['fresh']:.1f} ms",
        "of it for drawing the batch": lambda row: f"{100 * row['drawing']['share']:.1f} %",
    }
    lines = [
        _cells("in one step", *(f"{row['mode']}, {row['precision']}" for row in results["rows"])),
        _cells("---", *["---:"] * len(results["rows"])),
    ]
    lines += [_cells(name, *(value(row) for row in results["rows"])) for name, value in quantities.items()]
    return "\n".join(lines)


def precision_table(runs: list[Run]) -> str:
    """Accuracy by the precision of training, and where the test episodes are the same the paired difference."""
    lines = [_cells("trained and tested", *PRECISIONS, *(f"{p} - float32" for p in PRECISIONS[1:])),
             _cells("---", *["---:"] * 5)]  # fmt: skip
    kinds = {(run.method, run.seed, test.ways, test.statistics) for run in runs for test in run.tests}
    for method, seed, ways, of_batch in sorted(kinds, key=lambda kind: (kind[0] != "Prototypical network", *kind)):
        if method == "Prototypical network" and of_batch == "batch":
            continue  # each query on its own is the protocol of this book
        of = {run.machine["precision"]: run for run in runs if (run.method, run.seed) == (method, seed)}
        scores = {precision: run.test(ways, statistics=of_batch) for precision, run in of.items()}
        differences = []
        for precision in PRECISIONS[1:]:
            known = "float32" in of and of["float32"].machine["device"] == of[precision].machine["device"]
            differences.append(str(paired(scores[precision], scores["float32"])) if known else "")
        cells = [str(scores[precision]) if precision in scores else "" for precision in PRECISIONS]
        lines.append(_cells(f"{method}, {ways}-way 1-shot, seed {seed}", *cells, *differences))
    return "\n".join(lines)


def evaluation_table(results: dict) -> str:
    """`evaluate` beside a loop over tasks."""
    lines = [_cells("workload", "loop, tasks/s", "metabook"), _cells("---", "---:", "---:")]
    for row in results["rows"]:
        if row["workload"]["method"] == "evaluation":
            loop = _rate(row["results"]["loop"]["tasks_per_second"])
            lines.append(_cells(row["workload"]["name"], loop, f"**{_times(speedup(row, 'metabook'))}**"))
    return "\n".join(lines)


def sampling_table(results: dict) -> str:
    """Drawing a batch as a part of the step that uses it, in per cent."""
    lines = [_cells("workload", *OURS.values()), _cells("---", *["---:"] * len(OURS))]
    for row in results["rows"]:
        if row["workload"]["method"] in ("evaluation", "sampling"):
            continue
        parts = [row["results"].get(name, {}).get("sampling") for name in OURS]
        lines.append(_cells(row["workload"]["name"], *(f"{100 * p:.2g} %" if p is not None else "" for p in parts)))
    return "\n".join(lines)


def memory_table(results: dict) -> str:
    """Peak memory of a step in MB."""
    names = list(dict.fromkeys(name for row in results["rows"] for name in row["results"]))
    lines = [
        _cells(f"Conv4 MAML, {results['rows'][0]['workload']['tasks']} tasks", *names),
        _cells("---", *["---:"] * len(names)),
    ]
    for row in results["rows"]:
        found = [row["results"].get(name, {}).get("memory") for name in names]
        lines.append(_cells(row["workload"]["name"], *(f"{m / 1e6:,.0f}" if m else "" for m in found)))
    return "\n".join(lines)


def machine(results: dict) -> str:
    """Where and when, in a sentence."""
    it, versions = results["machine"], results["machine"]["versions"]
    where = f"one {it['gpu']}" if it["gpu"] else f"{it['threads']} cores of an {it['cpu']}"
    timed = {name for row in results["rows"] for name, result in row["results"].items() if result["seconds"]}
    peers = ", ".join(f"{name} {versions[name]}" for name in PEERS if name in timed & versions.keys())
    return (
        f"Measured on {results['date'][:10]} on {where} with torch {versions['torch'].split('+')[0]}, {peers}; "
        f"{results['rounds']} rounds, the matrix product reaching {results['peak'] / 1e9:.0f} GFLOP/s in float32."
    )


def draw_ratios(results: dict, path: Path) -> None:
    """One line per training workload, one mark per contestant, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    from metabook.plotting import colors, style

    style()
    plt.rcParams.update({"svg.hashsalt": "metabook", "svg.fonttype": "path"})
    rows = [row for row in results["rows"] if row["workload"]["method"] not in ("evaluation", "sampling")]
    marks = {
        "higher": ("v", colors.scratch), "torchopt": ("^", colors.scratch), "learn2learn": ("s", colors.scratch),
        "jax": ("D", colors.pooled), "metabook + reuse_memory": ("o", colors.meta),
        "metabook traced": ("P", colors.meta), "metabook compiled": ("*", colors.meta),
    }  # fmt: skip
    fig, ax = plt.subplots(figsize=(7.4, 0.9 + 0.29 * len(rows)))
    for name, (marker, color) in marks.items():
        places = [(speedup(row, name), -i) for i, row in enumerate(rows) if speedup(row, name)]
        size = 90 if marker == "*" else 38
        ax.scatter(*zip(*places, strict=True), marker=marker, color=color, s=size, label=OURS.get(name, name), zorder=3)
    ax.axvline(1, color=colors.muted, linewidth=1)
    ax.set_yticks([-i for i in range(len(rows))], [row["workload"]["name"] for row in rows])
    ax.set(xscale="log", xlabel="tasks per second, as a multiple of the loop over tasks")
    ax.set_xticks([0.25, 0.5, 1, 2, 5, 10, 20, 50, 100], ["¼", "½", "1", "2", "5", "10", "20", "50", "100"])
    ax.minorticks_off()
    ax.grid(axis="both")
    fig.legend(loc="outside lower center", ncols=4)
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def draw_memory(results: dict, path: Path) -> None:
    """Peak memory against inner steps, and against the chunk."""
    import matplotlib.pyplot as plt

    from metabook.plotting import colors, label_lines, style

    style()
    plt.rcParams.update({"svg.hashsalt": "metabook", "svg.fonttype": "path"})
    tints = {"loop": colors.scratch, "metabook": colors.meta, "metabook recomputed": colors.oracle}
    fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.0), sharey=True)
    of_steps = [row for row in results["rows"] if row["workload"]["name"].endswith("chunk 4")]
    of_chunks = [row for row in results["rows"] if row["workload"]["inner_steps"] == 5]
    for ax, rows, key, words in ((axes[0], of_steps, "inner_steps", "inner steps, 4 tasks at a time"),
                                 (axes[1], of_chunks, "chunk", "tasks at a time, 5 inner steps")):  # fmt: skip
        for name, color in tints.items():
            points = sorted({(r["workload"][key], r["results"][name]["memory"] / 1e6) for r in rows})
            ax.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        ax.set(xlabel=words, ylim=(0, None))
        ax.grid(axis="y")
    axes[0].set_ylabel("peak memory of a step, MB")
    label_lines(axes[0])
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


if __name__ == "__main__":
    main()
