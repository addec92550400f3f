"""Sequences one behind another without any padding: how an accelerator runs them all in one go."""

import functools
import logging
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment] # what its absence looks like

logger = logging.getLogger(__name__)

HALF = (torch.float16, torch.bfloat16)
"""Types that the attention of packed sequences computes in."""


class Spans(NamedTuple):
    """Which of N packed tokens are one sequence, and attend to each other."""

    ends: Tensor
    """(B + 1,) int32: sequence b is tokens `ends[b]` to `ends[b + 1]`."""
    longest: int
    """Tokens of the longest."""


class Packed(NamedTuple):
    """B sequences as N tokens."""

    tokens: Tensor
    """(N,) int64."""
    places: Tensor
    """(N,) int64: where in its sequence each stands, from 0."""
    lengths: Tensor
    """(B,) int64, sum N."""
    spans: Spans


def pack(tokens: Tensor, lengths: np.ndarray) -> Packed:
    """Packs sequences (B, T) of which the first `lengths[b]` tokens of each are no padding.

    Args:
        tokens: padded sequences, on any device; nothing waits for it.
        lengths: (B,) at most T, on the host.
    """
    columns = tokens.shape[1]
    kept = np.flatnonzero(np.arange(columns) < lengths[:, None])
    host = np.concatenate([kept, lengths, np.cumsum(np.concatenate([[0], lengths]))])
    sent = torch.from_numpy(host.astype(np.int64))
    if tokens.is_cuda:
        sent = sent.pin_memory()  # or the copy would wait for all work before it
    where, counts, ends = sent.to(tokens.device, non_blocking=True).split(
        [len(kept), len(lengths), len(lengths) + 1]
    )
    spans = Spans(ends.to(torch.int32), int(lengths.max()))
    return Packed(tokens.reshape(-1)[where], where % columns, counts, spans)


def can_pack(attention: nn.MultiheadAttention, device: torch.device, *, training: bool) -> bool:
    """Whether `attend_spans` runs there: on a GPU in half precision, without dropout of attention.

    The kernel is tried once per GPU against ordinary attention; where it fails, that is said in the log, and
    sequences run padded.
    """
    if varlen_attn is None or device.type != "cuda":
        return False
    half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") in HALF
    return bool(
        (half or attention.in_proj_weight.dtype in HALF)
        and attention.head_dim % 8 == 0
        and attention.head_dim <= 256
        and not (training and attention.dropout)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and spans_work(device)
    )


@functools.cache
@torch.inference_mode(False)
@torch.enable_grad()
def spans_work(device: torch.device) -> bool:
    """Whether `attend_spans` gives there what ordinary attention gives, and its gradient.

    Asked first while nothing is trained, it is tried with gradients all the same: the answer is kept.
    """
    generator = torch.Generator().manual_seed(0)
    ends = [0, 5, 69, 72]
    drawn = torch.randn(4, ends[-1], 2, 32, generator=generator)
    query, key, value, towards = (x.to(device, torch.bfloat16).requires_grad_() for x in drawn)
    inputs = [query, key, value]
    try:
        packed = attend_spans(
            query, key, value, Spans(torch.tensor(ends, dtype=torch.int32, device=device), 64)
        )
        parts = [
            F.scaled_dot_product_attention(*(x[start:stop].transpose(0, 1) for x in inputs)).transpose(0, 1)
            for start, stop in pairwise(ends)
        ]
        ordinary = torch.cat(parts)
        pairs = [(packed.detach(), ordinary.detach())]
        pairs += zip(
            *(torch.autograd.grad(each, inputs, towards) for each in (packed, ordinary)), strict=True
        )
        # Two roundings of bfloat16 (2^-8) to a value of a few units.
        off = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        logger.warning("packed attention does not run on %s (%s): sequences are padded", device, error)
        return False
    if off > 0.1:
        logger.warning("packed attention is off by %.2g on %s: sequences are padded", off, device)
        return False
    return True


def attend_spans(query: Tensor, key: Tensor, value: Tensor, spans: Spans) -> Tensor:
    """Attention within each sequence; all (N, heads, channels of a head), in half precision on a GPU."""
    ends, longest = spans
    attended = varlen_attn(query, key, value, ends, ends, longest, longest)
    assert isinstance(attended, Tensor)  # it returns more only where it is asked to
    return attended
