"""Many simulations in which a frozen chunk policy acts and a residual corrects each of its steps.

The residual's trainers see one environment: at every policy step the newest observation and the
base's action for it, and back goes the refined action. The base keeps the timing of the nodes: its
next chunk is inferred while the last one is executed. Several randomisation levels and clearances
can be mixed, each with simulations of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.bundle import check_task
from policies.pose_filter import PRESSING_M
from policies.runtime import Policy
from sim import tasks

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

# Seeds of training episodes; evaluation and demonstrations lie below.
FIRST_SEED, LAST_SEED = 100_000_000, 2**31 - 1


@dataclass(frozen=True)
class Setting:
    """One kind of episodes: a randomisation level at a gap a side in mm.

    Attributes:
        level: low, med or high.
        clearance_mm: gap a side between part and socket.
        force_limit_n: force limit of these episodes alone, see ResidualEnv; that of all where None.
    """

    level: str
    clearance_mm: float
    force_limit_n: float | None = None

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Reads `med:0.5`, or `med:0.5:45` with a force limit.

        Raises:
            ValueError: the text is not a level, a clearance and perhaps a force.
        """
        level, *numbers = text.split(":")
        try:
            clearance_mm, *force = map(float, numbers)
            return cls(level, clearance_mm, *force)
        except (TypeError, ValueError):
            raise ValueError(
                f"--settings: got {text!r}, expected level:clearance or level:clearance:force, "
                "as in med:0.5 or med:0.5:45"
            ) from None

    def __str__(self) -> str:
        """Level and clearance, as they are parsed."""
        return f"{self.level}:{self.clearance_mm:g}"


@dataclass(frozen=True)
class Step:
    """What one step of all simulations came to.

    Attributes:
        observation: newest flat observations (N, D); of the next episode where one has ended.
        base_action: the base's actions for them (N, A).
        success: whether the task's own detector fired, within the force limit, (N,).
        done: whether the episode is over (N,): by success, by the time limit or by force.
        distance_m: from the part to where it belongs (N,), of the episode that was.
        final_observation, final_base_action: like the first two, but of the episode that was.
    """

    observation: Floats
    base_action: Floats
    success: Flags
    done: Flags
    distance_m: Floats
    final_observation: Floats
    final_base_action: Floats


@dataclass(frozen=True)
class _Kept:
    """A state of one simulation, and what the base had planned in it."""

    state: list[Any]
    queue: list[Floats]
    history: Floats


class ResidualEnv:
    """N simulations of a task, a frozen base policy acting in each.

    Args:
        task: its name.
        settings: kinds of episodes; the simulations are dealt out to them evenly.
        num_envs: N.
        base: the frozen policy.
        seed: of the episodes' seeds; everything random follows from it.
        force_limit_n: an episode is over, and lost, when part and base press harder than this: a
            robot's protective stop. 0 for none. A setting may have its own.
        nthread: physics threads.
        per_step: the base plans anew on every step and only the chunk's first action is executed.
        pool_share: share of the episodes that begin in a state that was kept by `keep_states`.
        reading_age_s, command_delay_s: the most by which readings and commands of an episode are
            late, see CellBatch.delay; each episode draws its own.

    Raises:
        ValueError: fewer simulations than settings, or a base for another task or robot.
    """

    def __init__(
        self,
        task: str,
        settings: Sequence[Setting],
        num_envs: int,
        base: Policy,
        seed: int,
        force_limit_n: float = 0.0,
        nthread: int = 1,
        per_step: bool = False,
        pool_share: float = 0.0,
        reading_age_s: float = 0.0,
        command_delay_s: float = 0.0,
    ) -> None:
        if num_envs < len(settings):
            raise ValueError(
                f"--num-envs: got {num_envs}, expected at least one for each of {len(settings)} "
                "settings"
            )
        shares = [len(part) for part in np.array_split(np.arange(num_envs), len(settings))]
        self.batches = [
            tasks.make(task, share, setting.level, setting.clearance_mm, nthread)
            for share, setting in zip(shares, settings, strict=True)
        ]
        for batch in self.batches:
            batch.delay((0.0, reading_age_s), (0.0, command_delay_s))
        self._first = np.concatenate([[0], np.cumsum(shares)])
        self.num_envs, self.base = num_envs, base
        self.spec, self.max_steps = self.batches[0].spec, self.batches[0].max_steps
        bundle = base.bundle
        check_task(bundle, "--base", task, self.spec)
        limits_n = [force_limit_n if s.force_limit_n is None else s.force_limit_n for s in settings]
        self._force_limit_n = np.where(np.array(limits_n) > 0.0, limits_n, np.inf).repeat(shares)
        self._latency = 0 if per_step else tasks.LATENCY_STEPS[task]
        self._execute = 1 if per_step else bundle.execute_steps
        self.pool_share = pool_share
        self._pools: list[list[_Kept]] = [[] for _ in settings]
        self._seeds = np.random.default_rng([seed, 0])
        self._rngs = [np.random.default_rng(0)] * num_envs
        self._queues: list[list[Floats]] = [[] for _ in range(num_envs)]
        self._fresh = np.ones(num_envs, dtype=bool)
        self._history = np.zeros((num_envs, bundle.window, self.spec.input_size), np.float32)

    def reset(self) -> tuple[Floats, Floats]:
        """Starts an episode in every simulation: observations (N, D) and base actions (N, A)."""
        observation = self._start(np.arange(self.num_envs), None)
        return observation, self._plan()

    def step(self, actions: Floats) -> Step:
        """One policy step with the refined actions (N, A)."""
        parts = []
        for k, batch in enumerate(self.batches):
            parts.append(batch.step(actions[self._rows(k)]))
        observation = np.concatenate([part[0] for part in parts])
        success, done = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        force_n = np.concatenate([part[3]["force_n"].max(axis=1) for part in parts])
        stopped = force_n > self._force_limit_n
        success, done = success & ~stopped, done | stopped
        distance_m = self.distance_m()
        for queue in self._queues:
            queue.pop(0)
        self._see(observation)
        final = self._plan()
        ended = np.flatnonzero(done)
        first_observation, base_action = observation, final
        if len(ended):
            first_observation = self._start(ended, observation)
            base_action = self._plan()
        return Step(first_observation, base_action, success, done, distance_m, observation, final)

    def keep_states(self) -> None:
        """Adds the simulations that hold their part to the pools of starts."""
        for k, batch in enumerate(self.batches):
            signals, rows = batch.signals(), self._rows(k)
            pressing = signals.gripper_width - signals.gripper_target > PRESSING_M
            for i in np.flatnonzero(pressing):
                at = rows.start + i
                kept = _Kept(batch.save(int(i)), list(self._queues[at]), self._history[at].copy())
                self._pools[k].append(kept)

    def distance_m(self) -> Floats:
        """From each part to where it belongs (N,), from true poses."""
        poses = [batch.true_poses() for batch in self.batches]
        return np.concatenate([np.linalg.norm(part[0] - goal[0], axis=-1) for part, goal in poses])

    def _rows(self, k: int) -> slice:
        return slice(int(self._first[k]), int(self._first[k + 1]))

    def _start(self, ids: npt.NDArray[np.int_], observation: Floats | None) -> Floats:
        """Begins episodes in `ids` and returns the observations of all."""
        seeds = self._seeds.integers(FIRST_SEED, LAST_SEED, self.num_envs)
        seen = np.empty((self.num_envs, self.spec.input_size), np.float32)
        if observation is not None:
            seen[:] = observation
        for k, batch in enumerate(self.batches):
            rows = self._rows(k)
            mine = ids[(ids >= rows.start) & (ids < rows.stop)]
            if len(mine):
                seen[mine] = batch.reset(seeds[mine], mine - rows.start)[mine - rows.start]
        for i in ids:
            self._rngs[i] = np.random.default_rng([int(seeds[i]), 7])
            self._queues[i] = []
            self._fresh[i] = True
        self._history[ids] = seen[ids, None]
        for k, pool in enumerate(self._pools):
            rows = self._rows(k)
            for i in ids[(ids >= rows.start) & (ids < rows.stop)]:
                if pool and self._rngs[i].random() < self.pool_share:
                    kept = pool[self._rngs[i].integers(len(pool))]
                    self.batches[k].restore(int(i - rows.start), kept.state, int(seeds[i]))
                    self._queues[i], self._fresh[i] = list(kept.queue), False
                    self._history[i] = kept.history
                    seen[i] = kept.history[-1]
        return seen

    def _see(self, observation: Floats) -> None:
        self._history = np.concatenate([self._history[:, 1:], observation[:, None]], axis=1)

    def _plan(self) -> Floats:
        """Asks the base where a chunk is due; the actions (N, A) that are next."""
        asking = [
            i for i, q in enumerate(self._queues) if self._fresh[i] or len(q) == self._latency
        ]
        if asking:
            shape = self.base.bundle.noise_shape
            noise = np.stack([self._rngs[i].standard_normal(shape, np.float32) for i in asking])
            seen = self._history[asking] if self._history.shape[1] > 1 else self._history[asking, 0]
            chunks = self.base.infer(seen, noise)
            for i, chunk in zip(asking, chunks, strict=True):
                first = 0 if self._fresh[i] else self._latency
                self._queues[i] += list(chunk[first : self._execute + self._latency])
                self._fresh[i] = False
        return np.stack([queue[0] for queue in self._queues])
