"""Each package alone: built, installed into a fresh environment, and its README's example run there.

Not among the default tests, for it installs four environments: `uv run pytest -n0 tests/packages`. Two are
made at a time, each by a lane of its own. A lane makes one environment after the other in the same place, so
that the second finds the bytecode of what both install: Python takes it only where the source has the same
size and time, and uv links both from its cache.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import Message
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
LANES = (("past-genex", "past-surv"), ("past-vihc", "past-core"))
"""Environments that are made one after the other; the lanes run side by side."""
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


def readme(package: str) -> str:
    return (ROOT / "packages" / package / "README.md").read_text()


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


def _metadata(wheel: Path) -> tuple[Message, list[str]]:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(path).decode()), names


@pytest.mark.parametrize("package", EXAMPLES)
def test_metadata_is_complete(package: str, dist: Path) -> None:
    (wheel,) = dist.glob(f"{package.replace('-', '_')}-*.whl")
    (sdist,) = dist.glob(f"{package.replace('-', '_')}-*.tar.gz")
    assert VERSION in wheel.name
    assert VERSION in sdist.name
    metadata, names = _metadata(wheel)
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"] == project["description"]
    assert "\n" not in metadata["Summary"]
    assert metadata["Keywords"]
    assert set(metadata.get_all("Classifier")) == set(project["classifiers"])
    # An index refuses a licence's classifier beside a licence's expression.
    assert not any(line.startswith("License ::") for line in metadata.get_all("Classifier"))
    assert "Private :: Do Not Upload" not in metadata.get_all("Classifier")
    assert "Paper, https://arxiv.org/abs/2507.06418" in metadata.get_all("Project-URL")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == readme(package).strip()
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert any(name.endswith("py.typed") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)
    assert not [name for name in names if name.startswith("tests/") or name.endswith((".pyc", ".ckpt"))]
    core = [line for line in metadata.get_all("Requires-Dist") if line.startswith("past-core")]
    assert package == "past-core" or core


@pytest.mark.parametrize("package", EXAMPLES)
def test_readme_is_the_packages_page(package: str, dist: Path) -> None:
    text = readme(package)
    assert text.startswith(f"# {package}\n")
    assert f"pip install {package}\n" in text or f"pip install {package} " in text
    assert "## Limits" in text
    assert "Licence: Apache-2.0" in text
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    for extra in project["optional-dependencies"]:
        assert f"{package}[{extra}]" in text, f"the extra {extra} is not explained"
    # A page on an index has no folder around it: no link leads out of the package.
    targets = re.findall(r"\]\(([^)]+)\)", text)
    (picture,) = [target for target in targets if not target.startswith("https://")]
    assert (ROOT / "packages" / package / picture).stat().st_size < 300_000
    (alternative,) = re.findall(r"!\[([^\]]+)\]", text)
    assert len(alternative) > 30, "what the picture shows is said for pages that do not show it"
    (sdist,) = dist.glob(f"{package.replace('-', '_')}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {picture, "README.md", "LICENSE", "PKG-INFO", "pyproject.toml"} <= names


def test_nothing_but_the_wheels_metadata_is_in_the_workspace(dist: Path) -> None:
    (sdist,) = dist.glob("past_workspace-*.tar.gz")
    assert sdist.stat().st_size < 1_000_000


class Lane:
    """Makes environments in one place, and keeps the bytecode that their examples leave."""

    def __init__(self, root: Path, dist: Path, constraints: Path, slide: Path) -> None:
        self.root, self.dist, self.constraints, self.slide = root, dist, constraints, slide
        self.environment = root / "venv"
        self.python = self.environment / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path) -> str:
        return _run(
            *command,
            cwd=cwd,
            PAST_CACHE=str(cwd / "cache"),
            OMP_NUM_THREADS="1",
            PYTHONPYCACHEPREFIX=str(self.root / "bytecode"),
            PYTHONDONTWRITEBYTECODE="",
            COLUMNS="200",
        )

    def alone(self, package: str) -> dict[str, object]:
        """Installs one package into a fresh environment, runs its README's example; says what is there."""
        work = self.root / package
        work.mkdir()
        _run("uv", "venv", "--quiet", "--clear", self.environment, cwd=work)
        _run(
            "uv", "pip", "install", "--quiet", "--python", self.python, "--find-links", self.dist,
            "--constraint", self.constraints, f"{package}=={VERSION}", cwd=work,
        )  # fmt: skip
        (work / "slide.svs").symlink_to(self.slide)
        (example,) = re.findall(r"```python\n(.*?)```", readme(package), re.S)
        self.run(self.python, "-c", f"{example}\n{EXAMPLES[package]}", cwd=work)
        asked = (
            "import json, sys\nfrom importlib.util import find_spec\n"
            "print(json.dumps([name for name in sys.argv[1:] if find_spec(name)]))"
        )
        heavy = json.loads(self.run(self.python, "-c", asked, *HEAVY[package], cwd=work))
        past = self.environment / "bin" / "past"
        found = {
            "heavy": heavy,
            "help": self.run(past, "--help", cwd=work),
            "versions": self.run(past, "--version", cwd=work),
        }
        shutil.rmtree(self.environment)
        return found


@pytest.fixture(scope="session")
def installed(
    dist: Path, constraints: Path, slide: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future]]:
    """What each package gave on its own, as soon as its lane has come so far."""
    results: dict[str, Future] = {package: Future() for lane in LANES for package in lane}
    stopped = threading.Event()

    def work(packages: tuple[str, ...], root: Path) -> None:
        lane = Lane(root, dist, constraints, slide)
        for package in packages:
            try:
                if stopped.is_set():
                    raise RuntimeError("the tests were stopped")
                results[package].set_result(lane.alone(package))
            except BaseException as error:  # noqa: BLE001  (raised again by the test that asks)
                results[package].set_exception(error)

    with ThreadPoolExecutor(len(LANES)) as pool:
        for lane in LANES:
            pool.submit(work, lane, tmp_path_factory.mktemp("lane"))
        yield results
        stopped.set()


@pytest.mark.parametrize("package", [package for pair in zip(*LANES, strict=True) for package in pair])
def test_installed_alone_it_runs_its_example(package: str, installed: dict[str, Future]) -> None:
    found = installed[package].result()
    assert not found["heavy"], f"a plain install of {package} brings {found['heavy']}"
    verbs = set(re.findall(r"^│ ([a-z]+)  ", found["help"], re.M))
    others = set().union(*(VERBS[other] for other in VERBS if other not in {package, "past-core"}))
    assert VERBS[package] <= verbs
    assert VERBS["past-core"] <= verbs
    assert not verbs & others
    for other in VERBS:
        there = other in {package, "past-core"}
        assert (f"{other} {VERSION}" if there else f"{other} is not installed") in found["versions"]


def test_one_version() -> None:
    for path in (ROOT / "pyproject.toml", *sorted((ROOT / "packages").glob("*/pyproject.toml"))):
        project = tomllib.loads(path.read_text())
        assert project["project"]["dynamic"] == ["version"], path
        assert (path.parent / project["tool"]["hatch"]["version"]["path"]).resolve() == ROOT / "VERSION"
