"""A probe's file: round trip, damage, other encoders, trust."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from past_genex.data.targets import Target
from past_genex.probe.files import (
    Probe,
    ProbeError,
    ProbeMismatchError,
    ProbeNotFoundError,
    Trust,
    load_probe,
    save_probe,
)


@pytest.fixture
def probe() -> Probe:
    rng = np.random.default_rng(0)
    trust = Trust([0.5, 0.05, np.nan], [0.3, -0.1, np.nan], [0.6, 0.2, np.nan], [3, 3, 0], "inter")
    return Probe(
        encoder="enc",
        fingerprint="a" * 64,
        space="features",
        genes=["ENSG1", "ENSG2", "X"],
        symbols=["A", "B", "X"],
        target=Target("10k"),
        weight=rng.normal(size=(4, 3)),
        bias=rng.normal(size=3),
        alpha=np.array([1.0, 2.0, 3.0]),
        trust_table=trust,
        slides=("S1",),
        patients=("P1",),
        cells=7,
        demo=True,
        notes={"k": [1]},
    )


def test_round_trip(probe: Probe, tmp_path: Path) -> None:
    path = save_probe(probe, tmp_path / "p.safetensors")
    read = load_probe(path)
    for name in ("weight", "bias", "alpha"):
        np.testing.assert_array_equal(getattr(read, name), getattr(probe, name))
    assert read.trust(0.1).equals(probe.trust(0.1))
    assert read.card() == probe.card()
    assert read.card()["use"] == "research use only"
    assert read.trust(0.1)["trusted"].tolist() == [True, False, False]
    assert read.select(["B", "ENSG1"]).tolist() == [1, 0]
    with pytest.raises(ProbeError, match="does not predict NOPE"):
        read.select(["NOPE"])


def test_predicts_in_float64(probe: Probe) -> None:
    x = np.random.default_rng(1).normal(1e3, 1, size=(9000, 4)).astype(np.float32)
    expected = x.astype(np.float64) @ probe.weight.astype(np.float64) + probe.bias
    np.testing.assert_array_equal(probe.predict(x), expected.astype(np.float32))
    x[8500, 1] = np.nan
    with pytest.raises(ProbeError, match="row 8500"):
        probe.predict(x)
    with pytest.raises(ProbeMismatchError, match=r"\(2, 3\)"):
        probe.predict(np.zeros((2, 3)))


def test_another_encoder_is_refused(probe: Probe) -> None:
    probe.check(SimpleNamespace(name="enc", fingerprint="a" * 64, space="features", dim=4))
    with pytest.raises(ProbeMismatchError, match=r"enc .*aaaaaaaaaaaa.*other .*bbbbbbbbbbbb"):
        probe.check(SimpleNamespace(name="other", fingerprint="b" * 64, space="features", dim=4))


def test_damaged_files_are_refused(probe: Probe, tmp_path: Path) -> None:
    path = save_probe(probe, tmp_path / "p.safetensors")
    whole = path.read_bytes()
    for cut in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ProbeError, match="safetensors"):
            load_probe(path)
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(ProbeError, match="format 9"):
        load_probe(path)
    path.write_bytes(whole)
    save_file(load_file(path), path)
    with pytest.raises(ProbeError, match="no probe of past-genex"):
        load_probe(path)
    with pytest.raises(ProbeNotFoundError):
        load_probe(tmp_path / "nowhere.safetensors")


def test_a_failed_write_leaves_what_was_there(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_probe(probe, tmp_path / "p.safetensors")
    before = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(ProbeError, match="no space left"):
        save_probe(probe, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change", [{"genes": ["A", "A", "B"]}, {"bias": np.zeros(2)}, {"bias": np.array([0, np.nan, 0])}]
)
def test_parts_must_fit(probe: Probe, change: dict) -> None:
    values = {name: getattr(probe, name) for name in probe.__dataclass_fields__} | change
    with pytest.raises(ProbeError):
        Probe(**values)
