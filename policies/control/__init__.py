"""From a policy's action to a joint command: one module for simulator, evaluator and node."""

from policies.control.controller import Controller, JointCommand
from policies.control.kinematics import Chain
from policies.control.safety_filter import SafetyFilter

__all__ = ["Chain", "Controller", "JointCommand", "SafetyFilter"]
