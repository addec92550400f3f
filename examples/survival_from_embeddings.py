"""Trains attention MIL on embedded slides and scores it on patients whom it has not seen.

    python examples/survival_from_embeddings.py [COHORT.csv BAGS]

COHORT.csv has a row a slide (case_id, slide_id, survival_months, censorship, age, is_female), BAGS is a
folder of `past bags`, CLAM or TRIDENT. `survival.png` shows Kaplan-Meier curves of both halves. Without
arguments it takes a small synthetic cohort.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

from past_surv.data.bags import BagFolder
from past_surv.data.cohort import read_cohort
from past_surv.data.default import default_bags, default_survival_data
from past_surv.data.splits import site_folds
from past_surv.metrics.concordance import harrell_c
from past_surv.metrics.curves import high_risk, kaplan_meier, log_rank
from past_surv.systems.registry import make_system

SMALL = {"patients": 40, "size_um": 128.0}
"""The synthetic cohort: enough to try, too small to tell systems apart."""
FOLDS, EPOCHS = 3, 5


def main(table: str | None = None, folder: str | None = None) -> None:
    """Trains, scores, prints and draws."""
    if table is None or folder is None:
        cohort, bags = default_survival_data(**SMALL).cohort, default_bags("demo", **SMALL)
    else:
        cohort, bags = read_cohort(table), BagFolder(folder)
    print(f"{cohort.name}: {len(cohort)} patients, {cohort.event.sum()} deaths")

    for name, options in {"cox-age-sex": {}, "mil": {"bags": bags, "epochs": EPOCHS}}.items():
        system = make_system(name, **options)
        risk = np.full(len(cohort), np.nan)
        scores = []
        for fold in site_folds(cohort, folds=FOLDS):
            risk[fold.test] = system.risk(cohort, fold)
            scores.append(harrell_c(cohort.event[fold.test], cohort.time[fold.test], risk[fold.test]).value)
        print(f"{system.name}: Harrell's C {np.mean(scores):.3f} ({', '.join(f'{c:.3f}' for c in scores)})")

    high = high_risk(risk)  # of the last system, out of fold
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axis = figure.subplots()
    for half, label in ((high, "high risk"), (~high, "low risk")):
        curve = kaplan_meier(cohort.event[half], cohort.time[half])
        axis.step([0, *curve.time], [1, *curve.survival], where="post", label=f"{label} ({half.sum()})")
    axis.set(xlabel="months", ylabel="alive", ylim=(0, 1.02))
    axis.legend(title=f"log-rank p {log_rank(cohort.event, cohort.time, high).p:.2g}")
    figure.savefig("survival.png", dpi=120)
    print("survival.png: Kaplan-Meier curves of the halves at high and low risk")


if __name__ == "__main__":
    main(*sys.argv[1:])
