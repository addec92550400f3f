"""Pictures of a probe's training, in TensorBoard and as PNG files."""

import lightning.pytorch as pl
import numpy as np
import torch

from past_core.callbacks import _publish
from past_genex.figures.distribution import r_distribution
from past_genex.figures.maps import gene_maps
from past_genex.probe.task import LinearProbe

MOST_CELLS = 20_000


class ExpressionPictures(pl.Callback):
    """At the end of training: measured beside predicted maps of held-out genes, and r by gene.

    Args:
        genes: how many genes are drawn, those with the highest held-out r.
    """

    def __init__(self, *, genes: int = 4) -> None:
        self.genes = genes

    def on_fit_end(self, trainer: pl.Trainer, pl_module: LinearProbe) -> None:
        """Draws both."""
        r = None if pl_module.pairs is None else pl_module.pairs.r
        if not trainer.is_global_zero or r is None or not np.isfinite(r).any():
            return
        data = trainer.datamodule
        _publish(trainer, "r_by_gene", r_distribution({data.encoder.name: r}))
        number = data.val_slides[0]
        own = pl_module.slide_r[number]
        best = np.argsort(-np.nan_to_num(own, nan=-2.0))[: self.genes]
        best = best[np.isfinite(own[best])]
        if not len(best) or data.features is None:
            return
        slide, cells = data.slides[number], np.flatnonzero(data.val_cells[number])[:MOST_CELLS]
        with torch.no_grad():
            features = torch.from_numpy(np.array(data.features[number][cells])).to(pl_module.device)
            predicted = pl_module(features).cpu().numpy()[:, best]
        figure = gene_maps(
            slide.xy_um[cells],
            slide.expression(data.target, data.genes[best], cells),
            predicted,
            titles=[str(s) for s in data.symbols[best]],
            heading=f"{slide.name}: {len(cells):,} held-out cells",
        )
        _publish(trainer, "maps", figure)
