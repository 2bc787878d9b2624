"""The exporter's own comparison of graphs with PyTorch."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import ParityError
from pocket_export.checkpoint import read_checkpoint
from pocket_export.parity import measure_parity
from pocket_export.parts import text_encoder


class OtherLayers(nn.Module):
    """A text encoder whose first output alone is right."""

    def __init__(self, right: nn.Module) -> None:
        super().__init__()
        self.right = right

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        context, layers = self.right(ids)
        return context, 1.1 * layers


def test_every_output_is_compared(tiny_bundle_fp32: Path, tiny_folder: Path) -> None:
    part = text_encoder(read_checkpoint(str(tiny_folder)))
    component = Bundle.open(tiny_bundle_fp32).manifest.text_encoder
    assert len(measure_parity(part, tiny_bundle_fp32, component, tolerance=0.01)) == 2
    with pytest.raises(ParityError, match=r"the graph of text_encoder is off by 9\.1e-02"):
        measure_parity(replace(part, module=OtherLayers(part.module)), tiny_bundle_fp32, component, tolerance=0.01)
