"""An interrupted `past embed` goes on where it stopped, and ends with what an uninterrupted run makes."""

import json
import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_models import made_checkpoint
from made_slides import made_slide
from typer.testing import CliRunner

import past_core.embed.partial as partial
from past_core.checkpoint import save_checkpoint
from past_core.cli import build_app
from past_core.embed import embed_slide
from past_core.embed.partial import PartialError, partial_vectors, sweep
from past_core.embed.vectors import encode_stream
from past_core.encoders import load_encoders, load_image_encoder
from past_core.frozen import FrozenEncoder
from past_core.ingest.write import write_store

KILLED = """
import json, os, signal, sys
import past_core.embed.partial as partial, past_core.embed.vectors as vectors
import past_core.encoders
from past_core.cli import build_app
from past_core.frozen import FrozenEncoder
from past_core.frozen_cell import FrozenCellEncoder

def run(side, calls, flush, arguments):
    partial.FLUSH_BATCHES, vectors.CELL_BATCHES = flush, 1
    kinds = {"image": (FrozenEncoder, "__call__"), "cell": (FrozenCellEncoder, "_encode")}
    kind, method = kinds[side]
    whole, left = getattr(kind, method), [calls]

    def dying(*arguments):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return whole(*arguments)

    setattr(kind, method, dying)
    sys.argv = ["past", *arguments]
    build_app()()

# Libraries are imported once, before anything is read; every run then is a process of its own.
for scenario in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        run(**scenario)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

SCENARIOS = {
    "cells, image side": ("store", "image", 7, 2),
    "tiles": ("image", "image", 5, 2),
    "cells, their counts": ("store", "cell", 3, 1),
}
"""What is embedded, the side on which the run is killed, after how many batches, and batches a flush."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return save_checkpoint(made_checkpoint(), folder / "encoder.safetensors")


@pytest.fixture(scope="module")
def store(folder):
    return write_store(made_slide(n_cells=80), folder / "made.zarr", block_size=256)


@pytest.fixture(scope="module")
def image(folder):
    pixels = np.random.default_rng(0).normal([190, 110, 160], 20, (256, 320, 3))
    path = folder / "tissue.tif"
    tifffile.imwrite(path, pixels.clip(0, 255).astype(np.uint8), photometric="rgb", tile=(64, 64))
    return path


def count_images(monkeypatch):
    """How many patches every call of an encoder is given."""
    seen, whole = [], FrozenEncoder.__call__

    def counting(self, images):
        seen.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(FrozenEncoder, "__call__", counting)
    return seen


@pytest.fixture(scope="module")
def killed(store, image, checkpoint, folder):
    """Runs that were killed: the arguments of each, and its output."""
    runs, scenarios = {}, []
    for number, (name, (source, side, calls, flush)) in enumerate(SCENARIOS.items()):
        arguments = ["embed", str(store if source == "store" else image), "-c", str(checkpoint)]
        arguments += ["--batch-size", "8", *(["--mpp", "0.5"] if source == "image" else [])]
        output = folder / f"killed{number}" / "a.h5ad"
        runs[name] = arguments, output
        arguments = [*arguments, "-o", str(output)]
        scenarios.append({"side": side, "calls": calls, "flush": flush, "arguments": arguments})
    command = [sys.executable, "-c", KILLED, json.dumps(scenarios)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [-signal.SIGKILL] * len(runs), done.stderr
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed(name, killed, tmp_path, monkeypatch):
    """SIGKILL in the middle: the second run embeds only the rest, and its output is equal to the bit."""
    _, side, calls, flush = SCENARIOS[name]
    arguments, output = killed[name]
    # The file of the lock, which ended with its process, and what was done.
    left = {file.name for file in output.parent.iterdir()} - {".a.h5ad.lock"}
    assert left
    assert all(name.startswith(".a.h5ad.") and name.endswith(".partial") for name in left)

    seen = count_images(monkeypatch)
    result = CliRunner().invoke(build_app(), [*arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert [file.name for file in output.parent.iterdir()] == ["a.h5ad"]
    resumed, seen_again = ad.read_h5ad(output), sum(seen)
    seen.clear()
    assert CliRunner().invoke(build_app(), [*arguments, "-o", str(tmp_path / "b.h5ad")]).exit_code == 0
    straight = ad.read_h5ad(tmp_path / "b.h5ad")
    kept = calls // flush * flush * 8 if side == "image" else resumed.n_obs
    assert 0 < kept <= resumed.n_obs
    assert (seen_again, sum(seen)) == (resumed.n_obs - kept, resumed.n_obs)
    assert set(resumed.obsm) == set(straight.obsm)
    for key in straight.obsm:
        np.testing.assert_array_equal(resumed.obsm[key], straight.obsm[key])
    assert resumed.uns["past"] == straight.uns["past"]


def interrupted(monkeypatch, path, encoder, output, after=3, **options):
    """Ctrl-C after some batches of eight; what was done is kept."""
    whole, left = FrozenEncoder.__call__, [after]

    def stopping(self, images):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(FrozenEncoder, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            embed_slide(path, encoder, output=output, batch_size=8, mpp=0.5, **options)


def test_only_the_same_work_goes_on(image, checkpoint, tmp_path, monkeypatch, folder):
    output = tmp_path / "a.h5ad"
    interrupted(monkeypatch, image, load_image_encoder(checkpoint), output)
    seen = count_images(monkeypatch)

    def embedded(path=image, encoder=None, where=output, **options):
        seen.clear()
        encoder = load_image_encoder(checkpoint) if encoder is None else encoder
        table = embed_slide(path, encoder, output=where, batch_size=8, **{"mpp": 0.5, **options})
        return sum(seen), table.n_obs

    other = save_checkpoint(made_checkpoint(seed=5), folder / "other.safetensors")
    bigger = tmp_path / "bigger.tif"
    bigger.write_bytes(image.read_bytes() + b"\0")
    for change in (
        {"encoder": load_image_encoder(other)},
        {"encoder": load_image_encoder(checkpoint, "joint")},
        {"encoder": load_image_encoder(checkpoint).to("cpu", "bf16")},
        {"tile_um": 20},
        {"mpp": 0.4},
        {"path": bigger},
        {"where": tmp_path / "b.h5ad"},
        {"where": None},
    ):
        made, total = embedded(**change)
        assert made == total
    made, total = embedded()
    assert made == total - 24
    assert embedded() == (0, total)  # complete, but not yet written: nothing is left to do
    sweep(output)
    assert embedded(where=tmp_path / "c.h5ad") == (total, total)


def test_progress_counts_what_was_done(image, checkpoint, tmp_path, monkeypatch):
    encoder, steps = load_image_encoder(checkpoint), []
    interrupted(monkeypatch, image, encoder, tmp_path / "a.h5ad")
    table = embed_slide(
        image, encoder, output=tmp_path / "a.h5ad", mpp=0.5, progress=lambda *step: steps.append(step)
    )
    assert steps[0] == (24, table.n_obs)
    assert sum(done for done, _ in steps) == table.n_obs


def test_cells_go_on_with_their_counts(store, checkpoint, tmp_path, monkeypatch):
    """The image side of an interrupted run is taken up by one that wants the cells as well."""
    image, cell = load_encoders(checkpoint)
    embed_slide(store, image, cell, sides="image", output=tmp_path / "a.h5ad")
    seen = count_images(monkeypatch)
    table = embed_slide(store, image, cell, sides="both", output=tmp_path / "a.h5ad")
    assert seen == []
    straight = embed_slide(store, image, cell, sides="both")
    for key in ("past_image", "past_cell"):
        np.testing.assert_array_equal(table.obsm[key], straight.obsm[key])


# --- the file itself ----------------------------------------------------------------------------------------

N, DIM = 20, 3
TRUTH = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(N)


def write_records(output, stop=N):
    with partial_vectors(output, {"key": 1}, N, DIM) as vectors:
        for start in range(0, stop, 4):
            part = ORDER[start : start + 4]
            vectors.add(part, TRUTH[part])
            vectors.flush()
    (path,) = output.parent.glob(".*.partial")
    return path


@given(data=st.data())
def test_damage_costs_records_and_never_invents_any(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("damage") / "a.h5ad"
    path = write_records(output)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with partial_vectors(output, {"key": 1}, N, DIM) as vectors:
        np.testing.assert_array_equal(vectors.values[vectors.done], TRUTH[vectors.done])
        assert vectors.done.sum() < N
        head, record = 40, 12 + 4 * (8 + 4 * DIM)
        assert vectors.done.sum() == 4 * max(0, (place - head) // record)  # all before the damage
        rest = np.flatnonzero(~vectors.done)
        vectors.add(rest, TRUTH[rest])
    with partial_vectors(output, {"key": 1}, N, DIM) as vectors:
        assert vectors.done.all()
        np.testing.assert_array_equal(vectors.values, TRUTH)


def test_keys_and_shapes_have_files_of_their_own(tmp_path):
    write_records(tmp_path / "a.h5ad", stop=8)
    for key, n, dim in (({"key": 2}, N, DIM), ({"key": 1}, N + 1, DIM), ({"key": 1}, N, DIM + 1)):
        with partial_vectors(tmp_path / "a.h5ad", key, n, dim) as vectors:
            assert not vectors.done.any()
    with partial_vectors(tmp_path / "a.h5ad", {"key": 1}, N, DIM) as vectors:
        assert vectors.done.sum() == 8
    (tmp_path / ".b.h5ad.0.partial").touch()  # another output's
    sweep(tmp_path / "a.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == [".b.h5ad.0.partial"]


def test_flushed_by_number_and_by_time(tmp_path, monkeypatch):
    synced, seconds = [], [0.0]
    monkeypatch.setattr(partial.os, "fsync", synced.append)
    monkeypatch.setattr(partial.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(partial, "FLUSH_BATCHES", 3)
    with partial_vectors(tmp_path / "a.h5ad", {}, N, DIM) as vectors:
        synced.clear()
        flushed = []
        for k in range(8):
            seconds[0] += 11 if k == 4 else 1
            vectors.add(np.array([k]), TRUTH[k : k + 1])
            flushed.append(len(synced))
    assert flushed == [0, 0, 1, 1, 2, 2, 2, 3]
    assert len(synced) == 3


def test_one_run_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with (
        partial_vectors(tmp_path / "a.h5ad", {}, N, DIM),
        pytest.raises(PartialError, match="another run"),
        partial_vectors(tmp_path / "a.h5ad", {}, N, DIM),
    ):
        pass


def test_an_accelerators_batches_keep_their_order():
    """One batch is under way while the next is read; every index comes with its own vectors."""

    class Accelerator:
        device = torch.device("mps")
        under_way = 0

        def __call__(self, images):
            self.under_way += 1
            return images.float().mean(dim=(1, 2, 3))[:, None]

    rng, encoder = np.random.default_rng(0), Accelerator()
    batches = [
        (np.arange(4 * k, 4 * k + size), rng.integers(0, 256, (size, 3, 8, 8), dtype=np.uint8))
        for k, size in enumerate((4, 4, 4, 2))
    ]
    ahead = []
    for number, (index, vectors) in enumerate(encode_stream(encoder, batches)):
        np.testing.assert_array_equal(index, batches[number][0])
        np.testing.assert_allclose(vectors[:, 0], batches[number][1].mean(axis=(1, 2, 3)), rtol=1e-6)
        ahead.append(encoder.under_way - number)
    assert ahead == [2, 2, 2, 1]
    assert list(encode_stream(encoder, [])) == []
