"""A synthetic cohort with known hazard: H&E slides, RNA, copy number, mutations, age and outcomes."""

from past_core.synthetic.survival_cohort.making import SyntheticCohort, default_cohort

__all__ = ["SyntheticCohort", "default_cohort"]
