"""What a probe is fitted on and scored on: statistics with their genes, and who measures what."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.statistics.moments import Moments, merge_moments


class RidgeError(PastError, ValueError):
    """Training or test statistics that a linear model cannot be fitted on or scored with."""


class Unit(NamedTuple):
    """Statistics of a slide, or of a part of one.

    A pair `(moments, genes)` will do wherever units are taken.

    Attributes:
        moments: over the unit's own genes.
        genes: their ids, unique.
        name: for messages, such as the slide's.
        group: what must not be torn apart when the training data are split, such as the patient; None: the
            unit is a group of its own.
        encoder: fingerprint of the encoder; "" if not known.
    """

    moments: Moments
    genes: pd.Index
    name: str = ""
    group: str | None = None
    encoder: str = ""


def as_units(units: Iterable[Unit | tuple[Moments, Sequence[str]]]) -> list[Unit]:
    """Units that fit together, each with a name.

    Raises:
        RidgeError: none; genes that are not those of the statistics; embeddings of different encoders or
            lengths (both are named).
    """
    out: list[Unit] = []
    for number, given in enumerate(units):
        unit = Unit(*given)
        unit = unit._replace(genes=pd.Index(unit.genes), name=unit.name or f"unit {number + 1}")
        if len(unit.genes) != unit.moments.n_genes or not unit.genes.is_unique:
            raise RidgeError(
                f"{unit.name}: {len(unit.genes)} gene ids ({unit.genes.nunique()} different) for statistics "
                f"of {unit.moments.n_genes} genes; expected one id a gene"
            )
        for other in out:
            if unit.encoder and other.encoder and unit.encoder != other.encoder:
                raise RidgeError(
                    f"{other.name} was embedded by encoder {other.encoder[:16]} and {unit.name} by "
                    f"{unit.encoder[:16]}; a probe needs one encoder for all slides: embed one of them again"
                )
            if unit.moments.d != other.moments.d:
                raise RidgeError(
                    f"embeddings of {other.name} have {other.moments.d} dimensions and those of {unit.name} "
                    f"{unit.moments.d}; a probe needs one encoder for all slides"
                )
        out.append(unit)
    if not out:
        raise RidgeError("no unit to fit on or score; give the statistics of at least one slide")
    return out


@dataclass(frozen=True)
class Pattern:
    """Genes that the same units measure, so that one decomposition serves all of them.

    Attributes:
        units: the units' numbers.
        columns: positions of the genes in the list that was asked for.
        parts: statistics of each of these units over these genes.
    """

    units: tuple[int, ...]
    columns: np.ndarray
    parts: tuple[Moments, ...]

    def merged(self) -> Moments:
        """Statistics of all its units together."""
        return merge_moments(self.parts)


def columns_of(unit: Unit, genes: pd.Index) -> np.ndarray:
    """`(G,)` positions of genes among the unit's; -1 where it does not measure one or has no cell."""
    if not unit.moments.n:
        return np.full(len(genes), -1)
    return unit.genes.get_indexer(genes)


def patterns(units: Sequence[Unit], genes: pd.Index) -> list[Pattern]:
    """Genes grouped by the units that measure them.

    Args:
        units: see `as_units`.
        genes: `(G,)` ids, unique.

    Raises:
        RidgeError: genes that no unit measures (named), or an id twice.
    """
    if not len(genes) or not genes.is_unique:
        raise RidgeError(f"{len(genes)} genes asked for, {genes.nunique()} different; expected each once")
    position = np.stack([columns_of(unit, genes) for unit in units])
    measured = position >= 0
    nowhere = genes[~measured.any(axis=0)]
    if len(nowhere) == len(genes):
        names = ", ".join(unit.name for unit in units[:5])
        raise RidgeError(
            f"none of the {len(genes)} genes asked for ({', '.join(map(str, genes[:3]))}, ...) is measured "
            f"by a cell of {names}{', ...' if len(units) > 5 else ''}; they share no gene"
        )
    if len(nowhere):
        raise RidgeError(
            f"{len(nowhere)} of {len(genes)} genes are measured by no training unit: "
            f"{', '.join(map(str, nowhere[:5]))}{', ...' if len(nowhere) > 5 else ''}; leave them out"
        )
    kinds, number = np.unique(measured.T, axis=0, return_inverse=True)
    out = []
    for kind, row in enumerate(kinds):
        columns, members = np.flatnonzero(number.ravel() == kind), np.flatnonzero(row).tolist()
        parts = tuple(_select(units[u].moments, position[u, columns]) for u in members)
        out.append(Pattern(tuple(members), columns, parts))
    return out


def _select(moments: Moments, columns: np.ndarray) -> Moments:
    whole = len(columns) == moments.n_genes and np.array_equal(columns, np.arange(len(columns)))
    return moments if whole else moments.select(columns)
