"""The model card of an export: what the hub shows, made of what the checkpoint records and nothing else."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from past_core.checkpoint.content import PastCheckpoint
from past_core.checkpoint.record import read_record

TAGS = (
    "histopathology",
    "pathology",
    "single-cell",
    "spatial-transcriptomics",
    "xenium",
    "multimodal",
    "contrastive-learning",
)
DIRECTIONS = {"image to transcriptome": "image_to_cell", "transcriptome to image": "cell_to_image"}


def model_card(checkpoint: PastCheckpoint, *, name: str, license: str | None = None) -> str:  # noqa: A002
    """The README of an export, with the front matter that the Hugging Face hub reads.

    Args:
        checkpoint: the model and its record; figures that the record lacks are said to be absent.
        name: what the model is called.
        license: identifier such as "apache-2.0"; "unknown" where not given, for the demo that of PAST.
    """
    if license is None:
        license = "apache-2.0" if checkpoint.demo else "unknown"  # noqa: A001
    training = read_record(checkpoint.info)
    sections = [
        _front_matter(license),
        f"# {name}\n\n{_what(checkpoint)}",
        f"## How to load\n\n{_loading(checkpoint, name)}",
        f"## Input\n\n{_input(checkpoint)}",
        f"## Intended use and limits\n\n{_limits(checkpoint, license)}",
        f"## Architecture\n\n{_architecture(checkpoint)}",
        f"## Training data\n\n{_data(training)}",
        f"## Training\n\n{_settings(checkpoint, training)}",
        f"## Metrics\n\n{_metrics(training)}",
        f"## Citation\n\n{_CITATION}",
    ]
    return "\n\n".join(sections) + "\n"


_CITATION = """The model follows

```bibtex
@article{yang2025past,
  title   = {PAST: a multimodal single-cell foundation model for histopathology
             and spatial transcriptomics in cancer},
  author  = {Yang and others},
  journal = {arXiv preprint arXiv:2507.06418},
  year    = {2025}
}
```"""


def _front_matter(license: str) -> str:  # noqa: A002
    # A JSON string is a YAML string, whatever is in it.
    tags = "\n".join(f"- {tag}" for tag in TAGS)
    return (
        f"---\nlicense: {json.dumps(license)}\nlibrary_name: past-core\n"
        f"pipeline_tag: image-feature-extraction\ntags:\n{tags}\n---"
    )


def _what(checkpoint: PastCheckpoint) -> str:
    config = checkpoint.config
    text = (
        "A dual encoder of single cells. One side sees the H&E image around a cell, the other its measured "
        "transcriptome with its spatial neighbourhood; both were trained contrastively towards one joint "
        f"space of {config.projection_dim} dimensions. The image side then works on H&E alone."
    )
    if checkpoint.demo:
        text += (
            "\n\n> **Trained on synthetic tissue.** It is for trying out the software: what it makes means "
            "nothing on real tissue, and is stamped so."
        )
    return text


def _loading(checkpoint: PastCheckpoint, name: str) -> str:
    image = checkpoint.config.image
    size, dim = image.image_size, checkpoint.model.image_encoder.dim
    return f"""```python
from past_core import load_image_encoder, load_model

checkpoint = load_model({json.dumps(name)})  # this folder's path, or OWNER/NAME on the hub
encoder = load_image_encoder({json.dumps(name)})  # space="joint" for the space shared with transcriptomes
features = encoder(patches)  # (B, 3, {size}, {size}) uint8 at {image.mpp:g} µm/px -> (B, {dim})
```

A hub model is pinned by its commit: `load_model("OWNER/NAME", revision="<commit>")`. On the command line:
`past embed SLIDE.svs --encoder {name} -o tiles.h5ad`. `model.safetensors` holds the weights and the
gene means, `config.json` the configuration, `vocabulary.json` the genes; no file holds code."""


def _input(checkpoint: PastCheckpoint) -> str:
    config = checkpoint.config
    image, cell, vocabulary = config.image, config.cell, checkpoint.vocabulary
    seen = int((checkpoint.gene_means > 0).sum())
    patch = f"a patch of {image.image_size} × {image.image_size} px at {image.mpp:g} µm/px"
    scaling = f"mean {_numbers(image.mean)}, std {_numbers(image.std)}"
    genes = f"{len(vocabulary):,} genes ({seen:,} with a mean), vocabulary `{vocabulary.fingerprint[:12]}`"
    dim, joint = checkpoint.model.image_encoder.dim, config.projection_dim
    rows = [
        (
            "One cell is",
            f"{patch} ({image.image_size * image.mpp:g} µm), centred on it",
            f"its raw counts, at most {cell.max_genes} genes, and those of its nearest cells",
        ),
        ("As", "`(B, 3, H, W)` uint8, RGB", "CSR of raw counts, Ensembl ids, coordinates in µm"),
        (
            "Normalised",
            f"within the encoder: {scaling}",
            "within the encoder: rank tokens, count over gene mean",
        ),
        ("Knows", "H&E", genes),
        ("Gives", f"{dim} features, or {joint} joint", f"{cell.width} features, or {joint} joint"),
    ]
    return _table(("", "Image side", "Cell side"), rows)


def _limits(checkpoint: PastCheckpoint, license: str) -> str:  # noqa: A002
    mpp = checkpoint.config.image.mpp
    text = f"""- For research: embeddings of cells and tiles for retrieval, probing, clustering and
  downstream models. Not a medical device; not for diagnosis or treatment.
- It expects H&E at {mpp:g} µm/px. Other stains, other resolutions, and scanners and organs that are not
  among the training data below are untested.
- What it says of a cell's expression is a statistical association with morphology, not a measurement.
- Retrieval figures are of held-out slides of the same source as the training data; they say nothing about
  other laboratories."""
    if license == "unknown":
        text += "\n- No licence was stated for these weights: ask whoever gave them to you before using them."
    return text


def _architecture(checkpoint: PastCheckpoint) -> str:
    config, model = checkpoint.config, checkpoint.model
    parts = {
        "Image encoder": (model.image_encoder, asdict(config.image)),
        "Cell encoder": (model.cell_encoder, asdict(config.cell)),
    }
    rows = []
    for part, (module, values) in parts.items():
        kept = {key: value for key, value in values.items() if value not in (None, {}, ())}
        settings = ", ".join(
            f"{key} {_value(value)}" for key, value in kept.items() if key not in ("mean", "std")
        )
        rows.append((part, f"{_parameters(module):,}", settings))
    heads = _parameters(model.image_projection) + _parameters(model.cell_projection)
    rows.append(("Projection heads", f"{heads:,}", f"to {config.projection_dim}, two"))
    rows.append(("All", f"{_parameters(model):,}", f"temperature {model.temperature.item():.4g}, learned"))
    return _table(("Part", "Parameters", "Settings"), rows)


def _data(training: Mapping[str, Any]) -> str:
    slides, held_out = training["train"], training["validation"]
    if training["imported"]:
        return f"Imported from the released {_cell(training['imported'])}, which does not list its slides."
    if not slides:
        names = ", ".join(training["slides"])
        if names:
            return (
                f"The checkpoint names its training slides ({_cell(names)}), but not their cells and hashes."
            )
        return "The checkpoint does not record which slides it was trained on."
    cells = sum(slide["cells"] for slide in slides)
    patients = len({str(slide.get("patient")) for slide in slides})
    text = f"{cells:,} cells of {_count(len(slides), 'slide')} and {_count(patients, 'patient')}. Held out: "
    text += f"{_count(len(held_out), 'slide')}, below. " if held_out else "nothing. "
    text += (
        "The manifest hash is the sha256 of a slide store's manifest, sources those of the files behind it."
    )
    rows = [
        (
            use,
            *(_value(slide.get(key)) for key in ("name", "patient", "cancer_type", "assay", "organism")),
            f"{slide['cells']:,}",
            f"`{slide['manifest'][:16]}`",
            ", ".join(f"{label} `{str(digest)[:12]}`" for label, digest in slide["sources"].items()) or "-",
        )
        for use, part in (("training", slides), ("held out", held_out))
        for slide in part
    ]
    header = ("Use", "Slide", "Patient", "Cancer", "Assay", "Organism", "Cells", "Manifest", "Sources")
    return f"{text}\n\n{_table(header, rows)}\n\nWhole hashes: `training` in `config.json`."


def _settings(checkpoint: PastCheckpoint, training: Mapping[str, Any]) -> str:
    text = f"Software: {_cell(checkpoint.info.get('software', 'not recorded'))}."
    if training["step"] is not None:
        text += f" Weights after {training['step']:,} optimiser steps (epoch {training['epoch']}, from 0)."
    if not training["settings"]:
        return f"{text} Hyper-parameters and seeds are not recorded."
    rows = [(f"`{key}`", _value(value)) for key, value in training["settings"].items()]
    return f"{text}\n\n{_table(('Setting', 'Value'), rows)}"


def _metrics(training: Mapping[str, Any]) -> str:
    metrics = training["metrics"]
    rows = [row for label, key in DIRECTIONS.items() for row in _direction(metrics, label, key)]
    if not rows:
        return (
            "The checkpoint records no validation figures: none was made before it was saved, or it is older."
        )
    gallery, enrichment = metrics.get("val/gallery"), metrics.get("val/enrichment@10")
    size = f"of {gallery:,.0f} on average" if gallery is not None else "their number is not recorded"
    text = (
        "Retrieval within every held-out slide, mean over slides: how often a cell's partner on the other "
        f"side is among the k nearest of all cells of the slide ({size})."
    )
    at, step = training["validated_at"], training["step"]
    if at is not None and at != step:
        text += f" Measured at step {at:,}; the weights are of step {'?' if step is None else f'{step:,}'}."
    if enrichment is not None:
        text += f" Recall@10 over chance, the worse direction: × {enrichment:.1f}."
    text += " A run's best checkpoint is chosen by these slides: read the figures as an upper bound."
    return f"{text}\n\n{_table(('Query', 'Figure', 'Value', 'Chance', 'Over chance'), rows)}"


def _direction(metrics: Mapping[str, Any], label: str, key: str) -> Iterable[Sequence[str]]:
    figures = [(f"recall@{k}", f"recall@{k}/{key}", f"chance@{k}") for k in (1, 5, 10)]
    figures.append(
        ("recall@1 among 64 neighbours", f"neighbourhood_recall@1/{key}", "neighbourhood_chance@1")
    )
    for figure, value_key, chance_key in figures:
        value, chance = metrics.get(f"val/{value_key}"), metrics.get(f"val/{chance_key}")
        if value is None:
            continue
        known = chance is not None and chance > 0
        yield (
            label,
            figure,
            f"{value:.4f}",
            f"{chance:.4f}" if known else "not recorded",
            f"× {value / chance:.1f}" if known else "",
        )
    rank = metrics.get(f"val/median_rank/{key}")
    if rank is not None:
        gallery = metrics.get("val/gallery")
        yield (
            label,
            "median rank",
            f"{rank:.0f}",
            f"{(gallery + 1) / 2:.0f}" if gallery else "not recorded",
            "",
        )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its cell, whatever a slide was called."""
    return " ".join(str(text).replace("|", r"\|").replace("<", "&lt;").split())


def _value(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_value(item)}" for key, item in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        return _numbers(value)
    return str(value)


def _numbers(values: Iterable[Any]) -> str:
    return "(" + ", ".join(_value(value) for value in values) + ")"
