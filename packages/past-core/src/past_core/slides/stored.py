"""The H&E of a slide store, seen as a slide."""

from typing import TYPE_CHECKING

import numpy as np

from past_core.remote import Location
from past_core.slides.errors import SlideError
from past_core.slides.slide import Slide

if TYPE_CHECKING:
    from past_core.ingest.store import SlideStore


class StoredSlide(Slide):
    """The image of a slide store; `store` is the store itself, with its cells.

    Args:
        path: where the store is, or an open store, which is not opened again.
        mpp: what the caller believes, checked against the store's.

    Raises:
        StoreError: the store is damaged.
        SlideError: another mpp than the store's was given.
    """

    def __init__(self, path: "Location | SlideStore", *, mpp: float | None = None) -> None:
        from past_core.ingest.store import SlideStore

        self.store = path if isinstance(path, SlideStore) else SlideStore(path)
        path = self.store.path
        if mpp is not None and abs(mpp / self.store.mpp - 1) > 1e-6:
            raise SlideError(
                f"{path}: the store was made at {self.store.mpp:.6g} µm per pixel, {mpp} was given; "
                "its cells lie in those pixels: leave --mpp out, or ingest again"
            )
        super().__init__(path, [(level.height, level.width) for level in self.store.levels], self.store.mpp)
        self.name = self.store.name

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.store.read(level, y, x, height, width)
