"""The arm of the task kitchen as its model says it is: where its tool is, and what moves it how.

The environment turns a commanded velocity into the target of a spring with a damper in each joint,
held for 40 physics steps, and no joint carries its own weight. What is wanted here is a
displacement of the joints, from one policy step to the next; the command that brings it about
follows from the model.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from policies.control import so3
from sim.kitchen import JOINTS

Array = NDArray[np.float64]

ARM_JOINTS = 7
FINGERS = slice(ARM_JOINTS, JOINTS)
# A turn counts as much as the way that this lever makes of it, in metres.
LEVER_M = 0.3
DAMPING_M = 0.03
STEP_RAD = 0.12
# Closer to a limit than this no posture is looked for.
MARGIN_RAD = 0.05


class Arm:
    """Kinematics and dynamics of one simulated arm at a time.

    Args:
        kitchen: the published environment.

    Attributes:
        data: the state last looked at, with all that follows from positions and velocities.
    """

    def __init__(self, kitchen: Any) -> None:
        robot = kitchen.robot_env
        self.model: mujoco.MjModel = kitchen.model
        self.data = mujoco.MjData(self.model)
        self.start: Array = robot.init_qpos.copy()
        bounds = np.stack([self.model.jnt_range[:ARM_JOINTS], robot.robot_pos_bound[:ARM_JOINTS]])
        self._lowest = bounds[..., 0].max(axis=0) + MARGIN_RAD
        self._highest = bounds[..., 1].min(axis=0) - MARGIN_RAD
        self._tool = self.model.site("end_effector").id
        self._stiffness = self.model.actuator_gainprm[:ARM_JOINTS, 0].copy()
        # Of a command of 1: the target's distance from the joint, rad, or m for the fingers.
        self._reach: float = float(robot.act_rng[0] * robot.dt)
        force = self.model.actuator_forcerange[:ARM_JOINTS, 1]
        self._strongest = np.minimum(1.0, 0.98 * force / self._stiffness / self._reach)

    def look(self, qpos: Array, qvel: Array) -> None:
        """Takes over a state: positions (30,) and velocities (29,)."""
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        mujoco.mj_fwdPosition(self.model, self.data)
        mujoco.mj_fwdVelocity(self.model, self.data)

    @property
    def joints(self) -> Array:
        """Angles (7,), rad."""
        return np.array(self.data.qpos[:ARM_JOINTS])

    @property
    def position(self) -> Array:
        """Of the tool, between the pads of the fingers, 0.05 m from their tips, (3,), world."""
        return np.array(self.data.site_xpos[self._tool])

    @property
    def rotation(self) -> Array:
        """Of the tool, (3, 3): z is where it points, y is where the fingers open."""
        return np.array(self.data.site_xmat[self._tool].reshape(3, 3))

    def site(self, name: str) -> Array:
        """Position (3,) of a site of the model, world."""
        return np.array(self.data.site(name).xpos)

    def joint(self, name: str) -> float:
        """Position of a joint with one number, rad or m."""
        return float(self.data.joint(name).qpos[0])

    def towards(self, position: Array, rotation: Array, step_m: float, posture: Array) -> Array:
        """Displacement (7,) of the joints that brings the tool nearer to a pose.

        Damped least squares; what the tool leaves free goes towards `posture` (7,).
        """
        move = 0.6 * np.concatenate([position - self.position, self._turn(rotation)])
        move[:3] *= min(1.0, step_m / max(float(np.linalg.norm(move[:3])), 1e-9))
        move[3:] *= min(1.0, STEP_RAD / max(float(np.linalg.norm(move[3:])), 1e-9))
        return self._inverse(move, 0.05 * (posture - self.joints))

    def posture_at(self, position: Array, rotation: Array) -> Array:
        """Joint angles (7,) for a tool pose, near those of the start; the state stays looked at."""
        qpos, qvel = self.data.qpos.copy(), self.data.qvel.copy()
        q = self.start.copy()
        for _ in range(400):
            self.look(q, np.zeros_like(qvel))
            error = np.concatenate([position - self.position, self._turn(rotation)])
            change = self._inverse(0.3 * error, 0.02 * (self.start - q)[:ARM_JOINTS])
            q[:ARM_JOINTS] = np.clip(q[:ARM_JOINTS] + change, self._lowest, self._highest)
        self.look(qpos, qvel)
        return q[:ARM_JOINTS]

    def _turn(self, rotation: Array) -> Array:
        return so3.log(rotation @ self.rotation.T)

    def _inverse(self, move: Array, rest: Array) -> Array:
        jacobian = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._tool)
        weight = np.repeat([1.0, LEVER_M], 3)
        weighted = weight[:, None] * jacobian[:, :ARM_JOINTS]
        inverse = weighted.T @ np.linalg.inv(weighted @ weighted.T + DAMPING_M**2 * np.eye(6))
        change = inverse @ (weight * move) + rest - inverse @ (weighted @ rest)
        return np.asarray(change * min(1.0, STEP_RAD / max(float(np.abs(change).max()), 1e-9)))

    def command(self, change: Array, width_m: float, reading: Array, straight: bool) -> Array:
        """The environment's command (9,) that displaces the joints by `change` (7,) in one step.

        Args:
            change: wanted displacement, rad.
            width_m: opening of each finger to go to.
            reading: what the environment last read of the joints (9,): it commands from there.
            straight: whether a displacement too large for the drives is shortened as a whole, so
                that the tool stays on its line, or joint by joint.
        """
        hold, full = self._target(np.zeros(ARM_JOINTS)), self._target(change)
        share = np.empty(JOINTS)
        share[FINGERS] = (width_m - reading[FINGERS]) / self._reach
        hold = (hold - reading[:ARM_JOINTS]) / self._reach
        more = (full - reading[:ARM_JOINTS]) / self._reach - hold
        if straight:
            room = np.where(more > 0, self._strongest - hold, -self._strongest - hold)
            fits = room / np.where(np.abs(more) < 1e-9, np.inf, more)
            more *= np.clip(np.where(np.abs(more) < 1e-9, 1.0, fits).min(), 0.0, 1.0)
        share[:ARM_JOINTS] = hold + more
        return np.clip(share, -1.0, 1.0)

    def _target(self, change: Array) -> Array:
        """Where the springs' ends (7,) have to be for one policy step to displace the joints so.

        The joints are linear in it as long as the inertia stays what it is: the physics steps of
        one policy step, damping implicit as MuJoCo has it, are a power of one matrix.
        """
        model, n = self.model, ARM_JOINTS
        full = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, self.data, full)
        h, inertia = model.opt.timestep, full[:n, :n]
        inverse = np.linalg.inv(inertia + h * np.diag(model.dof_damping[:n]))
        step = np.zeros((2 * n, 2 * n))
        step[n:, :n] = -h * inverse * self._stiffness
        step[n:, n:] = inverse @ inertia
        step[:n] = h * step[n:]
        step[:n, :n] += np.eye(n)
        steps = round(self._reach / 2.0 / h)
        power = np.linalg.matrix_power(step, steps)[:n]
        coasting = power[:, n:] @ self.data.qvel[:n]
        ahead = np.linalg.solve(np.eye(n) - power[:, :n], change - coasting)
        return np.asarray(self.joints + ahead + self.data.qfrc_bias[:n] / self._stiffness)
