"""How a step is executed changes neither its result nor its weights' names; nothing waits for the device."""

import logging

import pytest
import torch
from test_losses_distributed import CASES, batch, network, step
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from past_core.losses import contrastive_loss
from past_core.models.dual_encoder import DualEncoder
from past_core.training.execution import compile_layers, set_execution
from past_core.training.finite import FiniteWatch


def test_options_reach_the_model(caplog: pytest.LogCaptureFixture) -> None:
    model, cpu = network(), torch.device("cpu")
    with caplog.at_level(logging.INFO, "past_core"):
        set_execution(model, microbatch=3, activation_checkpointing=True, compiled=True, device=cpu)
    assert model.microbatch == 3
    assert model.activation_checkpointing
    assert "model.compile is left off" in caplog.text
    assert not any(module._compiled_call_impl for module in model.modules())
    set_execution(model, microbatch=None, activation_checkpointing=False, compiled=False, device=cpu)
    assert model.microbatch is None
    assert not model.activation_checkpointing


# While PyTorch traces, it looks at gradients that it warns of; under `error` that would break its tracing.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_compiled_layers_have_the_same_gradients() -> None:
    """Traced and run by autograd (there may be no C++ compiler), with chunks and checkpointing around."""
    torch.compiler.reset()
    model, case, inputs = network(), CASES["both"], batch(0, 1)
    loss, gradients = step(model, inputs, case)
    names = list(model.state_dict())
    assert compile_layers(model, backend="aot_eager") == 4
    compiled_loss, compiled = step(model, inputs, case)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-8, atol=1e-12)


def on_pretended_gpu(model: DualEncoder) -> DualEncoder:
    """Parameters and buffers as tensors of a GPU that is not there: shapes are computed, values are not."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                module._parameters[name] = torch.nn.Parameter(fake)
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return model


@pytest.mark.parametrize("microbatch", [None, 5])
def test_a_step_reads_nothing_back_from_the_gpu(
    microbatch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self)  # needs a GPU
    model, real = network(), batch(0, 1)
    model.microbatch = microbatch
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_pretended_gpu(model)
        images, *rest = (
            torch.empty(part.shape, dtype=part.dtype, device="cuda") if torch.is_tensor(part) else part
            for part in real
        )
        output = model(images, *rest)
        result = contrastive_loss(**output._asdict())
        watch = FiniteWatch(interval=2)
        rows = rest[1]
        due = watch.add(0, 0, loss=result.loss, image=output.image, cell=output.cell, slides=rows, rows=rows)
        assert result.loss.device.type == "cuda"
        assert not due
        with pytest.raises(DataDependentOutputException):  # what looking at a value does
            float(result.loss.detach())
