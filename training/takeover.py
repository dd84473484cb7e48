"""A policy that takes over from a demonstrator now and then, so that the demonstrator shows what to
do where the policy ends up (after Ross et al. 2011, DAgger; in stretches, as Kelly et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.bundle import load_bundle
from policies.runtime import Policy

Floats = npt.NDArray[np.floating[Any]]


class Takeovers:
    """Stretches of one episode in which a policy acts in the demonstrator's place.

    Args:
        probability: of the policy taking over at a step of the demonstrator's.
        longest: steps of the longest stretch; lengths are uniform from 1.
        seed: of the episode; when the policy acts, and its noise, depend on it alone.

    Attributes:
        left: steps of the present stretch that are still to come.
    """

    execute_steps = 3

    def __init__(self, probability: float, longest: int, seed: int) -> None:
        self.probability, self.longest = probability, longest
        self.rng = np.random.default_rng([seed, 3])
        self.left = 0
        self.queue: list[Floats] = []

    def needs_chunk(self) -> bool:
        """Decides who has the next step; whether the policy has it and has nothing planned."""
        starts = self.rng.random() < self.probability
        if self.left == 0 and starts:
            self.left = int(self.rng.integers(1, self.longest + 1))
            self.queue = []
        return self.left > 0 and not self.queue

    def next_action(self) -> Floats | None:
        """The policy's action (A,), or None where the step is the demonstrator's."""
        if self.left == 0:
            return None
        self.left -= 1
        return self.queue.pop(0)


def load_policy(bundle: str | None, hardware_hash: str) -> Policy | None:
    """The policy that takes over, if there is one: a bundle of the zoo, or a folder's path."""
    if bundle is None:
        return None
    return Policy(load_bundle(bundle, hardware_hash=hardware_hash))


def plan(
    policy: Policy, takeovers: Sequence[Takeovers], ids: Iterable[int], observation: Floats
) -> None:
    """Decides in simulations `ids` who has the next step, and fills the queue where the policy has.

    Args:
        policy: who takes over.
        takeovers: one of each simulation.
        ids: simulations whose episodes are under way.
        observation: the newest of every simulation, (N, D).
    """
    asking = [i for i in ids if takeovers[i].needs_chunk()]
    if not asking:
        return
    noise = [takeovers[i].rng.standard_normal(policy.bundle.noise_shape) for i in asking]
    chunks = policy.infer(observation[asking], np.array(noise, dtype=np.float32))
    for i, chunk in zip(asking, chunks, strict=True):
        takeovers[i].queue = list(chunk[: Takeovers.execute_steps])
