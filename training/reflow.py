"""Pairs of noise and what a trained policy makes of it: the second round of rectified flow.

A denoiser trained on independent noise and data has curved sampling paths, and few steps cut the
corners. Trained once more on pairs that belong together, the noise and the chunk that many steps
turned it into, its paths are straight lines, which few steps follow as well as many (Liu et al.
2022, "Flow straight and fast", algorithm 1 applied to its own samples). In EDM's parametrisation
the point at level sigma on the line from noise n at level 1 to the chunk a is a + sigma (n - a):
the new network's largest level is 1, whatever that of the first one was, and there the path is the
noise itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.beso.diffusion import SamplerSettings
from policies.beso.policy import ScorePolicy
from training.progress import Progress

BATCH = 2048


@dataclass(frozen=True)
class Pairs:
    """n pairs, with what is needed to make each one's observation again.

    Attributes:
        rows: row of the data (n,).
        ahead: where in the allowed stretch the goal lies, (n,) in [0, 1).
        dropped: 1 where the goal is hidden, (n,).
        noise: unit normal noise that the sampler started from, (n, R, A).
        direction: n - a, what takes the place of unit normal noise, (n, R, A).
        chunk: the sample a, (n, R, A), normalised.
    """

    rows: Tensor
    ahead: Tensor
    dropped: Tensor
    noise: Tensor
    direction: Tensor
    chunk: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def draw_pairs(
    teacher: ScorePolicy,
    inputs: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    count: int,
    goal_drop: float,
    generator: torch.Generator,
) -> Pairs:
    """Samples `count` chunks with the sampler of `teacher`, of rows drawn from `rows`.

    Args:
        teacher: with the sampler to imitate; it has to be deterministic.
        inputs: raw network inputs of rows (n,) with goals `ahead` (n,); see training.inputs.
        rows: rows of the data to draw from.
        count: how many.
        goal_drop: share of pairs without goal.
        generator: where everything random comes from.

    Raises:
        ValueError: the sampler draws noise on its way, so that no noise belongs to a chunk.
    """
    sampler = teacher.sampler
    if sampler.draws != 1:
        raise ValueError(
            f"--sampler.name: got {sampler.name}, expected a deterministic one for --reflow"
        )
    chosen = rows[torch.randint(len(rows), (count,), generator=generator)]
    ahead = torch.rand(count, generator=generator)
    dropped = (torch.rand(count, generator=generator) < goal_drop).float()
    noise = torch.randn(count, *teacher.noise_shape, generator=generator)
    chunk = torch.empty_like(noise)
    progress = Progress(count, "pairs")
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        observation = teacher.normaliser.observation(inputs(chosen[part], ahead[part]))
        observation = teacher.drop_goal(observation, dropped[part])
        with torch.no_grad():
            chunk[part] = teacher.sample(observation, noise[part], None, None)
        progress.show(min(first + BATCH, count), f"{sampler.steps} steps each")
    return Pairs(chosen, ahead, dropped, noise, noise - chunk, chunk)


def rectify(
    teacher: ScorePolicy,
    sampler: SamplerSettings,
    inputs: Callable[[Tensor, Tensor], Tensor],
    wanted: Sequence[tuple[Tensor, int]],
    goal_drop: float,
    generator: torch.Generator,
) -> list[Pairs]:
    """Pairs by another sampler than the teacher's own, for each of `wanted`: rows, and how many.

    The sampler's temperature and guidance become part of the network that learns from them. The
    other arguments are those of `draw_pairs`.
    """
    own, teacher.sampler = teacher.sampler, sampler
    pairs = [
        draw_pairs(teacher, inputs, rows, count, goal_drop, generator) for rows, count in wanted
    ]
    teacher.sampler = own
    return pairs
