"""What a run of training.train_beso is shown: chunks of the data under noise, or --reflow's pairs.

Both know how to draw a batch, and what of the episodes held out a validation looks at: the same
rows, levels and noise every time, so that its curve is smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from policies.beso.policy import ChunkPolicy, ScorePolicy
from training.beso_args import Args
from training.beso_rollout import simulations, visited_inputs
from training.dataset import Demonstrations
from training.inputs import Inputs
from training.perturb import Perturbation
from training.reflow import Pairs, draw_pairs

REFLOW_SEED0 = 800_000
VALIDATION_ROWS = 4096


@dataclass(frozen=True)
class Samples:
    """N samples of the denoising loss.

    Attributes:
        observation: raw network inputs (N, D), or (N, W, D) with a window above 1.
        dropped: 1 where the goal is to be hidden, (N,).
        action: chunks to find (N, R, A), normalised.
        level: noise levels (N,).
        noise: what is added to the chunks, times the level, (N, R, A).
    """

    observation: Tensor
    dropped: Tensor
    action: Tensor
    level: Tensor
    noise: Tensor


@dataclass(frozen=True)
class HeldOut:
    """What a validation looks at: samples, and whole chunks to sample.

    Attributes:
        samples: of the loss; no goal is hidden.
        noise: unit normal noise to sample from, (N, *noise_shape).
        chunk: the chunks (N, H, A) that belong to `samples.observation`, raw.
    """

    samples: Samples
    noise: Tensor
    chunk: Tensor


class Source(Protocol):
    """Where samples come from."""

    def draw(self, step: int, generator: torch.Generator) -> Samples:
        """A batch for gradient step `step`, counted from 0."""

    def held_out(self, rows: Tensor) -> HeldOut:
        """What to validate on, of rows (n,) of episodes held out."""


def some_of(rows: Tensor, generator: torch.Generator) -> Tensor:
    """At most VALIDATION_ROWS of rows (n,)."""
    return rows[torch.randperm(len(rows), generator=generator)[:VALIDATION_ROWS]]


class OfData:
    """Chunks of rows of the data, under independent noise.

    Args:
        args: the run's.
        inputs: what a network is shown of rows.
        chunks: every row's chunk (n, R, A), raw.
        rows: rows to draw from, as often as they are to count.
        policy: says how levels are drawn and chunks normalised.
        perturbation: of what is shown, if any.
    """

    def __init__(
        self,
        args: Args,
        inputs: Inputs,
        chunks: Tensor,
        rows: Tensor,
        policy: ChunkPolicy,
        perturbation: Perturbation | None = None,
    ) -> None:
        self.args, self.inputs, self.chunks, self.rows = args, inputs, chunks, rows
        self.policy = policy
        self.target = policy.normaliser.action(chunks)
        self.perturbation = perturbation

    def draw(self, step: int, generator: torch.Generator) -> Samples:
        """See Source."""
        del step
        size = self.args.batch_size
        rows = self.rows[torch.randint(len(self.rows), (size,), generator=generator)]
        level = self.policy.draw_level(torch.rand(size, generator=generator))
        noise = torch.randn(size, *self.target.shape[1:], generator=generator)
        ahead = torch.rand(size, generator=generator)
        dropped = (torch.rand(size, generator=generator) < self.args.goal_drop).float()
        observation, target = self.inputs(rows, ahead), self.target[rows]
        if self.perturbation:
            by = self.perturbation.draw(size, generator)
            observation = self.perturbation.shown(observation, by)
            answered = self.perturbation.answered(self.chunks[rows], by)
            target = self.policy.normaliser.action(answered)
        return Samples(observation, dropped, target, level, noise)

    def held_out(self, rows: Tensor) -> HeldOut:
        """See Source."""
        fixed = torch.Generator().manual_seed(self.args.seed + 1)
        rows = some_of(rows, fixed)
        observation = self.inputs(rows, torch.rand(len(rows), generator=fixed))
        action = self.target[rows]
        noise = torch.randn(action.shape, generator=fixed)
        level = self.policy.draw_level(torch.rand(len(rows), generator=fixed))
        return HeldOut(
            Samples(observation, torch.zeros(len(rows)), action, level, noise),
            torch.randn(len(rows), *self.policy.noise_shape, generator=fixed),
            self.chunks[rows, self.args.window - 1 :],
        )


class OfPairs:
    """Pieces of the paths of a first network, drawn anew in every round; see training.reflow.

    Args:
        args: the run's.
        data: the demonstrations.
        inputs: what a network is shown of rows; rows that were visited are added to it.
        rows: rows to draw pairs of, as often as they are to count.
        beginnings: rows whose achieved states may be asked for, see --reflow-asked.
        teacher: the first network, with the sampler to imitate.
        student: the new network's averaged weights, which change as they are trained.
        levels: where the windows begin, and 0.
        perturbation: of what is shown, if any.
    """

    def __init__(
        self,
        args: Args,
        data: Demonstrations,
        inputs: Inputs,
        rows: Tensor,
        beginnings: Tensor,
        teacher: ScorePolicy,
        student: ScorePolicy,
        levels: tuple[float, ...],
        perturbation: Perturbation | None = None,
    ) -> None:
        self.args, self.data, self.inputs = args, data, inputs
        self.rows, self.beginnings = rows, beginnings
        self.teacher, self.student, self.levels = teacher, student, levels
        self.perturbation = perturbation
        self.round = -1
        self.pairs: Pairs

    def draw(self, step: int, generator: torch.Generator) -> Samples:
        """See Source; the first batch of a round draws the round's pairs."""
        round_ = step * self.args.reflow_rounds // self.args.steps
        if round_ != self.round:
            self.round, self.pairs = round_, self._pairs_of_round(round_)
        size = self.args.batch_size
        chosen = torch.randint(len(self.pairs), (size,), generator=generator)
        level = self.student.draw_level(torch.rand(size, generator=generator))
        return self._samples(self.pairs, *self.pairs.towards_tops(chosen, level, generator))

    def held_out(self, rows: Tensor) -> HeldOut:
        """See Source."""
        args = self.args
        fixed = torch.Generator().manual_seed(args.seed + 1)
        rows = some_of(rows, fixed)
        pairs = self._draw(rows, len(rows), args.seed + 2, goal_drop=0.0, perturbation=None)
        level = self.student.draw_level(torch.rand(len(rows), generator=fixed))
        chosen, level = pairs.towards_tops(torch.arange(len(pairs)), level, fixed)
        return HeldOut(
            self._samples(pairs, chosen, level),
            pairs.noise[chosen],
            self.student.normaliser.raw_action(pairs.chunk[chosen, args.window - 1 :]),
        )

    def _samples(self, pairs: Pairs, chosen: Tensor, level: Tensor) -> Samples:
        action, noise = pairs.line(chosen, level)
        observation = self.inputs(*pairs.seen(chosen))
        if self.perturbation and pairs.by is not None:
            observation = self.perturbation.shown(observation, pairs.by[chosen])
        return Samples(observation, pairs.dropped[chosen], action, level, noise)

    def _pairs_of_round(self, round_: int) -> Pairs:
        args, rows = self.args, self.rows
        able = round_ > 0 or args.start_from is not None
        if args.reflow_episodes and able:
            first = REFLOW_SEED0 + round_ * args.reflow_episodes
            env, actor = simulations(args, self.data, self.student)
            seeds = list(range(first, first + args.reflow_episodes))
            self.inputs.visited = visited_inputs(env, actor, seeds)
            visited = len(self.data.action) + torch.arange(len(self.inputs.visited))
            rows = torch.cat([rows, visited.repeat(math.ceil(len(rows) / len(visited)))])
        student = self.student if able and args.reflow_windows > 1 else None
        return self._draw(
            rows,
            args.reflow_pairs,
            args.seed + 3 + round_,
            args.goal_drop,
            self.perturbation,
            student,
        )

    def _draw(
        self,
        rows: Tensor,
        count: int,
        seed: int,
        goal_drop: float,
        perturbation: Perturbation | None,
        student: ScorePolicy | None = None,
    ) -> Pairs:
        return draw_pairs(
            self.teacher,
            self.inputs,
            rows,
            count,
            goal_drop,
            torch.Generator().manual_seed(seed),
            self.levels,
            student,
            (self.args.reflow_asked, self.beginnings),
            perturbation,
        )
