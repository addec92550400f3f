"""The authors' released checkpoint: its container, its names of weights, its tokens, and its import."""

from past_core.published.checkpoint import (
    import_published,
    is_dead,
    own_name,
    published_model,
    published_name,
    published_state,
    read_published,
)
from past_core.published.tokens import node_token_ids, published_tokens

__all__ = [
    "import_published",
    "is_dead",
    "node_token_ids",
    "own_name",
    "published_model",
    "published_name",
    "published_state",
    "published_tokens",
    "read_published",
]
