"""A scripted expert for nut_on_post."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.control import so3
from policies.features import Signals
from sim.experts.fit_part import FitPartExpert
from sim.fixtures.nut import KIND

Array = NDArray[np.float64]


class NutOnPostExpert(FitPartExpert):
    """See FitPartExpert; the nut's hole is beside the hand."""

    def __init__(self) -> None:
        super().__init__(KIND)

    def _swing(self, s: Signals, yaw: Array) -> Array:
        lever = s.part_position - s.tool_position
        turned = np.einsum("bij,bj->bi", so3.about_z(yaw), lever)
        return np.asarray(turned - lever)
