"""The head, its loss, and that descent arrives at the least-squares solution."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from past_core.augment import dihedral
from past_genex.probe.task import (
    LinearHead,
    LinearProbe,
    ProbeTrainingError,
    masked_mse,
    symmetric_mean,
)


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


def test_a_loss_by_gene_is_the_mean_loss_times_the_cells() -> None:
    rng = np.random.default_rng(1)
    predicted, truth = (torch.from_numpy(rng.normal(size=(5, 7))) for _ in range(2))
    whole = masked_mse(predicted, truth, per="gene")
    assert float(whole) == pytest.approx(5 * float(masked_mse(predicted, truth)))
    truth[2, :4] = torch.nan
    truth[:, 3] = torch.nan  # a gene that no cell measures does not count
    error = np.nansum((predicted - truth).numpy() ** 2)
    assert float(masked_mse(predicted, truth, per="gene")) == pytest.approx(error / 6)


def test_the_mean_over_symmetries_is_that_of_eight_predictions() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 5 * 5, 4)).double()
    images = torch.randn(6, 3, 5, 5, dtype=torch.float64)
    # Turned and mirrored by NumPy, so that not the same code is on both sides.
    turned = [np.rot90(images.numpy(), k, axes=(2, 3)) for k in range(4)]
    turned += [image[..., ::-1] for image in turned]
    each = [network(torch.from_numpy(image.copy())) for image in turned]
    assert len({float(one[0, 0].detach()) for one in each}) == 8
    made = symmetric_mean(network, images)
    torch.testing.assert_close(made, torch.stack(each).mean(0), rtol=1e-12, atol=1e-12)
    for element in range(8):  # whichever way the patch lies
        moved = dihedral(images, torch.full((6,), element))
        torch.testing.assert_close(symmetric_mean(network, moved), made, rtol=1e-12, atol=1e-12)


def test_unknown_options_are_named() -> None:
    for option in ("optimizer", "schedule", "loss_per"):
        with pytest.raises(ProbeTrainingError, match=f"model.{option} is 'nonsense'"):
            LinearProbe(**{option: "nonsense"})
