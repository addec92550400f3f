"""Tables of an evaluation for a terminal of 80 columns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from past_genex.evaluation.report import digits

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {"all": "all genes", "markers": "marker genes", "hvg": "highly variable genes"}
"""Subsets of genes in titles."""


def plain_table(title: str, *columns: str, caption: str | None = None) -> "Table":
    """A table with little between its columns: text on the left, then figures on the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0),
        pad_edge=False, title_justify="left", caption_justify="left", title_style="bold",
    )  # fmt: skip
    for number, column in enumerate(columns):
        if number:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def tables(content: Mapping[str, Any]) -> "list[Table]":
    """What `report` gave: a table of systems for every subset, one by patient, and one of differences."""
    if not content["subsets"]:
        return []
    leaks = " (LEAKS ON PURPOSE)" if content["leaks_on_purpose"] else ""
    heading = f"{content['split']}{leaks}"
    out = [
        _systems(f"{heading}, {LABELS.get(name, name)}", entry) for name, entry in content["subsets"].items()
    ]
    first = next(iter(content["subsets"].values()))
    out.append(_patients(heading, content["patients"], first["systems"]))
    if first["differences"]:
        out.append(_differences(heading, first))
    return out


def _systems(heading: str, entry: Mapping[str, Any]) -> "Table":
    systems = entry["systems"]
    ceiling = entry.get("noise_ceiling")
    genes = [row["genes"] for row in systems]
    scored = max(genes)
    table = plain_table(
        f"{heading}: {'' if scored == entry['genes'] else f'{scored} of '}{entry['genes']}",
        "system", "r", "95 % CI", "within\nslides", "Spear-\nman", "median\nR²", "Moran\nr",
        *(["of\nceiling"] if ceiling is not None else []),
        caption=_caption(entry),
    )  # fmt: skip
    for row in systems:
        name = row["system"] + (f" ({row['genes']} genes)" if len(set(genes)) > 1 else "")
        cells = [
            name,
            digits(row["r"]),
            _interval(row["low"], row["high"]),
            digits(row["r_per_slide"]),
            digits(row.get("spearman")),
            digits(row["r2"]),
            digits(row.get("moran_r")),
        ]
        if ceiling is not None:
            share = row["share_of_ceiling"]
            cells.append("-" if share is None else f"{round(share, 2) + 0.0:.0%}")
        table.add_row(*cells)
    if ceiling is not None:
        table.add_row("noise ceiling", "", "", digits(ceiling), *[""] * 4, style="dim")
    return table


def _interval(low: float | None, high: float | None) -> str:
    text = digits(low)
    return text if text == "-" else f"{text}..{digits(high)}"


def _caption(entry: Mapping[str, Any]) -> str:
    systems = entry["systems"]
    lines = [f"Intervals over {systems[0]['interval_over']}."]
    constant = min(row["constant"] for row in systems)
    if constant:
        lines.append(f"{constant} genes cannot be scored: constant, or not on both sides of a fold.")
    if "spearman" in systems[0]:
        lines.append(f"Spearman and Moran's I over {entry['map_genes']} of the genes.")
    if entry.get("noise_ceiling") is not None:
        lines.append(f"Of ceiling: r within slides over it, for {entry['noise_ceiling_genes']} of the genes.")
    return " ".join(lines)


def _patients(heading: str, patients: Mapping[str, str], systems: list[Mapping[str, Any]]) -> "Table":
    names = [row["system"].replace(":", ":\n", 1) for row in systems]
    table = plain_table(f"{heading}: r within slides, by patient", "patient", *names)
    for patient, kind in patients.items():
        table.add_row(f"{patient} ({kind})", *(digits(row["by_patient"].get(patient)) for row in systems))
    if any(row["sd_over_types"] is not None for row in systems):
        table.add_section()
        table.add_row("sd over types", *(digits(row["sd_over_types"]) for row in systems), style="dim")
    return table


def _differences(heading: str, entry: Mapping[str, Any]) -> "Table":
    best = entry["systems"][0]["system"]
    table = plain_table(
        f"{heading}: r of {best} minus that of ...",
        "system", "difference", "95 % CI", "p genes\n(Holm)", "p slides\n(Holm)", "slides",
        caption="Wilcoxon's signed-rank tests over genes and slides, corrected over all pairs of systems. "
        "Genes are correlated: their test is too sure of itself.",
    )  # fmt: skip
    for d in entry["differences"]:
        if best not in (d["first"], d["second"]):
            continue
        sign = 1 if d["first"] == best else -1
        low, high = sorted((sign * d["low"], sign * d["high"]))
        table.add_row(
            d["second"] if sign > 0 else d["first"],
            digits(sign * d["difference"]),
            _interval(low, high),
            f"{d['p_genes_holm']:.2g}",
            f"{d['p_slides_holm']:.2g}",
            str(d["n_slides"]),
        )
    return table
