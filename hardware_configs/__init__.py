"""One contract per robot: strict YAML files and the loader that reads them."""

from hardware_configs.schema import (
    Camera,
    ConfigError,
    Gripper,
    HardwareConfig,
    Joint,
    Rates,
    Safety,
    Tool,
    Topic,
    load,
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
