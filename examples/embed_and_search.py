"""Finds cells by their image: embeds a slide's cells and asks which transcriptome a patch of H&E goes with.

    python examples/embed_and_search.py [SLIDE.zarr [CHECKPOINT]]

Both sides of a PAST checkpoint lie in one space. Each cell's patch is compared with the transcriptome of
every cell of the slide; `search.png` shows the nearest ones. Without arguments it takes a synthetic slide and
the demo encoder.
"""

import sys

import numpy as np
import torch

from past_core import load_cell_encoder, load_image_encoder
from past_core.embed import embed_cells
from past_core.figures import retrieval_panel
from past_core.ingest.store import SlideStore
from past_core.retrieval import partner_ranks
from past_core.slides import open_slide
from past_core.synthetic.default import default_slides

QUERIES, SHOWN = 4, 5


def main(slide: str | None = None, checkpoint: str = "demo") -> None:
    """Embeds, searches, prints and draws."""
    store = SlideStore(slide or default_slides(patients=1, first=6)[0])
    image = load_image_encoder(checkpoint, space="joint")
    cell = load_cell_encoder(checkpoint, space="joint")
    table = embed_cells(store, image, cell, sides="both")

    images = torch.from_numpy(table.obsm["past_image"])
    cells = torch.from_numpy(table.obsm["past_cell"])
    counted = cells.isfinite().all(dim=1)  # a cell without a count of a known gene has no place in the space
    images, cells, places = images[counted], cells[counted], table.obsm["spatial"][counted.numpy()]
    ranks = partner_ranks(images, cells)
    found = float((ranks <= 10).double().mean())
    print(f"{store.name}: {len(cells)} cells")
    print(f"own transcriptome among the first 10: {found:.1%}; by chance {10 / len(cells):.1%}")
    print(f"median rank {ranks.median():.0f} of {len(cells)}")

    queries = ranks.argsort()[:QUERIES]  # the easiest
    nearest = (images[queries] @ cells.T).topk(SHOWN, dim=1).indices
    with open_slide(store.path) as opened:
        patches = opened.read_field(places, image.field_um, image.patch_size)
    figure = retrieval_panel(
        patches[queries.numpy()],
        patches[nearest.numpy()],
        np.round(ranks[queries].numpy()).astype(int).tolist(),
        partner=(nearest == queries[:, None]).numpy(),
        title=f"{store.name}: cells found by image",
    )
    figure.savefig("search.png", dpi=120)
    print("search.png: the query, and the cells whose transcriptomes are nearest (its own is framed)")


if __name__ == "__main__":
    main(*sys.argv[1:])
