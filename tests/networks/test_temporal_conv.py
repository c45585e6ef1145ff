"""The convolution over time against its definition: three frames stacked by channel under a 1x1 kernel."""

import pytest
import torch

from dreamactor.networks.layers import TemporalConv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_equals_stacked_frames(stride: int, frames: int) -> None:
    layer = TemporalConv(6, 5, stride)
    x = torch.randn(2, frames, 6, 4, 3)
    padded = torch.cat([torch.zeros(2, 2, 6, 4, 3), x], 1)
    stacked = torch.cat([padded[:, tap : tap + frames : stride] for tap in range(3)], 2)
    expected = layer.conv(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2])

    torch.testing.assert_close(layer(x), expected)
