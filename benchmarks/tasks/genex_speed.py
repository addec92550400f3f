"""How fast are a leave-one-out table and Pearson's r by gene, against what they are usually made with?

Closed form: 24 slides, each left out in turn, ridge with one fixed strength, Pearson's r of every gene of the
slide left out.

- scikit-learn: per split the embeddings of 23 slides as one float64 array, `Ridge(solver="cholesky")` on all
  genes at once and in place, predictions of the slide left out, Pearson's r of all genes by numpy.
- PAST: the statistics of the slides, `leave_one_out` over all splits. The pass over the cells that makes the
  statistics is timed apart and told both ways; it is done once, whatever is refitted later.

A round is one split by scikit-learn and the whole table from statistics, back to back; the median of three
rounds, each with another split, is scaled to all splits. Both use one thread: two cores that others use too
would measure how their pools of threads wait for each other.

Streaming: batches of predictions and truths of 18,000 genes, float32 at mean 1000 and standard deviation 1,
into torchmetrics' PearsonCorrCoef and into PearsonByGene, alternating, median of three. Errors are against
two passes in float64 over all the values together.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, at_least
from past_genex.statistics.left_out import LeftOut, leave_one_out
from past_genex.statistics.moments import Moments
from past_genex.statistics.units import Unit

TASK = Task(
    title="Speed of evaluating expression",
    group="speed",
    data="simulated embeddings and counts: 24 slides of 8,000 cells, 1,024 dimensions, 400 genes",
    split="ridge of scikit-learn for every split; PearsonCorrCoef of torchmetrics",
    system="what",
    systems=("table of 24 splits from statistics", "Pearson of 18,000 genes, 8 batches of 512"),
    metrics=(Metric("PAST seconds", "lower", unit="s"), Metric("ratio", unit="times its speed")),
    plot=Plot("ratio", mark=1.0, log=True),
    tracked=(
        at_least("details", "closed_form", "ratio", share=0.4),
        at_least("details", "streaming", "ratio", share=0.4),
    ),
)

GOALS = {"closed form": 20.0, "streaming": 4.0}
SAME = 1e-8
"""Largest difference of r between the two ways of a split."""
EXACT = 1e-10
"""Largest error of the streaming r."""
SLIDES, ROUNDS, STREAMED = 24, 3, 18_000


@dataclass(frozen=True)
class Size:
    """How much of everything: cells a slide, dimensions, genes; batches and cells a batch when streaming."""

    cells: int
    d: int
    genes: int
    batches: int
    batch: int


SIZES = {"full": Size(8000, 1024, 400, 8, 512), "ci": Size(1500, 192, 100, 3, 256)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def run(profile: str, data: Path | None = None) -> Report:
    """Measures both.

    Args:
        profile: `ci` takes fewer cells, dimensions and genes.
        data: not used; the cells are simulated, for speed does not depend on what they hold.
    """
    size = SIZES[profile]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            closed, streamed = closed_form(size), streaming(size)
    finally:
        torch.set_num_threads(threads)
    factor = 1.0 if profile == "full" else 0.5
    passed = (
        closed["ratio"] >= GOALS["closed form"] * factor
        and closed["largest_difference_of_r"] <= SAME
        and streamed["ratio"] >= GOALS["streaming"] * factor
        and streamed["error"] <= EXACT
        and streamed["state_grows"] == 0
    )
    return Report(
        name="genex-speed",
        profile=profile,
        columns=["what", "usual", "seconds", "PAST seconds", "ratio", "agreement"],
        rows=[
            [
                f"table of {SLIDES} splits from statistics",
                "scikit-learn Ridge",
                f"{closed['sklearn_table_s']:.2f}",
                f"{closed['table_s']:.2f}",
                f"x {closed['ratio']:.1f}",
                f"r within {closed['largest_difference_of_r']:.0e}",
            ],
            [
                "the same, its float64 arrays for free",
                "scikit-learn Ridge",
                f"{closed['sklearn_table_without_arrays_s']:.2f}",
                f"{closed['table_s']:.2f}",
                f"x {closed['ratio_without_arrays']:.1f}",
                "",
            ],
            [
                "the first table, with the one-off pass",
                "scikit-learn Ridge",
                f"{closed['sklearn_table_s']:.2f}",
                f"{closed['pass_s'] + closed['table_s']:.2f}",
                f"x {closed['ratio_with_pass']:.1f}",
                "",
            ],
            [
                f"Pearson of {STREAMED:,} genes, {size.batches} batches of {size.batch}",
                "torchmetrics",
                f"{streamed['torchmetrics_s']:.3f}",
                f"{streamed['past_s']:.3f}",
                f"x {streamed['ratio']:.1f}",
                f"error {streamed['error']:.0e}, torchmetrics {streamed['torchmetrics_error']:.0e}",
            ],
        ],
        goal=(
            f"table at least {GOALS['closed form']:g} x with r within {SAME:g}, streaming Pearson at least "
            f"{GOALS['streaming']:g} x with error at most {EXACT:g} and a state that does not grow"
            + ("" if profile == "full" else " (below half fails)")
        ),
        figure=(
            f"table {closed['ratio']:.1f} x scikit-learn ({closed['ratio_with_pass']:.1f} x with the one-off "
            f"pass), streaming Pearson {streamed['ratio']:.1f} x torchmetrics"
        ),
        passed=bool(passed),
        details={"closed_form": closed, "streaming": streamed, "size": vars(size), "slides": SLIDES},
    )


# --- closed form --------------------------------------------------------------------------------------------


def simulate(size: Size) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Embeddings with a falling spectrum and slides that differ, and expression of them; float32."""
    rng = np.random.default_rng(0)
    spectrum = np.geomspace(1.0, 0.01, size.d, dtype=np.float32)
    effect = rng.standard_normal((size.d, size.genes), np.float32) / np.sqrt(size.d)
    xs, ys = [], []
    for _ in range(SLIDES):
        shift = rng.standard_normal(size.d, np.float32)
        x = (rng.standard_normal((size.cells, size.d), np.float32) + shift) * spectrum
        xs.append(x)
        ys.append(x @ effect + rng.standard_normal((size.cells, size.genes), np.float32))
    return xs, ys


def pearson(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson of every column."""
    p, t = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    squares = [np.einsum("ng,ng->g", a, b) for a, b in ((p, t), (p, p), (t, t))]
    return squares[0] / np.sqrt(squares[1] * squares[2])


def one_split(
    xs: list[np.ndarray], ys: list[np.ndarray], left_out: int, alpha: float
) -> tuple[float, np.ndarray]:
    """One split by scikit-learn: seconds that its float64 arrays took, and r of every gene."""
    start = time.perf_counter()
    train = [i for i in range(SLIDES) if i != left_out]
    x = np.concatenate([xs[i] for i in train], dtype=np.float64)
    y = np.concatenate([ys[i] for i in train], dtype=np.float64)
    test, truth = xs[left_out].astype(np.float64), ys[left_out].astype(np.float64)
    arrays = time.perf_counter() - start
    model = Ridge(alpha=alpha, solver="cholesky", copy_X=False).fit(x, y)
    return arrays, pearson(model.predict(test), truth)


def closed_form(size: Size) -> dict[str, float]:
    """Seconds and differences of both ways, see the module's text."""
    xs, ys = simulate(size)
    genes = [f"gene {g}" for g in range(size.genes)]
    pass_s, units = timed(
        lambda: [
            Unit(Moments.of(x, y), genes, f"slide {i}") for i, (x, y) in enumerate(zip(xs, ys, strict=True))
        ]
    )
    alpha = 0.01 * sum(float(np.trace(unit.moments.xx)) for unit in units) / size.d

    def table() -> list[LeftOut]:
        return leave_one_out(units, genes, alpha=alpha)

    one_split(xs, ys, 1, alpha)  # whatever either loads at its first call
    table()
    usual, arrays, ours, difference = [], [], [], 0.0
    for left_out in np.linspace(0, SLIDES - 1, ROUNDS).astype(int).tolist():
        seconds, (making, r) = timed(lambda i=left_out: one_split(xs, ys, i, alpha))
        usual.append(seconds)
        arrays.append(seconds - making)
        seconds, lines = timed(table)
        ours.append(seconds)
        difference = max(difference, float(np.abs(lines[left_out].scores.r[0] - r).max()))
    split, bare, whole = (statistics.median(times) for times in (usual, arrays, ours))
    return {
        "sklearn_table_s": split * SLIDES,
        "sklearn_table_without_arrays_s": bare * SLIDES,
        "sklearn_splits_measured": ROUNDS,
        "table_s": whole,
        "pass_s": pass_s,
        "ratio": split * SLIDES / whole,
        "ratio_without_arrays": bare * SLIDES / whole,
        "ratio_with_pass": split * SLIDES / (pass_s + whole),
        "largest_difference_of_r": difference,
        "alpha": alpha,
    }


# --- streaming ----------------------------------------------------------------------------------------------


def streaming(size: Size) -> dict[str, float]:
    """Seconds and errors of both metrics over the same batches, see the module's text."""
    from torchmetrics import PearsonCorrCoef

    from past_genex.metrics.streaming import PearsonByGene

    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(size.batches):
        truth = torch.randn(size.batch, STREAMED, generator=generator)
        predicted = 0.5 * truth + torch.randn(size.batch, STREAMED, generator=generator)
        batches.append((predicted.add_(1000), truth.add_(1000)))
    exact = np.concatenate(
        [
            pearson(*(torch.cat([b[i][:, c : c + 2000] for b in batches]).double().numpy() for i in (0, 1)))
            for c in range(0, STREAMED, 2000)
        ]
    )

    def stream(metric: Any) -> tuple[Any, np.ndarray]:
        for predicted, truth in batches:
            metric.update(predicted, truth)
        return metric, metric.compute().double().numpy()

    makers = {
        "torchmetrics": lambda: PearsonCorrCoef(num_outputs=STREAMED),
        "past": lambda: PearsonByGene(STREAMED),
    }
    times: dict[str, list[float]] = {name: [] for name in makers}
    error, grown = {}, 0
    for _ in range(ROUNDS):
        for name, make in makers.items():
            metric = make()
            empty = _state(metric)
            seconds, (metric, r) = timed(lambda m=metric: stream(m))
            times[name].append(seconds)
            error[name] = float(np.nanmax(np.abs(r - exact))) if np.isfinite(r).any() else float("inf")
            if name == "past":
                error[name] = error[name] if np.isfinite(r).all() else float("inf")
                state, grown = _state(metric), _state(metric) - empty
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        "torchmetrics_s": median["torchmetrics"],
        "past_s": median["past"],
        "ratio": median["torchmetrics"] / median["past"],
        "error": error["past"],
        "torchmetrics_error": error["torchmetrics"],
        "state_numbers_per_gene": state / STREAMED,
        "state_grows": grown,
    }


def _state(metric: Any) -> int:
    """Numbers that a metric keeps."""
    values = [getattr(metric, name) for name in metric._defaults]
    return sum(v.numel() if isinstance(v, torch.Tensor) else sum(t.numel() for t in v) for v in values)
