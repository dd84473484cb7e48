"""Pictures of an episode are drawn, and bad wishes are refused."""

import subprocess
import sys
from pathlib import Path

import cv2
import mujoco
import pytest

from hardware_configs import load
from sim import cell
from sim.fixtures.pegs import PegFixture
from sim.robots.panda.dress import dress, mesh_folder

ROOT = Path(__file__).parents[2]


def film(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.film", "--expert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_strip_has_the_frames_asked_for(tmp_path):
    out = tmp_path / "strip.png"
    done = film("--out", out, "--level", "low", "--frames", 4, "--size", 160, 120)
    if "no GL library" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert "success after" in done.stdout
    assert cv2.imread(str(out)).shape == (240, 320, 3)


def test_an_unknown_kind_of_picture_is_refused(tmp_path):
    done = film("--out", tmp_path / "film.gif")
    assert done.returncode != 0
    assert "expected a name that ends in .png or .mp4" in done.stderr


def test_meshes_change_nothing_but_the_looks():
    if mesh_folder() is None:
        pytest.skip("the meshes come with pybullet, which has wheels up to CPython 3.11 only")
    config = load("panda")
    plain, dressed = cell.build_spec(config, PegFixture()), cell.build_spec(config, PegFixture())
    assert dress(dressed)
    before, after = plain.compile(), dressed.compile()
    colliding = [
        sum(int(c) for c in model.geom_contype | model.geom_conaffinity)
        for model in (before, after)
    ]
    assert colliding[0] == colliding[1]
    state = mujoco.mjtState.mjSTATE_INTEGRATION
    assert mujoco.mj_stateSize(before, state) == mujoco.mj_stateSize(after, state)
