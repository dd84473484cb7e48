"""Pictures of one episode: a strip of frames as PNG, or all of it as MP4.

    python -m training.film --bundle peg_beso --seed 7 --out film.png

The robot wears its meshes where pybullet brings them; the physics is that of the evaluator. The
table of block_push is drawn from above, its goal as outlines; the kitchen wears its own colours.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import mujoco
import numpy as np
import numpy.typing as npt
import tyro

from policies.bundle import check_task, load_bundle
from policies.runtime import Policy
from sim import tasks
from sim.render import Camera
from sim.robots.panda.dress import dress
from training.rollout import bundle_actor, expert_actor, run_episodes

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Args:
    """Pictures of one episode."""

    out: Path
    """File to write: .png for a strip of frames, .mp4 for a film."""
    task: Literal[
        "peg_insert", "nut_on_post", "leg_screw", "play_parts", "block_push", "kitchen"
    ] = "peg_insert"
    """Task of the cell, or a public benchmark of BESO: block pushing, Franka Kitchen."""
    bundle: str = "peg_beso"
    """Name of a bundle in the zoo, or a folder's path."""
    expert: bool = False
    """Show the scripted expert instead."""
    level: Literal["low", "med", "high"] | None = None
    """Level of randomisation; the task's usual one when left out."""
    clearance_mm: float | None = None
    """Gap between part and socket on each side, mm; the task's own when left out."""
    seed: int = 0
    """The episode's seed."""
    frames: int = 6
    """Frames of a strip."""
    size: tuple[int, int] = (480, 400)
    """Width and height of a frame, px."""
    view: tuple[float, float, float] = field(default=(140.0, -20.0, 1.0))
    """Azimuth and elevation in degrees and distance in m of the camera from the cell's middle."""


class CellStage:
    """Records states of the MuJoCo cell and renders those that are wanted."""

    def __init__(self, env: Any, args: Args) -> None:
        self.env, self.args = env, args
        self.states: list[npt.NDArray[np.float64]] = []

    def record(self) -> None:
        """Keeps the state before a step."""
        self.states.append(self.env.batch.state[0].copy())

    def pictures(self, chosen: list[int]) -> list[Picture]:
        """The recorded states `chosen`, BGR."""
        args = self.args
        spec = self.env.scene_spec.copy()
        dress(spec)
        # The sensors' and the solver's rows are of the same size with and without the meshes.
        model = spec.compile()
        data = mujoco.MjData(model)
        camera = mujoco.MjvCamera()
        camera.lookat[:] = (0.45, 0.04, 0.17)
        camera.azimuth, camera.elevation, camera.distance = args.view
        found: list[Picture] = []
        with Camera(model, *args.size) as renderer:
            for i in chosen:
                mujoco.mj_setState(model, data, self.states[i], mujoco.mjtState.mjSTATE_INTEGRATION)
                mujoco.mj_forward(model, data)
                found.append(np.ascontiguousarray(renderer.picture(data, camera)[:, :, ::-1]))
        return found


class TableStage:
    """Draws the table of block_push at every step."""

    def __init__(self, env: Any, args: Args) -> None:
        self.env, self.size = env, min(args.size)
        self.drawn: list[Picture] = []

    def record(self) -> None:
        """Draws the table before a step."""
        self.drawn.append(np.ascontiguousarray(self.env.render(0, self.size)[:, :, ::-1]))

    def pictures(self, chosen: list[int]) -> list[Picture]:
        """The recorded pictures `chosen`, BGR."""
        return [self.drawn[i].copy() for i in chosen]


class KitchenStage:
    """Records states of the kitchen and renders those that are wanted."""

    def __init__(self, env: Any, args: Args) -> None:
        self.env, self.size = env, args.size
        self.states: list[npt.NDArray[np.float64]] = []

    def record(self) -> None:
        """Keeps the state before a step."""
        self.states.append(self.env.qpos[0].copy())

    def pictures(self, chosen: list[int]) -> list[Picture]:
        """The recorded states `chosen`, BGR."""
        data = mujoco.MjData(self.env.model)
        camera = mujoco.MjvCamera()
        camera.lookat[:] = (-0.3, 0.45, 2.05)
        camera.azimuth, camera.elevation, camera.distance = 65.0, -30.0, 2.0
        found: list[Picture] = []
        with Camera(self.env.model, *self.size) as renderer:
            for i in chosen:
                data.qpos[:] = self.states[i]
                mujoco.mj_forward(self.env.model, data)
                found.append(np.ascontiguousarray(renderer.picture(data, camera)[:, :, ::-1]))
        return found


STAGES = {"block_push": TableStage, "kitchen": KitchenStage}


def main(args: Args) -> None:
    """Runs the episode, then draws what was recorded.

    Raises:
        ValueError: an ending other than .png or .mp4, or a bundle that does not load.
    """
    if args.out.suffix not in (".png", ".mp4"):
        raise ValueError(f"--out: got {args.out.name}, expected a name that ends in .png or .mp4")
    if args.expert and args.task not in tasks.EXPERTS:
        raise ValueError(f"--expert: got task {args.task}, expected {', '.join(tasks.EXPERTS)}")
    env = tasks.make(args.task, 1, args.level, args.clearance_mm)
    if args.expert:
        actor = expert_actor(args.task)
    else:
        bundle = load_bundle(args.bundle, hardware_hash=env.hardware_hash)
        check_task(bundle, "--bundle", args.task, env.spec)
        actor = bundle_actor(Policy(bundle), tasks.LATENCY_STEPS[args.task])
    stage = STAGES.get(args.task, CellStage)(env, args)
    step = env.step

    def recorded(actions: npt.NDArray[np.floating]) -> tuple:
        stage.record()
        return step(actions)

    env.step = recorded
    episode = run_episodes(env, actor, [args.seed])[0]
    stage.record()

    chosen = range(episode.steps + 1)
    if args.out.suffix == ".png":
        chosen = np.linspace(0, episode.steps, args.frames).round().astype(int)
    pictures = stage.pictures(list(chosen))
    for i, picture in zip(chosen, pictures, strict=True):
        time_s = f"{i / env.spec.rate_hz:.1f} s"
        font, grey = cv2.FONT_HERSHEY_SIMPLEX, (60, 60, 60)
        cv2.putText(picture, time_s, (12, 28), font, 0.7, grey, 2, cv2.LINE_AA)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".png":
        half = (len(pictures) + 1) // 2
        blank = [np.full_like(pictures[0], 255)] * (2 * half - len(pictures))
        rows = [np.hstack(pictures[:half]), np.hstack(pictures[half:] + blank)]
        cv2.imwrite(str(args.out), np.vstack(rows))
    else:
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        size = pictures[0].shape[1::-1]
        writer = cv2.VideoWriter(str(args.out), fourcc, env.spec.rate_hz, size)
        for picture in pictures:
            writer.write(picture)
        writer.release()
    outcome = "success" if episode.success else "no success"
    print(f"{args.out}: seed {args.seed}, {outcome} after {episode.steps} policy steps")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
