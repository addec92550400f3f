"""Slides, patients, cells and genes per cancer of any stores, as in the paper's Extended Data Table 1."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.ingest.layout import is_store
from past_core.ingest.store import SlideStore
from past_core.remote import Location, locate

UNKNOWN = "not stated"
COLUMNS = (
    "Organism",
    "Cancer",
    "Slides",
    "Patients",
    "Cells passed",
    "Cells",
    "Genes per slide",
    "Genes",
    "Transcripts",
)


class SummaryError(PastError, ValueError):
    """No stores to summarise, or a summary that cannot be written."""


@dataclass
class Group:
    """Sums over the slides of an organism and a cancer.

    Attributes:
        organism: human or mouse.
        cancer: The cancer type, "not stated", or "all" in a total.
        slides: Number of slides.
        patients: Their patients.
        passed: Cells that pass QC.
        cells: All cells.
        panels: Numbers of genes that a slide has.
        genes: Genes that any slide has, by the ids in the stores (a mouse's by its human orthologs').
        transcripts: Of all cells.
    """

    organism: str
    cancer: str
    slides: int = 0
    patients: set[str] = field(default_factory=set)
    passed: int = 0
    cells: int = 0
    panels: set[int] = field(default_factory=set)
    genes: set[str] = field(default_factory=set)
    transcripts: int = 0

    def add(self, store: SlideStore) -> None:
        """Counts a slide in."""
        self.slides += 1
        self.patients.add(store.patient)
        self.passed += int(store.passed.sum())
        self.cells += store.n_cells
        self.panels.add(len(store.genes))
        self.genes |= set(store.genes.index)
        self.transcripts += int(store.manifest["counts"]["total"])

    def row(self) -> tuple[str | int, ...]:
        """Its values under `COLUMNS`."""
        low, high = min(self.panels), max(self.panels)
        panels = str(low) if low == high else f"{low}-{high}"
        people = len(self.patients)
        numbers = (self.passed, self.cells, panels, len(self.genes), self.transcripts)
        return self.organism, self.cancer, self.slides, people, *numbers


def find_stores(sources: Iterable[str | Location]) -> list[Location]:
    """The stores among paths, URLs and folders of stores, each once.

    Raises:
        SummaryError: A folder without stores, or nothing given.
    """
    found: dict[str, Location] = {}
    for source in sources:
        where = locate(source)
        stores: list[Location] = [where]
        if isinstance(where, Path) and where.is_dir() and not is_store(where):
            stores = [item for item in sorted(where.glob("*.zarr")) if is_store(item)]
            if not stores and where.suffix != ".zarr":
                raise SummaryError(
                    f"{where}: no slide stores in it; expected NAME.zarr as `past ingest` makes"
                )
            stores = stores or [where]  # opening it says what it is
        for store in stores:
            found.setdefault(str(store.resolve()), store)
    if not found:
        raise SummaryError("no stores given; expected NAME.zarr, or a folder of them")
    return list(found.values())


def summarise(stores: Iterable[Location]) -> list[Group]:
    """Sums by organism and cancer, each organism with its total at the end.

    Raises:
        StoreError: One cannot be opened.
    """
    groups: dict[tuple[str, str], Group] = {}
    totals: dict[str, Group] = {}
    for path in stores:
        store = SlideStore(path)
        organism, cancer = store.organism, store.cancer_type or UNKNOWN
        groups.setdefault((organism, cancer), Group(organism, cancer)).add(store)
        totals.setdefault(organism, Group(organism, "all")).add(store)
    rows = []
    for organism in sorted(totals):
        named = sorted(key for key in groups if key[0] == organism and key[1] != UNKNOWN)
        last = [key for key in groups if key == (organism, UNKNOWN)]
        rows += [groups[key] for key in (*named, *last)] + [totals[organism]]
    return rows


def summary_text(groups: Sequence[Group], suffix: str) -> str:
    """The table as CSV or Markdown.

    Raises:
        SummaryError: Another suffix than .csv and .md.
    """
    rows = [group.row() for group in groups]
    if suffix == ".csv":
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerows([COLUMNS, *rows])
        return text.getvalue()
    if suffix != ".md":
        raise SummaryError(f"a summary is written as .csv or .md, not {suffix or 'without a suffix'}")
    lines = [COLUMNS, tuple("---" if n < 2 else "---:" for n in range(len(COLUMNS)))]
    lines += [tuple(shown(value) for value in row) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: str | int) -> str:
    """A value as it is read best."""
    return f"{value:,}" if isinstance(value, int) else value.replace("|", "\\|")


def write_summary(groups: Sequence[Group], path: str | Path) -> Path:
    """Writes the summary, by the path's suffix as CSV or Markdown.

    Raises:
        SummaryError: Another suffix, or it cannot be written.
    """
    path = Path(path)
    text = summary_text(groups, path.suffix.lower())
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SummaryError(f"{path} cannot be written ({error})") from error
    return path
