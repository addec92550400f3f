"""A loss that is not finite stops training, says where, and leaves the last good checkpoint as it is."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from past_core import pretrain
from past_core.cli import run_lightning
from past_core.training.finite import FiniteWatch, NonFiniteError, not_finite, require_finite_weights

CONF = Path(__file__).parents[1] / "conf" / "pretrain.yaml"


@pytest.fixture
def poisoned(tiny_slides: Sequence[Path], tmp_path: Path) -> Callable[[str], str]:
    """Trains with one weight of a side turned NaN at step 6 and returns the message."""

    def run(side: str) -> str:
        callbacks = ["--trainer.callbacks", "past_core.callbacks.LastCheckpoint"]
        callbacks += ["--trainer.callbacks.every_n_steps", "4", "--trainer.callbacks+", "faults.Poison"]
        callbacks += ["--trainer.callbacks.step", "6", "--trainer.callbacks.side", side]
        with pytest.raises(NonFiniteError) as caught:
            run_lightning(
                [
                    *("fit", "-c", str(CONF), "--data.slides", "[" + ",".join(map(str, tiny_slides)) + "]"),
                    *("--trainer.default_root_dir", str(tmp_path)),
                    *("--trainer.logger.init_args.save_dir", str(tmp_path)),
                    *("--trainer.limit_val_batches", "0", *callbacks),
                ]
            )
        return str(caught.value)

    return run


def last_good(folder: Path) -> dict:
    (path,) = (folder / "version_0" / "checkpoints").iterdir()
    return torch.load(path)


@pytest.mark.parametrize(("side", "other"), [("image", "cell"), ("cell", "image")])
def test_it_names_step_side_slides_and_cells(
    poisoned: Callable[[str], str], tmp_path: Path, tiny_slides: Sequence[Path], side: str, other: str
) -> None:
    from past_core.ingest.store import SlideStore

    message = poisoned(side)
    assert message.startswith("the loss is nan at step 6 (epoch ")
    assert f"rank 0: {side} embeddings not finite for all 64 cells: slide P" in message
    assert f"{other} embeddings not finite" not in message
    ids = {str(cell) for path in tiny_slides for cell in SlideStore(path).cell_ids}
    named = message.split("cells (")[1].split(")")[0].split(", ")
    assert len(named) == 6
    assert set(named[:5]) <= ids
    assert last_good(tmp_path)["global_step"] == 4


def test_looking_seldom_nothing_bad_is_saved(
    poisoned: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: between two looks training runs on, and the next checkpoint is refused."""
    monkeypatch.setattr(pretrain, "FiniteWatch", lambda interval: FiniteWatch(100))
    assert "the loss is nan at step 6 (" in poisoned("image")
    checkpoint = last_good(tmp_path)
    assert checkpoint["global_step"] == 4
    assert not not_finite(checkpoint["state_dict"].items())


def test_weights_that_overflowed_are_not_saved() -> None:
    model = torch.nn.Linear(2, 2)
    require_finite_weights(model, step=3)
    with torch.no_grad():
        model.bias[1] = torch.inf
    with pytest.raises(NonFiniteError, match=r"after step 3 the weights bias are not finite"):
        require_finite_weights(model, step=3)


def test_the_watch_reports_the_first_bad_step_once() -> None:
    watch, cells = FiniteWatch(3), torch.arange(2)
    due = [
        watch.add(
            step,
            0,
            loss=torch.tensor(loss),
            image=torch.tensor([[1.0], [loss]]),
            cell=torch.ones(2, 1),
            slides=cells,
            rows=cells,
        )
        for step, loss in enumerate([1.0, torch.inf, torch.nan])
    ]
    assert due == [False, False, True]
    kept = watch.look()
    assert kept.step == 1
    assert kept.image.tolist() == [False, True]
    assert not kept.cell.any()
    assert watch.look() is None
