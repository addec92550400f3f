"""Each package alone: built, installed into a fresh environment, and its README's example run there.

Not among the default tests, for it installs four environments: `uv run pytest -n0 tests/packages`.
"""

import json
import os
import re
import subprocess
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = (ROOT / "VERSION").read_text().strip()
EXAMPLES = {
    "past-core": "assert features.shape == (1, encoder.dim)",
    "past-genex": "assert expression.shape == (1, len(table)), expression.shape",
    "past-vihc": "assert made.complete and __import__('pathlib').Path('er.ome.tif').stat().st_size > 1000",
    "past-surv": "assert 0 < len(found.risk) == len(fold.test)",
}
"""What must hold after a README's example."""
VERBS = {
    "past-core": {"ingest", "register", "embed", "info"},
    "past-genex": {"predict", "probe", "genex", "cluster"},
    "past-vihc": {"stain", "hscore", "agreement"},
    "past-surv": {"survival", "bags", "heatmap"},
}
HEAVY = {
    "past-core": ("spatialdata", "scanpy", "lightning", "tensorflow", "sksurv"),
    "past-genex": ("lightning", "tensorflow", "sksurv"),
    "past-vihc": ("spatialdata", "scanpy", "lightning", "tensorflow", "sksurv"),
    "past-surv": ("lightning", "tensorflow"),
}
"""Modules that a plain install must not bring."""


def _run(*command: str | Path, cwd: Path, **environment: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _run("uv", "build", "--all-packages", "--out-dir", folder, "--quiet", cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed versions, so that what is installed is what was tested; without hashes, as wheels of the
    workspace have none."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [line.split(" \\")[0] for line in lines if re.match(r"[A-Za-z0-9]", line)]
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(pinned))
    return path


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from past_core.synthetic.large import large_slide

    return large_slide(tmp_path_factory.mktemp("slide") / "slide.svs", 2048)


@pytest.mark.parametrize("package", EXAMPLES)
def test_metadata_is_complete(package: str, dist: Path) -> None:
    (wheel,) = dist.glob(f"{package.replace('-', '_')}-*.whl")
    (sdist,) = dist.glob(f"{package.replace('-', '_')}-*.tar.gz")
    assert VERSION in wheel.name
    assert VERSION in sdist.name
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(path).decode()
    metadata = Parser().parsestr(text)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"]
    assert metadata["Keywords"]
    assert len(metadata.get_all("Classifier")) >= 5
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "```python" in metadata.get_payload()
    assert any(name.endswith("py.typed") for name in names)
    core = [line for line in metadata.get_all("Requires-Dist") if line.startswith("past-core")]
    assert package == "past-core" or core


@pytest.mark.parametrize("package", EXAMPLES)
def test_installed_alone_it_runs_its_example(
    package: str, dist: Path, constraints: Path, slide: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    python = environment / "bin" / "python"
    _run("uv", "venv", "--quiet", environment, cwd=tmp_path)
    _run(
        "uv", "pip", "install", "--quiet", "--python", python, "--find-links", dist,
        "--constraint", constraints, f"{package}=={VERSION}", cwd=tmp_path,
    )  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()
    (work / "slide.svs").symlink_to(slide)
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "packages" / package / "README.md").read_text(), re.S
    )
    cache = str(tmp_path / "cache")
    _run(python, "-c", f"{example}\n{EXAMPLES[package]}", cwd=work, PAST_CACHE=cache, OMP_NUM_THREADS="1")
    found = json.loads(
        _run(
            python,
            "-c",
            "import json, sys\nfrom importlib.util import find_spec\n"
            "print(json.dumps([name for name in sys.argv[1:] if find_spec(name)]))",
            *HEAVY[package],
            cwd=work,
        )
    )
    assert not found, f"a plain install of {package} brings {found}"
    shown = _run(environment / "bin" / "past", "--help", cwd=work, COLUMNS="200")
    verbs = set(re.findall(r"^│ ([a-z]+)  ", shown, re.M))
    others = set().union(*(VERBS[other] for other in VERBS if other not in {package, "past-core"}))
    assert VERBS[package] <= verbs
    assert VERBS["past-core"] <= verbs
    assert not verbs & others


def test_one_version() -> None:
    for path in (ROOT / "pyproject.toml", *sorted((ROOT / "packages").glob("*/pyproject.toml"))):
        project = tomllib.loads(path.read_text())
        assert project["project"]["dynamic"] == ["version"], path
        assert (path.parent / project["tool"]["hatch"]["version"]["path"]).resolve() == ROOT / "VERSION"
