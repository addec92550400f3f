"""ST-Net: a DenseNet-121 fine-tuned end to end to expression.

He et al., "Integrating spatial gene expression and breast tumour morphology via deep learning", Nature
Biomedical Engineering 2020: DenseNet-121 with ImageNet's weights, one linear layer to the genes whose bias
starts at their mean, squared error, random flips and quarter turns, 112 µm fields around each spot (224 px).

Not as published: AdamW over one cycle, a few epochs, and one flip and turn a batch, so that every fold of
every split can be trained. `recipes/stnet.yaml` has the published optimiser and the mean over the eight
symmetries.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_core.encoders.files import require_weights
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.errors import PastError
from past_genex.systems.base import Prediction, Surroundings, fold_cells, require_training
from past_genex.systems.mean import training_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

    from past_core.models.image_encoder import ImageEncoder
    from past_genex.data.slides import ExpressionSlide
    from past_genex.data.splits import Fold, Split

logger = logging.getLogger(__name__)

ENCODER = "densenet121"


class STNetError(PastError, ValueError):
    """Options that ST-Net cannot train with."""


class STNet:
    """ST-Net, trained anew on the training cells of each fold.

    Args:
        surroundings: target, device, seed and batch size of prediction.
        pretrained: start from ImageNet's weights, as published; False trains from scratch, and the name says
            so.
        epochs: passes over the training cells.
        learning_rate: peak; one cycle with a cosine. The paper's SGD at 1e-6 serves fine-tuning for 50 epochs
            only; AdamW is used here.
        batch_size: cells a step.
        image_size: side of the input in pixels. Fewer show the same field more coarsely, and are faster.
        field_um: side of the field.
        max_cells: training cells drawn at random where there are more; their patches are held in memory.

    Raises:
        EncoderNotFoundError: `pretrained`, and ImageNet's weights are not here; the message has the steps.
        STNetError: options that are not positive.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        pretrained: bool = True,
        epochs: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        image_size: int = 224,
        field_um: float = 112.0,
        max_cells: int = 20_000,
    ) -> None:
        given = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
        given |= {"image_size": image_size, "field_um": field_um, "max_cells": max_cells}
        for option, value in given.items():
            if not value > 0:
                raise STNetError(f"{option} is {value}; it must be positive")
        if pretrained:
            require_weights(ENCODER, IMAGE_ENCODERS[ENCODER], None, download=False)
        self.name = "stnet" if pretrained else "stnet (from scratch)"
        self._surroundings, self._pretrained = surroundings, pretrained
        self._epochs, self._rate, self._batch = epochs, learning_rate, batch_size
        self._size, self._mpp, self._max = image_size, field_um / image_size, max_cells

    def predict(self, split: "Split", fold: "Fold", genes: pd.Index) -> Iterator[Prediction]:
        """See `System`."""
        import torch

        from past_core.encoders import resolve_device

        device = resolve_device(self._surroundings.device)
        mean = training_mean(split, fold, genes, self._surroundings.target)
        predicted = np.isfinite(mean)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._surroundings.seed)
            network, head = self._network(mean[predicted])
            network.to(device)
            head.to(device)
            self._train(split, fold, genes[predicted], network, head, device)
        network.eval()
        for number, cells in fold_cells(split, fold.test):
            slide = split.slides[number]
            for index, images in self._patches(slide, cells):
                with torch.no_grad():
                    made = head(network(torch.as_tensor(images).to(device))).cpu().numpy()
                values = np.full((len(index), len(genes)), np.nan)
                values[:, predicted] = made
                yield number, cells[index], values

    def _network(self, mean: np.ndarray) -> tuple["ImageEncoder", "nn.Module"]:
        import torch

        from past_core.encoders import load_image_encoder
        from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig

        config = ImageEncoderConfig(name=ENCODER, image_size=self._size, mpp=self._mpp)
        network = load_image_encoder(ENCODER).network.model if self._pretrained else None
        encoder = ImageEncoder(config, network)
        head = torch.nn.Linear(encoder.dim, len(mean))
        with torch.no_grad():
            head.weight.mul_(0.1)
            head.bias.copy_(torch.as_tensor(mean))
        return encoder, head

    def _train(
        self,
        split: "Split",
        fold: "Fold",
        genes: pd.Index,
        network: "nn.Module",
        head: "nn.Module",
        device: "torch.device",
    ) -> None:
        import torch

        images, truth = self._training_cells(split, fold, genes)
        n = len(images)
        steps = max(1, n // self._batch)
        optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=self._rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._rate, total_steps=steps * self._epochs, pct_start=0.2
        )
        stream = np.random.default_rng(self._surroundings.seed)
        network.train()
        for epoch in range(self._epochs):
            order, total = stream.permutation(n), 0.0
            for step in range(steps):
                # The last step takes the rest, so that no batch is a single cell (batch normalisation).
                end = n if step == steps - 1 else (step + 1) * self._batch
                rows = order[step * self._batch : end]
                batch = torch.as_tensor(images[rows])
                batch = torch.rot90(batch, int(stream.integers(4)), (2, 3))
                batch = batch.flip(3) if stream.random() < 0.5 else batch
                wanted = torch.as_tensor(truth[rows]).to(device)
                known = torch.isfinite(wanted)
                error = head(network(batch.to(device))) - torch.where(known, wanted, 0.0)
                loss = (error.square() * known).sum() / known.sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach())
            logger.info(
                "%s, fold %s: epoch %d, squared error %.4f", self.name, fold.name, epoch, total / steps
            )

    def _training_cells(self, split: "Split", fold: "Fold", genes: pd.Index) -> tuple[np.ndarray, np.ndarray]:
        """`(n, 3, L, L)` uint8 patches and `(n, G)` float32 targets, NaN where a gene is not measured."""
        cells = require_training(split, fold, genes)
        total = sum(len(rows) for _, rows in cells)
        stream = np.random.default_rng(self._surroundings.seed)
        images, truth = [], []
        for number, rows in cells:
            slide = split.slides[number]
            if total > self._max:
                share = max(2, round(len(rows) * self._max / total))
                rows = np.sort(stream.permutation(rows)[:share])
            made = np.empty((len(rows), 3, self._size, self._size), np.uint8)
            for index, batch in self._patches(slide, rows):
                made[index] = batch
            images.append(made)
            truth.append(slide.expression(self._surroundings.target, genes, rows).astype(np.float32))
        return np.concatenate(images), np.concatenate(truth)

    def _patches(
        self, slide: "ExpressionSlide", cells: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        from past_core.slides import iter_patches
        from past_core.slides.stored import StoredSlide

        return iter_patches(
            StoredSlide(slide.store),
            slide.centroids[cells],
            mpp=self._mpp,
            size=self._size,
            batch_size=self._surroundings.batch_size,
        )
