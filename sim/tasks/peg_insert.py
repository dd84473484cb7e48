"""Task peg_insert: pick the named peg from the table and leave it standing in the named socket.

The other peg is either still on the table or already in its socket, as it happens while a product
is assembled.
"""

from __future__ import annotations

import numpy as np

from sim import layout
from sim.fixtures.pegs import PegFixture
from sim.tasks.cell_batch import START_WIDTH_M
from sim.tasks.fit_part import FitPartBatch

__all__ = ["MAX_STEPS", "START_WIDTH_M", "PegInsertBatch"]

MAX_STEPS = 100


class PegInsertBatch(FitPartBatch):
    """N cells with the task peg_insert; see FitPartBatch."""

    fixture_type = PegFixture
    max_steps = MAX_STEPS

    def _begin(self, i: int, rng: np.random.Generator) -> None:
        fixture = self.scene.fixture

        def homes(part: str) -> list[str]:
            return [s for s, kind in fixture.sockets.items() if kind == fixture.parts[part]]

        part = str(rng.choice(list(fixture.parts)))
        socket = str(rng.choice(homes(part)))
        other = next(p for p in fixture.parts if p != part)
        seated = {other: str(rng.choice(homes(other)))} if rng.random() < 0.5 else {}
        self._ask_for(i, part, socket)
        drawn = layout.sample(self.level, rng, fixture, seated)
        self.scene.lay_out(drawn, self._qpos[i], self._mocap_pos[i], self._mocap_quat[i])
