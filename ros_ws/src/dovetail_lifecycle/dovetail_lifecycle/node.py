"""Base of the lifecycle nodes: turns refusals into messages and says that it is alive.

A subclass overrides ``configure``, ``activate``, ``deactivate`` and ``stop``; raising ValueError,
OSError or Refusal there refuses the transition with that message. Five times a second the node
publishes a DiagnosticStatus on /diagnostics from the thread that does its work, so that the manager
sees a hung node as well as a dead one; ``~/last_error`` answers why a transition was refused.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from hardware_configs import HardwareConfig, load

HEARTBEAT_S = 0.2
DIAGNOSTICS = "/diagnostics"


class Refusal(RuntimeError):
    """Why a node does not do what it was asked; its text is shown to a person."""


class DovetailNode(LifecycleNode):
    """A lifecycle node with a heartbeat, a hardware config and plain error messages.

    Args:
        name: of the node.
        options: of rclpy's Node, such as its context or parameter overrides.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.config: HardwareConfig | None = None
        self._severity, self._message = DiagnosticStatus.OK, ""
        self._robot = str(self.setting("robot", "panda"))
        self._driver = str(self.setting("driver", "mujoco"))
        self._given_factor = float(self.setting("real_time_factor", 0.0))
        self._diagnostics = self.create_publisher(DiagnosticArray, DIAGNOSTICS, 10)
        self.create_timer(HEARTBEAT_S, self._beat)
        self.create_service(Trigger, "~/last_error", self._on_last_error)

    def configure(self) -> None:
        """Loads and verifies."""

    def activate(self) -> None:
        """Starts to act."""

    def deactivate(self) -> None:
        """Stops acting and holds."""

    def stop(self, reason: str) -> None:
        """Leaves everything safe before the process ends."""

    def diagnostics(self) -> dict[str, str]:
        """Values to publish with the heartbeat."""
        return {}

    def setting(self, name: str, default: Any) -> Any:
        """Declares a parameter and returns its value."""
        return self.declare_parameter(name, default).value

    @property
    def hardware(self) -> HardwareConfig:
        """The hardware config, once configured."""
        assert self.config is not None
        return self.config

    @property
    def real_time_factor(self) -> float:
        """Robot seconds per second: 1 for a machine; a simulated one may run faster or slower."""
        own = self.hardware.drivers.get(self._driver, {}).get("real_time_factor", 1.0)
        return self._given_factor or float(own)

    @property
    def active(self) -> bool:
        """Whether the node is in its active state."""
        return self._state_machine.current_state[1] == "active"

    def robot_time_s(self, stamp: Time | None = None) -> float:
        """Now, or a stamp, in seconds that pass as fast as the robot's (see real_time_factor)."""
        if stamp is None:
            return self.get_clock().now().nanoseconds * 1e-9 * self.real_time_factor
        return (stamp.sec + stamp.nanosec * 1e-9) * self.real_time_factor

    def topic_name(self, key: str) -> str:
        """Name of a topic of the hardware config."""
        return self.hardware.topics[key].name

    def qos(self, key: str) -> QoSProfile:
        """QoS of a topic of the hardware config."""
        topic = self.hardware.topics[key]
        return QoSProfile(
            depth=topic.depth, reliability=ReliabilityPolicy[topic.reliability.upper()]
        )

    def report(self, message: str, level: bytes = DiagnosticStatus.ERROR) -> None:
        """Logs a problem and publishes it as diagnostics at once."""
        self._severity, self._message = level, message
        if level == DiagnosticStatus.ERROR:
            self.get_logger().error(message, throttle_duration_sec=1.0)
        elif level == DiagnosticStatus.WARN:
            self.get_logger().warning(message, throttle_duration_sec=1.0)
        self._beat()

    def clear_report(self) -> None:
        """Ends the problem reported last."""
        self._severity, self._message = DiagnosticStatus.OK, ""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the hardware config, then what the subclass needs."""

        def load_all() -> None:
            self.config = load(self._robot)
            self.configure()

        return self._attempt(load_all)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See activate."""
        return self._attempt(self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See deactivate."""
        return self._attempt(self.deactivate)

    def _attempt(self, hook: Callable[[], None]) -> TransitionCallbackReturn:
        self.clear_report()
        try:
            hook()
        except (ValueError, OSError, Refusal) as problem:
            self.report(str(problem))
            return TransitionCallbackReturn.FAILURE
        except Exception as problem:
            self.get_logger().error(traceback.format_exc())
            self.report(f"{type(problem).__name__}: {problem}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _beat(self) -> None:
        values = {"state": self._state_machine.current_state[1], **self.diagnostics()}
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=self._severity,
                name=self.get_name(),
                message=self._message,
                hardware_id=self._robot,
                values=[KeyValue(key=key, value=value) for key, value in values.items()],
            )
        ]
        self._diagnostics.publish(message)

    def _on_last_error(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        response.success = self._severity == DiagnosticStatus.OK
        response.message = self._message
        return response
