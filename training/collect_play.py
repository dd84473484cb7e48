"""Records scripted play: whole trajectories of a task with goals, kept whatever they reach.

    python -m training.collect_play --task play_parts --episodes 1200 --out build/data/play.npz

Play follows no goal. In the goal columns of a row stands what is achieved at that row, so that the
trainer can take any later row of the same episode for the goal of an earlier one. Actions are now
and then disturbed, or a policy acts for a while, and the file records what was wanted, and which
steps were disturbed: see training.collect.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tyro

from policies.bundle import check_task
from sim.tasks import USUAL_LEVELS, make_play
from training.dataset import FIRST_TRAINING_SEED, Demonstrations, check, save
from training.progress import Progress
from training.takeover import Takeovers, load_policy, plan

Row = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], bool]


@dataclass(frozen=True)
class Args:
    """Records scripted play."""

    # What to record
    out: Path
    """File to write (.npz)."""
    task: Literal["play_parts", "block_push", "kitchen"] = "play_parts"
    """Task with goals."""
    level: str | None = None
    """Level of randomisation; the task's usual one when left out."""
    episodes: int = 1200
    """Episodes to record."""
    seed0: int = FIRST_TRAINING_SEED
    """First seed; episode i has seed seed0 + i. Seeds below 1,000,000 are kept for evaluation."""

    # Who else acts
    bundle: str | None = None
    """Policy that takes over now and then: a bundle of the zoo, or a folder's path. It goes for the
    episode's goal; whoever plays goes on from where it left things.
    """
    takeover_probability: float = 0.06
    """Probability of the policy taking over at a step of the play."""
    takeover_steps: int = 20
    """Longest stretch of the policy, steps; lengths are uniform from 1."""

    # Running
    num_envs: int = 64
    """Simulations stepped together."""
    threads: int = 1
    """Physics threads."""


def main(args: Args) -> None:
    """Runs the episodes and writes the file."""
    if args.seed0 < FIRST_TRAINING_SEED:
        raise ValueError(f"--seed0: got {args.seed0}, expected at least {FIRST_TRAINING_SEED}")
    if args.episodes < 1 or args.num_envs < 1:
        raise ValueError(
            f"--episodes, --num-envs: got {args.episodes}, {args.num_envs}, expected at least 1"
        )
    level = args.level or USUAL_LEVELS[args.task]
    env, player = make_play(args.task, min(args.num_envs, args.episodes), level, args.threads)
    if args.bundle and not hasattr(player, "reconsider"):
        raise ValueError(
            f"--bundle: got {args.bundle}, expected none: whoever plays {args.task} "
            "does not go on from where somebody else left things"
        )
    policy = load_policy(args.bundle, env.hardware_hash)
    if policy:
        check_task(policy.bundle, "--bundle", args.task, env.spec)
    first_goal_column = env.spec.observation_size
    waiting = [int(seed) for seed in args.seed0 + np.arange(args.episodes)]
    running = [waiting.pop(0) for _ in range(env.num_envs)]
    takeovers_of = partial(Takeovers, args.takeover_probability, args.takeover_steps)
    takeovers = [takeovers_of(seed) for seed in running]
    rows: list[list[Row]] = [[] for _ in running]
    played: dict[int, tuple[list[Row], bool]] = {}
    active = np.ones(env.num_envs, dtype=bool)
    progress = Progress(args.episodes)

    observation = env.reset(np.array(running))
    player.reset(np.array(running))
    while active.any():
        wanted, executed = player.act()
        achieved = env.achieved()
        if policy:
            plan(policy, takeovers, np.flatnonzero(active), observation)
        handed_back = []
        for i in np.flatnonzero(active):
            taken = takeovers[i].next_action()
            if taken is not None:
                executed[i] = taken
                if takeovers[i].left == 0:
                    handed_back.append(i)
            row = observation[i].copy()
            row[first_goal_column:] = achieved[i]
            disturbed = bool((executed[i] != wanted[i]).any())
            rows[i].append((row, wanted[i].astype(np.float32), disturbed))
        observation = env.step(executed)[0]
        if handed_back:
            player.reconsider(np.array(handed_back))
        over = np.flatnonzero(active & player.finished)
        for i in over:
            played[running[i]] = (rows[i], bool(player.succeeded[i]))
            rows[i] = []
            if waiting:
                running[i] = waiting.pop(0)
                takeovers[i] = takeovers_of(running[i])
            else:
                active[i] = False
        fresh = over[active[over]]
        if len(fresh):
            seeds = np.array([running[i] for i in fresh])
            observation = env.reset(seeds, fresh)
            player.reset(seeds, fresh)
        if len(over):
            intended = sum(done for _, done in played.values())
            progress.show(len(played), f"{intended} went as intended")

    # How many ran side by side changes no episode.
    generator = {k: v for k, v in asdict(args).items() if k not in ("out", "num_envs", "threads")}
    order = sorted(played)
    flat = [row for seed in order for row in played[seed][0]]
    lengths = np.array([len(played[seed][0]) for seed in order], dtype=np.int64)
    data = Demonstrations(
        observation=np.stack([row[0] for row in flat]),
        action=np.stack([row[1] for row in flat]),
        disturbed=np.array([row[2] for row in flat]),
        episode_index=np.repeat(np.arange(len(order)), lengths),
        seed=np.array(order, dtype=np.int64),
        length=lengths,
        success=np.array([played[seed][1] for seed in order]),
        spec=env.spec,
        task=args.task,
        generator=generator
        | {
            "level": level,
            "clearance_mm": None,
            "hardware_hash": env.hardware_hash,
            "command": "python -m training.collect_play " + " ".join(sys.argv[1:]),
        },
    )
    check(data, str(args.out))
    sha256 = save(args.out, data)
    print(
        f"{args.out}: {len(order)} episodes, {data.success.mean():.1%} as intended, "
        f"{len(data.action)} steps, median length {int(np.median(lengths))}, sha256 {sha256[:16]}"
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
