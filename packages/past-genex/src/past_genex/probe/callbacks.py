"""Pictures of a probe's training, in TensorBoard and as PNG files."""

import lightning.pytorch as pl
import numpy as np
import torch

from past_core.callbacks import _publish
from past_core.training.attached import data_of
from past_genex.figures.distribution import r_distribution
from past_genex.figures.maps import gene_maps
from past_genex.probe.predictions import HeldOutPredictions
from past_genex.probe.task import LinearProbe

__all__ = ["ExpressionPictures", "HeldOutPredictions"]


class ExpressionPictures(pl.Callback):
    """At the end of training: measured beside predicted maps of held-out genes, and r by gene.

    Args:
        genes: how many genes are drawn, those with the highest held-out r.
        cells: most cells of the map; where there are more, those of the first blocks, side by side.
    """

    def __init__(self, *, genes: int = 4, cells: int = 20_000) -> None:
        self.genes, self.cells = genes, cells

    # Lightning's callbacks are for any task; this one is for a probe.
    def on_fit_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: LinearProbe
    ) -> None:
        """Draws both, on the first rank."""
        r = None if pl_module.pairs is None else pl_module.pairs.r
        if not trainer.is_global_zero or r is None or not np.isfinite(r).any():
            return
        data = data_of(trainer)
        made_up = ", synthetic" if data.encoder.demo else ""
        figure = r_distribution(
            {data.encoder.name: r},
            heading=f"Pearson's r by gene, held out: {data.fold.name}{made_up}",
            xlabel=f"r over {sum(int(cells.sum()) for cells in data.val_cells.values()):,} held-out cells",
        )
        _publish(trainer, "r_by_gene", figure)
        number = data.val_slides[0]
        own = pl_module.slide_r[number]
        best = np.argsort(-np.nan_to_num(own, nan=-2.0))[: self.genes]
        best = best[np.isfinite(own[best])]
        if not len(best):
            return
        cells, predicted = self._predict(trainer, pl_module, number)
        slide = data.slides[number]
        where = slide.name if slide.name == slide.patient else f"{slide.name}, patient {slide.patient}"
        figure = gene_maps(
            slide.xy_um[cells],
            slide.expression(data.target, data.genes[best], cells),
            predicted[:, best],
            titles=[str(s) for s in data.symbols[best]],
            r=own[best],
            r_label="held-out r",
            heading=f"{where}: {len(cells):,} held-out cells; probe on {data.encoder.name}, "
            f"{data.n_train:,} training cells{made_up}",
        )
        _publish(trainer, "maps", figure)

    def _predict(
        self, trainer: pl.Trainer, pl_module: LinearProbe, number: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places among the slide's usable cells, and predictions `(n, G)`, in batches as in validation."""
        data = data_of(trainer)
        training = pl_module.training
        pl_module.eval()
        cells, predicted, n = [], [], 0
        with torch.no_grad():
            for batch in data.slide_loader(number):
                made = pl_module.predicted(batch.inputs.to(pl_module.device))
                cells.append(batch.cell.numpy())
                predicted.append(made.float().cpu().numpy())
                n += len(made)
                if n >= self.cells:
                    break
        pl_module.train(training)
        return np.concatenate(cells), np.concatenate(predicted)
