"""pix2pix (Isola et al. 2017): L1 and a conditional PatchGAN, on pairs taken as registered."""

from typing import Any

import torch
from torch import Tensor, nn

from past_core.training.attached import built
from past_vihc.data.batch import StainBatch
from past_vihc.losses import l1, lsgan
from past_vihc.models.discriminator import Discriminator
from past_vihc.models.generator import FiLMGenerator, Trunk
from past_vihc.models.layers import Norm
from past_vihc.tasks.adversarial import AdversarialTask, Part
from past_vihc.tasks.reggan import require_fitting_tile


class Pix2PixTask(AdversarialTask):
    """pix2pix with the least-squares loss: LSGAN(D(x, G(x))) + 100 · L1(G(x), y).

    Args:
        trunk: `unet` as published, or `resnet9`.
        width: channels of the generator; 64 in the paper.
        blocks: residual blocks of `resnet9`.
        depth: halvings of `unet`; the paper's 256 px take 8.
        norm: of the generator: `instance`, `batch` or `pixel`.
        dropout: in three inner up stages of `unet`, in training only; 0.5 in the paper.
        discriminator_width: channels of the discriminator's first layer; 64 in the paper.
        adversarial_weight: of LSGAN.
        l1_weight: of L1.
        options: see `AdversarialTask`.

    Raises:
        StainTaskError: tiles that do not fit the networks.
    """

    def __init__(
        self,
        *,
        trunk: Trunk = "unet",
        width: int = 64,
        blocks: int = 9,
        depth: int = 7,
        norm: Norm = "instance",
        dropout: float = 0.5,
        discriminator_width: int = 64,
        adversarial_weight: float = 1.0,
        l1_weight: float = 100.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.trunk_settings: dict[str, Any] = {
            "trunk": trunk,
            "width": width,
            "blocks": blocks,
            "depth": depth,
            "norm": norm,
            "dropout": dropout,
        }
        self.discriminator_width = discriminator_width
        self.adversarial_weight, self.l1_weight = adversarial_weight, l1_weight
        self.discriminator: nn.Module | None = None

    def build(self, data: Any) -> None:
        """Builds G and the conditional D."""
        generator = FiLMGenerator(stains=data.stains, **self.trunk_settings)
        self.generator = generator
        require_fitting_tile(data.tile, generator)
        self.discriminator = Discriminator(channels=6, width=self.discriminator_width, pooled=False)

    def makers(self) -> list[nn.Module]:
        """G."""
        return [built(self.generator)]

    def judges(self) -> list[nn.Module]:
        """D."""
        return [built(self.discriminator)]

    def maker_losses(self, he: Tensor, ihc: Tensor, batch: StainBatch) -> tuple[dict[str, Part], Tensor]:
        """LSGAN on the H&E with what was made of it, and L1."""
        fake = built(self.generator)(he, None, batch.stain)
        judged = built(self.discriminator)(torch.cat([he, fake], dim=1))
        parts = {
            "adversarial": Part(self.adversarial_weight, lsgan(judged, real=True)),
            "l1": Part(self.l1_weight, l1(fake, ihc)),
        }
        return parts, fake

    def judge_losses(self, made: Tensor, he: Tensor, ihc: Tensor) -> dict[str, Part]:
        """Half of LSGAN, which slows D down against G (Isola et al. 2017, section 3.3)."""
        discriminator = built(self.discriminator)
        real = discriminator(torch.cat([he, ihc], dim=1))
        fake = discriminator(torch.cat([he, made.detach()], dim=1))
        return {"real": Part(0.5, lsgan(real, real=True)), "fake": Part(0.5, lsgan(fake, real=False))}
