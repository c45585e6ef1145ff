"""What is asked of a sequence of poses."""

from __future__ import annotations

import numpy as np

from dreamactor.motion.pose import extreme_yaws


def test_the_most_different_views_are_the_extremes_and_the_median() -> None:
    assert extreme_yaws(np.array([0.1, -0.7, 0.2, 0.9, 0.15], np.float32)) == [3, 1, 4]
