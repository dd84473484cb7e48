"""Evaluation episodes through the running nodes: the same seeds, the same judge, the whole graph.

Each episode sets the cell and the arm as the training task does for that seed, runs the learned
skill until it ends or the task's time is over, and then asks the simulated cell for the truth: what
the skill says of itself does not count.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail_scheduler.journal import Journal, SkillOutcome
from dovetail_scheduler.tree import Call
from policies.skills.registry import Argument, ErrorCode, Skill


@dataclass(frozen=True)
class EpisodeStart:
    """What the cell set up: `part` is to go to `socket` within the time limit.

    Attributes:
        part, socket: their names.
        time_limit_s: machine time, see EpisodePort.
        parameters: what the skill is to be called with besides, as texts.
    """

    part: str
    socket: str
    time_limit_s: float
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeTruth:
    """What really came of it; penetration_m of each control tick in contact."""

    inserted: bool
    penetration_m: tuple[float, ...]
    peak_force_n: float


class Answer(Protocol):
    """Something asked for that is under way."""

    def poll(self) -> Any | None:
        """The answer, or None while it is awaited.

        Raises:
            ValueError: it cannot be had, and why.
        """


class EpisodePort(Protocol):
    """How episodes act on the robot and the cell."""

    def start(
        self, skill: Skill, arguments: Mapping[str, Argument], seed: int | None = None
    ) -> Call:
        """Starts a skill; the seed is of its policy's noise."""

    def reset(self, task: str, seed: int, level: str) -> Answer:
        """Sets up an episode; answers an EpisodeStart."""

    def truth(self, part: str, socket: str) -> Answer:
        """Answers an EpisodeTruth."""

    def machine_s(self) -> float:
        """Time by the robot's control cycles; a simulated cell on a busy computer is slow in it."""


@dataclass
class Episodes:
    """The episodes run so far, as they go into the report."""

    results: list[dict[str, Any]] = field(default_factory=list)
    penetration_m: list[float] = field(default_factory=list)

    @property
    def successes(self) -> int:
        """How many succeeded."""
        return sum(result["success"] for result in self.results)

    def measures(self) -> dict[str, float | None]:
        """Contact over all episodes, by the names that `training.evaluate` gives it."""
        forces_n = [result["peak_force_n"] for result in self.results]
        return {
            "penetration_p95_mm": _p95(1e3 * np.array(self.penetration_m), 4),
            "peak_force_p95_n": _p95(np.array(forces_n), 2),
            "peak_force_max_n": max(forces_n, default=None),
        }


def run_episodes(
    port: EpisodePort,
    journal: Journal,
    skill: Skill,
    task: str,
    seeds: range,
    level: str,
    episodes: Episodes,
) -> Generator[None, None, None]:
    """Runs one episode per seed into `episodes`; yields whenever it has to wait.

    Raises:
        ValueError: the cell cannot set up an episode or tell the truth.
    """
    for seed in seeds:
        start: EpisodeStart = yield from _await(port.reset(task, seed, level))
        arguments: dict[str, Argument] = {"part": start.part, "socket": start.socket}
        arguments |= start.parameters
        call = port.start(skill, arguments, seed)
        outcome = yield from _follow(port, call, start.time_limit_s)
        truth: EpisodeTruth = yield from _await(port.truth(start.part, start.socket))
        journal.skill(skill.name, skill.kind, f"{start.part}, {start.socket}", outcome)
        episodes.results.append(
            {
                "seed": seed,
                "success": truth.inserted,
                "part": start.part,
                "socket": start.socket,
                "seconds": round(outcome.seconds, 2),
                "error_code": outcome.code,
                "penetration_p95_mm": _p95(1e3 * np.array(truth.penetration_m), 4),
                "peak_force_n": round(truth.peak_force_n, 2),
            }
        )
        episodes.penetration_m.extend(truth.penetration_m)
        done = len(episodes.results)
        journal.note(
            f"episode {done} of {len(seeds)}, seed {seed}: "
            + ("success" if truth.inserted else "failure")
            + f" ({episodes.successes} of {done})"
        )


def _p95(values: NDArray[np.float64], digits: int) -> float | None:
    """The 95th percentile; None of nothing."""
    return round(float(np.percentile(values, 95)), digits) if values.size else None


def _await(answer: Answer) -> Generator[None, None, Any]:
    while (value := answer.poll()) is None:
        yield
    return value


def _follow(
    port: EpisodePort, call: Call, time_limit_s: float
) -> Generator[None, None, SkillOutcome]:
    """Waits for a skill, and cancels it when the episode's time is over."""
    deadline_s = port.machine_s() + time_limit_s
    cancelled = False
    while (outcome := call.poll()) is None:
        if not cancelled and port.machine_s() > deadline_s:
            call.cancel()
            cancelled = True
        yield
    if cancelled and not outcome.success:
        text = f"not done within {time_limit_s:g} s"
        return replace(outcome, code=ErrorCode.TIMEOUT.value, message=text)
    return outcome
