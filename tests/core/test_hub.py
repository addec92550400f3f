"""Models of the hub: fetched from one on loopback, found in the cache without one, and how each can fail."""

import json
import shutil

import pytest
import torch
from made_hub import FIRST, SECOND, fill_cache, serving
from made_models import made_checkpoint
from typer.testing import CliRunner

import past_core
from past_core.checkpoint import CheckpointError, describe_checkpoint, load_model
from past_core.checkpoint.saving import save_folder
from past_core.cli import build_app
from past_core.encoders import EncoderNotFoundError, load_cell_encoder, load_encoders, load_image_encoder
from past_core.errors import PastError
from past_core.hub import HubAccessError, HubId, HubNotFoundError, HubUnavailableError, parse_hub_id
from past_core.vocabulary import VocabularyError

NAME = "somebody/past-tiny"
NEEDED = {"config.json", "vocabulary.json", "model.safetensors"}


@pytest.fixture(scope="module")
def made():
    return made_checkpoint()


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    return save_folder(made, tmp_path_factory.mktemp("hub") / "past-tiny")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no hub: nothing listens on the port."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _point_at(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, monkeypatch):
    with serving() as hub:
        _point_at(monkeypatch, hub.url)
        yield hub


def _point_at(monkeypatch, url):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def weights_equal(a, b):
    own, other = a.model.state_dict(), b.model.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b", HubId("a/b")),
        ("a/b@v1.0", HubId("a/b", "v1.0")),
        ("a/b@refs/pr/3", HubId("a/b", "refs/pr/3")),
        ("hf-hub:a/b-2.x_y", HubId("a/b-2.x_y")),
        (f"hf-hub:a/b@{FIRST}", HubId("a/b", FIRST)),
        ("demo", None),
        ("a/b/c", None),
        ("./b", None),
        ("../b", None),
        ("/a/b", None),
        ("runs/best.ckpt", None),
        ("data/P1.zarr", None),
        ("a/b@", None),
    ],
)
def test_which_names_are_of_the_hub(name, expected):
    assert parse_hub_id(name) == expected


def test_a_name_that_says_it_is_of_the_hub_must_be():
    for name in ("hf-hub:", "hf-hub:b", "hf-hub:a/b/c", "hf-hub:../b"):
        with pytest.raises(HubNotFoundError, match="OWNER/NAME"):
            parse_hub_id(name)


def test_a_path_that_exists_is_a_path(folder, cache, tmp_path, monkeypatch, made):
    shutil.copytree(folder, tmp_path / "somebody" / "past-tiny")
    monkeypatch.chdir(tmp_path)
    assert weights_equal(load_model(NAME), made)
    with pytest.raises(CheckpointError, match="no repository of the hub"):
        load_model(NAME, revision="main")
    with pytest.raises(HubUnavailableError):
        load_model(f"hf-hub:{NAME}")


# --- from a hub ---------------------------------------------------------------------------------------------


def test_only_what_is_needed_is_fetched_and_once(folder, hub, made, tmp_path):
    extended = tmp_path / "extended"
    shutil.copytree(folder, extended)
    (extended / "pytorch_model.bin").write_bytes(b"a pickle")
    (extended / "modeling.py").write_text("raise SystemExit")
    hub.add(NAME, extended)
    loaded = past_core.load_model(NAME)
    assert weights_equal(loaded, made)
    assert loaded.info["hub"] == {"repository": NAME, "commit": FIRST}
    assert sorted(hub.fetched()) == sorted(NEEDED)
    hub.requests.clear()
    assert weights_equal(past_core.load_model(NAME), made)
    assert hub.fetched() == []
    hub.requests.clear()
    past_core.load_model(NAME, revision=FIRST)
    assert hub.requests == []  # a cached commit cannot have changed


def test_a_revision_pins_the_weights(folder, hub, made, tmp_path):
    other = made_checkpoint(seed=1)
    hub.add(NAME, folder, commit=FIRST, refs=("main", "v1"))
    hub.add(NAME, save_folder(other, tmp_path / "past-tiny"), commit=SECOND, refs=("main",))
    assert weights_equal(load_model(NAME), other)
    for pinned in (load_model(NAME, revision="v1"), load_model(f"{NAME}@v1"), load_model(f"{NAME}@{FIRST}")):
        assert weights_equal(pinned, made)
        assert pinned.info["hub"]["commit"] == FIRST
    with pytest.raises(CheckpointError, match="was asked for, and @v1"):
        load_model(f"{NAME}@v1", revision="v2")


def test_one_commit_even_if_the_branch_moves_between_two_files(folder, hub, made, tmp_path, monkeypatch):
    """The weights of one commit with the vocabulary of another would load and be wrong."""
    hub.add(NAME, folder, commit=FIRST)
    hub.add(NAME, save_folder(made_checkpoint(seed=1), tmp_path / "new"), commit=SECOND, refs=())
    from past_core import hub as room

    fetch = room._fetch

    def moving(repository, name, revision):
        path = fetch(repository, name, revision)
        hub.refs[NAME]["main"] = SECOND
        return path

    monkeypatch.setattr(room, "_fetch", moving)
    loaded = load_model(NAME)
    assert weights_equal(loaded, made)
    assert loaded.info["hub"]["commit"] == FIRST


def test_what_the_hub_can_refuse(folder, hub, tmp_path):
    hub.add(NAME, folder)
    hub.add("museum/gated", folder)
    hub.add("museum/closed", folder)
    hub.gated.add("museum/gated")
    hub.refused.add("museum/closed")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.md").write_text("no model")
    hub.add("somebody/empty", foreign)
    (foreign / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (foreign / "model.safetensors").write_bytes(b"weights")
    hub.add("somebody/bert", foreign)
    shutil.copytree(folder, tmp_path / "partial")
    (tmp_path / "partial" / "vocabulary.json").unlink()
    hub.add("somebody/partial", tmp_path / "partial")
    for name, error, message in (
        ("museum/gated", HubAccessError, "ask for access on huggingface.co/museum/gated, then log in"),
        ("museum/closed", HubAccessError, "refuses access"),
        ("somebody/nothing", HubNotFoundError, "no such repository on the hub"),
        (f"{NAME}@v9", HubNotFoundError, "no revision 'v9'"),
        ("somebody/empty", HubNotFoundError, "holds no PAST model: there is no config.json"),
        ("somebody/bert", HubNotFoundError, "holds no PAST model: library_name"),
        ("somebody/partial", HubNotFoundError, "there is no vocabulary.json"),
    ):
        with pytest.raises(error, match=message) as caught:
            load_model(name)
        assert isinstance(caught.value, PastError)
        assert name.partition("@")[0] in str(caught.value)
    assert "model.safetensors" not in hub.fetched()  # told before the weights, which may be gigabytes


def test_a_model_stays_usable_when_access_is_taken_back(folder, hub, made):
    hub.add(NAME, folder)
    load_model(NAME)
    hub.gated.add(NAME)
    assert weights_equal(load_model(NAME), made)


def test_an_oversized_configuration_is_not_even_fetched(folder, hub, monkeypatch):
    hub.add(NAME, folder)
    monkeypatch.setattr("past_core.hub.MAX_JSON", 10)
    with pytest.raises(CheckpointError, match=r"config\.json has .* bytes"):
        load_model(NAME)
    assert hub.fetched() == []


# --- without one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
def test_a_cached_model_needs_no_network(folder, cache, made, monkeypatch, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    fill_cache(cache, NAME, folder)
    for name, revision in (
        (NAME, None),
        (f"hf-hub:{NAME}", "main"),
        (f"{NAME}@{FIRST}", None),
        (NAME, FIRST),
    ):
        loaded = load_model(name, revision=revision)
        assert weights_equal(loaded, made)
        assert loaded.info["hub"]["commit"] == FIRST
    for name, revision in (("somebody/else", None), (NAME, "v1"), (NAME, SECOND)):
        with pytest.raises(HubUnavailableError, match="not in the hub's cache") as caught:
            load_model(name, revision=revision)
        assert ("HF_HUB_OFFLINE is set" in str(caught.value)) == offline


def test_a_truncated_snapshot_is_told(folder, cache, tmp_path):
    snapshot = fill_cache(cache, NAME, folder)
    blob = (snapshot / "model.safetensors").resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or truncated"):
        load_model(NAME)
    for name in sorted(NEEDED):
        (snapshot / name).rename(snapshot / "aside")
        with pytest.raises(HubUnavailableError, match=name):
            load_model(NAME)
        (snapshot / "aside").rename(snapshot / name)
    blob = (snapshot / "config.json").resolve()
    blob.write_bytes(blob.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"config\.json is damaged or truncated"):
        load_model(NAME)


def test_a_foreign_vocabulary_or_a_larger_model_is_refused_by_name(folder, cache, tmp_path, made):
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    other = made_checkpoint(n_genes=9).vocabulary
    (wrong / "vocabulary.json").write_text(json.dumps(other.to_dict()))
    fill_cache(cache, "somebody/wrong", wrong)
    with pytest.raises(VocabularyError) as caught:
        load_model("somebody/wrong")
    for expected in ("vocabulary.json", made.vocabulary.fingerprint[:12], other.fingerprint[:12]):
        assert expected in str(caught.value)
    large = tmp_path / "large"
    shutil.copytree(folder, large)
    config = json.loads((large / "config.json").read_text())
    config["model"]["cell"]["feedforward"] = 10**11
    (large / "config.json").write_text(json.dumps(config))
    fill_cache(cache, "somebody/large", large)
    with pytest.raises(CheckpointError, match="100000000000"):
        load_model("somebody/large")


# --- through the rest ---------------------------------------------------------------------------------------


def test_encoders_take_hub_names(folder, cache, tmp_path):
    fill_cache(cache, NAME, folder)
    local = load_image_encoder(folder, "joint"), load_cell_encoder(folder, "joint")
    for name in (NAME, f"{NAME}@{FIRST}", f"hf-hub:{NAME}"):
        encoders = load_image_encoder(name, "joint"), load_cell_encoder(name, "joint")
        assert [each.fingerprint for each in encoders] == [each.fingerprint for each in local]
        assert [each and each.fingerprint for each in load_encoders(name, "joint")] == [
            each.fingerprint for each in local
        ]
    with pytest.raises(HubUnavailableError, match="somebody/else"):
        load_image_encoder("somebody/else")
    with pytest.raises(EncoderNotFoundError, match="no such checkpoint"):
        load_image_encoder(tmp_path / "somebody" / "else")  # a path, whatever it looks like


def test_verbs_take_hub_names(folder, cache, tmp_path, made):
    fill_cache(cache, NAME, folder)
    result = CliRunner().invoke(build_app(), ["info", NAME, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["chosen"] == f"{NAME} at commit {FIRST}"
    assert facts == describe_checkpoint(NAME, revision=FIRST)
    target = tmp_path / "mine.safetensors"
    result = CliRunner().invoke(build_app(), ["export", f"{NAME}@{FIRST}", "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert FIRST in result.output
    again = load_model(target)
    assert weights_equal(again, made)
    assert again.info["hub"] == {"repository": NAME, "commit": FIRST}  # where these weights are from
    result = CliRunner().invoke(build_app(), ["info", "somebody/else"])
    assert isinstance(result.exception, HubUnavailableError)
