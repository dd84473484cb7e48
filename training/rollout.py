"""Runs seeded episodes of a task in a batch of simulations, whoever acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sim.experts.peg_insert import PegInsertExpert
from sim.tasks.peg_insert import PegInsertBatch

Floats = npt.NDArray[np.floating]
# (environment, its newest observation (N, D), rows that need actions (n,), one generator per row of those)
# -> the actions to execute open loop (n, K, A).
Actor = Callable[[PegInsertBatch, Floats, npt.NDArray[np.int_], list[np.random.Generator]], Floats]


@dataclass
class Episode:
    """What one episode came to.

    Attributes:
        seed: its seed.
        success: whether the task's own detector fired before the time ran out.
        steps: policy steps taken.
        peak_force_n: largest contact force between part and base.
        penetration_m: depth at every control tick at which part and base touched.
    """

    seed: int
    success: bool = False
    steps: int = 0
    peak_force_n: float = 0.0
    penetration_m: list[Floats] = field(default_factory=list)


def chunk_actor(
    infer: Callable[[Floats, Floats], Floats], noise_shape: tuple[int, ...], execute_steps: int
) -> Actor:
    """An actor that plans a chunk from the newest observation and executes its first steps.

    Args:
        infer: observation (n, D) and unit normal noise (n, *noise_shape) to actions (n, H, A).
        noise_shape: shape of one chunk's noise.
        execute_steps: actions of each chunk to execute.
    """

    def act(
        env: PegInsertBatch, observation: Floats, rows: npt.NDArray[np.int_], rngs: list[np.random.Generator]
    ) -> Floats:
        del env
        noise = np.stack([rng.standard_normal(noise_shape, dtype=np.float32) for rng in rngs])
        return infer(observation[rows], noise)[:, :execute_steps]

    return act


def expert_actor(noisy: bool = True) -> Actor:
    """The scripted expert as an actor; by default it sees the same noisy readings as a policy."""
    expert = PegInsertExpert()

    def act(
        env: PegInsertBatch, observation: Floats, rows: npt.NDArray[np.int_], rngs: list[np.random.Generator]
    ) -> Floats:
        del observation, rngs
        return expert.act(env.signals(noisy=noisy))[rows, None]

    return act


def run_episodes(
    env: PegInsertBatch,
    actor: Actor,
    seeds: Sequence[int],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Runs one episode per seed, refilling a simulation as soon as its episode is over.

    An episode's randomness, the actor's noise included, depends on its own seed alone, so the result does not depend on
    how many simulations run side by side.

    Args:
        env: the simulations.
        actor: who acts.
        seeds: one per episode.
        on_progress: called with (episodes over, successes) whenever one ends.

    Returns:
        The episodes in the order of `seeds`.
    """
    episodes = [Episode(int(seed)) for seed in seeds]
    waiting = list(episodes)
    running: list[Episode | None] = [waiting.pop(0) if waiting else None for _ in range(env.num_envs)]
    rngs = [np.random.default_rng([e.seed if e else 0, 2]) for e in running]
    plans: list[list[Floats]] = [[] for _ in running]
    observation = env.reset(np.array([e.seed if e else 0 for e in running]))
    actions = np.zeros((env.num_envs, env.spec.action_size))
    over = won = 0
    while any(running):
        empty = np.array([i for i, e in enumerate(running) if e and not plans[i]], dtype=int)
        if len(empty):
            planned = actor(env, observation, empty, [rngs[i] for i in empty])
            for i, plan in zip(empty, planned, strict=True):
                plans[i] = list(plan)
        for i, episode in enumerate(running):
            if episode:
                actions[i] = plans[i].pop(0)
            else:
                actions[i, :6] = 0.0  # an idle simulation holds
        observation, success, done, info = env.step(actions)
        fresh = []
        for i, episode in enumerate(running):
            if not episode:
                continue
            episode.steps += 1
            episode.peak_force_n = max(episode.peak_force_n, float(info["force_n"][i].max()))
            depth = info["penetration_m"][i]
            episode.penetration_m.append(depth[np.isfinite(depth)])
            if not done[i]:
                continue
            episode.success = bool(success[i])
            over, won = over + 1, won + episode.success
            if on_progress:
                on_progress(over, won)
            running[i] = waiting.pop(0) if waiting else None
            plans[i] = []
            if running[i]:
                fresh.append(i)
        if fresh:
            new_seeds = [e.seed for i in fresh if (e := running[i])]
            for i, seed in zip(fresh, new_seeds, strict=True):
                rngs[i] = np.random.default_rng([seed, 2])
            observation = env.reset(np.array(new_seeds), np.array(fresh))
    return episodes


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a success rate, 95 % by default."""
    if trials < 1:
        raise ValueError(f"trials: got {trials}, expected at least 1")
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    half = z * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))
