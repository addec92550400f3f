"""What survival models cost: batches of ragged bags, bags larger than memory is wide, resampled concordance.

Each is held against what one would write otherwise, in the same run: MCAT a patient at a time, as published;
a loop over scikit-survival. The large bag is read and scored in a process of its own, whose peak memory is
what the operating system says.
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory import peak_gib
from benchmarks.report import Report
from benchmarks.task import Metric, Task, at_least, at_most

TASK = Task(
    title="Speed of survival models",
    group="speed",
    data="simulated bags and risks",
    split="one patient at a time, as published; a loop over scikit-survival",
    system="what",
    systems=("bag of 100,000 × 1024, fp16 on disk", "1,000 C of 1,000 patients"),
    metrics=(Metric("ratio, size", "", unit="times the alternative's speed, or size"),),
    tracked=(
        at_least("details", "batches", "ratio", share=0.4),
        at_least("details", "bootstrap", "ratio", share=0.4),
        at_most("details", "bag", "peak_gib", times=1.5),
    ),
)

GOALS = {"batches": 1.0, "bootstrap": 10.0, "peak_gib": 4.0}
"""Padded batches no slower than one patient at a time, a bootstrap of ten times a loop, memory of a bag."""
SIZES = {
    "full": {"patients": 64, "patches": (64, 256), "batch": 16, "bag": 100_000, "n": 1000, "resamples": 1000},
    "ci": {"patients": 16, "patches": (32, 64), "batch": 8, "bag": 20_000, "n": 400, "resamples": 200},
}
LOOPED = 20
"""Resamples that the loop over scikit-survival really does; its time for all is that times their number."""
DIM = 1024
GROUPS = (100, 200, 300, 400, 500, 600)
ROUNDS = 3


def run(profile: str, data: Path | None = None) -> Report:
    """Measures all three.

    Args:
        profile: `full`, or `ci` with smaller sizes.
        data: not used.
    """
    size = SIZES[profile]
    batches = batched(size["patients"], size["patches"], size["batch"])
    bag = large_bag(size["bag"])
    resampled = bootstrap(size["n"], size["resamples"])
    share = 0.5 if profile == "ci" else 1.0
    same = batches["difference"] < 1e-6 and resampled["difference"] < 1e-12 and bag["difference"] < 1e-4
    passed = (
        same
        and batches["ratio"] >= share * GOALS["batches"]
        and resampled["ratio"] >= share * GOALS["bootstrap"]
        and bag["peak_gib"] <= GOALS["peak_gib"]
    )
    rows = [
        [
            f"MCAT, {size['patients']} patients of {size['patches'][0]} to {size['patches'][1]} patches",
            f"{batches['batched_s']:.2f} s in batches of {size['batch']}",
            f"{batches['single_s']:.2f} s one at a time",
            f"x {batches['ratio']:.2f}",
            f"{batches['difference']:.1e}",
        ],
        [
            f"bag of {size['bag']:,} × {DIM}, fp16 on disk",
            f"{bag['seconds']:.1f} s, peak {bag['peak_gib']:.2f} GiB",
            f"{bag['base_gib']:.2f} GiB before it",
            f"{bag['file_gib']:.2f} GiB of file",
            f"{bag['difference']:.1e}",
        ],
        [
            f"{size['resamples']:,} C of {size['n']:,} patients",
            f"{resampled['ours_s']:.2f} s",
            f"{resampled['loop_s']:.1f} s loop over scikit-survival",
            f"x {resampled['ratio']:.1f}",
            f"{resampled['difference']:.1e}",
        ],
    ]
    return Report(
        name="surv-speed",
        profile=profile,
        columns=["what", "PAST", "beside", "ratio, size", "largest difference"],
        rows=rows,
        goal="the same numbers everywhere; batches no slower than one patient at a time; bootstrap 10 x a "
        "loop over scikit-survival (ci: half); the bag within 4 GiB",
        figure=f"batches x {batches['ratio']:.2f}, bag {bag['peak_gib']:.2f} GiB, "
        f"bootstrap x {resampled['ratio']:.1f}",
        passed=passed,
        details={"batches": batches, "bag": bag, "bootstrap": resampled},
    )


def batched(patients: int, patches: tuple[int, int], batch: int) -> dict[str, float]:
    """Training passes of MCAT (forward and backward) in padded batches against one patient at a time.

    Bags of one length share a batch, as a sampler by length would have it; dropout is off, so that both ways
    have the same numbers: hazards, and the gradient of the summed loss. They are compared in double
    precision, where rounding hides nothing, and timed in single.
    """
    from past_surv.data.batches import PatientInput, collate
    from past_surv.losses import nll_survival
    from past_surv.models.mcat import MCAT

    stream = np.random.default_rng(0)
    lengths = np.sort(stream.integers(patches[0], patches[1] + 1, patients))
    people = [
        PatientInput(
            patches=stream.standard_normal((length, DIM)).astype(np.float32),
            omics=tuple(stream.standard_normal(g).astype(np.float32) for g in GROUPS),
            missing=np.zeros(len(GROUPS), bool),
            interval=int(stream.integers(4)),
            censored=bool(stream.random() < 0.5),
            time=1.0,
            row=number,
            no_slide=False,
        )
        for number, length in enumerate(lengths)
    ]
    torch.manual_seed(0)
    network = MCAT(GROUPS, patch_dim=DIM).eval()

    def whole(step: int, network: MCAT = network) -> tuple[np.ndarray, np.ndarray]:
        network.zero_grad()
        dtype = network.classifier.weight.dtype
        hazards = []
        for first in range(0, patients, step):
            given = collate(people[first : first + step])
            omics = [group.to(dtype) for group in given.omics]
            found = network(given.patches.to(dtype), omics, padding=given.padding, missing=given.missing)
            loss = nll_survival(found.hazards, given.interval, given.censored) * len(given.interval)
            loss.backward()
            hazards.append(found.hazards.detach().numpy())
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        return np.concatenate(hazards), (gradient / patients).numpy()

    exact = copy.deepcopy(network).double()
    single, joined = whole(1, exact), whole(batch, exact)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(single, joined, strict=True))
    seconds = {step: [] for step in (1, batch)}
    for _ in range(ROUNDS):  # in turn, so that a busy machine slows both
        for step, kept in seconds.items():
            kept.append(_seconds(lambda step=step: whole(step)))
    one, many = (statistics.median(seconds[step]) for step in (1, batch))
    return {"single_s": one, "batched_s": many, "ratio": one / many, "difference": difference}


def bootstrap(n: int, resamples: int) -> dict[str, float]:
    """Harrell's C of every resample: two matrix products against a loop over scikit-survival."""
    from sksurv.metrics import concordance_index_censored

    from past_surv.metrics.bootstrap import multiplicities, resampled_c

    stream = np.random.default_rng(0)
    risk = stream.normal(size=n)
    time_ = stream.exponential(20 * np.exp(-risk)).round(1) + 0.1
    event = stream.random(n) < 0.5
    counts = multiplicities(n, resamples)
    found = resampled_c(event, time_, risk, counts)[0]

    def loop() -> np.ndarray:
        values = []
        for row in counts[:LOOPED].astype(int):
            drawn = np.repeat(np.arange(n), row)
            values.append(concordance_index_censored(event[drawn], time_[drawn], risk[drawn])[0])
        return np.array(values)

    difference = float(np.abs(loop() - found[:LOOPED]).max())
    ours = statistics.median(_seconds(lambda: resampled_c(event, time_, risk, counts)) for _ in range(ROUNDS))
    looped = statistics.median(_seconds(loop) for _ in range(ROUNDS)) * resamples / LOOPED
    return {"ours_s": ours, "loop_s": looped, "ratio": looped / ours, "difference": difference}


def large_bag(patches: int) -> dict[str, Any]:
    """Writes a bag in parts, then scores it in a process of its own."""
    from past_surv.data.bag_writing import write_bag

    with tempfile.TemporaryDirectory(prefix="past-surv-speed-") as folder:
        path = Path(folder) / "slide.h5"
        stream = np.random.default_rng(0)
        parts = (
            stream.standard_normal((1000, DIM), np.float32).astype(np.float16) for _ in range(patches // 1000)
        )
        side = int(np.ceil(patches**0.5))
        coords = np.stack(np.divmod(np.arange(patches), side)[::-1], axis=1) * 512.0 + 256
        write_bag(path, parts, coords, {"encoder": "benchmark", "fingerprint": "benchmark", "kind": "grid"})
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.tasks.surv_speed", str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return json.loads(output) | {"file_gib": path.stat().st_size / 2**30}


def score_bag(path: Path) -> dict[str, float]:
    """Hazards of one patient with this bag, and the peak memory of this process so far.

    The check, after the peak was taken, is the same network in double precision on the same patches.
    """
    from past_surv.data.bags import read_bag
    from past_surv.models.mcat import MCAT

    torch.manual_seed(0)
    network = MCAT(GROUPS, patch_dim=DIM).eval()
    genes = [torch.randn(1, g) for g in GROUPS]
    base = peak_gib()
    start = time.perf_counter()
    with torch.inference_mode():
        features = torch.from_numpy(read_bag(path).features())
        whole = network(features[None].float(), genes).hazards
        seconds = time.perf_counter() - start
        peak = peak_gib()
        exact = network.double()(features[None].double(), [g.double() for g in genes]).hazards
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "base_gib": base,
        "difference": float((whole - exact).abs().max()),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(score_bag(Path(sys.argv[1]))))
