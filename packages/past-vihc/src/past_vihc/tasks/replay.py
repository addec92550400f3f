"""A buffer of images that were made earlier, which a discriminator sees beside new ones."""

import torch
from torch import Tensor


class ReplayBuffer:
    """Gives back new images or, for about half of them, earlier ones (Shrivastava et al. 2017).

    It is not kept in checkpoints: after resuming it fills anew.

    Args:
        size: images kept; 0 gives every image back as it is.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self._kept: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        """Exchanges a batch.

        Args:
            images: `(B, C, H, W)`.

        Returns:
            As many images, detached. Until the buffer is full they are the given ones.
        """
        out = []
        for image in images.detach():
            if len(self._kept) < self.size:
                self._kept.append(image.clone())
                out.append(image)
            elif self.size and torch.rand(()) < 0.5:
                place = int(torch.randint(len(self._kept), ()))
                out.append(self._kept[place])
                self._kept[place] = image.clone()
            else:
                out.append(image)
        return torch.stack(out)
