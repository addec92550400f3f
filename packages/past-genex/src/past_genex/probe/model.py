"""A probe: the linear map from an encoder's features to genes, and what it is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.data.targets import Target
from past_genex.probe.trust import DEFAULT_THRESHOLD, Trust

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

USE = "research use only"
ROWS = 8192
"""Cells multiplied at a time."""


class ProbeError(PastError, ValueError):
    """A probe, or a probe's file, that is damaged or does not fit together."""


class ProbeMismatchError(PastError, ValueError):
    """A probe is put on another encoder than the one it was fitted on."""


_NO_ALPHA, _NO_TRUST = np.zeros(0), Trust.unknown(0)
"""Where none is given; what a probe then holds is of the length of its genes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """Gene expression as an affine function of an encoder's features.

    The prediction of a cell with features x is x @ weight + bias, on the scale of `target`: log1p of counts
    normalised per cell. Its unit is that of `target.name`.

    Attributes:
        encoder: the encoder's name.
        fingerprint: sha256 of its weights and preprocessing.
        space: "features" or "joint".
        genes: `(G,)` ids, unique (Ensembl, or the symbol where a slide had none).
        symbols: `(G,)` symbols.
        target: normalisation of what is predicted.
        weight: `(d, G)` float32.
        bias: `(G,)` float32.
        alpha: `(G,)` float64 ridge strength by gene; NaN where the probe was trained by gradient.
        trust_table: held-out r by gene.
        slides: names of the training slides.
        patients: training patients.
        cells: number of training cells.
        demo: fitted on synthetic tissue: shows that the parts work, and says nothing about real tissue.
        notes: anything else to keep, plain JSON values.

    Raises:
        ProbeError: arrays that do not fit one another, a gene named twice, or values that are not finite.
    """

    encoder: str
    fingerprint: str
    space: str
    genes: pd.Index
    symbols: np.ndarray
    target: Target
    weight: np.ndarray
    bias: np.ndarray
    alpha: np.ndarray = field(default_factory=lambda: _NO_ALPHA)
    trust_table: Trust = _NO_TRUST
    slides: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    cells: int = 0
    demo: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = object.__setattr__
        own(self, "genes", pd.Index(self.genes, dtype=object))
        own(self, "symbols", np.asarray(self.symbols, dtype=object))
        own(self, "weight", np.ascontiguousarray(self.weight, np.float32))
        own(self, "bias", np.ascontiguousarray(self.bias, np.float32))
        n = len(self.genes)
        alpha = np.full(n, np.nan) if self.alpha is _NO_ALPHA else np.asarray(self.alpha, np.float64)
        own(self, "alpha", alpha)
        own(self, "trust_table", Trust.unknown(n) if self.trust_table is _NO_TRUST else self.trust_table)
        own(self, "slides", tuple(map(str, self.slides)))
        own(self, "patients", tuple(map(str, self.patients)))
        self._check(n)

    def _check(self, n: int) -> None:
        if not n or self.weight.ndim != 2 or not len(self.weight):
            raise ProbeError(f"a probe of {n} genes with weights {self.weight.shape}; expected (d, genes)")
        sizes = {
            "weight": self.weight.shape[1],
            "bias": self.bias.shape,
            "alpha": self.alpha.shape,
            "symbols": self.symbols.shape,
            "trust": self.trust_table.r.shape,
        }
        wrong = [f"{name} {size}" for name, size in sizes.items() if size not in (n, (n,))]
        if wrong:
            raise ProbeError(f"a probe of {n} genes has {', '.join(wrong)}; expected {n} everywhere")
        if not self.genes.is_unique:
            raise ProbeError(f"the probe names the gene {self.genes[self.genes.duplicated()][0]} twice")
        bad = ~np.isfinite(self.weight).all(axis=0) | ~np.isfinite(self.bias)
        if bad.any():
            raise ProbeError(
                f"weights that are not finite for {int(bad.sum())} of {n} genes, the first "
                f"{self.genes[np.argmax(bad)]}; look at the features and targets that it was fitted on"
            )

    @property
    def dim(self) -> int:
        """Length d of the features that it takes."""
        return len(self.weight)

    def __repr__(self) -> str:
        return (
            f"Probe({self.encoder!r}, {self.space}, {self.dim} -> {len(self.genes)} genes"
            f"{', demo' if self.demo else ''})"
        )

    # --- use ------------------------------------------------------------------------------------------------

    def check(self, encoder: "FrozenEncoder") -> None:
        """Refuses another encoder: same name and other weights too.

        Raises:
            ProbeMismatchError: names both encoders with their fingerprints.
        """
        if (self.fingerprint, self.space, self.dim) != (encoder.fingerprint, encoder.space, encoder.dim):
            raise ProbeMismatchError(
                f"the probe was fitted on {self.encoder} ({self.space}, {self.dim} features, fingerprint "
                f"{self.fingerprint[:12]}), the encoder is {encoder.name} ({encoder.space}, {encoder.dim} "
                f"features, fingerprint {encoder.fingerprint[:12]}); take the probe's own encoder, or fit a "
                "probe on this one"
            )

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicts expression; products in float64, a few thousand cells at a time.

        Args:
            features: `(n, d)` vectors of `encoder`.

        Returns:
            `(n, G)` float32 on the scale of `target`. Not clipped: a linear map may say less than no counts.

        Raises:
            ProbeMismatchError: features of another length.
            ProbeError: features that are not finite; names the first row.
        """
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ProbeMismatchError(
                f"features of shape {features.shape}; the probe takes (n, {self.dim}), as {self.encoder} "
                f"({self.space}, fingerprint {self.fingerprint[:12]}) gives them"
            )
        weight, bias = self.weight.astype(np.float64), self.bias.astype(np.float64)
        out = np.empty((len(features), len(self.genes)), np.float32)
        for start in range(0, len(features), ROWS):
            part = np.asarray(features[start : start + ROWS], np.float64)
            bad = ~np.isfinite(part).all(axis=1)
            if bad.any():
                raise ProbeError(
                    f"the features of {int(bad.sum())} of {len(part)} cells are NaN or infinite, the first "
                    f"in row {start + int(np.argmax(bad))}; embed these cells again or leave them out"
                )
            out[start : start + ROWS] = part @ weight + bias
        return out

    def select(self, genes: Sequence[str] | pd.Index) -> np.ndarray:
        """Places of genes, given by id or symbol.

        Raises:
            ProbeError: a gene that the probe does not predict.
        """
        by_symbol = pd.Series(np.arange(len(self.genes)), index=self.symbols)
        by_symbol = by_symbol[~by_symbol.index.duplicated()]
        place = self.genes.get_indexer(pd.Index(genes, dtype=object))
        place = np.where(place < 0, by_symbol.reindex(list(genes)).fillna(-1).to_numpy(np.int64), place)
        unknown = [gene for gene, at in zip(genes, place, strict=True) if at < 0]
        if unknown:
            raise ProbeError(
                f"the probe does not predict {', '.join(map(str, unknown[:5]))}"
                f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}; it predicts "
                f"{len(self.genes)} genes, among them {', '.join(map(str, self.symbols[:5]))}"
            )
        return place

    def trust(self, threshold: float = DEFAULT_THRESHOLD) -> pd.DataFrame:
        """What each gene's predictions are worth.

        Args:
            threshold: held-out r below which a gene is flagged.

        Returns:
            By gene id: `symbol`, `r`, `low`, `high`, `patients`, `setting` and `trusted` (bool, see
            `Trust.trusted`).

        Raises:
            TrustError: a threshold outside -1 to 1.
        """
        table = self.trust_table
        return pd.DataFrame(
            {
                "symbol": self.symbols,
                "r": table.r,
                "low": table.low,
                "high": table.high,
                "patients": table.patients,
                "setting": table.setting,
                "trusted": table.trusted(threshold),
            },
            index=self.genes.rename("gene"),
        )

    def card(self, threshold: float = DEFAULT_THRESHOLD) -> dict[str, Any]:
        """What must go with every prediction, as plain JSON values."""
        r = self.trust_table.r
        scored = r[~np.isnan(r)]
        return {
            "use": USE,
            "synthetic": self.demo,
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "space": self.space,
            "features": self.dim,
            "genes": len(self.genes),
            "scale": self.target.name,
            "normalisation": self.target.normalisation,
            "training_slides": list(self.slides),
            "training_patients": list(self.patients),
            "training_cells": self.cells,
            "held_out": self.trust_table.setting,
            "genes_scored": len(scored),
            "median_r": float(np.median(scored)) if len(scored) else None,
            "threshold": float(threshold),
            "genes_trusted": int(self.trust_table.trusted(threshold).sum()),
            "notes": dict(self.notes),
        }
