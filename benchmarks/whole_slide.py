"""A large slide through `past stain`: its peak memory, and whether a killed run resumes to the same bytes.

The generator is small and its weights are drawn, so that what is measured is everything around it.
"""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SLIDE_MPP, MPP = 0.25, 0.5
WIDTH, BLOCKS, TILE = 8, 1, 256


def whole_slide(side: int, folder: Path) -> dict[str, Any]:
    """Stains a synthetic slide twice: at one go, and killed when half of its strips are there.

    Args:
        side: of the slide, in pixels of 0.25 µm.
        folder: for everything that is written, about as large as five bytes a pixel at 0.5 µm.

    Returns:
        seconds and peak resident memory in GiB of the first run, strips that the second kept, and whether
        both wrote the same bytes.

    Raises:
        RuntimeError: a run failed.
    """
    from past_core.synthetic.pairs import large_slide
    from past_vihc.wsi.stainer import STRIP

    slide = large_slide(folder / f"he-{side}.tif", side, mpp=SLIDE_MPP)
    model = _small_generator(folder / "small.safetensors")
    whole, resumed = folder / f"whole-{side}.ome.tif", folder / f"resumed-{side}.ome.tif"
    start = time.perf_counter()
    _finish(_stain(slide, whole, model))
    seconds = time.perf_counter() - start
    peak = float(_peak_file(whole).read_text())
    strips = round(side * SLIDE_MPP / MPP) // STRIP
    done = _kill_halfway(_stain(slide, resumed, model), resumed, strips)
    _finish(_stain(slide, resumed, model))
    same = _sha256(whole) == _sha256(resumed)
    size = whole.stat().st_size
    for path in (slide, whole, resumed, _peak_file(whole), _peak_file(resumed)):
        path.unlink()
    return {
        "side": side,
        "seconds": seconds,
        "peak_gib": peak,
        "strips_kept": done,
        "same_bytes": same,
        "output_bytes": size,
    }


def _small_generator(path: Path) -> Path:
    import torch

    from past_vihc.files import save_generator
    from past_vihc.models.generator import FiLMGenerator
    from past_vihc.stain_model import GeneratorInfo

    torch.manual_seed(0)
    network = FiLMGenerator(width=WIDTH, blocks=BLOCKS, norm="batch")
    info = GeneratorInfo(mpp=MPP, tile=TILE, pitch_um=None, encoder=None, demo=True, card={})
    return save_generator(path, network, info)


def _stain(slide: Path, output: Path, model: Path) -> subprocess.Popen:
    arguments = ["stain", str(slide), "-o", str(output), "--model", str(model)]
    command = [sys.executable, "-m", "benchmarks.memory", str(_peak_file(output)), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _peak_file(output: Path) -> Path:
    return output.with_suffix(".peak")


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"past stain ended with {process.returncode}: {errors.decode()[-800:]}")


def _kill_halfway(process: subprocess.Popen, output: Path, strips: int) -> int:
    """SIGKILL as soon as half of the strips are whole; how many there are."""
    work = output.parent / f".{output.name}.work"
    while len(list(work.glob("strip-*.raw"))) < max(1, strips // 2):
        if process.poll() is not None:
            errors = process.stderr.read().decode()[-800:]
            raise RuntimeError(f"past stain ended with {process.returncode} before it was killed: {errors}")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return len(list(work.glob("strip-*.raw")))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
