"""Which cases train, validate and test. Patches of a case overlap: only whole cases are moved."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from past_core.errors import PastError
from past_vihc.data.content import duplicates
from past_vihc.data.pairs import Pair

PARTS = ("train", "val", "test")


class CaseSplitError(PastError, ValueError):
    """Too few cases, cases that are not there, or one image under two cases."""


@dataclass(frozen=True)
class CaseSplit:
    """Every case on exactly one side.

    Attributes:
        train: names of the training cases, sorted.
        val: of the validation cases.
        test: of the test cases.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        cases = [*self.train, *self.val, *self.test]
        twice = sorted({case for case in cases if cases.count(case) > 1})
        if twice:
            raise CaseSplitError(
                f"cases on more than one side of the split: {', '.join(twice)}; name each case for one part "
                "only"
            )

    def part(self, case: str) -> str:
        """`train`, `val` or `test`.

        Raises:
            CaseSplitError: no such case.
        """
        for name in PARTS:
            if case in getattr(self, name):
                return name
        raise CaseSplitError(
            f"no case {case!r}; the split has {', '.join([*self.train, *self.val, *self.test])}"
        )

    def pairs(self, pairs: Sequence[Pair], part: str) -> list[Pair]:
        """Those of a part, in their order."""
        return [pair for pair in pairs if pair.case in getattr(self, part)]

    def report(self, tiles: pd.DataFrame | None = None) -> str:
        """Cases of every part in words; the tiles of each, kept of all, where there is a table with `case`.

        The last line says that no case is on both sides, which is checked when a split is made.
        """
        lines = []
        for name in PARTS:
            cases = getattr(self, name)
            line = f"{name}: {len(cases)} cases ({', '.join(cases) or 'none'})"
            if tiles is not None:
                own = tiles[tiles["case"].isin(cases)]
                kept = int(own["kept"].sum()) if "kept" in own else len(own)
                line += f", {kept} of {len(own)} tiles"
            lines.append(line)
        return "\n".join([*lines, "no case is on both sides"])


def split_cases(
    pairs: Sequence[Pair],
    *,
    fractions: tuple[float, float] = (0.2, 0.2),
    val_cases: Collection[str] | None = None,
    test_cases: Collection[str] | None = None,
    seed: int = 0,
) -> CaseSplit:
    """Splits by case, deterministically, whatever the pairs' order.

    Args:
        pairs: what there is.
        fractions: shares of all cases that validate and that test, rounded, and at least one case each where
            the share is not 0. A part whose cases are named needs none.
        val_cases: cases that validate, by name; an empty list is none.
        test_cases: cases that test.
        seed: of the draw.

    Raises:
        CaseSplitError: see there; also shares that leave nothing to train on, and the same image under two
            cases of different parts.
    """
    cases = sorted({pair.case for pair in pairs})
    named = {"val": val_cases, "test": test_cases}
    for part, wanted in named.items():
        unknown = sorted(set(wanted or ()) - set(cases))
        if unknown:
            raise CaseSplitError(
                f"data.{part}_cases names {', '.join(unknown)}; the pairs' cases are "
                f"{', '.join(cases) or 'none'}"
            )
    taken = set(val_cases or ()) | set(test_cases or ())
    free = sorted((case for case in cases if case not in taken), key=lambda case: _draw(case, seed))
    chosen = {}
    for part, share in zip(("test", "val"), (fractions[1], fractions[0]), strict=True):
        wanted = named[part]
        if wanted is not None:
            chosen[part] = tuple(sorted(set(wanted)))
            continue
        if not 0 <= share < 1:
            raise CaseSplitError(f"data.fractions: {share} for {part}; expected a share from 0 to below 1")
        count = max(1, round(share * len(cases))) if share else 0
        chosen[part], free = tuple(sorted(free[:count])), free[count:]
    if not free:
        raise CaseSplitError(
            f"{len(cases)} cases ({', '.join(cases) or 'none'}) leave none to train on beside "
            f"{len(chosen['val'])} that validate and {len(chosen['test'])} that test; add cases, set "
            "data.fractions "
            "to [0.0, 0.0] to train on all, or name data.val_cases and data.test_cases. Patches of one case "
            "are "
            "never split: they overlap"
        )
    split = CaseSplit(tuple(sorted(free)), chosen["val"], chosen["test"])
    _refuse_copies(pairs)
    return split


def _draw(case: str, seed: int) -> str:
    """A case's place in the draw depends on its own name alone, so that another case moves few."""
    return hashlib.sha256(f"{seed} {case}".encode()).hexdigest()


def _refuse_copies(pairs: Sequence[Pair]) -> None:
    """One image under two cases would be on both sides, or be counted as two patients."""
    owner: dict[Path, str] = {}
    for pair in pairs:
        for path in (pair.he, pair.ihc):
            known = owner.setdefault(path.resolve(), pair.case)
            if known != pair.case:
                raise CaseSplitError(f"{path} belongs to the cases {known} and {pair.case}; give it one case")
    for first, second in duplicates(owner):
        if owner[first] != owner[second]:
            raise CaseSplitError(
                f"{first} of case {owner[first]} and {second} of case {owner[second]} are the same image; "
                "correct the "
                "cases, or remove one: the same patient must not train and test"
            )
