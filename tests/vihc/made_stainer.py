"""A small stand-in for a trained generator, and small slides, for the tests of whole slides."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from scipy import ndimage

MAP = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.7, 0.1], [0.1, 0.1, 0.6]])


class FakeModel:
    """Maps colours pixel by pixel, and adds an offset that depends on the whole tile, as instance norms do.

    Has what staining asks of a `StainModel`, without the seconds that importing one takes.

    Args:
        encoder: conditions it, if given: the mean of a vector is added.
        granularity: `tile`, or `cells` with nodes every quarter of a tile.
        jump: the offset's size in grey values.
        seed: tells one model from another.
    """

    mpp, tile, demo, receptive_field, precision = 0.5, 64, False, 2, "32"
    stains = ("er",)
    device = torch.device("cpu")

    def __init__(
        self, *, encoder: Any = None, granularity: str = "tile", jump: float = 0.0, seed: int = 0
    ) -> None:
        self.encoder, self.granularity, self.jump, self.seed = encoder, granularity, jump, seed
        self.pitch_um = self.tile * self.mpp / 4
        self.embeddings: list[Any] = []

    def stain_index(self, stain: str | None) -> int:
        return 0

    def check(self, encoder: Any) -> None:
        assert self.encoder is None or encoder is self.encoder

    def __call__(self, he: torch.Tensor, embedding: Any = None, stain: str | None = None) -> torch.Tensor:
        self.embeddings.append(embedding)
        pixels = he.float()
        made = torch.einsum("ij,bjhw->bihw", MAP, pixels)
        made += self.jump * torch.sin(pixels.mean((1, 2, 3), keepdim=True) * 3)
        if embedding is not None:
            made += embedding.flatten(1).mean(1)[:, None, None, None]
        return made.round().clamp(0, 255).to(torch.uint8)


def fake_fingerprint(model: FakeModel) -> str:
    """In place of a hash of weights."""
    return f"fake {model.seed} {model.jump}"


def draw_slide(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """`(H, W, 3)` uint8: a disc of pink, textured tissue on white glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    texture = 150 * ndimage.gaussian_filter(rng.normal(size=(height, width)), 2.0)
    # Slowly varying, so that neighbouring tiles differ in their means.
    texture += 20 * np.sin(x / 90) + 15 * np.cos(y / 70)
    inside = np.hypot((y - height / 2) / height, (x - width / 2) / width) < 0.38
    tissue = np.array([190, 110, 170]) + texture[..., None]
    image = np.where(inside[..., None], tissue, 250 + rng.normal(0, 1, (height, width, 1)))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray, *, mpp: float | None = 0.5) -> Path:
    """A tiled TIFF, with its resolution in its tags."""
    tags = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb" if image.ndim == 3 else None, **tags)
    return path


def main() -> None:
    """`python made_stainer.py SLIDE OUTPUT K N SECONDS`: stains, `SECONDS` a batch, as a process to kill."""
    import time

    from past_vihc.wsi import stainer
    from past_vihc.wsi.output import plan_outputs
    from past_vihc.wsi.settings import StainSettings

    slide, output, k, n, pause = sys.argv[1:]
    torch.set_num_threads(1)
    stainer.STRIP, stainer.model_fingerprint = 128, fake_fingerprint
    made = stainer.stain_slide(
        slide,
        plan_outputs(output),
        FakeModel(jump=15),
        settings=StainSettings(batch_size=4),
        band=(int(k), int(n)),
        progress=lambda what, new, total: time.sleep(float(pause)),
    )
    sys.stdout.write(f"{made.complete} {made.resumed}\n")


if __name__ == "__main__":
    main()
