"""Convolutional networks trained on ImageNet: ResNet-50 as CLAM cuts it, DenseNet-121, EfficientNet-Lite0."""

import re
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn

RESNET_IGNORED = ("layer4.*", "fc.*")
DENSENET_IGNORED = ("classifier.*",)
LITE_IGNORED = ("_fc.*",)
LITE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each of EfficientNet-B0's stages, which Lite0 shares."""


class TruncatedResNet(nn.Module):
    """ResNet-50 to the end of its third stage, averaged over the image: (B, 3, L, L) to (B, 1024).

    As in CLAM: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
    images", Nature Biomedical Engineering 2021.
    """

    num_features = 1024

    def __init__(self) -> None:
        super().__init__()
        whole = timm.create_model("resnet50", num_classes=0)
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            self.add_module(name, getattr(whole, name))

    def forward(self, images: Tensor) -> Tensor:
        """Embeds normalised patches."""
        for stage in self.children():
            images = stage(images)
        return images.mean(dim=(2, 3))


def convert_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's names are timm's; its oldest files lack the counters of batches."""
    return _with_counters(state)


def convert_densenet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's file has a dot in `norm.1`, `conv.2`, ... and lacks the counters of batches."""
    pattern = r"(denselayer\d+\.(?:norm|conv))\.([12])\."
    return _with_counters({re.sub(pattern, r"\1\2.", key): value for key, value in state.items()})


def convert_lite(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of the package's file to timm's `tf_efficientnet_lite0`."""
    stages = [(stage, block) for stage, depth in enumerate(LITE_DEPTHS) for block in range(depth)]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    # The first block has no expansion: timm then numbers its layers one lower and names the projection so.
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    out = {}
    for key, value in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        layer, _, kind = key.rpartition(".")
        if block and int(block[1]) < len(stages):
            stage, place = stages[int(block[1])]
            names = inverted if stage else separable
            key = f"blocks.{stage}.{place}.{names.get(block[2], block[2])}.{block[3]}"
        elif layer in top:
            key = f"{top[layer]}.{kind}"
        out[key] = value
    return out


def _with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds `num_batches_tracked`, which inference does not use, where a file is older than it."""
    stems = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    counters = {f"{stem}num_batches_tracked": torch.tensor(0) for stem in stems}
    return counters | dict(state)
