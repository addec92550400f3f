"""The folder of `past export`: weights, configuration, vocabulary and model card as four plain files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from past_core.checkpoint.errors import CheckpointError
from past_core.checkpoint.format import check_format
from past_core.vocabulary import Vocabulary, VocabularyError

WEIGHTS = "model.safetensors"
"""The weights by the names of `DualEncoder`, and `gene_means`, `(n_genes,)` float64."""
CONFIG = "config.json"
"""The model's configuration, format and software, the vocabulary's fingerprint, and the training record."""
VOCABULARY = "vocabulary.json"
"""The genes in the order of their tokens, and their fingerprint."""
CARD = "README.md"
LIBRARY = "past-core"
"""`library_name` of the configuration: what tells our folders and repositories from others."""
MAX_JSON = 64 * 2**20
"""Largest JSON file that is read, in bytes."""


def is_export(folder: str | Path) -> bool:
    """Whether a folder claims to be one of `past export`, complete or not."""
    try:
        return read_json(Path(folder) / CONFIG).get("library_name") == LIBRARY
    except CheckpointError:
        return False


def read_entry(folder: Path) -> dict[str, Any]:
    """The `past` entry of an export folder, without its gene means.

    Raises:
        CheckpointError: not an export folder, or incomplete.
        VocabularyError: the vocabulary is not the one that the configuration names.
    """
    config = read_json(folder / CONFIG)
    if config.get("library_name") != LIBRARY:
        raise CheckpointError(
            f"{folder / CONFIG} is not of PAST (library_name {config.get('library_name')!r}, expected "
            f"{LIBRARY!r}); give a folder that `past export` made"
        )
    check_format(folder / CONFIG, config)
    stored = config.get("vocabulary")
    wanted = stored.get("fingerprint") if isinstance(stored, Mapping) else None
    if not isinstance(wanted, str):
        raise CheckpointError(f"{folder / CONFIG} names no vocabulary; get the folder again")
    vocabulary = Vocabulary.from_dict(read_json(folder / VOCABULARY))
    if vocabulary.fingerprint != wanted:
        raise VocabularyError(
            f"{folder / VOCABULARY} holds vocabulary {vocabulary.fingerprint[:12]} ({len(vocabulary)} "
            f"genes), but {CONFIG} beside it was made with {wanted[:12]}; get both files from one export"
        )
    past = {key: value for key, value in config.items() if key != "library_name"}
    return past | {"vocabulary": vocabulary.to_dict()}


def config_text(past: Mapping[str, Any]) -> str:
    """`config.json` of a `past` entry whose vocabulary stands in its own file."""
    vocabulary = past["vocabulary"]
    short = {"genes": len(vocabulary["genes"]), "fingerprint": vocabulary["fingerprint"]}
    content = {"library_name": LIBRARY, **past, "vocabulary": short}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def vocabulary_text(past: Mapping[str, Any]) -> str:
    """`vocabulary.json` of a `past` entry."""
    stored = past["vocabulary"]
    # The fingerprint first: it is what people look for in a file of 20,310 lines.
    content = {"fingerprint": stored["fingerprint"], "genes": stored["genes"]}
    return json.dumps(content, indent=0, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of moderate size.

    Raises:
        CheckpointError: absent, too large, or something else.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise CheckpointError(f"{path} has {size:,} bytes, more than the {MAX_JSON:,} of any checkpoint")
        content = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is not in it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content
