"""Pictures of one episode: a strip of frames as PNG, or all of it as MP4.

    python -m training.film --bundle peg_beso --seed 7 --out film.png

The robot wears its meshes where pybullet brings them; the physics is that of the evaluator.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import mujoco
import numpy as np
import numpy.typing as npt
import tyro

from policies.bundle import load_bundle
from policies.runtime import Policy
from sim import cell
from sim.render import Camera
from sim.robots.panda.dress import dress
from sim.tasks import make
from training.rollout import bundle_actor, expert_actor, run_episodes

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Args:
    """Pictures of one episode."""

    out: Path
    """File to write: .png for a strip of frames, .mp4 for a film."""
    task: Literal["peg_insert"] = "peg_insert"
    """Task of the cell."""
    bundle: str = "peg_beso"
    """Name of a bundle in the zoo, or a folder's path."""
    expert: bool = False
    """Show the scripted expert instead."""
    level: Literal["low", "med", "high"] = "med"
    """Level of randomisation."""
    clearance_mm: float = 0.5
    """Gap between peg and socket on each side, mm."""
    seed: int = 0
    """The episode's seed."""
    frames: int = 6
    """Frames of a strip."""
    size: tuple[int, int] = (480, 400)
    """Width and height of a frame, px."""
    view: tuple[float, float, float] = field(default=(140.0, -20.0, 1.0))
    """Azimuth and elevation in degrees and distance in m of the camera from the cell's middle."""


def main(args: Args) -> None:
    """Runs the episode, then draws what was recorded.

    Raises:
        ValueError: an ending other than .png or .mp4, or a bundle that does not load.
    """
    if args.out.suffix not in (".png", ".mp4"):
        raise ValueError(f"--out: got {args.out.name}, expected a name that ends in .png or .mp4")
    env = make(args.task, 1, args.level, args.clearance_mm)
    actor = expert_actor()
    if not args.expert:
        bundle = load_bundle(args.bundle, hardware_hash=env.config.hash)
        actor = bundle_actor(Policy(bundle))
    states: list[npt.NDArray[np.float64]] = []
    step = env.step

    def recorded(actions: npt.NDArray[np.floating]) -> tuple:
        states.append(env.batch.state[0].copy())
        return step(actions)

    env.step = recorded  # type: ignore[method-assign]
    episode = run_episodes(env, actor, [args.seed])[0]
    states.append(env.batch.state[0].copy())

    spec = cell.build_spec(env.config, args.clearance_mm * 1e-3)
    dress(spec)
    # The sensors' and the solver's rows are of the same size with and without the meshes.
    model = spec.compile()
    data = mujoco.MjData(model)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (0.45, 0.04, 0.17)
    camera.azimuth, camera.elevation, camera.distance = args.view
    chosen = range(len(states))
    if args.out.suffix == ".png":
        chosen = np.linspace(0, len(states) - 1, args.frames).round().astype(int)
    pictures: list[Picture] = []
    with Camera(model, *args.size) as renderer:
        for i in chosen:
            mujoco.mj_setState(model, data, states[i], mujoco.mjtState.mjSTATE_INTEGRATION)
            mujoco.mj_forward(model, data)
            picture = np.ascontiguousarray(renderer.picture(data, camera)[:, :, ::-1])
            time_s = f"{i / env.spec.rate_hz:.1f} s"
            font, grey = cv2.FONT_HERSHEY_SIMPLEX, (60, 60, 60)
            cv2.putText(picture, time_s, (12, 28), font, 0.7, grey, 2, cv2.LINE_AA)
            pictures.append(picture)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".png":
        half = (len(pictures) + 1) // 2
        blank = [np.full_like(pictures[0], 255)] * (2 * half - len(pictures))
        rows = [np.hstack(pictures[:half]), np.hstack(pictures[half:] + blank)]
        cv2.imwrite(str(args.out), np.vstack(rows))
    else:
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(args.out), fourcc, env.spec.rate_hz, args.size)
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
