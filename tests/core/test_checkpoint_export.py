"""What `past export` writes: one model from every container, folders whole or not at all, runs by name."""

import json
import shutil
import stat
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_models import made_checkpoint, save_lightning
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import past_core
from past_core.checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    describe_checkpoint,
    export_checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_model,
)
from past_core.cli import build_app
from past_core.errors import PastError
from past_core.remote import RemoteError
from past_core.vocabulary import VocabularyError

FILES = {"README.md", "config.json", "model.safetensors", "vocabulary.json"}


@pytest.fixture(scope="module")
def made():
    return made_checkpoint()


@pytest.fixture(scope="module")
def ckpt(made, tmp_path_factory):
    return save_lightning(made, tmp_path_factory.mktemp("run") / "last.ckpt")


@pytest.fixture(scope="module")
def folder(ckpt):
    return export_checkpoint(ckpt, ckpt.with_name("mine"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def past(*arguments):
    return CliRunner().invoke(build_app(), list(map(str, arguments)))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# --- round trips -------------------------------------------------------------------------------------------


def test_every_container_gives_the_same_model_and_fingerprints(made, ckpt, folder, tmp_path):
    single = export_checkpoint(folder, tmp_path / "single.safetensors")
    again = export_checkpoint(single, tmp_path / "again")
    places = [ckpt, folder, folder / "model.safetensors", str(folder), single, again]
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    prints, outputs = set(), []
    for place in places:
        loaded = load_model(place, vocabulary=made.vocabulary)
        assert loaded.config == made.config
        assert loaded.vocabulary == made.vocabulary
        assert loaded.gene_means.tobytes() == made.gene_means.tobytes()
        assert loaded.info == made.info
        encoders = [past_core.load_image_encoder(place, space=space) for space in ("features", "joint")]
        outputs.append(torch.cat([encoder(images) for encoder in encoders], dim=1))
        encoders += [past_core.load_cell_encoder(place, space=space) for space in ("features", "joint")]
        prints.add(tuple(encoder.fingerprint for encoder in encoders))
    assert len(prints) == 1
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("container", ["ckpt", "folder"])
def test_loading_draws_no_random_numbers_and_leaves_nothing_unset(made, ckpt, folder, container):
    """Initial weights are not drawn, for all are replaced; what is no weight is computed as ever."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = load_model(ckpt if container == "ckpt" else folder).model
    assert torch.equal(torch.get_rng_state(), before)
    own, other = dict(model.named_buffers()), dict(made.model.named_buffers())
    assert own.keys() == other.keys()
    assert own.keys() - model.state_dict().keys()  # the normalisation of the input, for one
    assert all(torch.equal(own[key], other[key]) for key in own)
    assert all(parameter.requires_grad for parameter in model.parameters())
    fresh = type(model)(made.config)  # and drawing is not left switched off
    assert not torch.equal(
        fresh.cell_projection.fc.weight, type(model)(made.config).cell_projection.fc.weight
    )


def test_the_folder_holds_plain_files_and_the_weights_alone(made, folder):
    assert {path.name for path in folder.iterdir()} == FILES
    assert all(path.stat().st_mode & stat.S_IRGRP for path in folder.iterdir())  # for whoever shares it
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.metadata()) == {"format"}
        assert set(file.keys()) == {*made.model.state_dict(), "gene_means"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["image"]["image_size"] == 32
    assert config["vocabulary"] == {"genes": 12, "fingerprint": made.vocabulary.fingerprint}
    assert (config["format"], config["software"]) == (1, "test")
    assert json.loads((folder / "vocabulary.json").read_text())["genes"] == list(made.vocabulary.genes)


def test_the_demo_of_the_package():
    loaded = load_model("demo")
    assert loaded.demo
    assert len(loaded.vocabulary) == 353
    assert loaded.info["training"]["slides"] == ["P1", "P2", "P3"]
    assert past_core.load_image_encoder("demo").demo


def test_another_vocabulary_is_refused(folder):
    other = made_checkpoint(n_genes=9).vocabulary
    with pytest.raises(VocabularyError, match=other.fingerprint[:12]):
        load_model(folder, vocabulary=other)


def test_the_package_offers_load_model_without_importing_torch():
    code = "import sys, past_core; past_core.__all__.index('load_model'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert past_core.load_model is load_model


# --- writing -----------------------------------------------------------------------------------------------


def test_a_folder_is_whole_or_not_there(ckpt, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"new: there is no room for it"):
        export_checkpoint(ckpt, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_if_asked_and_ours(ckpt, copy, made, tmp_path):
    with pytest.raises(CheckpointError, match="--overwrite"):
        export_checkpoint(ckpt, copy)
    other = save_lightning(made_checkpoint(seed=1), tmp_path / "other.ckpt")
    export_checkpoint(other, copy, overwrite=True)
    assert not torch.equal(
        load_model(copy).model.cell_projection.fc.weight, made.model.cell_projection.fc.weight
    )
    (copy / ".git").mkdir()
    with pytest.raises(CheckpointError, match=r"will not be replaced \(it holds \.git\)"):
        export_checkpoint(ckpt, copy, overwrite=True)
    assert {path.name for path in copy.iterdir()} == {*FILES, ".git"}
    (tmp_path / "empty").mkdir()
    export_checkpoint(ckpt, tmp_path / "empty")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        export_checkpoint(ckpt, tmp_path / "home", overwrite=True)
    for name in ("a.pth", "a.ckpt"):
        with pytest.raises(CheckpointError, match=r"X\.safetensors for one file, or the name of a folder"):
            export_checkpoint(ckpt, tmp_path / name)


# --- runs --------------------------------------------------------------------------------------------------


def test_which_checkpoint_of_a_run(tmp_path):
    run = tmp_path / "runs" / "pretrain"

    def touch(*parts):
        path = run.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def chosen(folder=run):
        path, note = find_checkpoint(folder)
        assert str(path.relative_to(folder)) in note
        return path, note

    (run / "version_0").mkdir(parents=True)
    with pytest.raises(CheckpointNotFoundError, match="in any of 1 versions"):
        find_checkpoint(run)
    last = touch("version_9", "checkpoints", "last.ckpt")
    touch("version_9", "checkpoints", ".best.1a2b3c4d.part.ckpt")  # half written
    touch("version_9", "checkpoints", "epoch=3.ckpt")
    path, note = chosen()
    assert path == last
    assert "no best.ckpt" in note
    best = touch("version_9", "checkpoints", "best.ckpt")
    assert chosen()[0] == best
    begun_again = touch("version_9", "checkpoints", "best-v2.ckpt")
    touch("version_9", "checkpoints", "best-v1.ckpt")
    assert chosen()[0] == begun_again
    newest = touch("version_10", "checkpoints", "best.ckpt")  # by number, not as text
    path, note = chosen()
    assert path == newest
    assert "version_10 is the newest of 3 versions" in note
    (run / "version_11").mkdir()  # begun, nothing saved yet
    assert "version_10 is the newest with a checkpoint of 4 versions" in chosen()[1]
    assert chosen(run / "version_9")[0] == begun_again
    assert chosen(run / "version_9" / "checkpoints")[0] == begun_again


@pytest.mark.parametrize("output", ["s3://bucket/mine", "gs://bucket/mine.safetensors"])
def test_urls_are_refused_as_outputs(ckpt, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = past("export", ckpt, "-o", output)
    assert result.exit_code == 1
    assert isinstance(result.exception, RemoteError)
    assert f"{output}: PAST reads from URLs and writes to local disk only" in str(result.exception)
    assert not list(tmp_path.glob("*:*"))  # no folder of that name


def test_verbs_take_run_folders(made, tmp_path):
    (tmp_path / "run" / "version_0" / "checkpoints").mkdir(parents=True)
    save_lightning(made, tmp_path / "run" / "version_0" / "checkpoints" / "best.ckpt")
    result = past("export", tmp_path / "run", "-o", tmp_path / "mine", "--license", "cc-by-4.0")
    assert result.exit_code == 0, result.output
    assert "version_0/checkpoints/best.ckpt" in result.output
    assert 'license: "cc-by-4.0"' in (tmp_path / "mine" / "README.md").read_text()
    assert load_model(tmp_path / "run").config == made.config
    for place, container in (
        (tmp_path / "run", "ckpt"),
        (tmp_path / "mine", "folder"),
        ("demo", "safetensors"),
    ):
        facts = json.loads(past("info", place, "--json").output)
        assert facts["container"] == container
        assert facts == json.loads(json.dumps(describe_checkpoint(place)))
        result = past("info", place)
        assert result.exit_code == 0, result.output
        assert "hashes not recorded" in result.output
        assert len(result.output.splitlines()) < 40
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "mine" / "README.md"):
        assert isinstance(past("info", path).exception, PastError)
    assert isinstance(past("info", "demo", "--overlay", tmp_path / "x.png").exception, PastError)
    assert isinstance(past("export", tmp_path, "-o", tmp_path / "x").exception, CheckpointError)


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(copy)


@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0, 0.999), name=st.sampled_from(sorted(FILES - {"README.md"})))
def test_truncated_anywhere(folder, tmp_path_factory, fraction, name):
    path = shutil.copytree(folder, tmp_path_factory.mktemp("cut") / "mine")
    whole = (path / name).read_bytes().rstrip()
    (path / name).write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(CheckpointError, match=rf"{name}.*(damaged|truncated)"):
        load_checkpoint(path)


def test_parts_of_two_exports_are_told_apart(copy, made, tmp_path):
    other = made_checkpoint(n_genes=13)
    theirs = export_checkpoint(save_lightning(other, tmp_path / "o.ckpt"), tmp_path / "theirs")
    shutil.copy(theirs / "vocabulary.json", copy)
    with pytest.raises(VocabularyError) as caught:
        load_model(copy)
    for expected in ("vocabulary.json", made.vocabulary.fingerprint[:12], other.vocabulary.fingerprint[:12]):
        assert expected in str(caught.value)
    shutil.copy(theirs / "config.json", copy)
    with pytest.raises(CheckpointError, match="gene means"):
        load_model(copy)
    change(copy / "vocabulary.json", lambda content: content["genes"].append("ENSG99999999999"))
    with pytest.raises(VocabularyError, match="fingerprint"):
        load_model(copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["model"]["cell"].update(feedforward=10**11), r"expected \(100000000000, 16\)"),
        (lambda c: c["model"]["cell"].update(depth=10**9), "claims 1,000,000,000 layers"),
        (lambda c: c["model"]["image"]["options"].update(depth=10**9), "claims 1,000,000,000 layers"),
        (lambda c: c["model"]["image"]["options"].update(checkpoint_path="/etc/passwd"), "checkpoint_path"),
        (lambda c: c["model"]["image"]["options"].update(pretrained=True), "may not have any of"),
        (lambda c: c["model"]["image"].update(name="hf-hub:somebody/model"), "has no model"),
        (lambda c: c["model"]["image"].update(options="everything"), "options"),
        (lambda c: c["model"]["image"].update(image_size="large"), "incomplete|cannot be built"),
        (lambda c: c["model"]["cell"].update(width=None), "cannot be built|incomplete|width"),
        (lambda c: c["model"].update(novelty=1), "novelty"),
        (lambda c: c["model"].pop("cell"), "lacks"),
        (lambda c: c.pop("model"), "not a checkpoint of PAST"),
        (lambda c: c.update(format=2, software="past-core 9"), "format 2.*past-core 9"),
        (lambda c: c.update(vocabulary=None), "names no vocabulary"),
        (lambda c: c.update(library_name="timm"), "is not of PAST"),
    ],
)
def test_a_configuration_that_does_not_fit_its_weights_builds_nothing(copy, edit, message, monkeypatch):
    change(copy / "config.json", edit)
    # The weights would have to be read before anything of their size is made.
    monkeypatch.setattr(
        "past_core.checkpoint.tensors.TensorFile.read",
        lambda self, *names: pytest.fail("read") if len(names) > 1 else {"gene_means": torch.ones(12)},
    )
    with pytest.raises(PastError, match=message):
        load_model(copy)


def test_weights_without_gene_means_or_with_nan(copy):
    weights = load_file(copy / "model.safetensors")
    broken = weights | {"cell_projection.fc.weight": torch.full((8, 8), torch.nan)}
    save_file(broken, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="diverged"):
        load_model(copy)
    weights.pop("gene_means")
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="no gene means"):
        load_model(copy)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "[" * 100_000, "\ud800", "nul"], ids=["list", "deep", "bytes", "cut"]
)
def test_json_of_any_kind_gives_our_error(copy, text):
    (copy / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(copy)


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="OWNER/NAME"):
        load_model(tmp_path / "no.ckpt")
    with pytest.raises(CheckpointNotFoundError, match="OWNER/NAME"):
        load_model("nonsense")
    with pytest.raises(CheckpointError, match="neither a folder of `past export`"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no revision"):
        load_model("demo", revision="main")
