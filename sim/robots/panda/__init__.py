"""The Franka Emika Panda, modelled from published kinematics, limits and inertias."""

from sim.robots.panda.model import ARM_GAINS, arm_control, urdf

__all__ = ["ARM_GAINS", "arm_control", "urdf"]
