"""The diffusion baseline: "Improved Diffusion" (Nichol & Dhariwal 2021), with the H&E beside the noise."""

import logging
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from past_core.training.attached import built, data_of
from past_vihc.data.batch import StainBatch
from past_vihc.files import StainModel
from past_vihc.models.diffusion.crops import random_crops
from past_vihc.models.diffusion.held_out import noise_error, rows_of, spread_tiles
from past_vihc.models.diffusion.loss import hybrid_loss
from past_vihc.models.diffusion.network import ConditionedUNet
from past_vihc.models.diffusion.noise import Place
from past_vihc.models.diffusion.sampling import Respacing, sample
from past_vihc.models.diffusion.schedule import NoiseSchedule, cosine_betas
from past_vihc.models.scaling import to_uint8, to_unit
from past_vihc.tasks.base import StainTask, StainTaskError
from past_vihc.tasks.diffusion_record import KEY, diffusion_record, require_same_diffusion

logger = logging.getLogger(__name__)


class DiffusionTask(StainTask):
    """A conditional diffusion with learned variances.

    The published model has no image-to-image mode; as in its super-resolution model, the condition is
    concatenated to the noisy image. It is a baseline for tiles: sampling takes tens of passes, so nothing of
    it is exported, and whole slides are stained by generators. Validation samples too, and `val_tiles` and
    `val_steps` keep it short.

    Args:
        width: channels of the U-Net's first level; 128 as published.
        multipliers: channels of each level in widths; (1, 2, 3, 4) at 64 px, (1, 1, 2, 2, 4, 4) at 256 px.
        blocks: residual blocks of a level; published 2 or 3.
        attention: levels with self-attention; published those of 16 and 8 px. None makes convolutions only.
        head_dim: channels of an attention head.
        dropout: inside residual blocks.
        embeddings: `true` adds the encoder's embedding to that of the step (an ablation, whose control is
            `data.shuffle_embeddings`); `none` is the published model.
        steps: T, steps of the diffusion; published 1000 to 4000.
        vlb_weight: λ of the variational bound.
        conditioning_dropout: share of training tiles without their H&E and embedding, for guidance; 0.1 is
            usual.
        crop: side in pixels of a part of each tile, drawn anew for each step, that is trained on; null is the
            whole. More tiles then fit a step of the same time.
        timestep_respacing: steps of sampling: 25 is ancestral, `ddim25` deterministic.
        guidance: weight of classifier-free guidance; 1 is none. Others need `conditioning_dropout`.
        val_tiles: validation samples so many tiles of each case and stain, evenly spread and always the
            same; null samples all.
        val_steps: steps of sampling in validation, by the same method; null is as `timestep_respacing`.
        test_tiles: as `val_tiles`, in testing.
        seed: of the noise that sampling starts from, which belongs to the tile's number.
        learning_rate: see `StainTask`.
        betas: see `StainTask`.
        ema: see `StainTask`; what is sampled is the average.
        options: see `StainTask`.

    Raises:
        StainTaskError: settings out of range, or that do not fit the data.
        NetworkError: settings of the U-Net that do not fit.
        RespacingError: steps of sampling that T does not have.
        ScheduleError: fewer than 2 steps.
        DiffusersMissingError: no diffusers.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        multipliers: list[int] = [1, 2, 3, 4],  # noqa: B006  (jsonargparse shows it; never changed)
        blocks: int = 2,
        attention: list[int] = [2, 3],  # noqa: B006
        head_dim: int = 64,
        dropout: float = 0.0,
        embeddings: Literal["true", "none"] = "none",
        steps: int = 1000,
        vlb_weight: float = 1e-3,
        conditioning_dropout: float = 0.0,
        crop: int | None = None,
        timestep_respacing: str | int = "25",
        guidance: float = 1.0,
        val_tiles: int | None = 8,
        val_steps: int | None = None,
        test_tiles: int | None = None,
        seed: int = 0,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        ema: float | None = 0.9999,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, betas=betas, ema=ema, **options)
        if embeddings not in ("true", "none"):
            raise StainTaskError(f"model.embeddings {embeddings!r}; expected true or none")
        if not 0 <= conditioning_dropout < 1:
            raise StainTaskError(f"model.conditioning_dropout {conditioning_dropout}; expected 0 to below 1")
        if guidance != 1 and not conditioning_dropout:
            raise StainTaskError(
                f"model.guidance {guidance} needs a network that was trained without its condition too; set "
                "model.conditioning_dropout, as 0.1"
            )
        for name, tiles in (("val_tiles", val_tiles), ("test_tiles", test_tiles)):
            if tiles is not None and tiles < 1:
                raise StainTaskError(f"model.{name} {tiles}; expected at least 1, or null for all")
        self.network_settings: dict[str, Any] = {
            "width": width,
            "multipliers": tuple(multipliers),
            "blocks": blocks,
        }
        self.network_settings |= {"attention": tuple(attention), "head_dim": head_dim, "dropout": dropout}
        self.embeddings, self.vlb_weight, self.crop = embeddings, vlb_weight, crop
        self.conditioning_dropout, self.guidance, self.seed = conditioning_dropout, guidance, seed
        self.diffusion = NoiseSchedule(cosine_betas(steps))
        self.respacing = Respacing.parse(str(timestep_respacing), steps)
        short = str(timestep_respacing) if val_steps is None else f"{self.respacing.method}{val_steps}"
        self.val_respacing = Respacing.parse(short, steps)
        self.tiles_per_case = {"val": val_tiles, "test": test_tiles}
        self._sampled = np.zeros(0, np.int64)

    # --- building -------------------------------------------------------------------------------------------

    def build(self, data: Any) -> None:
        """Builds the U-Net.

        Raises:
            StainTaskError: no embeddings, or tiles or a crop that do not fit.
        """
        dim = int(data.embedding_dim) if self.embeddings == "true" else 0
        if self.embeddings == "true" and not dim:
            raise StainTaskError(
                "the data have no embeddings to condition on: set data.encoder, or model.embeddings: none"
            )
        network = ConditionedUNet(embedding_dim=dim, stains=len(data.stains), **self.network_settings)
        self.generator = network
        multiple, crop = network.multiple, data.tile if self.crop is None else self.crop
        if data.tile % multiple or crop % multiple or not 0 < crop <= data.tile:
            raise StainTaskError(
                f"data.tile {data.tile}, model.crop {self.crop}; expected multiples of {multiple} px (each "
                "of model.multipliers after the first halves the image), and a crop no larger than a tile"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without decay of weights."""
        weights, fused = built(self.generator).parameters(), self.device.type in ("cuda", "cpu")
        optimizer = torch.optim.AdamW(
            weights, lr=self.learning_rate, betas=self.betas, weight_decay=0.0, fused=fused
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }

    # --- training -------------------------------------------------------------------------------------------

    def training_step(self, batch: StainBatch, batch_idx: int) -> Tensor:
        """L_hybrid of a batch, one step of the diffusion drawn for each tile."""
        he, ihc = random_crops(to_unit(batch.he), to_unit(batch.ihc), size=self.crop)
        t = torch.randint(len(self.diffusion), (len(he),), device=he.device)
        drop = self.conditioning_dropout
        keep = torch.rand(len(he), device=he.device) >= drop if drop else None
        noise = torch.randn_like(ihc)
        x_t = self.diffusion.add_noise(ihc, t, noise)
        output = built(self.generator)(x_t, t, he, self.embedding(batch), batch.stain, keep=keep)
        parts = hybrid_loss(self.diffusion, output, x0=ihc, x_t=x_t, t=t, noise=noise, weight=self.vlb_weight)
        values = {name: value.detach().mean() for name, value in parts._asdict().items()}
        self.watch.add(self.global_step, self.current_epoch, values)
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        return parts.loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: Any = None,
        gradient_clip_algorithm: Any = None,
    ) -> None:
        """Clips as `gradient_clip` says; the trainer's own setting where that is null."""
        if self.gradient_clip is not None:
            gradient_clip_val, gradient_clip_algorithm = self.gradient_clip, "norm"
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, and then of the average."""
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    # --- evaluation -----------------------------------------------------------------------------------------

    def translate(self, batch: StainBatch) -> Tensor:
        """A sample for each tile of a batch, `(B, 3, S, S)` uint8; always the same for a tile's number."""
        return self._translate(batch, self.respacing)

    def _translate(self, batch: StainBatch, respacing: Respacing) -> Tensor:
        network = self.best_generator
        training = network.training
        network.eval()
        try:
            made = sample(
                network,
                self.diffusion,
                to_unit(batch.he),
                respacing=respacing,
                places=[Place(number) for number in batch.index.tolist()],
                embedding=self.embedding(batch),
                stain=batch.stain,
                guidance=self.guidance,
                seed=self.seed,
            )
        finally:
            network.train(training)
        return to_uint8(made)

    def on_validation_epoch_start(self) -> None:
        """Starts afresh, on the tiles that are sampled."""
        super().on_validation_epoch_start()
        self._choose("val", self.val_respacing)

    def on_test_epoch_start(self) -> None:
        """As in validation."""
        super().on_test_epoch_start()
        self._choose("test", self.respacing)

    def _choose(self, part: Literal["val", "test"], respacing: Respacing) -> None:
        tiles, limit = data_of(self.trainer).tiles, self.tiles_per_case[part]
        self._sampled = spread_tiles(tiles, part, limit)
        n = len(spread_tiles(tiles, part, None))
        each = "all" if limit is None else f"at most {limit}"
        logger.info(
            "%s: samples %d of %d tiles (%s of each case and stain), %s",
            part,
            len(self._sampled),
            n,
            each,
            respacing,
        )

    def validation_step(self, batch: StainBatch, batch_idx: int) -> None:
        """The noise's error on all tiles, and the figures of those that are sampled."""
        error = noise_error(
            self.best_generator,
            self.diffusion,
            to_unit(batch.ihc),
            to_unit(batch.he),
            numbers=batch.index.tolist(),
            embedding=self.embedding(batch),
            stain=batch.stain,
            seed=self.seed,
        )
        self.log(
            "val/noise_mse", error, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.he)
        )
        self._evaluate(batch, self.val_respacing)

    def test_step(self, batch: StainBatch, batch_idx: int) -> None:
        """The figures of those tiles that are sampled."""
        self._evaluate(batch, self.respacing)

    def _evaluate(self, batch: StainBatch, respacing: Respacing) -> None:
        rows = np.flatnonzero(np.isin(batch.index.cpu().numpy(), self._sampled))
        if self.trainer.sanity_checking and not len(rows):
            rows = np.zeros(1, np.int64)  # so that a sampling that fails does so before training
        if len(rows):
            batch = rows_of(batch, rows)
            self.evaluator.update(self._translate(batch, respacing), batch)

    def _log_summary(self, prefix: str) -> None:
        self.evaluator.merge()
        if len(self.evaluator):
            super()._log_summary(prefix)
        else:  # the trainer's limits on batches left them out
            logger.warning("%s: no batch held a tile that is sampled", prefix)

    # --- what is kept ---------------------------------------------------------------------------------------

    def stain_model(self) -> StainModel:
        """Not made of a diffusion.

        Raises:
            StainTaskError: always; whole slides are stained by generators.
        """
        raise StainTaskError(
            "a diffusion stains tiles for comparison and has no generator file; `past stain` takes FiLMTask's"
        )

    def checkpoint_entry(self) -> None:
        """None: there is no generator to export."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network makes, and of what."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] = self._record()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other stains, another encoder, or another number of steps.

        Raises:
            GeneratorMismatchError: names what differs.
        """
        require_same_diffusion(checkpoint.get(KEY), self._record())

    def _record(self) -> dict[str, Any]:
        conditioned = self.embeddings == "true"
        return diffusion_record(data_of(self.trainer), steps=len(self.diffusion), conditioned=conditioned)
