"""Task leg_screw: pick the leg from the table, put its tip into the socket, screw it home, let go.

Three quarters of a turn, which the wrist makes by grasping the leg anew.
"""

from __future__ import annotations

import numpy as np

from policies.features import SCREW_SPEC
from sim import layout
from sim.fixtures.leg import PART, SOCKET, LegFixture
from sim.tasks.fit_part import FitPartBatch

MAX_STEPS = 250


class LegScrewBatch(FitPartBatch):
    """N cells with the task leg_screw; see FitPartBatch."""

    spec = SCREW_SPEC
    fixture_type = LegFixture
    max_steps = MAX_STEPS

    def _begin(self, i: int, rng: np.random.Generator) -> None:
        self._ask_for(i, PART, SOCKET)
        drawn = layout.sample(self.level, rng, self.scene.fixture)
        self.scene.lay_out(drawn, self._qpos[i], self._mocap_pos[i], self._mocap_quat[i])
