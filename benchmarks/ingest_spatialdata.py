"""The usual way from a Xenium bundle to a store: spatialdata-io's reader, then SpatialData's writer.

`python -m benchmarks.ingest_spatialdata BUNDLE STORE PEAK`: reads what a slide store holds as well, the H&E,
both kinds of outlines and the table, with the reader's own defaults for the image's chunks and pyramid, and
nothing else; writes it; then writes its peak memory in GiB to PEAK.
"""

import sys
from pathlib import Path

from spatialdata_io import xenium

from benchmarks.memory import peak_gib


def main(bundle: Path, store: Path, peak: Path) -> None:
    """Reads, writes, and says how much memory it took."""
    slide = xenium(
        bundle,
        cells_boundaries=True,
        nucleus_boundaries=True,
        cells_as_circles=False,
        cells_labels=False,
        nucleus_labels=False,
        transcripts=False,
        morphology_mip=False,
        morphology_focus=False,
        aligned_images=True,
    )
    slide.write(store)
    peak.write_text(f"{peak_gib()}\n")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
