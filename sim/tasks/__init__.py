"""Tasks by name: environments, scripted experts, and who plays in the tasks that have goals."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hardware_configs import HardwareConfig

# Tasks that fit one part into another, and the gap a side when none is asked for.
CLEARANCE_MM = {"peg_insert": 0.5, "nut_on_post": 0.5, "leg_screw": 0.5}

# Imported when asked for: a task may need a simulator that is not installed everywhere.
TASKS = {
    "peg_insert": "sim.tasks.peg_insert.PegInsertBatch",
    "nut_on_post": "sim.tasks.nut_on_post.NutOnPostBatch",
    "leg_screw": "sim.tasks.leg_screw.LegScrewBatch",
    "play_parts": "sim.tasks.play_parts.PlayPartsBatch",
    "block_push": "sim.bullet.block_push.BlockPushBatch",
    "kitchen": "sim.kitchen.KitchenBatch",
}
EXPERTS = {
    "peg_insert": "sim.experts.peg_insert.PegInsertExpert",
    "nut_on_post": "sim.experts.nut_on_post.NutOnPostExpert",
    "leg_screw": "sim.experts.leg_screw.LegScrewExpert",
    "kitchen": "sim.experts.kitchen.KitchenExpert",
}
# Who plays in the tasks that have goals, for training.collect_play.
PLAY_TASKS = {
    "play_parts": "sim.experts.play_parts.PlayPartsDemonstrator",
    "block_push": "sim.experts.block_push.BlockPushDemonstrator",
    "kitchen": "sim.experts.kitchen.KitchenDemonstrator",
}
# The level a task is usually measured, and played, at.
USUAL_LEVELS = {
    "peg_insert": "med",
    "nut_on_post": "low",
    "leg_screw": "low",
    "play_parts": "low",
    "block_push": "med",
    "kitchen": "med",
}
# Policy steps between an observation and the first use of its chunk. A robot moves on while the
# policy infers; the published benchmarks wait, and so do the papers' evaluations.
LATENCY_STEPS = {
    "peg_insert": 1,
    "nut_on_post": 1,
    "leg_screw": 1,
    "play_parts": 1,
    "block_push": 0,
    "kitchen": 0,
}


def make(
    task: str,
    num_envs: int,
    level: str | None = None,
    clearance_mm: float | None = None,
    nthread: int = 0,
    friction: float = 1.0,
    config: HardwareConfig | None = None,
) -> Any:
    """A batch of `num_envs` cells with a task; see sim.tasks.cell_batch.CellBatch.

    Args:
        task: its name.
        num_envs: how many.
        level: the task's usual one when left out.
        clearance_mm: gap of a task that fits parts; its own when left out.
        nthread: physics threads, 0 for one a core.
        friction: factor on the friction of part and base, of a task that fits parts.
        config: the robot, of a task that fits parts; the Panda when left out.

    Raises:
        ValueError: no such task or level, or a clearance or friction that the task has not.
    """
    batch = _look_up(_entry(TASKS, task))
    level = level or USUAL_LEVELS[task]
    if task in CLEARANCE_MM:
        clearance_mm = CLEARANCE_MM[task] if clearance_mm is None else clearance_mm
        return batch(num_envs, level, clearance_mm, nthread, config, friction)
    if clearance_mm is not None:
        raise ValueError(
            f"clearance_mm: got {clearance_mm:g}, expected none for {task}: nothing is fitted there"
        )
    if friction != 1.0:
        raise ValueError(
            f"friction: got {friction:g}, expected 1 for {task}: nothing is fitted there"
        )
    return batch(num_envs, level=level, nthread=nthread)


def make_expert(task: str) -> Any:
    """The scripted expert of a task; its `act` takes the batch's `signals()`."""
    return _look_up(_entry(EXPERTS, task))()


def make_play(
    task: str, num_envs: int, level: str | None = None, nthread: int = 0
) -> tuple[Any, Any]:
    """A batch of `num_envs` simulations of a task with goals, and who plays in it.

    Args:
        task: its name.
        num_envs: how many.
        level: the task's usual one when left out.
        nthread: physics threads, 0 for one a core.

    Raises:
        ValueError: no such task or level.
    """
    demonstrator = _look_up(_entry(PLAY_TASKS, task))
    env = make(task, num_envs, level, nthread=nthread)
    return env, demonstrator(env)


def _entry(table: dict[str, Any], task: str) -> Any:
    if task not in table:
        raise ValueError(f"task: got {task!r}, expected one of {', '.join(table)}")
    return table[task]


def _look_up(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
