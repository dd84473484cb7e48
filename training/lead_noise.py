"""Against copying one's own command: errors on the observed lead, and what makes up for them.

An action is an increment of the command, and the lead, from the measured tool to the command, tells
where the command already is. It also tells which way the tool was sent last: in demonstrations that
go straight to things the next action all but follows from it, and a network that learns this much
hardly looks at the things themselves ("copycat", Wen et al. 2020; de Haan et al. 2019). Then a
first action that is a little off is carried on to its end.

With an error on the lead the command would really stand elsewhere, and who goes for a thing comes
back: the demonstrators of the cell make up for the same share of what is left in every policy step
(`gain` in sim.experts.motion). So both are put on a sample together, which costs no simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.spec import Spec

LEAD = "observation.state.lead"
RETURN = 0.6
"""Share of a command's error that is made up for in one policy step."""


@dataclass(frozen=True)
class LeadNoise:
    """Errors on K components of the lead, and the answer to them.

    Attributes:
        std: standard deviation of each (K,), m or rad.
        observed: their entries in the flat input (K,).
        commanded: the components of an action that answer them (K,).
    """

    std: Tensor
    observed: Tensor
    commanded: Tensor

    @classmethod
    def of(cls, spec: Spec, std: Sequence[float]) -> LeadNoise:
        """For the lead of `spec`; std: of its components in m, and of those in rad.

        Raises:
            ValueError: the spec has no lead, or no action that changes it.
        """
        entry, stds, observed, commanded = 0, [], [], []
        actions = [name for field in spec.action for name in field.names]
        for field in spec.observation:
            for i, name in enumerate(field.names):
                if field.name == LEAD and f"d{name}" in actions:
                    stds.append(std[name.startswith("r")])
                    observed.append(entry + i)
                    commanded.append(actions.index(f"d{name}"))
            entry += field.size
        if not observed:
            raise ValueError(f"--lead-noise: got data without {LEAD}, expected 0 0")
        return cls(torch.tensor(stds), torch.tensor(observed), torch.tensor(commanded))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Errors (count, K)."""
        return self.std * torch.randn(count, len(self.std), generator=generator)

    def shown(self, observation: Tensor, error: Tensor) -> Tensor:
        """Raw inputs (N, D) with errors (N, K) on their leads."""
        return observation.index_add(1, self.observed, error)

    def answered(self, chunk: Tensor, error: Tensor) -> Tensor:
        """Raw chunks (N, H, A) that make up for errors (N, K) of the command they begin at."""
        left = (1.0 - RETURN) ** torch.arange(chunk.shape[1])
        return chunk.index_add(2, self.commanded, -RETURN * left[:, None] * error[:, None])
