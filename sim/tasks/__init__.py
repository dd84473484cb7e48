"""Tasks of the assembly cell, by name."""

from __future__ import annotations

from sim.experts.peg_insert import PegInsertExpert
from sim.tasks.peg_insert import PegInsertBatch

TASKS = {"peg_insert": (PegInsertBatch, PegInsertExpert)}


def make(
    task: str, num_envs: int, level: str = "med", clearance_mm: float = 0.5, nthread: int = 0
) -> PegInsertBatch:
    """A batch of `num_envs` cells with a task.

    Raises:
        ValueError: no such task, level or clearance.
    """
    return _entry(task)[0](num_envs, level=level, clearance_mm=clearance_mm, nthread=nthread)


def make_expert(task: str) -> PegInsertExpert:
    """The scripted expert of a task; its `act` takes the batch's `signals()`."""
    return _entry(task)[1]()


def _entry(task: str) -> tuple[type[PegInsertBatch], type[PegInsertExpert]]:
    if task not in TASKS:
        raise ValueError(f"task: got {task!r}, expected one of {', '.join(TASKS)}")
    return TASKS[task]
