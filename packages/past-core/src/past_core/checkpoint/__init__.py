"""Checkpoints of the dual encoder: load, save, export, describe. Nothing in a file is ever executed.

Three containers hold the same content, the weights of a `DualEncoder`, its configuration, its vocabulary
and the gene means that its tokens are made with: what training saves (Lightning's `.ckpt`, read with
`weights_only=True`), one `.safetensors` file, and the folder of `past export`, which is also what a
repository of the Hugging Face hub holds.
"""

from past_core.checkpoint.content import PastCheckpoint, is_checkpoint, read_checkpoint
from past_core.checkpoint.describe import describe_checkpoint
from past_core.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from past_core.checkpoint.folder import is_export
from past_core.checkpoint.format import FORMAT
from past_core.checkpoint.loading import load_checkpoint, load_model
from past_core.checkpoint.places import Located, locate
from past_core.checkpoint.record import settings_of, training_record
from past_core.checkpoint.runs import find_checkpoint, is_run
from past_core.checkpoint.saving import export_checkpoint, save_checkpoint

__all__ = [
    "FORMAT",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Located",
    "PastCheckpoint",
    "describe_checkpoint",
    "export_checkpoint",
    "find_checkpoint",
    "is_checkpoint",
    "is_export",
    "is_run",
    "load_checkpoint",
    "load_model",
    "locate",
    "read_checkpoint",
    "save_checkpoint",
    "settings_of",
    "training_record",
]
