"""Meshes over the Panda's simple solids, where the package pybullet brings them (CPython 3.11).

For pictures only: the meshes neither collide nor weigh anything.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mujoco

_WHITE, _DARK = [0.93, 0.94, 0.95, 1.0], [0.22, 0.23, 0.25, 1.0]
HIDDEN_GROUP, MESH_GROUP = 3, 2
# The hand is turned by -45 degrees about the flange, 0.107 m along z.
_HAND_POS, _HAND_QUAT = [0.0, 0.0, 0.107], [0.9238795325112867, 0.0, 0.0, -0.3826834323650898]
_HALF_TURN_QUAT = [0.0, 0.0, 0.0, 1.0]


def mesh_folder() -> Path | None:
    """Folder of the Panda's meshes in pybullet_data, or None where it is not installed."""
    found = importlib.util.find_spec("pybullet_data")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "franka_panda" / "meshes"


def dress(spec: mujoco.MjSpec) -> bool:
    """Puts the meshes on a cell's robot and hides its solids; False where there are no meshes.

    Args:
        spec: from sim.cell.build_spec, not yet compiled.
    """
    folder = mesh_folder()
    if folder is None or not folder.is_dir():
        return False
    for body in [spec.worldbody, *spec.bodies]:
        robot = body.name.startswith("panda_")
        for geom in body.geoms:
            if robot or geom.type == mujoco.mjtGeom.mjGEOM_CYLINDER and body is spec.worldbody:
                geom.group = HIDDEN_GROUP
    _mesh(spec, spec.worldbody, folder / "collision" / "link0.obj", _WHITE)
    # The finer shells of the other links are in several pieces, of which MuJoCo reads the first.
    for i in range(1, 8):
        kind = "visual" if i < 5 else "collision"
        _mesh(spec, spec.body(f"panda_link{i}"), folder / kind / f"link{i}.obj", _WHITE)
    last = spec.body("panda_link7")
    hand = _mesh(spec, last, folder / "collision" / "hand.obj", _WHITE)
    hand.pos, hand.quat = _HAND_POS, _HAND_QUAT
    for number in (1, 2):
        body = spec.body(f"panda_finger{number}")
        finger = _mesh(spec, body, folder / "visual" / "finger.obj", _DARK)
        if number == 2:
            finger.quat = _HALF_TURN_QUAT
    return True


def _mesh(
    spec: mujoco.MjSpec, body: mujoco.MjsBody, file: Path, rgba: list[float]
) -> mujoco.MjsGeom:
    name = f"{body.name}_{file.stem}"
    mesh = spec.add_mesh(name=name, file=str(file))
    # Some of these shells are open; only their surface is wanted.
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    geom = body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name)
    geom.contype = geom.conaffinity = 0
    geom.group = MESH_GROUP
    geom.mass = 0.0
    geom.rgba = rgba
    return geom
