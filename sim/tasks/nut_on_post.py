"""Task nut_on_post: pick the nut by its handle and leave it lying at the foot of the post.

Where along the handle it is to be held is drawn for each episode, so that the hole is not at a
fixed place in the hand.
"""

from __future__ import annotations

import numpy as np

from sim import layout
from sim.fixtures.nut import PART, SOCKET, NutFixture
from sim.tasks.fit_part import FitPartBatch

MAX_STEPS = 100
# The grasp lies within +- this along the handle of where the catalogue has it.
GRASP_SHIFT_M = 0.010


class NutOnPostBatch(FitPartBatch):
    """N cells with the task nut_on_post; see FitPartBatch."""

    fixture_type = NutFixture
    max_steps = MAX_STEPS

    def skill_parameters(self, i: int) -> dict[str, float]:
        """See FitPartBatch."""
        nominal = self.scene.fixture.parts[PART].grasp_offset_m
        return {"grasp_shift_m": float(self.grasp_offset_m[i, 0] - nominal[0])}

    def _begin(self, i: int, rng: np.random.Generator) -> None:
        self._ask_for(i, PART, SOCKET)
        self.grasp_offset_m[i, 0] += rng.uniform(-GRASP_SHIFT_M, GRASP_SHIFT_M)
        drawn = layout.sample(self.level, rng, self.scene.fixture)
        self.scene.lay_out(drawn, self._qpos[i], self._mocap_pos[i], self._mocap_quat[i])
