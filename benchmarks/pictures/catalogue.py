"""Which pictures the leaderboard has, and what they show; made by `python -m benchmarks --pictures`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "docs/images/leaderboard"


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        name: how tasks call it.
        title: in a few words, also for those who cannot see it.
        caption: what it shows, and on what.
    """

    name: str
    title: str
    caption: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.name}.png"


CATALOGUE = (
    Picture(
        "overview",
        "What PAST does",
        "All of it computed by the packages on the embedded synthetic default: cells of a registered slide; "
        "images and transcriptomes of held-out cells in the joint space of the demo encoder; a gene of a "
        "patient left out, risk groups out of fold, and a held-out tile under the demo generator.",
    ),
    Picture(
        "retrieval",
        "Cells retrieved by image",
        "Cells of a synthetic patient that the demo encoder never saw: each row is an image, then the cells "
        "whose transcriptomes the encoder finds nearest among all of the slide. "
        "Green would frame the cell itself, were it among them.",
    ),
    Picture(
        "umap",
        "Both sides of the joint space",
        "Images and transcriptomes of the same held-out synthetic cells in one map, by side and by type.",
    ),
    Picture(
        "genes",
        "Measured and predicted expression",
        "A synthetic patient left out: measured beside predicted, the four genes predicted best by the ridge "
        "probe on the demo encoder, trained on three other patients.",
    ),
    Picture(
        "clusters",
        "Clusters of measured and of predicted expression",
        "The same patient's cells, clustered on measured and on predicted expression apart; colours follow "
        "the correspondence found between them.",
    ),
    Picture(
        "stain",
        "H&E, virtual ER and real ER",
        "Synthetic patients, the demo generator: H&E, virtual stain, real stain; PSNR and SSIM below.",
    ),
    Picture(
        "survival",
        "Kaplan-Meier curves",
        "The simulator's cohort, out of fold: patients of high and low predicted risk, by system. Half of "
        "the hazard is visible in the H&E alone.",
    ),
)


def present(root: Path = ROOT) -> list[Picture]:
    """Those whose files exist."""
    return [picture for picture in CATALOGUE if (root / FOLDER / picture.file).is_file()]
