"""RegGAN (Kong et al. 2021): image translation from pairs that do not lie on each other, by registration."""

from typing import Any, Literal

from torch import Tensor, nn

from past_core.training.attached import built
from past_vihc.data.batch import StainBatch
from past_vihc.losses import PYRAMID_WEIGHTS, dab_l1, l1, lsgan, pyramid_l1, smoothness
from past_vihc.models.discriminator import Discriminator
from past_vihc.models.generator import FiLMGenerator, Trunk
from past_vihc.models.layers import Norm
from past_vihc.models.registration import RegistrationNetwork
from past_vihc.models.warp import warp
from past_vihc.tasks.adversarial import AdversarialTask, Part
from past_vihc.tasks.base import StainTaskError
from past_vihc.tasks.replay import ReplayBuffer

MIN_TILE = 32
"""Smallest side in pixels that the discriminator takes."""


class RegGANTask(AdversarialTask):
    """RegGAN, in the mode NC+R as published, or C+R.

    NC+R: LSGAN + 20 · L1(warp(G(x), R(G(x), y)), y) + 10 · smoothness of R. C+R adds a second generator and
    discriminator in the other direction and 10 · L1 of both cycles. R lays the virtual stain on the real one
    in training alone: G itself stays on its H&E.

    Args:
        trunk: `resnet9` or `unet`, see `FiLMGenerator`.
        width: channels of the generator; 64 in the paper.
        blocks: residual blocks; 9 in the paper.
        depth: halvings of `unet`.
        norm: of the generator: `instance`, `batch` or `pixel`.
        mode: `nc+r` or `c+r`.
        registration: false trains without R, on plain L1.
        registration_depth: halvings of R; 7 in the paper.
        registration_width: channels of R's first level; 32 in the paper.
        discriminator_width: channels of the discriminator's first layer; 64 in the paper.
        adversarial_weight: of LSGAN.
        l1_weight: of L1 after registration.
        smooth_weight: of the flow's smoothness.
        cycle_weight: of the cycles in C+R.
        pyramid_weight: of L1 over a Gaussian pyramid after registration; 0 is none.
        pyramid_levels: its levels, at most 6; the coarsest weighs 1, see `PYRAMID_WEIGHTS`.
        dab_weight: of L1 between densities of DAB after registration; 0 is none.
        buffer: images replayed to the discriminators in C+R.
        options: see `AdversarialTask`.

    Raises:
        StainTaskError: settings that cannot be, or tiles that do not fit the networks.
    """

    def __init__(
        self,
        *,
        trunk: Trunk = "resnet9",
        width: int = 64,
        blocks: int = 9,
        depth: int = 7,
        norm: Norm = "instance",
        mode: Literal["nc+r", "c+r"] = "nc+r",
        registration: bool = True,
        registration_depth: int = 7,
        registration_width: int = 32,
        discriminator_width: int = 64,
        adversarial_weight: float = 1.0,
        l1_weight: float = 20.0,
        smooth_weight: float = 10.0,
        cycle_weight: float = 10.0,
        pyramid_weight: float = 0.0,
        pyramid_levels: int = 6,
        dab_weight: float = 0.0,
        buffer: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if mode not in ("nc+r", "c+r"):
            raise StainTaskError(f"model.mode {mode!r}; expected nc+r or c+r")
        if not 1 <= pyramid_levels <= len(PYRAMID_WEIGHTS):
            raise StainTaskError(
                f"model.pyramid_levels {pyramid_levels}; expected 1 to {len(PYRAMID_WEIGHTS)}"
            )
        self.trunk_settings: dict[str, Any] = {
            "trunk": trunk,
            "width": width,
            "blocks": blocks,
            "depth": depth,
            "norm": norm,
        }
        self.mode, self.registered = mode, registration
        self.registration_settings = {"depth": registration_depth, "width": registration_width}
        self.discriminator_width = discriminator_width
        self.adversarial_weight, self.l1_weight = adversarial_weight, l1_weight
        self.smooth_weight, self.cycle_weight = smooth_weight, cycle_weight
        self.pyramid_weight, self.dab_weight = pyramid_weight, dab_weight
        self.pyramid_weights = PYRAMID_WEIGHTS[-pyramid_levels:]
        self._replays = (ReplayBuffer(buffer), ReplayBuffer(buffer))
        self.discriminator: nn.Module | None = None
        self.registration: nn.Module | None = None
        self.back_generator: nn.Module | None = None
        self.back_discriminator: nn.Module | None = None

    # --- building -------------------------------------------------------------------------------------------

    def build_generator(self, data: Any) -> FiLMGenerator:
        """The generator; here without embedding."""
        return FiLMGenerator(stains=data.stains, **self.trunk_settings)

    def build(self, data: Any) -> None:
        """Builds G, D and R; in C+R also those of the other direction."""
        generator = self.build_generator(data)
        self.generator = generator
        require_fitting_tile(data.tile, generator)
        levels = len(self.pyramid_weights)
        if self.pyramid_weight and data.tile < 3 * 2 ** (levels - 2):
            raise StainTaskError(f"data.tile {data.tile} has no {levels} levels; lower model.pyramid_levels")
        self.discriminator = Discriminator(width=self.discriminator_width)
        if self.registered:
            self.registration = RegistrationNetwork(**self.registration_settings)
        if self.mode == "c+r":
            self.back_generator = FiLMGenerator(**self.trunk_settings)
            self.back_discriminator = Discriminator(width=self.discriminator_width)

    def makers(self) -> list[nn.Module]:
        """G and R, and the other direction's G; one optimiser, for all take the same step."""
        networks = (self.generator, self.registration, self.back_generator)
        return [network for network in networks if network is not None]

    def judges(self) -> list[nn.Module]:
        """The discriminators."""
        return [network for network in (self.discriminator, self.back_discriminator) if network is not None]

    # --- losses ---------------------------------------------------------------------------------------------

    def maker_losses(
        self, he: Tensor, ihc: Tensor, batch: StainBatch
    ) -> tuple[dict[str, Part], tuple[Tensor, Tensor | None]]:
        """LSGAN, L1 after registration, smoothness, and what is switched on."""
        embedding, generator = self.embedding(batch), built(self.generator)
        fake = generator(he, embedding, batch.stain)
        judged = built(self.discriminator)(fake)
        parts = {"adversarial": Part(self.adversarial_weight, lsgan(judged, real=True))}
        laid = fake
        if self.registration is not None:
            flow = self.registration(fake, ihc)
            laid = warp(fake, flow)
            parts["smooth"] = Part(self.smooth_weight, smoothness(flow))
        parts["l1"] = Part(self.l1_weight, l1(laid, ihc))
        if self.pyramid_weight:
            parts["pyramid"] = Part(self.pyramid_weight, pyramid_l1(laid, ihc, weights=self.pyramid_weights))
        if self.dab_weight:
            parts["dab"] = Part(self.dab_weight, dab_l1(laid, ihc))
        back = None
        if self.back_generator is not None:
            back = self.back_generator(ihc)
            judged = built(self.back_discriminator)(back)
            parts["adversarial_back"] = Part(self.adversarial_weight, lsgan(judged, real=True))
            there_and_back = l1(self.back_generator(fake), he)
            back_and_there = l1(generator(back, embedding, batch.stain), ihc)
            parts["cycle"] = Part(self.cycle_weight, there_and_back + back_and_there)
        return parts, (fake, back)

    def judge_losses(self, made: tuple[Tensor, Tensor | None], he: Tensor, ihc: Tensor) -> dict[str, Part]:
        """LSGAN on real and made images, without pix2pix's half; replayed ones in C+R."""
        fake, back = made
        new = fake.detach() if back is None else self._replays[0](fake)
        discriminator = built(self.discriminator)
        parts = {
            "real": Part(1.0, lsgan(discriminator(ihc), real=True)),
            "fake": Part(1.0, lsgan(discriminator(new), real=False)),
        }
        if back is not None:
            old, judge = self._replays[1](back), built(self.back_discriminator)
            parts["real_back"] = Part(1.0, lsgan(judge(he), real=True))
            parts["fake_back"] = Part(1.0, lsgan(judge(old), real=False))
        return parts


def require_fitting_tile(tile: int, generator: FiLMGenerator) -> None:
    """Refuses tiles that the networks cannot take.

    Raises:
        StainTaskError: names the side and what is expected.
    """
    if tile % generator.multiple or tile < MIN_TILE:
        raise StainTaskError(
            f"data.tile {tile}; this generator takes multiples of {generator.multiple}, and the "
            f"discriminator at least {MIN_TILE} px"
        )
