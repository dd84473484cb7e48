"""Pairs of noise and what a trained policy makes of it: the second round of rectified flow.

A denoiser trained on independent noise and data has curved sampling paths, and few steps cut the
corners. Trained once more on pairs that belong together, the noise and the chunk that many steps
turned it into, its paths are straight lines, which few steps follow as well as many (Liu et al.
2022, "Flow straight and fast", algorithm 1 applied to its own samples). In EDM's parametrisation
the point at level sigma on the line from noise n at level 1 to the chunk a is a + sigma (n - a):
the new network's largest level is 1, whatever that of the first one was, and there the path is the
noise itself.

Where several answers are right, which one a noise belongs to is too much to learn at once. Then the
path is cut into windows at a few levels and each piece is straightened by itself (Yan et al. 2024,
PeRFlow): as many steps as there are windows follow it, each learns what the first network does in
its window only, and the levels stay the first network's. What a step errs by, between two answers
above all, is new to the steps after it. So once the new network can sample, half of its pieces
begin where its own steps lead, and end where the first network goes on to from there. And since
what it is to learn is a function without noise, pieces that its steps miss by more may be shown
more often: those are few, at the border between two answers, where a slight difference decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policies.beso.diffusion import DETERMINISTIC, SCHEDULES, SamplerSettings, sample_ddim
from policies.beso.policy import ScorePolicy
from training.perturb import Perturbation
from training.progress import Progress

BATCH = 2048
ONE_WINDOW = (1.0, 0.0)
SHARE_OF_OWN = 0.5
"""Share of the pairs whose pieces begin where the new network's steps lead."""
SHARE_AT_TOPS = 0.5
"""Share of the training samples at the top of a window, where as many steps as there are windows
evaluate the network; the others are spread evenly over pairs, and over levels, for other numbers of
steps."""


@dataclass(frozen=True)
class Pairs:
    """n pairs, with what is needed to make each one's observation again.

    Attributes:
        rows: row of the data (n,).
        ahead: where in the allowed stretch the goal lies, (n,) in [0, 1).
        asked: row whose achieved state is the goal instead, -1 for none, (n,).
        dropped: 1 where the goal is hidden, (n,).
        by: by what the observation is perturbed, (n, K), None for nothing; see training.perturb.
        noise: unit normal noise that the sampler started from, (n, R, A).
        starts: where a piece of the path enters each window, (n, windows, R, A), normalised.
        ends: where it leaves the window, of that shape.
        levels: noise levels between which the windows lie, decreasing to 0, (windows + 1).
        often: pieces to train on where they begin, each as often as it is to be drawn; piece w of
            pair i is i * windows + w, (n * windows,).
    """

    rows: Tensor
    ahead: Tensor
    asked: Tensor
    dropped: Tensor
    by: Tensor | None
    noise: Tensor
    starts: Tensor
    ends: Tensor
    levels: tuple[float, ...]
    often: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def chunk(self) -> Tensor:
        """The samples (n, R, A), normalised."""
        return self.ends[:, -1]

    def seen(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, `ahead` and `asked` of pairs (N,), of which their observations are made."""
        return self.rows[chosen], self.ahead[chosen], self.asked[chosen]

    def line(self, chosen: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Target and direction (N, R, A) of pairs (N,) at levels (N,): the straight piece of the
        path in the window of `level` is target + sigma * direction.
        """
        inner = level.new_tensor(self.levels[1:-1])
        window = (level[:, None] <= inner).sum(dim=1)
        levels = level.new_tensor(self.levels)
        high, low = (levels[w].reshape(-1, 1, 1) for w in (window, window + 1))
        start, end = self.starts[chosen, window], self.ends[chosen, window]
        direction = (start - end) / (high - low)
        return end - low * direction, direction

    def towards_tops(
        self, chosen: Tensor, level: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Replaces SHARE_AT_TOPS of the pairs (N,) and levels (N,) by pieces that are drawn as
        `often` says, and the tops of their windows; with one window none.
        """
        windows = len(self.levels) - 1
        if windows == 1:
            return chosen, level
        piece = self.often[torch.randint(len(self.often), level.shape, generator=generator)]
        tops = level.new_tensor(self.levels[:-1])
        moved = torch.rand(level.shape, generator=generator) < SHARE_AT_TOPS
        return (
            torch.where(moved, piece // windows, chosen),
            torch.where(moved, tops[piece % windows], level),
        )


def straightened(
    sampler: SamplerSettings, windows: int
) -> tuple[SamplerSettings, tuple[float, ...]]:
    """The new network's sampler, where `sampler` says noise, guidance and levels of the first one's
    samples, and the levels between which its windows lie.
    """
    own = replace(sampler, cfg_lambda=1.0)
    if windows == 1:
        return replace(own, sigma_max=ONE_WINDOW[0], noise_scale=1.0), ONE_WINDOW
    own = replace(own, name="ddim", steps=windows)
    return own, tuple(own.sigmas)


def window_sigmas(sampler: SamplerSettings, levels: Sequence[float]) -> list[list[float]]:
    """The levels that `sampler` visits in each window between `levels`, its steps spread evenly.

    Raises:
        ValueError: there are fewer steps than windows, or the last one ends above where it begins.
    """
    windows = len(levels) - 1
    if windows == 1:
        return [sampler.sigmas]
    if sampler.steps < windows:
        raise ValueError(
            f"--reflow-steps: got {sampler.steps}, expected at least one in each of the {windows} "
            "windows"
        )
    if sampler.sigma_min >= levels[-2]:
        raise ValueError(
            f"--sampler.sigma-min: got {levels[-2]}, expected more than --sigma-min "
            f"{sampler.sigma_min}: it is where the last window begins"
        )
    spaced = SCHEDULES[sampler.schedule]
    visited = []
    for i, (high, low) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        steps = (sampler.steps - i + windows - 1) // windows
        visited.append(
            spaced(steps + 1, low, high)[:-1] if low else spaced(steps, sampler.sigma_min, high)
        )
    return visited


def draw_pairs(
    teacher: ScorePolicy,
    inputs: Callable[[Tensor, Tensor, Tensor], Tensor],
    rows: Tensor,
    count: int,
    goal_drop: float,
    generator: torch.Generator,
    levels: tuple[float, ...] = ONE_WINDOW,
    student: ScorePolicy | None = None,
    asked: tuple[float, Tensor] | None = None,
    perturbation: Perturbation | None = None,
) -> Pairs:
    """Samples `count` chunks with the sampler of `teacher`, of rows drawn from `rows`.

    Args:
        teacher: with the sampler to imitate; it has to be deterministic.
        inputs: raw network inputs of rows (n,) with goals `ahead` or `asked` (n,); see
            training.inputs.
        rows: rows of the data to draw from.
        count: how many.
        goal_drop: share of pairs without goal.
        generator: where everything random comes from.
        levels: where windows begin, from the sampler's largest level down, and 0; or one window.
        student: the new network, if pieces are to begin where its steps lead, and those it misses
            by more to be drawn more often, in proportion.
        asked: share of pairs whose goal is what was achieved in one of some other rows, and those
            rows. What to do then nobody has shown, but the teacher knows.
        perturbation: of what is shown, if any; what to do then the teacher says.

    Raises:
        ValueError: the sampler draws noise on its way, so that no noise belongs to a chunk; or its
            levels do not go with the windows.
    """
    sampler = teacher.sampler
    if sampler.draws != 1:
        raise ValueError(
            f"--reflow-sampler: got {sampler.name}, expected a deterministic one for --reflow"
        )
    visited = window_sigmas(sampler, levels)
    integrate = DETERMINISTIC[sampler.name]
    chosen = rows[torch.randint(len(rows), (count,), generator=generator)]
    ahead = torch.rand(count, generator=generator)
    goals = torch.full((count,), -1)
    if asked:
        share, others = asked
        goals = others[torch.randint(len(others), (count,), generator=generator)]
        goals[torch.rand(count, generator=generator) >= share] = -1
    dropped = (torch.rand(count, generator=generator) < goal_drop).float()
    noise = torch.randn(count, *teacher.noise_shape, generator=generator)
    by = perturbation.draw(count, generator) if perturbation else None
    starts = noise.new_empty(count, len(levels) - 1, *teacher.noise_shape)
    ends = torch.empty_like(starts)
    own = (torch.rand(count, 1, 1, generator=generator) < SHARE_OF_OWN) if student else None
    missed = noise.new_ones(count, len(levels) - 1)
    progress = Progress(count, "pairs")
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        observation = inputs(chosen[part], ahead[part], goals[part])
        if perturbation and by is not None:
            observation = perturbation.shown(observation, by[part])
        observation = teacher.drop_goal(teacher.normaliser.observation(observation), dropped[part])
        with torch.no_grad():
            denoise = teacher.denoiser(observation)
            theirs = student.denoiser(observation) if student else None
            x = noise[part] * (sampler.noise_scale * visited[0][0])
            for window, sigmas in enumerate(visited):
                starts[part, window] = noise[part] if levels == ONE_WINDOW else x
                ends[part, window] = end = integrate(denoise, x, sigmas)
                if theirs is not None and own is not None:
                    high, low = levels[window : window + 2]
                    step = sample_ddim(theirs, x, [high, low])
                    # Of the estimate, whatever the step makes of it.
                    miss = (step - end).square().mean(dim=(1, 2)).sqrt() * high / (high - low)
                    missed[part, window] = miss
                    end = torch.where(own[part], step, end)
                x = end
        progress.show(min(first + BATCH, count), f"{sampler.steps} steps each")
    pieces = missed.numel()
    often = torch.arange(pieces)
    if student:
        often = torch.multinomial(missed.flatten(), pieces, replacement=True, generator=generator)
    return Pairs(chosen, ahead, goals, dropped, by, noise, starts, ends, levels, often)
