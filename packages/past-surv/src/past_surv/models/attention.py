"""Which patches a network looks at: its attention as weights, as ranks, and the patches with the most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.stats import rankdata
from torch import Tensor

from past_surv.models.files import LoadedModel
from past_surv.models.inputs import ModelInputError

WHOLE = "all patches"
"""Name of the one map of a network without genes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchAttention:
    """Attention of one patient's network run to the M patches of all the patient's slides.

    Attributes:
        names: of the G maps: groups of genes, or `all patches` of attention MIL.
        weights: `(G, M)` float64; each row sums to 1.
        risk: of the patient.
        lacking: groups that the patient has no value of; they ask nothing of the slide and have no map.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    risk: float
    lacking: tuple[str, ...] = ()

    def percentiles(self) -> np.ndarray:
        """`(G, M)` rank of each patch among the patient's, from 0 to 1; equal weights share a rank."""
        return (rankdata(self.weights, axis=1) - 0.5) / self.weights.shape[1]

    def effective_patches(self) -> np.ndarray:
        """`(G,)` exponential of the weights' entropy: M where all are alike, 1 where a single one counts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(self.weights > 0, self.weights * np.log(self.weights), 0.0)
        return np.exp(-terms.sum(axis=1))


def patch_attention(
    loaded: LoadedModel,
    patches: np.ndarray,
    *,
    omics: Sequence[Tensor] | None = None,
    missing: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> PatchAttention:
    """Runs a network on one patient and gives the softmax of its raw attention over all patches.

    Args:
        loaded: MCAT or attention MIL.
        patches: `(M, D)` of all the patient's slides, one after another: weights compare across slides.
        omics: of MCAT, G tensors `(1, g)`; see `gene_inputs`.
        missing: of MCAT, `(1, G)` bool. A patient without any group asks with those of the average patient.
        device: where it runs.

    Raises:
        ModelInputError: a network without attention to patches, no genes for MCAT, or other patches.
    """
    kind, dim = loaded.manifest["kind"], loaded.manifest["patch_dim"]
    if kind not in ("mcat", "mil"):
        raise ModelInputError(f"a network of kind {kind} reads no patches; expected mcat or mil")
    if patches.ndim != 2 or not len(patches) or patches.shape[1] != dim:
        raise ModelInputError(
            f"patches of shape {patches.shape}; the network reads (M, {dim}), by "
            f"{loaded.manifest.get('encoder') or 'an encoder that it does not name'}"
        )
    model = loaded.model.to(device).eval()
    bag = torch.from_numpy(np.ascontiguousarray(patches, np.float32))[None].to(device)
    names: tuple[str, ...] = (WHOLE,)
    lacks = np.zeros(1, bool)
    with torch.inference_mode():
        if kind == "mil":
            output = model(bag)
        else:
            if omics is None or missing is None:
                raise ModelInputError("MCAT asks the slide by a patient's genes; give the cohort's table")
            names, lacks = tuple(loaded.manifest["group_names"]), missing[0].numpy()
            output = model(
                bag,
                [values.to(device) for values in omics],
                missing=missing.to(device),
                no_slide=torch.zeros(1, dtype=torch.bool, device=device),
            )
        weights = output.attention[0].cpu().double().softmax(dim=-1).numpy()
    if not (np.isfinite(weights).all() and torch.isfinite(output.risk).all()):
        raise ModelInputError("the attention is not finite; look at the patches and the training")
    # Groups that are all missing still ask, with the average patient's values: see MCAT.
    kept = np.ones(len(names), bool) if lacks.all() else ~lacks
    return PatchAttention(
        names=tuple(name for name, keep in zip(names, kept, strict=True) if keep),
        weights=weights[kept],
        risk=float(output.risk[0]),
        lacking=tuple(name for name, lack in zip(names, lacks, strict=True) if lack),
    )


def top_patches(weights: np.ndarray, places: np.ndarray, count: int, *, apart: float) -> np.ndarray:
    """The patches with the largest weights, none nearer to a larger one than `apart`.

    Args:
        weights: `(M,)`.
        places: `(M, 2)`.
        count: how many at most.
        apart: in units of the places; patches around neighbouring cells show the same tissue.

    Returns:
        row numbers, the largest weight first; equal weights in the order of their rows.
    """
    tree, free = cKDTree(places), np.ones(len(weights), bool)
    taken: list[int] = []
    for row in np.argsort(-weights, kind="stable"):
        if len(taken) == count:
            break
        if free[row]:
            taken.append(int(row))
            near = np.asarray(tree.query_ball_point(places[row], apart), int)
            # At exactly `apart`, as tiles side by side are, both stand.
            free[near[np.linalg.norm(places[near] - places[row], axis=1) < apart * (1 - 1e-6)]] = False
    return np.array(taken, np.int64)
