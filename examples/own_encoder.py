"""Brings an own image encoder: a module, its input and its weights, under a name that everything takes.

    python examples/own_encoder.py [SLIDE]

The network here describes colour and texture in 16 numbers, with random weights; put your own in its place.
`tiles.h5ad` holds a vector for each tile of tissue, `tiles.png` shows the first two principal components on
the slide. Without arguments it takes a synthetic H&E.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import Tensor, nn

from past_core import load_image_encoder
from past_core.embed import embed_slide, write_embeddings
from past_core.encoders import IMAGE_ENCODERS, PublicEncoder
from past_core.slides import open_slide
from past_core.synthetic.pairs import default_pairs


class Texture(nn.Module):
    """(B, 3, 64, 64), normalised, to (B, 16)."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 8, 7, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """Mean and deviation of each filter's answer."""
        answers = self.filters(images).flatten(2)
        return torch.cat([answers.mean(dim=2), answers.std(dim=2)], dim=1)


# What stands here may as well be declared by a package, under the entry point `past.encoders`.
TEXTURE = PublicEncoder(
    architecture="texture",
    build=Texture,
    dim=Texture.num_features,
    embedding="mean and deviation of 8 filters",
    image_size=64,
    mpp=0.5,
    licence="your own",
    paper="none",
    where="this file",
    file="texture.safetensors",
)


def main(slide: str | None = None) -> None:
    """Registers, embeds, prints and draws."""
    if slide is None:
        slide = str(default_pairs(stains=["er"], patients=["P8"])[0].he)
    torch.manual_seed(0)
    save_file(Texture().state_dict(), "texture.safetensors")  # your trained weights

    IMAGE_ENCODERS["texture"] = TEXTURE
    encoder = load_image_encoder("texture", weights="texture.safetensors")
    print(encoder)
    table = embed_slide(slide, encoder)
    write_embeddings(table, Path("tiles.h5ad"), overwrite=True)
    vectors = table.obsm["past_image"]
    print(f"tiles.h5ad: {len(table)} tiles of {encoder.field_um:g} µm, {vectors.shape[1]} numbers each")

    centred = vectors - vectors.mean(axis=0)
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    shares = size**2 / (size**2).sum()
    print(f"two principal components hold {shares[:2].sum():.0%} of the variance")
    figure = Figure(figsize=(8, 4), layout="constrained")
    with open_slide(slide) as opened:
        width, height = opened.levels[0].width, opened.levels[0].height
    for number, axis in enumerate(figure.subplots(1, 2)):
        places = table.obsm["spatial"]
        axis.scatter(*places.T, c=centred @ directions[number], s=20, marker="s")
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", title=f"component {number + 1}")
    figure.savefig("tiles.png", dpi=120)
    print("tiles.png: components over the slide")


if __name__ == "__main__":
    main(*sys.argv[1:])
