"""`pip install past-vihc` alone: built wheels in a fresh environment, without the needs of training."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).resolve().parents[2]
UNWANTED = ("lightning", "spatialdata", "scanpy", "tensorflow", "diffusers", "shapely", "dask")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on PATH; pip install uv"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the built wheel of past-vihc and what it depends on."""
    base = tmp_path_factory.mktemp("staining-only")
    # The sources alone: a build must not find this checkout's environment or caches.
    copy = base / "source" / "packages"
    copy.mkdir(parents=True)
    shutil.copy(ROOT / "VERSION", base / "source")
    for package in ("past-core", "past-vihc"):
        shutil.copytree(
            ROOT / "packages" / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(base / "dist"), str(copy / package)])
    pins = base / "pins.txt"
    # The committed versions, without hashes: the environment is then linked out of uv's cache.
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins.write_text("\n".join(line.rstrip(" \\") for line in lines if re.match(r"[A-Za-z0-9]", line)))
    run(["uv", "venv", "--quiet", str(base / "env")])
    install = ["uv", "pip", "install", "--quiet", "--python", str(base / "env"), "--find-links"]
    run([*install, str(base / "dist"), "--constraint", str(pins), "past-vihc"])
    return base / "env" / "bin"


def run(command: Sequence[str], **options: object) -> str:
    keep = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=keep, timeout=400, **options)
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def test_nothing_of_training_or_xenium_is_installed(environment: Path) -> None:
    code = f"from importlib.util import find_spec as f; print(*[m for m in {UNWANTED} if f(m)])"
    assert run([str(environment / "python"), "-c", code]).split() == []


def test_help_is_light_and_lists_what_is_here(environment: Path) -> None:
    code = (
        "import sys; from past_core.cli import build_app; from typer.testing import CliRunner; "
        "result = CliRunner().invoke(build_app(), ['--help']); print(result.output); "
        "sys.exit(bool({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    output = run([str(environment / "python"), "-c", code])
    assert "stain" in output
    assert "hscore" in output
    assert "probe" not in output


def test_a_slide_is_stained_and_scored(environment: Path, tmp_path: Path) -> None:
    from past_core.synthetic.render import render_he
    from past_core.synthetic.tissue import TissueConfig, simulate_tissue

    config = TissueConfig(patient="wheel", cancer_type="breast", seed=3, size_um=160.0)
    he = tmp_path / "he.tif"
    tifffile.imwrite(
        he,
        render_he(simulate_tissue(config)),
        photometric="rgb",
        resolution=(1e4 / config.mpp, 1e4 / config.mpp),
        resolutionunit="CENTIMETER",
    )
    past = str(environment / "past")
    stained = tmp_path / "er.ome.tif"
    run([past, "stain", str(he), "-o", str(stained), "--model", "demo"], cwd=tmp_path)
    with tifffile.TiffFile(stained) as tiff:
        image = tiff.pages[0].asarray()
    assert image.shape == (320, 320, 3)
    assert np.ptp(image) > 50
    scores = tmp_path / "scores"
    score = [past, "hscore", str(stained), "--he", str(he), "--marker", "er", "--preset", "ihc4bc-er"]
    run([*score, "-o", str(scores)], cwd=tmp_path)
    assert (scores / "score.json").exists()
    assert (scores / "nuclei.geojson").exists()
