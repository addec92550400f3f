"""How the vector of the slide and that of the genes are joined: both `(B, d)` to `(B, d)`."""

import torch
from torch import Tensor, nn


class ConcatFusion(nn.Sequential):
    """Both side by side, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

    # A Sequential for the names of its weights; it takes two tensors, where torch's takes one.
    def forward(self, path: Tensor, omic: Tensor) -> Tensor:  # type: ignore[override]
        """Joins `(B, d)` and `(B, d)` to `(B, d)`."""
        return super().forward(torch.cat([path, omic], dim=-1))


class BilinearFusion(nn.Module):
    """Gated Kronecker product (Chen et al., pathomic fusion): every product of both sides' few features.

    Args:
        width: of the vectors.
        scale: each side is reduced to width / scale features.
        dropout: share dropped.
    """

    def __init__(self, width: int, *, scale: int = 8, dropout: float = 0.25) -> None:
        super().__init__()
        small = width // scale
        for side in (1, 2):
            self.add_module(f"linear_h{side}", nn.Sequential(nn.Linear(width, small), nn.ReLU()))
            self.add_module(f"linear_z{side}", nn.Sequential(nn.Linear(2 * width, small)))
            self.add_module(
                f"linear_o{side}", nn.Sequential(nn.Linear(small, small), nn.ReLU(), nn.Dropout(dropout))
            )
        self.dropout = nn.Dropout(dropout)
        self.encoder1 = nn.Sequential(nn.Linear((small + 1) ** 2, width), nn.ReLU(), nn.Dropout(dropout))
        self.encoder2 = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, path: Tensor, omic: Tensor) -> Tensor:
        """Joins `(B, d)` and `(B, d)` to `(B, d)`."""
        both = torch.cat([path, omic], dim=-1)
        sides = []
        for side, own in ((1, path), (2, omic)):
            gate = torch.sigmoid(self.get_submodule(f"linear_z{side}")(both))
            reduced = self.get_submodule(f"linear_o{side}")(gate * self.get_submodule(f"linear_h{side}")(own))
            sides.append(torch.cat([reduced, torch.ones_like(reduced[:, :1])], dim=-1))
        product = torch.einsum("bi,bj->bij", *sides).flatten(1)
        return self.encoder2(self.encoder1(self.dropout(product)))
