"""Sizes that a file claims and does not have are refused before anything of that size is allocated."""

import gzip
import json
import shutil
import struct
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_xenium import HE, small_tissue
from made_xenium_damage import ARRAYS, PARTS
from made_xenium_fuzz import MASKS, Damage, edit_entries, edit_matrix, replace

from past_core.ingest import xenium_outlines, xenium_tables
from past_core.ingest.xenium import read_bundle
from past_core.synthetic.bundle import write_bundle

LIMIT = 48 * 2**20
"""Bytes above what reading the whole bundle takes that a refusal may."""

quiet = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    return Damage(write_bundle(*small_tissue(), folder / "whole"), folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_bundle(*small_tissue(), tmp_path_factory.mktemp("texts") / "T4", text_tables=True)


@pytest.fixture
def text_bundle(texts, tmp_path):
    return shutil.copytree(
        texts, tmp_path / "T4", ignore=shutil.ignore_patterns("transcripts*", "morphology*")
    )


def refused(damage, bundle):
    """Refused, with little memory."""
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        assert damage.judge(bundle) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < LIMIT
    assert pa.total_allocated_bytes() - before < LIMIT


@quiet
@given(part=st.sampled_from(PARTS), size=st.sampled_from([10**7, 10**9, 10**12, 2**40]))
def test_parts_of_the_matrix(damage, part, size):
    """Chunked datasets of HDF5 need not hold what they claim."""
    with damage.copy() as bundle:
        with edit_matrix(bundle) as file:
            kind = file[f"matrix/{part}"].dtype
            del file[f"matrix/{part}"]
            file.create_dataset(f"matrix/{part}", shape=(size,), dtype=kind, chunks=(1024,))
        refused(damage, bundle)


@pytest.mark.parametrize(
    "parts", [("data", "indices"), ("features/id", "features/name", "features/feature_type")]
)
def test_parts_of_the_matrix_that_agree(damage, parts):
    with damage.copy() as bundle:
        with edit_matrix(bundle) as file:
            for part in parts:
                kind = file[f"matrix/{part}"].dtype
                del file[f"matrix/{part}"]
                file.create_dataset(f"matrix/{part}", shape=(10**12,), dtype=kind, chunks=(1024,))
            file["matrix/shape"][0] = 2**31 - 1
        refused(damage, bundle)


def test_strings_of_a_gigabyte(damage):
    with damage.copy() as bundle:
        with edit_matrix(bundle) as file:
            n = len(file["matrix/features/id"])
            del file["matrix/features/id"]
            kind = h5py.string_dtype(length=2**20)
            file["matrix/features"].create_dataset("id", shape=(n,), dtype=kind, chunks=(1,))
        refused(damage, bundle)


@quiet
@given(
    name=st.sampled_from(ARRAYS),
    which=st.sampled_from(["shape", "chunks", "both"]),
    size=st.sampled_from([10**5, 10**7, 2**31, 2**40, 2**60, 10**30]),
)
def test_arrays_of_the_masks(damage, name, which, size):
    def claim(entries):
        key = f"{name}/.zarray"
        described = json.loads(entries[key])
        for what in ("shape", "chunks") if which == "both" else (which,):
            described[what] = [size] * len(described[what])
        entries[key] = json.dumps(described).encode()

    with damage.copy() as bundle:
        edit_entries(bundle, claim)
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            damage.judge(bundle)  # nuclei's arrays are not read where the table counts nuclei
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < LIMIT + 8 * 10**5 * 100
        assert pa.total_allocated_bytes() - before < LIMIT


def test_zip_entry_that_unpacks_to_a_gigabyte(damage):
    """Zeros deflate a thousand times; the entry stands where a chunk or metadata of few bytes should."""
    for key in ("masks/1/.zarray", "cell_id/0.0", "polygon_sets/1/cell_index/0"):
        with damage.copy() as bundle:
            path = bundle / MASKS
            with zipfile.ZipFile(path) as archive:
                entries = {name: archive.read(name) for name in archive.namelist()}
            path.unlink()
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in entries.items():
                    archive.writestr(name, bytes(2**26) if name == key else content)
            refused(damage, bundle)


def test_zip_directory_that_claims_other_sizes(damage):
    with damage.copy() as bundle:
        content = bytearray((bundle / MASKS).read_bytes())
        at = content.find(b"PK\x01\x02")
        while at >= 0:  # sizes of every entry in the central directory
            content[at + 20 : at + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
            at = content.find(b"PK\x01\x02", at + 4)
        replace(bundle / MASKS, bytes(content))
        refused(damage, bundle)


def test_parquet_of_many_equal_rows(damage, monkeypatch):
    """A column of one value packs a hundred million rows into nothing."""
    monkeypatch.setattr(xenium_tables, "MAX_CELLS", 10**6)
    for name in ("cells.parquet", "cell_boundaries.parquet"):
        with damage.copy() as bundle:
            path = bundle / name
            table = pq.read_table(path)
            path.unlink()
            one = table.slice(0, 1)
            with pq.ParquetWriter(path, table.schema) as writer:
                block = one.take(pa.array(np.zeros(10**6, np.int32)))
                for _ in range(6):
                    writer.write_table(block)
            refused(damage, bundle)


@pytest.mark.parametrize("size", [2**30, 2**27])
def test_manifest_of_a_gigabyte(damage, size):
    with damage.copy() as bundle:
        path = bundle / "experiment.xenium"
        replace(path, b"{}")
        with path.open("r+b") as file:  # sparse
            file.truncate(size)
        refused(damage, bundle)


# --- text ----------------------------------------------------------------------------------------------


def peak_of_refusal(bundle):
    from past_core.ingest.xenium_files import BundleError

    tracemalloc.start()
    try:
        with pytest.raises(BundleError) as caught:
            read_bundle(bundle, bundle / HE)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "dimensions", ["421 {n} 999999999999", "99999999999 {n} 5", "421 99999999 5", "421 {n} 5", "x"]
)
def test_matrix_market_claims(text_bundle, dimensions):
    path = text_bundle / "cell_feature_matrix" / "matrix.mtx.gz"
    n = len(gzip.decompress((path.parent / "barcodes.tsv.gz").read_bytes()).split())
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[2] = dimensions.format(n=n)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    message, peak = peak_of_refusal(text_bundle)
    assert "matrix.mtx.gz" in message
    assert peak < LIMIT


@pytest.mark.parametrize(
    "name", ["cells.csv.gz", "cell_boundaries.csv.gz", "cell_feature_matrix/matrix.mtx.gz"]
)
@pytest.mark.parametrize("how", ["truncated", "flipped", "plain", "empty"])
def test_damaged_text(text_bundle, name, how):
    path = text_bundle / name
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "truncated": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "plain": gzip.decompress(content),
            "empty": gzip.compress(b""),
        }[how]
    )
    message, _ = peak_of_refusal(text_bundle)
    assert name.split("/")[-1] in message


def test_rows_without_end(text_bundle, monkeypatch):
    """Many rows in a little gzip are given up at the largest number of rows there can be."""
    monkeypatch.setattr(xenium_outlines, "VERTICES_OF_A_CELL", 500)
    path = text_bundle / "nucleus_boundaries.csv.gz"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    row = gzip.decompress(path.read_bytes()).split(b"\n")[1] + b"\n"
    parts = [packer.compress(b"cell_id,vertex_x,vertex_y,label_id\n")]
    parts += [packer.compress(row * 20_000) for _ in range(40)]
    path.write_bytes(b"".join([*parts, packer.flush()]))
    message, _ = peak_of_refusal(text_bundle)
    assert "nucleus_boundaries.csv.gz has more than" in message
