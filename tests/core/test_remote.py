"""Slide stores behind URLs: equal to local ones, opened by few requests, clear about trouble."""

import json
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from made_buckets import Buckets, serving
from typer.testing import CliRunner

from past_core import servers
from past_core.cli import build_app, run_lightning
from past_core.data.supply import PatchSpec, RegionSupply, SlideSource, open_stores
from past_core.embed import read_manifest
from past_core.embed.sheet import read_sheet
from past_core.ingest.contents import TableStore
from past_core.ingest.store import SlideStore, StoreError, StoreNotFoundError, is_store
from past_core.remote import RemoteError, RemotePath, locate, require_local
from past_core.slides import SlideError, SlideNotFoundError, open_slide
from past_core.slides.identity import source_key
from past_core.tokens import GeneMeans, Vocabulary

CONF = Path(__file__).parents[1] / "conf" / "pretrain.yaml"
SCHEMES = ("s3", "gs", "http")
KEY = "cohort/a b&c.zarr"
"""With what must be escaped in URLs and in XML."""


@pytest.fixture(scope="module")
def server(tiny_slides: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buckets]:
    folder = tmp_path_factory.mktemp("buckets")
    shutil.copytree(tiny_slides[0], folder / "bucket" / KEY)
    shutil.copytree(tiny_slides[1], folder / "bucket" / "second.zarr")
    with serving(folder) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", running.url)  # read once in a process
        yield running


@pytest.fixture(autouse=True)
def environment(server: Buckets, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYOFTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    fast = {"max_retries": 4, "initial_delay": "0.02s", "max_delay": "0.05s"}
    for policy in ("METADATA_RETRIES", "PIXEL_RETRIES"):
        monkeypatch.setattr(servers, policy, fast)
    servers._open_bucket.cache_clear()
    server.forget()
    yield
    server.forget()
    servers._open_bucket.cache_clear()


@pytest.fixture(scope="module")
def local(server: Buckets) -> SlideStore:
    return SlideStore(server.folder / "bucket" / KEY)


@pytest.fixture
def copy(server: Buckets, tiny_slides: Sequence[Path], request: pytest.FixtureRequest) -> Iterator[Path]:
    """A store in the bucket `bucket` that a test may damage."""
    path = shutil.copytree(tiny_slides[0], server.folder / "bucket" / "copy.zarr")
    yield path
    shutil.rmtree(path)


def url(server: Buckets, scheme: str, key: str = KEY) -> str:
    base = f"{server.url}/bucket" if scheme == "http" else f"{scheme}://bucket"
    return f"{base}/{key.replace(' ', '%20')}" if scheme == "http" else f"{base}/{key}"


# --- locations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://b/x/S.zarr", "s3://b/x/S.zarr"),
        ("s3://b/x/S.zarr/", "s3://b/x/S.zarr"),
        (Path("s3://b/x/S.zarr"), "s3://b/x/S.zarr"),
        ("gcs://b/S.zarr", "gs://b/S.zarr"),
        ("S3://b", "s3://b"),
        (Path("https://host:9000/x/S.zarr"), "https://host:9000/x/S.zarr"),
    ],
)
def test_urls_also_those_that_path_has_mangled(given: str | Path, expected: str) -> None:
    place = locate(given)
    assert isinstance(place, RemotePath)
    assert str(place) == str(place.resolve()) == expected
    assert locate(place) is place
    assert pickle.loads(pickle.dumps(place)) == place
    assert len({place, locate(expected)}) == 1


@pytest.mark.parametrize("given", ["file:///a%20b/S.zarr", "file:/a b/S.zarr", "file://localhost/a b/S.zarr"])
def test_file_urls_are_paths(given: str) -> None:
    assert locate(given) == Path("/a b/S.zarr")


@pytest.mark.parametrize("given", ["a/S.zarr", "/a/S.zarr", "C:/a/S.zarr", "a:b", Path("a")])
def test_paths_stay_paths(given: str | Path) -> None:
    assert locate(given) == require_local(given) == Path(given)


def test_parts_of_a_location() -> None:
    place = locate("s3://b/x/S.zarr")
    assert (place.name, place.suffix, str(place.parent)) == ("S.zarr", ".zarr", "s3://b/x")
    assert str(place / "images/he") == "s3://b/x/S.zarr/images/he"
    assert (place / "images").is_relative_to(place)
    for outside in ("../T.zarr", "/T.zarr", "../S.zarr2", "images/../../T.zarr"):
        assert not (place / outside).is_relative_to(place)


@pytest.mark.parametrize("given", ["s3://", "az://container/S.zarr", "hf://x/S.zarr"])
def test_urls_that_are_not_read(given: str) -> None:
    with pytest.raises(RemoteError, match=r"expected s3://"):
        locate(given)


# --- equal to local -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_value_equals_the_local_store(server: Buckets, local: SlideStore, scheme: str) -> None:
    store = SlideStore(url(server, scheme))
    assert store.manifest == local.manifest
    assert (store.levels, store.n_cells) == (local.levels, local.n_cells)
    pd.testing.assert_frame_equal(store.obs, local.obs)
    pd.testing.assert_frame_equal(store.genes, local.genes)
    assert (store.counts != local.counts).nnz == 0
    for part in ("centroids", "neighbors", "distances", "passed", "cell_ids", "blocks"):
        np.testing.assert_array_equal(getattr(store, part), getattr(local, part))
    for number, level in enumerate(local.levels):
        whole = (number, -9, -7, level.height + 20, level.width + 15)
        corner = (number, level.height - 30, level.width - 40, 60, 70)
        for window in (whole, corner, (number, -300, 5, 40, 40)):
            np.testing.assert_array_equal(store.read(*window), local.read(*window))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_slides_open_by_url(server: Buckets, local: SlideStore, scheme: str) -> None:
    where = url(server, scheme)
    assert is_store(where)
    assert not is_store(f"{where}/images/he")
    with open_slide(where) as slide, open_slide(local.path) as same:
        assert (slide.name, slide.mpp, slide.levels) == (same.name, same.mpp, same.levels)
        points = [[3.0, 4.0], [300.5, 200.0], [slide.width - 1.0, slide.height - 1.0]]
        np.testing.assert_array_equal(slide.read_field(points, 28, 64), same.read_field(points, 28, 64))
    # The image alone, as any OME-Zarr.
    with open_slide(f"{where}/images/he") as slide, open_slide(local.path / "images/he") as same:
        assert slide.levels == same.levels
        np.testing.assert_array_equal(slide.read(1, -3, -3, 90, 80), same.read(1, -3, -3, 90, 80))


def test_batches_equal_those_of_local_stores(server: Buckets) -> None:
    folder = server.folder / "bucket"
    names = (KEY, "second.zarr")
    batches = []
    for paths in ([f"s3://bucket/{name}" for name in names], [folder / name for name in names]):
        stores = open_stores(paths)
        vocabulary = Vocabulary.from_panel([g for store in stores for g in store.genes.index])
        sources = []
        for store in stores:
            index = vocabulary.lookup(list(store.genes.index))
            means = GeneMeans(len(vocabulary)).update(store.counts, index).means
            spec = PatchSpec(mpp=0.3, size=96)  # resampled
            sources.append(
                SlideSource(store, spec=spec, vocabulary=vocabulary, gene_means=means, max_genes=64)
            )
        supply = RegionSupply(sources, open_blocks=2)
        cells = [
            [number, block.block, row]
            for number, source in enumerate(sources)
            for block in source.blocks(number)
            for row in block.rows
        ]
        cells = np.random.default_rng(0).permutation(np.array(cells, np.int64))
        batches.append([supply.batch(part) for part in np.array_split(cells, 5)])
        supply.close()
    for got, want in zip(*batches, strict=True):
        for field in ("images", "tokens", "centres", "neighbors", "distances", "lengths", "slide", "cell"):
            np.testing.assert_array_equal(getattr(got, field), getattr(want, field))


def test_the_same_slide_twice(server: Buckets) -> None:
    with pytest.raises(ValueError, match="listed twice"):
        open_stores(["s3://bucket/second.zarr", Path("s3://bucket/x/../second.zarr")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_sent_to_other_processes(server: Buckets, local: SlideStore) -> None:
    """A spawned worker gets the URL, and what the environment says; a forked one an error, not an abort."""
    store = SlideStore(url(server, "s3"))
    store.read(0, 0, 0, 5, 5)
    code = """
import os, pickle, sys
from past_core.ingest.store import SlideStore
store = pickle.load(sys.stdin.buffer)
pixels = store.read(0, -5, 7, 50, 60)
child = os.fork()
if not child:
    found = 0
    for use in (lambda: store.obs, lambda: SlideStore(store.path), lambda: store.read(0, 0, 0, 5, 5)):
        try:
            use()
        except (OSError, ValueError) as error:
            found += "spawn" in str(error)
    os._exit(found)
forked = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.stdout.buffer.write(pickle.dumps((str(store.path), pixels, forked)))
"""
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(store), capture_output=True)
    where, pixels, forked = pickle.loads(done.stdout)
    assert where == f"s3://bucket/{KEY}"
    np.testing.assert_array_equal(pixels, local.read(0, -5, 7, 50, 60))
    assert forked == 3


# --- requests -----------------------------------------------------------------------------------


def test_requests_of_opening_and_reading(server: Buckets, local: SlideStore) -> None:
    """Opening lists; it asks for no chunk. What is read later is asked for once, many at a time."""
    files = [str(file.relative_to(local.path)) for file in local.path.rglob("*") if file.is_file()]
    below = {part: [f for f in files if f.startswith(part)] for part in ("images/he/", "tables/cells/")}
    metadata = sum(file.endswith("zarr.json") for part in below.values() for file in part)
    server.page = 10
    store = SlideStore(url(server, "s3"))
    pages = sum(math.ceil(len(part) / server.page) for part in below.values())
    assert pages > 8
    assert server.requests == {"list": pages, "get": metadata + 1}
    assert not [path for path in server.paths if "/c/" in path]

    server.forget()
    assert len(store.obs) == store.n_cells
    assert store.counts.nnz
    read = [file for file in files if file.startswith(("tables/cells/obs/", "tables/cells/X/"))]
    assert sorted(server.paths) == sorted(f"/bucket/{KEY}/{f}" for f in read if not f.endswith("zarr.json"))
    assert isinstance(store._table, TableStore)
    assert not store._table._ahead  # nothing is kept twice

    server.forget()
    server.delay = 0.05
    size = store.levels[0]
    store.read(0, 0, 0, size.height, size.width)
    chunks = math.ceil(size.height / 256) * math.ceil(size.width / 256)
    assert len([path for path in server.paths if "/c/" in path]) == chunks
    assert len(server.paths) == chunks + 1
    assert server.busiest >= min(chunks, 8)


def test_threads_share_a_store(server: Buckets, local: SlideStore) -> None:
    store = SlideStore(url(server, "s3"))
    parts = ("obs", "counts", "genes", "centroids", "neighbors", "distances")
    with ThreadPoolExecutor(6) as pool:
        table = dict(zip(parts, pool.map(lambda part: getattr(store, part), parts), strict=True))
        windows = list(pool.map(lambda y: store.read(0, y, y, 64, 64), range(-40, 400, 40)))
    pd.testing.assert_frame_equal(table["obs"], local.obs)
    np.testing.assert_array_equal(table["distances"], local.distances)
    assert (table["counts"] != local.counts).nnz == 0
    for y, window in zip(range(-40, 400, 40), windows, strict=True):
        np.testing.assert_array_equal(window, local.read(0, y, y, 64, 64))


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("images/he/s0/c/0/1/0", "images/he/s0 lacks 1 chunks"),
        ("images/he/s1/c", "images/he/s1 lacks"),
        ("images/he/s1/zarr.json", "is missing; the store is truncated"),
        ("tables/cells/X/data/c/0", "X/data lacks 1 chunks"),
        ("tables/cells/obs/qc_pass/c/0", "qc_pass lacks 1 chunks"),
        ("tables", "is missing"),
    ],
)
def test_what_was_not_uploaded_is_told_on_opening(
    server: Buckets, copy: Path, scheme: str, part: str, message: str
) -> None:
    target = copy / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(StoreError, match=message):
        SlideStore(url(server, scheme, "copy.zarr"))


def test_without_a_listing_it_is_told_on_reading(server: Buckets, copy: Path) -> None:
    (copy / "images/he/s0/c/0/1/0").unlink()
    (copy / "tables/cells/X/data/c/0").unlink()
    store = SlideStore(url(server, "http", "copy.zarr"))
    assert len(store.obs) == store.n_cells
    with pytest.raises(StoreError, match="X/data"):
        store.counts  # noqa: B018
    assert store.read(0, 0, 0, 100, 100).shape == (3, 100, 100)
    with pytest.raises(StoreError, match="image level 0 cannot be read"):
        store.read(0, 256, 0, 100, 100)


@pytest.mark.parametrize("scheme", ["s3", "local"])
def test_what_is_lost_after_opening_is_never_white_or_zero(server: Buckets, copy: Path, scheme: str) -> None:
    store = SlideStore(copy if scheme == "local" else url(server, scheme, "copy.zarr"))
    (copy / "images/he/s0/c/0/0/0").unlink()
    with pytest.raises(StoreError, match="image level 0 cannot be read"):
        store.read(0, 0, 0, 10, 10)
    if scheme == "s3":
        (copy / "tables/cells/obs/qc_pass/c/0").unlink()
        with pytest.raises(StoreError, match="qc_pass/c/0 is missing"):
            store.obs  # noqa: B018


@pytest.mark.parametrize("scheme", SCHEMES)
def test_damaged_bytes(server: Buckets, copy: Path, scheme: str) -> None:
    for chunk in (copy / "images/he/s0/c/0/0/0", copy / "tables/cells/obs/qc_pass/c/0"):
        chunk.write_bytes(chunk.read_bytes()[:10])
    store = SlideStore(url(server, scheme, "copy.zarr"))
    with pytest.raises(StoreError, match="image level 0 cannot be read"):
        store.read(0, 0, 0, 10, 10)
    with pytest.raises(StoreError, match="obs"):
        store.obs  # noqa: B018
    file = copy / "images" / "he" / "zarr.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(StoreError, match="cannot be read"):
        SlideStore(url(server, scheme, "copy.zarr"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_slide(server: Buckets, copy: Path, scheme: str) -> None:
    for key in ("none.zarr", "cohort"):
        with pytest.raises(StoreNotFoundError, match="no slide store at"):
            SlideStore(url(server, scheme, key))
        with pytest.raises(SlideNotFoundError, match="no slide there"):
            open_slide(url(server, scheme, key))
    (copy / "slide.svs").write_bytes(b"II*\0")
    with pytest.raises(SlideError, match="copy this file to local disk first"):
        open_slide(url(server, scheme, "copy.zarr/slide.svs"))
    with pytest.raises(StoreError, match="not a slide store"):
        SlideStore(url(server, scheme, "copy.zarr/slide.svs"))
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"a": 1}}
    (copy / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(StoreError, match="--spatialdata"):
        SlideStore(url(server, scheme, "copy.zarr"))
    with pytest.raises(SlideError, match="images/NAME"):
        open_slide(url(server, scheme, "copy.zarr"))
    (copy / "zarr.json").unlink()  # the last to be uploaded, say
    with pytest.raises(StoreNotFoundError, match="is it uploaded"):
        SlideStore(url(server, scheme, "copy.zarr"))


# --- servers in trouble -------------------------------------------------------------------------


def readable(error: BaseException) -> str:
    """The message, which must be one line for a person."""
    text = str(error)
    assert len(text) < 330
    assert "\n" not in text
    assert "http_response" not in text
    assert "<?xml" not in text
    return text


def test_no_such_bucket(server: Buckets) -> None:
    with pytest.raises(RemoteError, match="there is no bucket 'nobucket'") as caught:
        SlideStore("s3://nobucket/S.zarr")
    readable(caught.value)
    with pytest.raises(RemoteError) as caught:
        SlideStore("s3://No_Bucket!/S.zarr")
    assert "No_Bucket!" in readable(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_denied(server: Buckets, scheme: str) -> None:
    server.token = "SOMEBODY"
    with pytest.raises(RemoteError, match=r"access denied \(HTTP 403\)") as caught:
        SlideStore(url(server, scheme))
    advice = {"s3": "AWS_PROFILE", "gs": "GOOGLE_APPLICATION_CREDENTIALS", "http": "without credentials"}
    assert advice[scheme] in readable(caught.value)


def test_credentials_of_the_environment(server: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "KEYOFTEST"
    assert SlideStore(url(server, "s3")).n_cells
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    with pytest.raises(RemoteError, match="access denied"):
        SlideStore(url(server, "s3"))
    server.token = None
    assert SlideStore(url(server, "s3")).n_cells


def test_denied_while_reading(server: Buckets, local: SlideStore) -> None:
    """Trouble of the server is not called damage of the store, and reading goes on when it is over."""
    store = SlideStore(url(server, "s3"))
    server.token = "SOMEBODY"
    with pytest.raises(RemoteError, match="access denied"):
        store.read(0, 0, 0, 10, 10)
    with pytest.raises(RemoteError, match="access denied"):
        store.obs  # noqa: B018
    server.token = None
    np.testing.assert_array_equal(store.read(0, 0, 0, 10, 10), local.read(0, 0, 0, 10, 10))
    pd.testing.assert_frame_equal(store.obs, local.obs)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_that_fails_twice_is_asked_again(server: Buckets, local: SlideStore, scheme: str) -> None:
    server.faults = {"s0/zarr.json": (503, 2), "s0/c/0/0/0": (503, 2), "qc_pass/c/0": (500, 2)}
    store = SlideStore(url(server, scheme))
    np.testing.assert_array_equal(store.read(0, 0, 0, 10, 10), local.read(0, 0, 0, 10, 10))
    pd.testing.assert_frame_equal(store.obs, local.obs)
    assert all(left == 0 for _, left in server.faults.values())


def test_a_server_that_keeps_failing(server: Buckets) -> None:
    server.faults = {"zarr.json": (503, 1000)}
    with pytest.raises(RemoteError, match=r"keeps failing \(HTTP 503\)") as caught:
        SlideStore(url(server, "s3"))
    readable(caught.value)


def test_no_server(server: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(RemoteError, match=r"cannot be reached .*AWS_ENDPOINT_URL") as caught:
        SlideStore(url(server, "s3"))
    readable(caught.value)
    with pytest.raises(RemoteError, match="cannot be reached") as caught:
        SlideStore(f"http://127.0.0.1:{port}/S.zarr")
    assert "AWS" not in readable(caught.value)


# --- commands -----------------------------------------------------------------------------------


def test_info(server: Buckets, local: SlideStore) -> None:
    done = CliRunner().invoke(build_app(), ["info", url(server, "s3"), "--json"])
    assert done.exit_code == 0, done.output
    described = json.loads(done.stdout)
    assert described["path"] == f"s3://bucket/{KEY}"
    assert described["cells"] == local.n_cells
    assert described["bytes"] is None
    done = CliRunner().invoke(build_app(), ["info", url(server, "s3")])
    assert "s3://bucket" in done.output


def test_sheets_and_outputs(server: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sheet.csv").write_text(f"path\n{url(server, 's3')}\nlocal.zarr\n")
    first, second = read_sheet("sheet.csv", "out")
    assert (str(first.path), second.path) == (f"s3://bucket/{KEY}", Path("local.zarr"))
    assert first.output.name == "a b&c.h5ad"
    assert source_key(first.path) == source_key(server.folder / "bucket" / KEY) != ""
    for output in ("s3://bucket/out.h5ad", "gs://bucket/out.zarr"):
        command = ["embed", url(server, "s3"), "-c", "demo", "-o", output]
        done = CliRunner().invoke(build_app(), command)
        assert isinstance(done.exception, RemoteError)
        assert "local disk only" in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.csv"]


@pytest.mark.slow
def test_embed_equals_local(server: Buckets, local: SlideStore, tmp_path: Path) -> None:
    tables = []
    for name, source in (("url", url(server, "s3")), ("path", str(local.path))):
        output = tmp_path / f"{name}.h5ad"
        done = CliRunner().invoke(build_app(), ["embed", source, "-c", "demo", "-o", str(output)])
        assert done.exit_code == 0, (done.output, done.exception)
        tables.append(anndata.read_h5ad(output))
        assert read_manifest(output)["source"] == source_key(local.path)
    for key in ("past_image", "past_cell", "spatial"):
        np.testing.assert_array_equal(tables[0].obsm[key], tables[1].obsm[key])


@pytest.mark.slow
def test_fit_equals_local(server: Buckets, tmp_path: Path) -> None:
    weights = []
    for name, folder in (("url", "s3://bucket"), ("path", server.folder / "bucket")):
        slides = f"[{folder}/{KEY}, {folder}/second.zarr]"
        root = str(tmp_path / name)
        options = ["--trainer.default_root_dir", root, "--trainer.logger.init_args.save_dir", root]
        options += ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "0", "--data.slides", slides]
        done = run_lightning(["fit", "-c", str(CONF), *options])
        weights.append(done.trainer.lightning_module.model.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
