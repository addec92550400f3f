"""What several verbs take: slides, genes, and outputs that must not be there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from past_core.errors import PastError

if TYPE_CHECKING:
    import pandas as pd

    from past_genex.data.slides import ExpressionSlide


class InputError(PastError, ValueError):
    """Arguments of a verb that cannot be used."""


def check_file(path: Path, suffix: str, *, overwrite: bool) -> None:
    """Refuses an output of another suffix, or one that is there, before any work.

    Raises:
        InputError: so it is.
    """
    if path.suffix != suffix:
        raise InputError(f"{path}: expected an output that ends in {suffix}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or pass --overwrite")


def check_folder(path: Path, *, overwrite: bool) -> None:
    """Refuses an output folder that holds something, unless it is an earlier result to be replaced.

    Raises:
        InputError: so it is.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not overwrite):
        raise InputError(f"{path} exists already; choose another name or pass --overwrite")
    if overwrite and path.is_dir() and any(path.iterdir()) and not (path / "results.json").is_file():
        raise InputError(f"{path} holds no results of an evaluation: it is not replaced; choose another name")


def open_slides(paths: Sequence[Path] | None) -> "list[ExpressionSlide]":
    """Slides by their paths, or those of the embedded synthetic cohort.

    Raises:
        InputError: a slide is given twice.
        StoreError, StoreNotFoundError, ExpressionDataError: see `ExpressionSlide`.
    """
    from past_genex.data.slides import ExpressionSlide

    if not paths:
        from past_genex.data.default import default_cohort

        return [ExpressionSlide(path) for path in default_cohort()]
    slides = [ExpressionSlide(path) for path in paths]
    names = [slide.name for slide in slides]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"slide {twice} is given twice; each slide counts once")
    return slides


def read_genes(path: Path | None, slides: "Sequence[ExpressionSlide]") -> "pd.Index | None":
    """Gene ids from a file with an id or symbol a line; None without a file.

    Raises:
        InputError: no such file, no gene in it, or a gene that no slide measures.
    """
    import pandas as pd

    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"no file of genes at {path}")
    wanted = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not wanted:
        raise InputError(f"{path} names no gene; expected an id or symbol a line")
    symbols = pd.concat([slide.symbols for slide in slides])
    symbols = symbols[~symbols.index.duplicated()]
    by_symbol = pd.Series(symbols.index, index=symbols.to_numpy(str))
    by_symbol = by_symbol[~by_symbol.index.duplicated()]
    ids = [gene if gene in symbols.index else by_symbol.get(gene) for gene in wanted]
    unknown = [gene for gene, found in zip(wanted, ids, strict=True) if found is None]
    if unknown:
        raise InputError(
            f"{path}: {len(unknown)} of {len(wanted)} genes are measured on no slide, such as {unknown[0]}"
        )
    return pd.Index(dict.fromkeys(ids))
