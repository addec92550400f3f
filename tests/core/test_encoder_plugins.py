"""Encoders that installed packages declare: found by name, and none of them breaks the others."""

import logging
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from past_core.encoders import IMAGE_ENCODERS, list_encoders, load_image_encoder
from past_core.encoders.plugins import ENCODERS_GROUP, declared_encoders

MODULE = """
from torch import nn
from past_core.encoders import PublicEncoder

class Colours(nn.Module):
    num_features = 5
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)
    def forward(self, images):
        return self.layer(images.mean(dim=(2, 3)))

entry = PublicEncoder(architecture="colours", build=Colours, dim=5, embedding="mean colour", image_size=32,
                      licence="own", paper="none", where="here", file="colours.safetensors")
number = 5
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package in a folder of its own, as pip leaves one."""
    (tmp_path / "made_encoders.py").write_text(textwrap.dedent(MODULE))
    info = tmp_path / "made_encoders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-encoders\nVersion: 1.0\n")
    points = ["colours = made_encoders:entry", "number = made_encoders:number", "uni = made_encoders:entry"]
    points += ["broken = made_nowhere:entry", "demo = made_encoders:entry"]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENCODERS_GROUP}]", *points]))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("made_encoders", None)


def test_a_declared_encoder_goes_by_its_name(installed, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        found = declared_encoders(IMAGE_ENCODERS)
    assert list(found) == ["colours"]
    for name, why in {
        "number": "is a int; expected a past_core.encoders.PublicEncoder",
        "uni": "has a name that is taken",
        "broken": "cannot be loaded: ModuleNotFoundError",
        "demo": "has a name that means something else",
    }.items():
        assert any(f"encoder {name} of" in text and why in text for text in caplog.messages), (name, why)

    monkeypatch.setitem(IMAGE_ENCODERS, "colours", found["colours"])
    torch.manual_seed(0)
    made = found["colours"].build()
    save_file(made.state_dict(), installed / "mine.safetensors")
    encoder = load_image_encoder("colours", weights=installed / "mine.safetensors")
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normal = (patches / 255 - torch.tensor(encoder.mean).view(3, 1, 1)) / torch.tensor(encoder.std).view(
        3, 1, 1
    )
    torch.testing.assert_close(encoder(patches), made(normal), atol=1e-5, rtol=1e-5)
    assert [row.licence for row in list_encoders() if row.name == "colours"] == ["own"]
