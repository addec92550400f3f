"""The workspace itself: one `lightning` command, arrows that point one way, a light command line."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from past_core.cli import COMMANDS_GROUP, run_lightning

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "past_core": "past-core",
    "past_genex": "past-genex",
    "past_vihc": "past-vihc",
    "past_surv": "past-surv",
}
SIBLINGS = set(PACKAGES) - {"past_core"}


def imports(path: Path) -> set[str]:
    """Every absolute module that a file imports, at any depth (also inside functions)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / "packages" / PACKAGES[package] / "src" / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_one_way_between_packages(package: str) -> None:
    forbidden = {"benchmarks", "tests"} | (SIBLINGS if package == "past_core" else SIBLINGS - {package})
    assert sources(package)
    for path in sources(package):
        backwards = {name for name in imports(path) if name.split(".")[0] in forbidden}
        assert not backwards, f"{path.relative_to(ROOT)} imports {sorted(backwards)}"


def test_arrows_point_one_way_inside_core() -> None:
    core = ROOT / "packages/past-core/src/past_core"
    forbidden = {
        "models": {"data", "pretrain", "callbacks", "commands", "ingest", "synthetic", "embed"},
        "losses.py": {"data", "pretrain", "commands"},
        "tokens.py": {"data", "models", "pretrain", "commands", "ingest"},
        "ingest": {"data", "models", "pretrain", "commands", "synthetic"},
        "registration": {"data", "models", "pretrain", "commands", "synthetic"},
        "view": {"data", "models", "pretrain", "commands", "synthetic", "embed"},
        "interop": {"data", "models", "pretrain", "commands", "synthetic", "embed"},
        "slides": {"data", "models", "pretrain", "commands", "synthetic"},
        "data": {"models", "pretrain", "callbacks", "commands"},
        "pretrain.py": {"callbacks", "commands"},
    }
    for room, later in forbidden.items():
        files = sorted((core / room).rglob("*.py")) if not room.endswith(".py") else [core / room]
        assert files
        for path in files:
            rooms = {name.split(".")[1] for name in imports(path) if name.startswith("past_core.")}
            assert not rooms & later, f"{path.relative_to(ROOT)} imports {sorted(rooms & later)}"


ROOMS = {
    "past_genex": (
        "data",
        "metrics",
        "statistics",
        "figures",
        "probe",
        "systems",
        "clusters",
        "predict",
        "evaluation",
        "commands",
    ),
    "past_vihc": (
        "markers",
        "hscore",
        "data",
        "models",
        "losses",
        "stain_model",
        "files",
        "evaluation",
        "figures",
        "agreement",
        "tasks",
        "callbacks",
        "wsi",
        "commands",
    ),
    "past_surv": (
        "data",
        "metrics",
        "losses",
        "models",
        "tasks",
        "systems",
        "evaluation",
        "figures",
        "commands",
    ),
}
"""Rooms of the sibling packages; each imports only from those before it."""


@pytest.mark.parametrize("package", ROOMS)
def test_arrows_point_one_way_inside_a_package(package: str) -> None:
    root, order = ROOT / "packages" / PACKAGES[package] / "src" / package, ROOMS[package]
    present = {path.stem for path in root.iterdir() if not path.name.startswith("__")}
    assert present - {"assets", "py"} == set(order)  # py.typed says that the package is annotated
    for number, room in enumerate(order):
        files = sorted((root / room).rglob("*.py")) or [root / f"{room}.py"]
        for path in files:
            rooms = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")}
            backwards = rooms & set(order[number + 1 :])
            assert not backwards, f"{path.relative_to(ROOT)} imports {sorted(backwards)}"


def requirements(package: str) -> list[Requirement]:
    """What a distribution declares, its extras included."""
    project = tomllib.loads((ROOT / "packages" / PACKAGES[package] / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    return [Requirement(line) for lines in lists for line in lines]


def undeclared(paths: list[Path], declared: set[str], own: str) -> dict[str, str]:
    """Modules whose distribution is not declared, each with a file that imports it, functions included."""
    owners = packages_distributions()
    found = {}
    for path in paths:
        for module in {name.split(".")[0] for name in imports(path)} - {own} - sys.stdlib_module_names:
            # What is not installed here, as stardist, is named like its distribution.
            if not {canonicalize_name(owner) for owner in owners.get(module, [module])} & declared:
                found[module] = path.name
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_distribution_declares_what_it_imports(package: str) -> None:
    # Also what a dependency brings today: its next version may not.
    declared = {canonicalize_name(requirement.name) for requirement in requirements(package)}
    assert undeclared(sources(package), declared, package) == {}


def test_the_checker_finds_an_import_that_is_not_declared(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("import json\nimport numpy as np\ndef f():\n    from PIL import Image\n")
    assert undeclared([module], {"numpy"}, "m") == {"PIL": "m.py"}
    assert undeclared([module], {"numpy", "pillow"}, "m") == {}


def test_a_dependency_has_one_floor_in_all_packages() -> None:
    floors: dict[str, set[str]] = {}
    for requirement in (requirement for package in PACKAGES for requirement in requirements(package)):
        if requirement.name not in PACKAGES.values():
            floors.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert all(">=" in floor for several in floors.values() for floor in several), floors
    assert {name: several for name, several in floors.items() if len(several) > 1} == {}


def test_the_types_of_every_package_are_checked() -> None:
    """What is left out is a single module, and there."""
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert set(mypy["packages"]) == set(PACKAGES)
    sources = [f"packages/{folder}/src" for folder in PACKAGES.values()]
    assert sorted(mypy["mypy_path"].split(":")) == sorted(sources)
    assert not {"exclude", "ignore_errors", "ignore_missing_imports", "disable_error_code"} & set(mypy)
    for part in mypy["overrides"]:
        assert not part.get("ignore_errors")
        own = [module for module in part["module"] if module.partition(".")[0] in PACKAGES]
        assert own in ([], part["module"])
        for module in own:
            path = f"{module.replace('.', '/')}.py"
            assert any((ROOT / source / path).is_file() for source in sources), f"no module {module}"


def test_no_two_test_files_share_a_name() -> None:
    # pytest imports them by their bare name, so the second of two would not be collected.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_staining_needs_nothing_of_training() -> None:
    vihc = ROOT / "packages/past-vihc/src/past_vihc"
    training = {"lightning", "diffusers", "torchmetrics", "scanpy", "spatialdata", "shapely", "geopandas"}
    rooms = [r for r in ROOMS["past_vihc"] if r not in ("tasks", "callbacks", "data")]
    for room in rooms:
        for path in sorted((vihc / room).rglob("*.py")) or [vihc / f"{room}.py"]:
            if "diffusion" in path.parts:
                continue  # the baseline, which only trains
            found = {name.split(".")[0] for name in imports(path)} & training
            assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_models_are_torch_only() -> None:
    for path in (ROOT / "packages/past-core/src/past_core/models").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"lightning", "pandas", "anndata"}


def test_the_checker_finds_an_arrow_back(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("def f():\n    from past_vihc import commands\n")
    assert "past_vihc" in {name.split(".")[0] for name in imports(module)}


def test_exactly_one_distribution_declares_lightning() -> None:
    owners = [
        distribution.metadata["Name"]
        for distribution in distributions()
        for entry in distribution.entry_points
        if entry.group == "console_scripts" and entry.name == "lightning"
    ]
    assert owners == ["past-workspace"]


def test_siblings_register_their_verbs() -> None:
    for package in SIBLINGS:
        metadata = tomllib.loads((ROOT / "packages" / PACKAGES[package] / "pyproject.toml").read_text())
        entry_points = metadata["project"]["entry-points"][COMMANDS_GROUP]
        assert list(entry_points.values()) == [f"{package}.commands:register"]


def test_help_imports_neither_torch_nor_lightning() -> None:
    program = (
        "import sys\n"
        "from past_core.cli import build_app\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(build_app(), ['--help'])\n"
        "assert result.exit_code == 0 and 'ingest' in result.output, result.output\n"
        "heavy = {'torch', 'lightning', 'spatialdata', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_key_of_a_recipe_is_commented(recipe: Path) -> None:
    """A key is commented when its line, or the line that opens its block, says what it does."""
    lines = recipe.read_text().splitlines()
    leaves = [line for line in lines if ":" in line and not line.strip().startswith("#")]
    silent = [
        line.strip()
        for line in leaves
        if "#" not in line and not line.rstrip().endswith(":") and "class_path" not in line
    ]
    assert not silent
    assert "default_root_dir" in recipe.read_text()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.name)
def test_recipes_name_classes_with_full_dots(recipe: Path) -> None:
    def classes(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["class_path"]] if "class_path" in node else []
            return own + [name for value in node.values() for name in classes(value)]
        return [name for value in node for name in classes(value)] if isinstance(node, list) else []

    found = classes(yaml.safe_load(recipe.read_text()))
    assert found or recipe.parent.name == "scale"  # an overlay may change settings alone
    assert all(name.count(".") >= 2 for name in found)


def test_no_tracked_file_names_a_registry_or_this_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    # Spelt apart so that this file does not name them itself.
    words = [".".join(parts) for parts in (("pypi", "org"), ("files", "pythonhosted", "org"))] + [str(ROOT)]
    for name in filter(None, tracked.stdout.decode().split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        named = [word for word in words if word.encode() in content]
        assert not named, f"{name} names {named}"


def test_the_paper_overlay_gives_the_full_size(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = [str(ROOT / "recipes" / name) for name in ("pretrain.yaml", "scale/paper.yaml")]
    with pytest.raises(SystemExit) as stop:
        run_lightning(["fit", "-c", recipes[0], "-c", recipes[1], "--print_config"])
    assert not stop.value.code
    merged = yaml.safe_load(capsys.readouterr().out)
    model, data = merged["model"]["init_args"], merged["data"]["init_args"]
    assert model["image"]["name"] == "vit_large_patch16_224"
    assert model["image"]["options"] == {}
    assert (model["cell"]["width"], model["cell"]["depth"], model["cell"]["heads"]) == (512, 12, 16)
    assert (data["patch_size"], data["mpp"]) == (model["image"]["image_size"], model["image"]["mpp"])
    assert (data["batch_size"], data["max_genes"], data["vocabulary"]) == (48, 300, "nicheformer")
    trainer = merged["trainer"]
    assert (trainer["devices"], trainer["precision"], trainer["max_epochs"]) == (8, "bf16-mixed", 16)
    assert trainer["strategy"]["class_path"].endswith("DDPStrategy")
    assert trainer["strategy"]["init_args"]["find_unused_parameters"] is False
