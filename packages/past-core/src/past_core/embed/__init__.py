"""Slides to embeddings: a vector per cell of a slide store, or per tile of a plain slide."""

from past_core.embed.output import (
    SUFFIXES,
    EmbedError,
    check_output,
    read_manifest,
    write_embeddings,
)
from past_core.embed.slides import embed_cells, embed_slide, embed_tiles

__all__ = [
    "SUFFIXES",
    "EmbedError",
    "check_output",
    "embed_cells",
    "embed_slide",
    "embed_tiles",
    "read_manifest",
    "write_embeddings",
]
