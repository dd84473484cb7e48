"""One contract per robot: strict YAML files and the loader that reads them."""

from hardware_configs.loader import ConfigError, load
from hardware_configs.schema import (
    Camera,
    Gripper,
    HardwareConfig,
    Joint,
    Rates,
    Safety,
    Tool,
    Topic,
)

__all__ = [
    "Camera",
    "ConfigError",
    "Gripper",
    "HardwareConfig",
    "Joint",
    "Rates",
    "Safety",
    "Tool",
    "Topic",
    "load",
]
