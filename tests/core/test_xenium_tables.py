"""The tables that the instrument itself wrote, and what the manifest beside them says."""

import csv

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from past_core.ingest.xenium_tables import read_cells, read_experiment

SAMPLES = {
    "ovary_5k": {
        "version": (3, 1),  # Xenium Ranger's, which made the bundle again
        "text": "xenium-3.1.0.5",
        "resegmented": True,
        "num_cells": 407_124,
        "region": "Ovarian_Cancer",
        "panel": "Xenium Human 5K with Cell Typing + HPV-16/18 and SNV Add-on",
        "most_nuclei": 4,
    },
    "prostate_5k": {
        "version": (3, 0),
        "text": "xenium-3.0.0.15",
        "resegmented": False,
        "num_cells": 193_000,
        "region": "Human Prostate Adenocarcinoma (FFPE)",
        "panel": "Xenium Human 5K Pan Tissue & Pathways Panel",
        "most_nuclei": 5,
    },
}


@pytest.fixture(scope="module", params=sorted(SAMPLES))
def sample(request, shared_data):
    folder = shared_data / "xenium_tables" / request.param
    with (folder / "metrics_summary.csv").open() as file:
        metrics = next(csv.DictReader(file))
    cells = read_cells(folder / "cells.parquet")
    return SAMPLES[request.param], folder, read_experiment(folder / "experiment.xenium"), cells, metrics


def test_manifest(sample):
    expected, _, experiment, _, metrics = sample
    assert experiment.version == expected["version"]
    assert experiment.version_text == expected["text"]
    assert experiment.resegmented == expected["resegmented"]
    assert experiment.num_cells == expected["num_cells"] == int(metrics["num_cells_detected"])
    assert experiment.region == expected["region"] == metrics["region_name"]
    assert experiment.panel == expected["panel"] == metrics["panel_name"]
    assert experiment.organism == "Human"
    assert experiment.pixel_size == 0.2125


def test_cells_are_a_sample_of_those_in_the_manifest(sample):
    """10,000 cells of each: medians and shares are the manifest's within what such a sample allows."""
    _, folder, experiment, cells, metrics = sample
    manifest = pd.read_json(folder / "experiment.xenium", typ="series")
    assert len(cells) == 10_000 < experiment.num_cells
    assert cells.index.is_unique
    assert cells.index.str.fullmatch(r"[a-p]{8}-1").all()
    assert not cells.attrs["integer_ids"]
    assert cells["transcript_counts"].median() == manifest["transcripts_per_cell"]
    assert cells["transcript_counts"].median() == float(metrics["median_transcripts_per_cell"])
    mean_area = manifest["total_cell_area"] / experiment.num_cells
    assert cells["cell_area"].mean() == pytest.approx(mean_area, rel=0.03)
    empty = float(metrics["fraction_empty_cells"])
    assert (cells["transcript_counts"] == 0).mean() == pytest.approx(empty, abs=0.002)
    extent = np.ptp(cells["x_centroid"]) * np.ptp(cells["y_centroid"])
    assert 0.9 < extent / manifest["region_area"] < 2  # a region need not fill its bounding box
    method = cells["segmentation_method"].astype(str)
    for share, name in (
        ("boundary", "boundary stain"),
        ("interior", "interior stain"),
        ("nuc_expansion", "nucleus"),
    ):
        stated = manifest[f"segmented_cell_{share}_frac"]
        assert method.str.contains(name).mean() == pytest.approx(stated, abs=0.02)


def test_areas_are_whole_numbers_of_pixels(sample):
    """What ties the table to the masks: an area is the number of the mask's pixels times that of one."""
    _, _, experiment, cells, _ = sample
    for column in ("cell_area", "nucleus_area"):
        pixels = cells[column].dropna() / experiment.pixel_size**2
        assert np.abs(pixels - pixels.round()).max() < 0.01


def test_nuclei(sample):
    expected, _, _, cells, _ = sample
    count = cells["nucleus_count"]
    assert count.max() == expected["most_nuclei"]
    assert (cells["nucleus_area"].isna() == (count == 0)).all()
    assert (cells["nucleus_area"].fillna(0) <= cells["cell_area"]).all()


def test_counts_add_up(sample):
    _, folder, _, cells, _ = sample
    frame = pq.read_table(folder / "cells.parquet").to_pandas()
    parts = [c for c in frame if c.endswith("_counts") and c != "total_counts"]
    assert len(parts) == 6  # with the genomic controls of a Prime panel
    np.testing.assert_array_equal(frame[parts].sum(axis=1), frame["total_counts"])
    np.testing.assert_array_equal(frame["transcript_counts"], cells["transcript_counts"])


def test_dtypes_of_the_instrument(sample):
    _, folder, _, cells, _ = sample
    schema = {field.name: str(field.type) for field in pq.read_schema(folder / "cells.parquet")}
    assert schema["cell_id"] == "large_string"
    assert schema["x_centroid"] == schema["cell_area"] == "double"
    assert schema["transcript_counts"] == schema["nucleus_count"] == "int64"
    assert all(cells[column].dtype == np.float64 for column in cells if column != "segmentation_method")
    transcripts = {f.name: str(f.type) for f in pq.read_schema(folder / "transcripts.parquet")}
    assert transcripts["transcript_id"] == "uint64"
    assert transcripts["overlaps_nucleus"] == "uint8"
    assert transcripts["cell_id"] in ("string", "large_string")
    assert {transcripts[name] for name in ("x_location", "y_location", "z_location", "qv")} == {"float"}
    assert transcripts["is_gene"] == "bool"


def test_synthetic_tables_have_the_same_columns(sample, tmp_path):
    from made_xenium import small_tissue

    from past_core.synthetic.bundle import write_bundle

    _, folder, _, _, _ = sample
    bundle = write_bundle(*small_tissue(), tmp_path / "b", prime=True)
    for name in ("cells.parquet", "transcripts.parquet"):
        real, made = pq.read_schema(folder / name), pq.read_schema(bundle / name)
        assert set(real.names) == set(made.names)
        for field in real:
            same = str(field.type).removeprefix("large_"), str(made.field(field.name).type)
            assert same[0] == same[1].removeprefix("large_"), field.name
