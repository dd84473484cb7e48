"""Generates demonstrations: the scripted expert solves seeded episodes, the successful ones are
kept.

    python -m training.collect --level med --episodes 2000 --out build/data/peg_med.npz

Between observation and execution the action is now and then disturbed (Laskey et al. 2017, DART),
while the file records what the expert wanted: so the data show how to come back from places that
the expert alone never visits. Disturbances come in short bursts with calm between them: constant
noise of a millimetre would keep a peg from ever meeting a hole of half a millimetre clearance, and
a chunk is a fair target only if nothing disturbed the robot while it lasted. The file records
which steps were disturbed.

With --bundle an earlier policy takes the robot over now and then, and the expert has to recover
from where that leads: the states a policy stalls in are then in the next data (after Ross et al.
2011, DAgger).
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

from hardware_configs import load as load_config
from policies.bundle import check_task
from sim import tasks
from sim.experts.motion import Disturbance, Disturber
from training.dataset import FIRST_TRAINING_SEED, DatasetError, Demonstrations, check, save
from training.progress import Progress
from training.takeover import Takeovers, load_policy, plan

Floats = npt.NDArray[np.floating]
Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Args:
    """Generates demonstrations with the scripted expert."""

    # What to demonstrate
    out: Path
    """File to write (.npz)."""
    task: Literal["peg_insert", "nut_on_post", "leg_screw"] = "peg_insert"
    """Task of the cell."""
    level: tuple[Literal["low", "med", "high"], ...] = ("med",)
    """Levels of randomisation, dealt out over the episodes in turn: `low med med` is one third
    low.
    """
    clearance_mm: float = 0.5
    """Gap between part and socket on each side, mm."""
    episodes: int = 2000
    """Episodes to try."""
    seed0: int = FIRST_TRAINING_SEED
    """First seed; episode i has seed seed0 + i. Seeds below 1,000,000 are kept for evaluation."""

    # How the expert acts
    burst_probability: float = Disturbance.burst_probability
    """Probability of a burst of disturbances starting at a calm step."""
    burst_steps: int = Disturbance.burst_steps
    """Longest burst, steps; lengths are uniform from 1."""
    disturb_m: float = Disturbance.disturb_m
    """Standard deviation of a disturbance's translation, m."""
    disturb_rad: float = Disturbance.disturb_rad
    """Standard deviation of a disturbance's rotation, rad."""
    bundle: str | None = None
    """Policy that takes over now and then: a bundle of the zoo, or a folder's path."""
    takeover_probability: float = 0.04
    """Probability of the policy taking over at a step of the expert's."""
    takeover_steps: int = 16
    """Longest stretch of the policy, steps; lengths are uniform from 1."""
    expert_sees: Literal["true", "noisy"] = "true"
    """Whether the expert decides from true poses or from the noisy readings that the file records.
    """

    # Running
    num_envs: int = 64
    """Simulations stepped together."""
    threads: int = 1
    """Physics threads."""


def disturber(args: Args, seed: int) -> Disturber:
    """Disturbances of one episode; its random numbers depend on the episode's seed alone."""
    bursts = Disturbance(args.burst_probability, args.burst_steps, args.disturb_m, args.disturb_rad)
    return Disturber(bursts, np.random.default_rng([seed, 1]))


def main(args: Args) -> None:
    """Runs the episodes level by level and writes the file."""
    if args.seed0 < FIRST_TRAINING_SEED:
        raise ValueError(f"--seed0: got {args.seed0}, expected at least {FIRST_TRAINING_SEED}")
    if args.episodes < 1 or args.num_envs < 1:
        raise ValueError(
            f"--episodes, --num-envs: got {args.episodes}, {args.num_envs}, expected at least 1"
        )
    seeds = args.seed0 + np.arange(args.episodes)
    levels = np.array([args.level[i % len(args.level)] for i in range(args.episodes)])
    policy = load_policy(args.bundle, load_config("panda").hash)
    takeovers_of = partial(Takeovers, args.takeover_probability, args.takeover_steps)
    kept: dict[int, Rows] = {}
    progress, tried = Progress(args.episodes), 0

    for level in dict.fromkeys(args.level):
        waiting = [int(seed) for seed in seeds[levels == level]]
        env = tasks.make(
            args.task, min(args.num_envs, len(waiting)), level, args.clearance_mm, args.threads
        )
        if policy:
            check_task(policy.bundle, "--bundle", args.task, env.spec)
        expert = tasks.make_expert(args.task)
        running = [waiting.pop(0) for _ in range(env.num_envs)]
        disturbers = [disturber(args, seed) for seed in running]
        takeovers = [takeovers_of(seed) for seed in running]
        rows: list[list[tuple[Floats, Floats, bool]]] = [[] for _ in running]
        observation = env.reset(np.array(running))
        active = np.ones(env.num_envs, dtype=bool)
        while active.any():
            wanted = expert.act(env.signals(noisy=args.expert_sees == "noisy"))
            executed = wanted.copy()
            if policy:
                plan(policy, takeovers, np.flatnonzero(active), observation)
            for i in np.flatnonzero(active):
                taken = takeovers[i].next_action()
                added = disturbers[i].draw()
                if taken is not None:
                    executed[i] = taken
                if added is not None:
                    executed[i, :6] += added
                calm = taken is None and added is None
                rows[i].append((observation[i].copy(), wanted[i], not calm))
            observation, success, done, _ = env.step(executed)
            finished = np.flatnonzero(done & active)
            for i in finished:
                tried += 1
                if success[i]:
                    observed, labels, flags = zip(*rows[i], strict=True)
                    kept[running[i]] = (
                        np.stack(observed),
                        np.stack(labels).astype(np.float32),
                        np.array(flags),
                    )
                rows[i] = []
                if waiting:
                    running[i] = waiting.pop(0)
                    disturbers[i] = disturber(args, running[i])
                    takeovers[i] = takeovers_of(running[i])
                else:
                    active[i] = False
            fresh = finished[active[finished]]
            if len(fresh):
                observation = env.reset(np.array([running[i] for i in fresh]), fresh)
            if len(finished):
                progress.show(tried, f"{len(kept)} kept, level {level}")
    if not kept:
        raise DatasetError(f"no episode of {tried} succeeded, nothing written")

    # How many ran side by side changes no episode.
    generator = {k: v for k, v in asdict(args).items() if k not in ("out", "num_envs", "threads")}
    order = sorted(kept)
    lengths = np.array([len(kept[seed][0]) for seed in order], dtype=np.int64)
    data = Demonstrations(
        observation=np.concatenate([kept[seed][0] for seed in order]),
        action=np.concatenate([kept[seed][1] for seed in order]),
        disturbed=np.concatenate([kept[seed][2] for seed in order]),
        episode_index=np.repeat(np.arange(len(order)), lengths),
        seed=np.array(order, dtype=np.int64),
        length=lengths,
        success=np.ones(len(order), dtype=np.bool_),
        spec=env.spec,
        task=args.task,
        generator=generator
        | {
            "level": list(args.level),
            "hardware_hash": env.config.hash,
            "command": "python -m training.collect " + " ".join(sys.argv[1:]),
        },
    )
    check(data, str(args.out))
    sha256 = save(args.out, data)
    print(
        f"{args.out}: {len(order)} of {tried} episodes ({len(order) / tried:.1%}), "
        f"{len(data.action)} steps, median length {int(np.median(lengths))}, sha256 {sha256[:16]}"
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
