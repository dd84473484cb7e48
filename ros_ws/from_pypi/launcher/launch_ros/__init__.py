"""The part of ROS 2's ``launch_ros`` that Dovetail's launch files use; see ``launch``."""

from launch.refusal import RefuseUnknownSubmodules, refuse_names

from . import actions, parameter_descriptions, substitutions

__all__ = ["actions", "parameter_descriptions", "substitutions"]

RefuseUnknownSubmodules.install("launch_ros")
__getattr__ = refuse_names("launch_ros")
