"""The part of ROS 2's ``launch`` that Dovetail's launch files use, where there is no ``launch``.

A launch file that runs here runs unchanged under upstream's ``launch`` with the same result. What
is not here is refused by name when the launch file asks for it. The ``ros2`` command puts this
folder on the path only if nothing better is installed.
"""

from . import actions, conditions, event_handlers, events, logging, substitutions
from .core import (
    Action,
    Condition,
    Event,
    EventHandler,
    LaunchContext,
    LaunchDescription,
    LaunchDescriptionEntity,
    Substitution,
    SubstitutionFailure,
)
from .refusal import RefuseUnknownSubmodules, refuse_names
from .service import LaunchService

__all__ = [
    "Action",
    "Condition",
    "Event",
    "EventHandler",
    "LaunchContext",
    "LaunchDescription",
    "LaunchDescriptionEntity",
    "LaunchService",
    "Substitution",
    "SubstitutionFailure",
    "actions",
    "conditions",
    "event_handlers",
    "events",
    "logging",
    "substitutions",
]

RefuseUnknownSubmodules.install("launch")
__getattr__ = refuse_names("launch")
