"""A self-normalising network on genes alone (Klambauer et al. 2017), as MCAT's baseline has it."""

from torch import Tensor, nn

from past_surv.losses import hazards_of
from past_surv.models.mcat import DROPOUT


class SNN(nn.Module):
    """Genes to hazards.

    Args:
        genes: number of genes.
        intervals: number K of time intervals.
        width: of the two hidden layers.
    """

    def __init__(self, genes: int, *, intervals: int = 4, width: int = 256) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.AlphaDropout(DROPOUT))
            for inputs in (genes, width)
        ]
        self.fc_omic = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, intervals)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                # Variance 1 / inputs keeps activations normalised through ELU.
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, genes: Tensor) -> Tensor:
        """`(B, G)` to hazards `(B, K)`."""
        return hazards_of(self.classifier(self.fc_omic(genes)))
