"""Runs seeded episodes of a task in a batch of simulations, whoever acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.continuation import DEFAULT, Handover, Infer, replan_steps
from policies.runtime import Policy
from sim.tasks import make_expert

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int_]
# Any batch of simulations: see sim.tasks.
Batch = Any
# From newest observations (n, D) and the chunk's actions for them (n, A) to those executed (n, A).
Refine = Callable[[Floats, Floats], Floats]
# A chunk (H, A) in execution and the steps since its observation; None before an episode's first.
Last = tuple[Floats, int] | None


@dataclass(frozen=True)
class Actor:
    """Who acts, and with what timing.

    Attributes:
        plan: from (environment, its newest observations (N, W, D), rows that need a chunk (n,), and
            for each of those a random generator and the chunk in execution) to their chunks (n, H,
            A).
        execute_steps: K, actions of a chunk that are executed before the next chunk takes over.
        latency_steps: L, steps that pass between an observation and the first use of its chunk. The
            nodes infer while the robot moves, so there L = 1: the chunk observed at step k supplies
            its actions L .. K + L - 1 from step k + L on. An episode's first chunk is waited for.
        window: W, observations that `plan` looks at, the newest last.
        refine: what corrects the chunk's action on every step, if anything does.
    """

    plan: Callable[[Batch, Floats, Rows, list[np.random.Generator], list[Last]], Floats]
    execute_steps: int
    latency_steps: int
    window: int = 1
    refine: Refine | None = None


@dataclass
class Episode:
    """What one episode came to.

    Attributes:
        seed: its seed.
        success: whether the task's own detector fired before the time ran out.
        steps: policy steps taken.
        trace: what the task's `info` said of it, by name, one entry per step.
    """

    seed: int
    success: bool = False
    steps: int = 0
    trace: dict[str, list[Floats]] = field(default_factory=dict)


def policy_actor(
    infer: Infer,
    noise_shape: tuple[int, int],
    horizon: int,
    execute_steps: int,
    window: int = 1,
    latency_steps: int = 1,
    handover: Handover | None = None,
) -> Actor:
    """A chunking policy with the timing of the nodes.

    Args:
        infer: observation (n, D), or (n, W, D) with a window above 1, and unit normal noise (n,
            *noise_shape) to actions (n, H, A).
        noise_shape: rows and columns of one chunk's noise.
        horizon: H.
        execute_steps: actions of each chunk to execute; more where the next one takes longer.
        window: W.
        latency_steps: L of the actor; the nodes never have less than 1.
        handover: how a chunk takes over from the last one; a plain switch when left out.

    Raises:
        ValueError: the horizon is too short for that.
    """
    # A window of one action at a time, as in the paper, leaves no time to infer while moving.
    latency = latency_steps if horizon > 1 else 0
    execute_steps = replan_steps(execute_steps, latency)
    if execute_steps + latency > horizon:
        raise ValueError(
            f"execute_steps: got {execute_steps} and a latency of {latency}, "
            f"expected at most the horizon {horizon} together"
        )
    takeover = handover or Handover()

    def plan(
        env: Batch,
        observation: Floats,
        rows: Rows,
        rngs: list[np.random.Generator],
        last: list[Last],
    ) -> Floats:
        del env
        noise = np.stack([rng.standard_normal(noise_shape, dtype=np.float32) for rng in rngs])
        seen = observation[rows] if window > 1 else observation[rows, -1]
        return takeover.infer(infer, seen, noise, last, latency)

    return Actor(plan, execute_steps, latency, window)


def bundle_actor(
    policy: Policy,
    latency_steps: int = 1,
    handover: Handover | None = None,
    refine: Refine | None = None,
) -> Actor:
    """A loaded bundle with the timing and, where none is given, the handover of the nodes.

    Args:
        policy: the bundle.
        latency_steps: see Actor.
        handover: how a chunk takes over from the last one.
        refine: what corrects each action; the bundle's own residual, if it has one, when left out.
    """
    bundle = policy.bundle
    actor = policy_actor(
        policy.infer,
        bundle.noise_shape,
        bundle.horizon,
        bundle.execute_steps,
        bundle.window,
        latency_steps,
        (handover or DEFAULT).within(bundle.continues),
    )
    return replace(actor, refine=refine or (policy.refine if policy.refines else None))


def expert_actor(task: str, noisy: bool = True) -> Actor:
    """A task's expert, step by step; by default it sees the noisy readings a policy sees."""
    expert = make_expert(task)

    def plan(
        env: Batch,
        observation: Floats,
        rows: Rows,
        rngs: list[np.random.Generator],
        last: list[Last],
    ) -> Floats:
        del observation, rngs, last
        return expert.act(env.signals(noisy=noisy))[rows, None]

    return Actor(plan, execute_steps=1, latency_steps=0)


class _Run:
    """One episode under way in one simulation."""

    def __init__(self, episode: Episode, actor: Actor) -> None:
        self.episode = episode
        self.rng = np.random.default_rng([episode.seed, 2])
        self._actor = actor
        self._queue: list[Floats] = []
        self._chunk: Floats | None = None

    @property
    def needs_chunk(self) -> bool:
        return self._chunk is None or len(self._queue) == self._actor.latency_steps

    @property
    def last(self) -> Last:
        return None if self._chunk is None else (self._chunk, self._actor.execute_steps)

    def add_chunk(self, chunk: Floats) -> None:
        first = 0 if self._chunk is None else self._actor.latency_steps
        self._queue += list(chunk[first : self._actor.execute_steps + self._actor.latency_steps])
        self._chunk = chunk

    def next_action(self) -> Floats:
        return self._queue.pop(0)

    def record(self, i: int, success: bool, info: dict[str, Floats]) -> None:
        episode = self.episode
        episode.steps += 1
        episode.success = success
        for name, values in info.items():
            episode.trace.setdefault(name, []).append(np.array(values[i]))


def run_episodes(
    env: Batch,
    actor: Actor,
    seeds: Sequence[int],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Runs one episode per seed, refilling a simulation as soon as its episode is over.

    An episode's randomness, the actor's noise included, depends on its own seed alone, so the
    result does not depend on how many simulations run side by side.

    Args:
        env: the simulations.
        actor: who acts.
        seeds: one per episode.
        on_progress: called with (episodes over, successes) whenever one ends.

    Returns:
        The episodes in the order of `seeds`.
    """
    episodes = [Episode(int(seed)) for seed in seeds]
    waiting = [_Run(episode, actor) for episode in episodes]
    running: dict[int, _Run] = {}
    history = np.zeros((env.num_envs, actor.window, env.spec.input_size), dtype=np.float32)
    actions = np.zeros((env.num_envs, env.spec.action_size))
    idle = list(range(env.num_envs))
    over = won = 0
    while running or waiting:
        starting = sorted(idle[: len(waiting)])  # the simulations take sorted ids only
        if starting:
            idle = idle[len(starting) :]
            running |= {i: waiting.pop(0) for i in starting}
            first_seeds = np.array([running[i].episode.seed for i in starting])
            observation = env.reset(first_seeds, np.array(starting))
            history[starting] = observation[starting, None]
        asking = [i for i, run in running.items() if run.needs_chunk]
        if asking:
            rngs = [running[i].rng for i in asking]
            last = [running[i].last for i in asking]
            chunks = actor.plan(env, history, np.array(asking), rngs, last)
            for i, chunk in zip(asking, chunks, strict=True):
                running[i].add_chunk(chunk)
        for i, run in running.items():
            actions[i] = run.next_action()
        if actor.refine and running:
            rows = np.array(list(running))
            actions[rows] = actor.refine(history[rows, -1], actions[rows])
        observation, success, done, info = env.step(actions)
        history = np.concatenate([history[:, 1:], observation[:, None]], axis=1)
        for i, run in running.items():
            run.record(i, bool(success[i]), info)
        for i in [i for i in running if done[i]]:
            run = running.pop(i)
            actions[i, :6] = 0.0  # an idle simulation holds
            idle.append(i)
            over, won = over + 1, won + run.episode.success
            if on_progress:
                on_progress(over, won)
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
