"""What every Dovetail node shares, in one place: lifecycle, signals, QoS, poses, robot time."""

from dovetail_lifecycle.node import DovetailNode, Refusal
from dovetail_lifecycle.process import run

__all__ = ["DovetailNode", "Refusal", "run"]
