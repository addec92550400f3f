"""The head, its loss, and that descent arrives at the least-squares solution."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from past_genex.probe.task import LinearHead, masked_mse


def test_loss_leaves_out_what_is_not_measured() -> None:
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    truth = torch.tensor([[0.0, float("nan")], [0.0, 2.0]])
    loss = masked_mse(predicted, truth)
    assert float(loss.detach()) == pytest.approx((1 + 9 + 4) / 3)
    loss.backward()
    assert torch.isfinite(predicted.grad).all()
    assert predicted.grad[0, 1] == 0


def test_descent_arrives_at_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(5, [1, 3, 0.2, 10], size=(400, 4))
    y = x @ rng.normal(size=(4, 3)) + rng.normal(size=(400, 3))
    mean, scale = x.mean(0), x.std(0)
    head = LinearHead(
        4,
        torch.as_tensor(y.mean(0), dtype=torch.float32),
        mean=torch.as_tensor(mean, dtype=torch.float32),
        scale=torch.as_tensor(scale, dtype=torch.float32),
    )
    assert torch.allclose(head.linear.bias, torch.as_tensor(y.mean(0), dtype=torch.float32))
    inputs, truth = (torch.as_tensor(a, dtype=torch.float32) for a in (x, y))
    decay = 0.1
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        penalty = decay * head.linear.weight.square().sum() / truth.numel()
        loss = masked_mse(head(inputs), truth) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    reference = Ridge(alpha=decay).fit((x - mean) / scale, y)
    weight, bias = head.folded()
    np.testing.assert_allclose(x @ weight + bias, reference.predict((x - mean) / scale), atol=5e-3)
