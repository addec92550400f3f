"""Losses of survival models: discrete-time likelihood and Cox's partial likelihood."""

import torch
from torch import Tensor

EPSILON = 1e-7
"""Probabilities are clamped here before their logarithm."""


def hazards_of(logits: Tensor) -> Tensor:
    """Logits to hazards, in single precision at least: half of it would round 1 − h away."""
    return torch.sigmoid(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)


def survival_of(hazards: Tensor) -> Tensor:
    """Survival after each interval, the running product of one minus the hazards: `(B, K)`."""
    return torch.cumprod(1 - hazards, dim=1)


def risk_of(hazards: Tensor) -> Tensor:
    """Minus the sum of the survival over the intervals: `(B,)`, higher means a shorter life."""
    return -survival_of(hazards).sum(dim=1)


def nll_survival(hazards: Tensor, interval: Tensor, censored: Tensor, *, alpha: float = 0.0) -> Tensor:
    """Negative log-likelihood of discrete survival times (Zadeh & Schmid 2020, as MCAT has it).

    A death in interval Y has likelihood S(Y − 1)·h(Y), a patient censored in Y has S(Y).

    Args:
        hazards: `(B, K)` probability of dying in each interval, given that it was reached.
        interval: `(B,)` int64 interval of death or censoring.
        censored: `(B,)` 1 where censored.
        alpha: additional weight of deaths: (1 − alpha)·(all) + alpha·(deaths).

    Returns:
        the mean over patients.
    """
    padded = torch.cat([torch.ones_like(hazards[:, :1]), survival_of(hazards)], dim=1)
    interval, censored = interval.view(-1, 1), censored.view(-1, 1).to(hazards.dtype)

    def log_at(values: Tensor, where: Tensor) -> Tensor:
        return torch.log(values.gather(1, where).clamp(min=EPSILON))

    died = -(1 - censored) * (log_at(padded, interval) + log_at(hazards, interval))
    lived = -censored * log_at(padded, interval + 1)
    return ((1 - alpha) * (died + lived) + alpha * died).mean()


def cox_partial_likelihood(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative log partial likelihood of Cox's model, with Breslow's ties.

    Args:
        risk: `(B,)` log hazard ratios of a whole risk set.
        time: `(B,)` times.
        event: `(B,)` 1 where death was seen.

    Returns:
        the mean over deaths; 0 without any.
    """
    # Everybody whose time is at least t is at risk at t, ties included.
    at_risk = time[None] >= time[:, None]
    log_sum = torch.logsumexp(risk[None].expand(len(risk), -1).masked_fill(~at_risk, -torch.inf), dim=1)
    died = event.to(risk.dtype)
    return ((log_sum - risk) * died).sum() / died.sum().clamp(min=1)
