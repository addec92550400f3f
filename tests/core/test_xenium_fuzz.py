"""Some 500 damaged bundles: each is refused by a message that names a file, or read as the whole one is.

What is damaged: bytes of any file, tables (renamed, reordered, of other types, with swapped axes, repeated,
empty or impossible values), matrix, masks and manifest; files of another bundle, of other kinds, links. Sizes
that a file claims and does not have are in `test_xenium_claims`.

Not to be noticed, and so left out or allowed by name, are facts that the format writes once: letters of gene
ids, symbols and kinds of controls, the course of single outlines near their cell, area and number of nuclei,
the segmentation method, digits of the alignment, pixels of the H&E; which gene a count is of, where a cell's
counts still add up; and axes that are swapped alike in masks, table and both tables of outlines. Masks may
lie beside the table's centroids by up to 2 µm and a cell's radius, which is warned of beyond 2 µm.

PAST_FUZZ=N runs N times as many examples, and others every time.
"""

import json
import os
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from made_xenium import ALIGNMENT, HE, small_tissue
from made_xenium_damage import (
    ARRAYS,
    BYTES,
    CHANGES,
    COUNTS,
    ENTRIES,
    MANGLE,
    PARTS,
    SHAPES,
    TOLD,
    change_array,
    change_entries,
    change_part,
    mangle,
    spoil,
)
from made_xenium_fuzz import (
    FILES,
    MANIFEST,
    MASKS,
    MATRIX,
    MATRIX_ZARR,
    ONCE,
    PARQUET,
    Damage,
    edit_arrays,
    edit_entries,
    edit_manifest,
    edit_matrix,
    edit_table,
    replace,
)

from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store
from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.xenium_versions.extras import zarr_matrix

RADIUS_UM = 10.0
"""More than that of any cell."""
TIMES = int(os.environ.get("PAST_FUZZ", "0"))


def examples(number):
    """So many examples, the same in every run unless PAST_FUZZ asks for more."""
    return settings(
        max_examples=number * max(TIMES, 1),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    nuclei = {"missed_nuclei": 0.1, "split_nuclei": 0.1}
    whole = write_bundle(*small_tissue(), folder / "whole", **nuclei)
    made = Damage(whole, folder)
    yield made
    if not TIMES and made.refused + made.accepted > 400:  # of a run of the whole file
        assert made.refused + made.accepted >= 500
    assert not made.folder.joinpath("outside").exists()


# --- bytes ---------------------------------------------------------------------------------------------

share = st.floats(0, 1, exclude_max=True)


@examples(150)
@given(
    name=st.sampled_from([MANIFEST, *PARQUET, MATRIX, MATRIX, MASKS, MASKS]),
    how=st.sampled_from(BYTES),
    at=share,
    other=share,
    bits=st.lists(st.tuples(share, st.integers(0, 7)), min_size=1, max_size=8),
)
def test_bytes(damage, name, how, at, other, bits):
    with damage.copy() as bundle:
        replace(bundle / name, spoil((bundle / name).read_bytes(), how, at, other, bits))
        # These have no checksum: what only they hold can be damaged unseen, within what is checked.
        once = {"cells.parquet": ONCE, MATRIX: ("negative_control_counts",)}.get(name, ())
        if name == MANIFEST:
            slide = damage.outcome(bundle)
            if slide is not None:
                damage.same(slide)
            return
        text = damage.reference.table.n_vars if name == MATRIX else 0
        damage.judge(bundle, loose=once, outlines="boundaries" not in name, genes=text)


@examples(20)
@given(name=st.sampled_from([HE, ALIGNMENT]), at=share)
def test_truncated_image_and_alignment(damage, name, at):
    with damage.copy() as bundle:
        replace(bundle / name, spoil((bundle / name).read_bytes(), "truncate", at, 0, []))
        damage.judge(bundle)


@examples(30)
@given(
    name=st.sampled_from([name for name in FILES if name != MATRIX_ZARR]),  # that one the bundle lacks
    kind=st.sampled_from(
        [
            "gone",
            "folder",
            "loop",
            "dangling",
            "pipe",
            "noise",
            "empty",
            "linked",
            "zip",
            "text",
            "unreadable",
        ]
    ),
    noise=st.binary(min_size=1, max_size=200),
)
@example(name=HE, kind="pipe", noise=b"0")
def test_something_else_in_place_of_a_file(damage, name, kind, noise):
    with damage.copy() as bundle:
        path = bundle / name
        content = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "dangling":
            path.symlink_to(bundle / "nowhere")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("noise", "empty", "text"):
            path.write_bytes({"noise": noise, "empty": b"", "text": b"not what it should be\n" * 50}[kind])
        elif kind == "linked":  # a bundle of links is as good as one of files
            (bundle / "elsewhere").mkdir()
            (bundle / "elsewhere" / name).write_bytes(content)
            path.symlink_to(bundle / "elsewhere" / name)
        elif kind == "zip":
            import zipfile

            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(name, content)
                archive.writestr("../../../outside", b"x")
        elif kind == "unreadable":
            path.write_bytes(content[: len(content) // 2] + noise)
        slide = damage.judge(bundle)
        if kind == "linked":
            assert slide is not None
        assert not (bundle.parent / "outside").exists()


# --- tables --------------------------------------------------------------------------------------------


@examples(140)
@given(name=st.sampled_from(PARQUET), how=st.sampled_from(sorted(MANGLE)), seed=st.integers(0, 10**6))
def test_tables(damage, name, how, seed):
    """A column that may lack may lack; what is then read is what the rest of the bundle says."""
    with damage.copy() as bundle:
        edit_table(bundle, name, lambda table: mangle(table, name, how, seed))
        slide = damage.outcome(bundle)
        if slide is None:
            return
        lost = set(damage.reference.table.obs) - set(slide.table.obs)
        assert lost <= {"cell_area_um2", "nucleus_area_um2", "segmentation_method"}
        if name == "cells.parquet":
            damage.same(slide, loose=(*ONCE, "cell_area_um2"))
            area = slide.table.obs.get("cell_area_um2")
            if area is not None:  # null is unknown; what is known is the mask's
                known = area.notna().to_numpy()
                expected = damage.reference.table.obs["cell_area_um2"].to_numpy()
                np.testing.assert_allclose(area[known], expected[known], rtol=0.02, atol=1)
            return
        # Outlines: of every cell that has one, and around it.
        damage.same(slide, outlines=False)
        outlines = slide.cell_boundaries if name.startswith("cell") else slide.nucleus_boundaries
        if outlines is None:
            assert "holds no outline" in str(slide.report["notes"])
            return
        row = slide.table.obs_names.get_indexer(outlines.cell_id)
        assert (row >= 0).all()
        middle = outlines.to_geodataframe().geometry.envelope.centroid
        apart = np.hypot(*(np.column_stack([middle.x, middle.y]) - slide.table.obsm["spatial"][row]).T)
        assert np.quantile(apart * slide.mpp, 0.98) < 25


# --- the matrix ----------------------------------------------------------------------------------------


@examples(90)
@given(part=st.sampled_from(PARTS), how=st.sampled_from(CHANGES), seed=st.integers(0, 10**6))
def test_matrix(damage, part, how, seed):
    rng = np.random.default_rng(seed)
    with damage.copy() as bundle:
        with edit_matrix(bundle) as file:
            values = file[f"matrix/{part}"][...]
            del file[f"matrix/{part}"]
            change_part(file, f"matrix/{part}", values, how, rng)
        # Ids and symbols are written once: reordered names are those of other genes, and no file says so.
        names = len(damage.reference.table.var) if part in ("features/id", "features/name") else 0
        # Nor does any say which of a cell's genes a count is of, if they are exchanged whole.
        exchanged = part == "indices" and how in ("swap two", "reverse", "shuffle")
        damage.judge(bundle, genes=names, exchanged=exchanged)


# --- the masks -----------------------------------------------------------------------------------------


@examples(90)
@given(name=st.sampled_from(ARRAYS), how=st.sampled_from(SHAPES), seed=st.integers(0, 10**6))
def test_arrays(damage, name, how, seed):
    rng = np.random.default_rng(seed)
    with damage.copy() as bundle:
        edit_arrays(bundle, lambda arrays: change_array(arrays, name, how, rng))
        slide = damage.judge(bundle, atol_um=2.0 + RADIUS_UM if name == "masks/1" else 0.01)
        if slide is not None:
            apart = np.hypot(*(slide.table.obsm["spatial"] - damage.reference.table.obsm["spatial"]).T) * 0.25
            assert slide.report["cells_mask_table_disagree"] >= (apart > 2.01).sum()
        if how in ("shuffle", "roll", "swap two") and name in ("cell_id", "polygon_sets/1/cell_index"):
            assert slide is None  # every cell would be another


@examples(50)
@given(name=st.sampled_from(ARRAYS), how=st.sampled_from(ENTRIES), noise=st.binary(min_size=1, max_size=64))
def test_entries(damage, name, how, noise):
    with damage.copy() as bundle:
        edit_entries(bundle, lambda entries: change_entries(entries, name, how, noise))
        damage.judge(bundle)
        assert not [path for path in bundle.parent.iterdir() if path.name == "outside"]


# --- the matrix as a zip of zarr -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def zarr_damage(damage, tmp_path_factory):
    """The same of a bundle whose only matrix is the zip of zarr."""
    folder = tmp_path_factory.mktemp("fuzz_zarr")
    zarr_matrix(shutil.copytree(damage.whole, folder / "whole"))
    made = Damage(folder / "whole", folder)
    made.same(damage.reference)
    yield made
    assert not folder.joinpath("outside").exists()


@examples(30)
@given(name=st.sampled_from(COUNTS), how=st.sampled_from(SHAPES), seed=st.integers(0, 10**6))
def test_arrays_of_the_matrix(zarr_damage, name, how, seed):
    rng = np.random.default_rng(seed)
    with zarr_damage.copy() as bundle:
        edit_arrays(bundle, lambda arrays: change_array(arrays, name, how, rng), name=MATRIX_ZARR)
        # No file says which of a cell's genes a count is of, if two are exchanged whole.
        exchanged = name.endswith(("data", "indices")) and how in ("swap two", "reverse", "shuffle")
        zarr_damage.judge(bundle, exchanged=exchanged)


@examples(30)
@given(name=st.sampled_from(COUNTS), how=st.sampled_from(ENTRIES), noise=st.binary(min_size=1, max_size=64))
def test_entries_of_the_matrix(zarr_damage, name, how, noise):
    with zarr_damage.copy() as bundle:
        edit_entries(bundle, lambda entries: change_entries(entries, name, how, noise), name=MATRIX_ZARR)
        zarr_damage.judge(bundle)


@pytest.mark.parametrize("how", TOLD)
def test_names_of_the_matrix(zarr_damage, how):
    def change(entries):
        told = json.loads(entries["cell_features/.zattrs"])
        TOLD[how](told)
        entries["cell_features/.zattrs"] = json.dumps(told).encode()

    with zarr_damage.copy() as bundle:
        edit_entries(bundle, change, name=MATRIX_ZARR)
        assert zarr_damage.judge(bundle) is None


@pytest.mark.parametrize("size", [10**7, 2**40])
@pytest.mark.parametrize("name", COUNTS)
def test_sizes_that_the_matrix_claims(zarr_damage, name, size):
    def claim(entries):
        described = json.loads(entries[f"{name}/.zarray"])
        described["shape"][0] = size
        entries[f"{name}/.zarray"] = json.dumps(described).encode()

    with zarr_damage.copy() as bundle:
        edit_entries(bundle, claim, name=MATRIX_ZARR)
        tracemalloc.start()
        try:
            assert zarr_damage.judge(bundle) is None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2**26


# --- the manifest --------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    *("pixel_size", "num_cells", "analysis_sw_version", "region_name", "panel_organism", "panel_name"),
    *("xenium_ranger", "images"),
)


@examples(60)
@given(
    changes=st.dictionaries(st.sampled_from(KEYS), json_values, min_size=1, max_size=3),
    removed=st.sampled_from(["", *KEYS]),
)
def test_manifest(damage, changes, removed):
    with damage.copy() as bundle:

        def change(content):
            content |= changes
            content.pop(removed, None)

        edit_manifest(bundle, change)
        slide = damage.judge(bundle)
        if slide is not None:
            assert isinstance(slide.name, str)
            assert slide.name


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, '{"pixel_size": ' + "9" * 5000 + "}", '{"pixel_size": 1e999}', "\ufeff{}", "nul\x00", "7"],
)
def test_manifests_that_parsers_choke_on(damage, text):
    with damage.copy() as bundle:
        replace(bundle / MANIFEST, text.encode())
        assert damage.judge(bundle) is None


# --- mixed bundles and stores --------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [15.0, 12.0])
@pytest.mark.parametrize(
    "names", [(MATRIX,), (MASKS,), ("cells.parquet",), PARQUET, (MATRIX, "cells.parquet")]
)
def test_files_of_another_bundle(damage, tmp_path_factory, names, spacing):
    other = damage.folder / f"other{spacing}"
    if not other.exists():
        write_bundle(*small_tissue(spacing, seed=9), other)
    with damage.copy() as bundle:
        for name in names:
            replace(bundle / name, (other / name).read_bytes())
        assert damage.judge(bundle) is None


@examples(10)
@given(name=st.sampled_from(PARQUET), how=st.sampled_from(sorted(MANGLE)), seed=st.integers(0, 10**6))
def test_what_is_read_is_written_whole(damage, name, how, seed, tmp_path_factory):
    target = tmp_path_factory.mktemp("store") / "a.zarr"
    with damage.copy() as bundle:
        edit_table(bundle, name, lambda table: mangle(table, name, how, seed))
        slide = damage.outcome(bundle)
        if slide is None:
            return
        store = SlideStore(write_store(slide, target))
        rows = pd.Index(store.cell_ids).get_indexer(damage.reference.table.obs_names)
        assert (store.counts[rows] != damage.reference.table.X).nnz == 0
        np.testing.assert_allclose(store.centroids[rows], damage.reference.table.obsm["spatial"], atol=0.05)
