"""Every script of `examples/` runs, prints its result and draws its picture; on small data, to be quick."""

import ast
import re
import runpy
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A cache of small synthetic data, and what the examples take from it."""
    from past_core.synthetic.pairs import default_pairs
    from past_surv.data.default import default_bags, default_survival_data

    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAST_CACHE", str(cache))
        (pair,) = default_pairs(patients=["P8"], size_um=160)
        cohort = {"patients": 12, "size_um": 100.0}
        bags = default_bags("demo", **cohort).folder
        table = pd.read_csv(default_survival_data(**cohort).source.table)
        # So few patients nearly all die: every third is taken to live on.
        table["censorship"] = table.case_id.factorize()[0] % 3 == 0
        path = cache / "cohort.csv"
        table.astype({"censorship": int}).to_csv(path, index=False)
        yield {"pair": [str(pair.he), str(pair.ihc)], "cohort": [str(path), str(bags)]}


def run(name, arguments, folder, monkeypatch, capsys, **constants):
    """Runs an example in an empty folder; returns what it printed, and its pictures."""
    monkeypatch.chdir(folder)
    main = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]
    for constant, value in constants.items():
        assert constant in main.__globals__
        main.__globals__[constant] = value
    main(*map(str, arguments))
    pictures = sorted(folder.glob("*.png"))
    for picture in pictures:
        with Image.open(picture) as image:
            assert len(image.convert("L").getcolors(2**20)) > 20, picture  # something is drawn
    return capsys.readouterr().out, [picture.name for picture in pictures]


def test_embed_and_search(tiny_slides, small, tmp_path, monkeypatch, capsys):
    said, pictures = run("embed_and_search", tiny_slides[:1], tmp_path, monkeypatch, capsys)
    found, chance = map(float, re.search(r"first 10: ([\d.]+)%; by chance ([\d.]+)%", said).groups())
    assert 100 >= found > 1.5 * chance
    assert pictures == ["search.png"]


def test_probe_expression(tiny_slides, small, tmp_path, monkeypatch, capsys):
    said, pictures = run("probe_expression", tiny_slides, tmp_path, monkeypatch, capsys)
    assert float(re.search(r"mean r (-?[\d.]+)", said)[1]) > 0.03
    assert pictures == ["expression.png"]
    assert (tmp_path / "probe.safetensors").is_file()


def test_stain_and_score(small, tmp_path, monkeypatch, capsys):
    said, pictures = run("stain_and_score", small["pair"], tmp_path, monkeypatch, capsys)
    virtual, real = (int(re.search(rf"{name}: H-score (\d+)", said)[1]) for name in ("virtual", "real"))
    assert 0 < virtual < 300
    assert 0 < real < 300
    assert pictures == ["real.png", "virtual.png"]


def test_survival_from_embeddings(small, tmp_path, monkeypatch, capsys):
    said, pictures = run(
        "survival_from_embeddings", small["cohort"], tmp_path, monkeypatch, capsys, EPOCHS=1, FOLDS=2
    )
    scores = [float(score) for score in re.findall(r"Harrell's C ([\d.]+) ", said)]
    assert len(scores) == 2
    assert all(0 < score < 1 for score in scores)
    assert pictures == ["survival.png"]


def test_own_encoder(small, tmp_path, monkeypatch, capsys):
    from past_core.encoders import IMAGE_ENCODERS

    monkeypatch.delitem(IMAGE_ENCODERS, "texture", raising=False)  # and removed again at the end
    said, pictures = run("own_encoder", small["pair"][:1], tmp_path, monkeypatch, capsys)
    IMAGE_ENCODERS.pop("texture")
    assert re.search(r"tiles.h5ad: \d+ tiles of 32 µm, 16 numbers each", said)
    assert pictures == ["tiles.png"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_a_test_a_docstring_and_a_line_in_the_readme(name):
    assert f"test_{name}" in globals()
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert f"examples/{name}.py" in (ast.get_docstring(ast.parse(source)) or "")
    assert f"({name}.py)" in (ROOT / "examples/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_use_public_modules_alone(name):
    tree = ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("past_")
        for alias in node.names
    ]
    assert names
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]
