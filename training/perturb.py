"""Samples made from samples: the observation somewhat different, and what to do then.

Both kinds take away what a network may lean on instead of looking at the things it handles, and
cost no simulation.

*Errors on the lead.* An action is an increment of the command, and the lead, from the measured tool
to the command, tells where the command already is. It also tells which way the tool was sent last:
in demonstrations that go straight to things the next action all but follows from it, and a network
that learns this much hardly looks at the things ("copycat", Wen et al. 2020; de Haan et al. 2019).
Then a first action that is a little off is carried on to its end. With an error on the lead the
command would really stand elsewhere, and who goes for a thing comes back: the demonstrators of the
cell make up for the same share of what is left in every policy step (`gain` in sim.experts.motion).

*Shifts of the scene.* Where things always stand near the same places, where the tool is says nearly
as much as where the thing is. With robot, things and goals moved together along the table what is
to be done stays the same, and only the thing says where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.spec import Field, Spec

LEAD = "observation.state.lead"
RETURN = 0.6
"""Share of a command's error that is made up for in one policy step."""


@dataclass(frozen=True)
class Perturbation:
    """K independent perturbations of a sample.

    Attributes:
        std: standard deviation of each (K,), m or rad.
        shows: what each adds to the raw flat input (K, D), per unit.
        commands: by what it moves the command (K, A), per unit, which the chunk makes up for.
    """

    std: Tensor
    shows: Tensor
    commands: Tensor

    @classmethod
    def of(cls, spec: Spec, lead_noise: Sequence[float], scene_shift: float) -> Perturbation | None:
        """What --lead-noise (m, rad) and --scene-shift (m) ask for, None for nothing.

        Raises:
            ValueError: the spec has no lead, or nothing that a shift changes.
        """
        inputs = [(f, name) for f in spec.input_fields for name in f.names or [""] * f.size]
        actions = [name for f in spec.action for name in f.names]
        found = []
        if any(lead_noise):
            for entry, (field, name) in enumerate(inputs):
                if field.name == LEAD and f"d{name}" in actions:
                    std = lead_noise[name.startswith("r")]
                    found.append((std, [entry], [actions.index(f"d{name}")]))
            if not found:
                raise ValueError(f"--lead-noise: got data without {LEAD}, expected 0 0")
        if scene_shift:
            for axis in "xy":
                moved = [i for i, (field, name) in enumerate(inputs) if _lies(field, name, axis)]
                if not moved:
                    raise ValueError(
                        f"--scene-shift: got data without positions along {axis} in frame base, "
                        "expected 0"
                    )
                found.append((scene_shift, moved, []))
        if not found:
            return None
        shows = torch.zeros(len(found), len(inputs))
        commands = torch.zeros(len(found), len(actions))
        for k, (_, entries, components) in enumerate(found):
            shows[k, entries] = 1.0
            commands[k, components] = 1.0
        return cls(torch.tensor([std for std, _, _ in found]), shows, commands)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Perturbations (count, K)."""
        return self.std * torch.randn(count, len(self.std), generator=generator)

    def shown(self, observation: Tensor, by: Tensor) -> Tensor:
        """Raw inputs (N, D) perturbed by (N, K)."""
        return observation + by @ self.shows

    def answered(self, chunk: Tensor, by: Tensor) -> Tensor:
        """Raw chunks (N, H, A) that make up for perturbations (N, K)."""
        left = (1.0 - RETURN) ** torch.arange(chunk.shape[1])
        return chunk - RETURN * left[:, None] * (by @ self.commands)[:, None]


def _lies(field: Field, name: str, axis: str) -> bool:
    """Whether a component is a position along an axis of the robot's base."""
    stem, _, last = name.rpartition("_")
    return field.frame == "base" and field.unit.startswith("m") and last == axis and stem != "axis"
