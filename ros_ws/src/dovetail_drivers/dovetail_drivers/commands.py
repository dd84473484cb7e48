"""The last check before a machine: what a joint command must be like to be passed on.

The safety filter upstream makes good commands; this gate assumes nothing about who publishes. A
refused command is not repaired: the driver goes on as if it had not come, and holds once the last
good one is stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig

Array = NDArray[np.float64]

# A reading just outside a limit may be commanded back inwards.
POSITION_TOLERANCE_RAD = 0.01
VELOCITY_TOLERANCE = 1.05


class CommandRefused(ValueError):
    """A joint command that must not reach the machine, and why."""


@dataclass(frozen=True)
class JointCommand:
    """One command: q_rad and dq_rad_s (n,) in the config's order, gripper_width_m."""

    q_rad: Array
    dq_rad_s: Array
    gripper_width_m: float


def read_command(
    config: HardwareConfig,
    names: Sequence[str],
    positions: Sequence[float],
    velocities: Sequence[float],
) -> JointCommand:
    """A command from named values: the joints in the config's order, then the gripper's width.

    Raises:
        CommandRefused: wrong names or order, wrong lengths, a value that is not finite, or a
            position or velocity outside the limits.
    """
    expected = (*config.joint_names, config.gripper.joint)
    if tuple(names) != expected:
        raise CommandRefused(f"command:joint_names: got {list(names)}, expected {list(expected)}")
    for key, values in (("positions", positions), ("velocities", velocities)):
        if len(values) != len(expected):
            raise CommandRefused(
                f"command:{key}: got {len(values)} values, expected {len(expected)}"
            )
        if not np.isfinite(values).all():
            raise CommandRefused(f"command:{key}: got {list(values)}, expected finite values")
    q_rad, dq_rad_s = np.array(positions[:-1]), np.array(velocities[:-1])
    limits = config.position_limits
    outside = (q_rad < limits[:, 0] - POSITION_TOLERANCE_RAD) | (
        q_rad > limits[:, 1] + POSITION_TOLERANCE_RAD
    )
    fast = np.abs(dq_rad_s) > VELOCITY_TOLERANCE * config.velocity_limits
    for key, wrong, got, what in (
        ("positions", outside, q_rad, "within the joint's limits"),
        ("velocities", fast, dq_rad_s, "within the joint's velocity limit"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise CommandRefused(
                f"command:{key}[{config.joint_names[i]}]: got {got[i]:g}, expected {what}"
            )
    width_m = float(positions[-1])
    if not config.gripper.width_min_m <= width_m <= config.gripper.width_max_m:
        raise CommandRefused(
            f"command:positions[{config.gripper.joint}]: got {width_m:g}, expected "
            f"{config.gripper.width_min_m:g} to {config.gripper.width_max_m:g} m"
        )
    return JointCommand(q_rad, dq_rad_s, width_m)


def check_jump(
    config: HardwareConfig, command: JointCommand, last: JointCommand, elapsed_s: float
) -> None:
    """Refuses a command that no joint could have reached since the last one.

    Args:
        config: the robot.
        command: the new command.
        last: what the machine follows now.
        elapsed_s: robot time since then; at least one control period is allowed for.

    Raises:
        CommandRefused: a joint would have to exceed its velocity limit.
    """
    # Two more periods: transport may bunch commands up that were a period apart.
    allowed = config.velocity_limits * (elapsed_s + 2.0 / config.rates.control_hz)
    jump = np.abs(command.q_rad - last.q_rad)
    if (jump > VELOCITY_TOLERANCE * allowed).any():
        i = int(np.argmax(jump / allowed))
        raise CommandRefused(
            f"command:positions[{config.joint_names[i]}]: got a jump of {jump[i]:.4f} rad, "
            f"expected at most {allowed[i]:.4f} rad in {elapsed_s:.3f} s"
        )
