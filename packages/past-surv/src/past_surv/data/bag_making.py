"""Makes the bag of a slide: where its patches are, what an encoder sees there, and whether that is done."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from past_core.remote import Location
from past_surv.data.bag_files import BagError
from past_surv.data.bag_writing import write_bag
from past_surv.data.bags import read_bag

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_core.slides import Slide

Patches = Literal["grid", "cells"]
STAMP = "made with the demo encoder, which was trained on synthetic tissue: for trying out only"


@dataclass(frozen=True, kw_only=True)
class BagSettings:
    """What patches a bag has.

    Attributes:
        patches: `grid`, tiles of tissue side by side; `cells`, one around each cell (a slide store's own that
            passed quality control, else nuclei by watershed).
        patch_um: distance between tiles in µm; None is the side of the encoder's field. A patch is always
            seen through the encoder's own field at its own resolution.
        min_tissue: least share of tissue in a tile.
        max_patches: most patches of a slide, drawn by the slide's name; None takes all.
        batch_size: patches that are encoded at a time.
        dtype: of the features: float16, or float32 where they are beyond its range.

    Raises:
        BagError: values that make no sense.
    """

    patches: Patches = "grid"
    patch_um: float | None = None
    min_tissue: float = 0.25
    max_patches: int | None = None
    batch_size: int = 64
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        if self.patches not in ("grid", "cells"):
            raise BagError(f"patches {self.patches!r}; expected grid or cells")
        if self.patch_um is not None and self.patches == "cells":
            raise BagError("patch_um is the distance between tiles; patches around cells have none")
        if self.patch_um is not None and not (np.isfinite(self.patch_um) and self.patch_um > 0):
            raise BagError(f"patch_um {self.patch_um}; expected a positive number of µm")
        if not 0 <= self.min_tissue <= 1:
            raise BagError(f"min_tissue {self.min_tissue}; expected a share from 0 to 1")
        if self.batch_size < 1 or (self.max_patches is not None and self.max_patches < 1):
            raise BagError(
                f"batch_size {self.batch_size}, max_patches {self.max_patches}; expected 1 or more"
            )

    def key(self, encoder: "FrozenEncoder") -> dict[str, Any]:
        """Everything that decides the bag of a slide, as its manifest has it."""
        return {
            "kind": self.patches,
            "patch_um": float(encoder.field_um if self.patch_um is None else self.patch_um),
            "min_tissue": float(self.min_tissue) if self.patches == "grid" else None,
            "max_patches": self.max_patches,
            "dtype": self.dtype,
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint,
            "space": encoder.space,
            "precision": encoder.precision,
            "mpp": float(encoder.mpp),
            "patch_size": int(encoder.patch_size),
        }


def make_bag(
    slide: str | Path | Location,
    encoder: "FrozenEncoder",
    output: str | Path,
    settings: BagSettings | None = None,
    *,
    mpp: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Embeds a slide's patches and writes its bag; an interrupted run goes on where it stopped.

    Args:
        slide: path of any slide that `open_slide` reads.
        encoder: the encoder.
        output: X.h5; replaced where it exists.
        settings: which patches.
        mpp: µm per pixel of a slide that does not state it.
        progress: called with the number of patches done since the last call, and their number in all.

    Raises:
        SlideError, EmbedError, NucleiError: see `open_slide`, `embed_patches`, `segment_nuclei`.
        BagError: no cells, or features that float16 cannot hold.
    """
    from past_core.embed.partial import sweep
    from past_core.embed.vectors import embed_patches
    from past_core.slides import open_slide
    from past_core.slides.identity import source_key

    settings, output = settings or BagSettings(), Path(output)
    key = settings.key(encoder)
    with open_slide(slide, mpp=mpp) as opened:
        opened.require_mpp()
        centres = _places(opened, settings, key["patch_um"])
        total = len(centres)
        features = embed_patches(
            opened,
            centres,
            [f"{x:.0f}, {y:.0f}" for x, y in centres],
            encoder,
            settings.batch_size,
            (lambda done: progress(done, total)) if progress else (lambda done: None),
            output,
        )
        manifest = key | {
            "slide": opened.name,
            "slide_mpp": opened.require_mpp(),
            "slide_size": [int(opened.width), int(opened.height)],
            "source": source_key(opened.path),
            "software": f"past-surv {version('past-surv')}",
        }
    manifest |= {"demo": STAMP} if encoder.demo else {}
    write_bag(output, features, centres, manifest, dtype=settings.dtype)
    sweep(output)
    return output


def is_complete(
    output: str | Path,
    slide: str | Path | Location,
    encoder: "FrozenEncoder",
    settings: BagSettings,
    *,
    mpp: float | None = None,
) -> bool:
    """Whether a slide's bag exists as these settings would make it.

    Raises:
        BagError: it was made otherwise, or something else is there.
    """
    from past_core.slides.identity import source_key

    output = Path(output)
    if not output.exists():
        return False
    manifest = read_bag(output).manifest
    key = settings.key(encoder) | {"source": source_key(slide)}
    key |= {} if mpp is None else {"slide_mpp": float(mpp)}
    # A checkpoint that was moved or renamed is still the same encoder.
    different = [name for name, value in key.items() if name != "encoder" and manifest.get(name) != value]
    if different:
        name = different[0]
        raise BagError(
            f"{output} exists, made with another {', '.join(different)} ({manifest.get(name)}, now "
            f"{key[name]}); pass --overwrite or choose another folder"
        )
    return True


def _places(slide: "Slide", settings: BagSettings, patch_um: float) -> np.ndarray:
    """`(M, 2)` x, y of the patches' centres in level-0 pixels."""
    if settings.patches == "grid":
        from past_core.slides import tile_grid

        centres = tile_grid(slide, tile_um=patch_um, min_tissue=settings.min_tissue).centres
    else:
        centres = _cells(slide)
    most = settings.max_patches
    if most is not None and len(centres) > most:
        # A slide has the same patches in whatever order slides are embedded.
        seed = int.from_bytes(hashlib.sha256(slide.name.encode()).digest()[:8], "little")
        centres = centres[np.sort(np.random.default_rng(seed).choice(len(centres), most, replace=False))]
    return centres


def _cells(slide: "Slide") -> np.ndarray:
    store = getattr(slide, "store", None)
    if store is not None:
        centres = store.centroids[store.passed]
    else:
        from past_core.nuclei import segment_nuclei

        centres = segment_nuclei(slide, outlines=False).centroids
    if not len(centres):
        raise BagError(f"{slide.path}: no cells found; take patches on a grid")
    return np.asarray(centres, np.float64)
