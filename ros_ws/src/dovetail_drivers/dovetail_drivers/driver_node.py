"""The driver node: one machine on the ROS graph, held whenever nobody commands it properly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from diagnostic_msgs.msg import KeyValue
from dovetail_interfaces.msg import ObjectPose, WorldState
from dovetail_interfaces.srv import CellTruth, FeedPart, LoadProduct, ResetCell
from dovetail_lifecycle import DovetailNode, Refusal, poses, run
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from dovetail_drivers.commands import CommandRefused
from dovetail_drivers.mujoco_cell import MujocoCell
from policies.objects import load_objects

DRIVERS = ("mujoco",)
Response = TypeVar("Response", LoadProduct.Response, FeedPart.Response, ResetCell.Response)
BASE_FRAME = "base"
STOP_TIMEOUT_S = 1.0
# Whoever answers each reading before the next tick is waited for when late, so many periods at
# most: on a computer that is too busy the simulated machine is slower than real time, and does even
# so what the same commands make it do elsewhere. Each answer in time gives credit, up to a limit,
# and one waited for in vain costs some, so that whoever commands more slowly is not waited for.
PATIENCE_TICKS = 3
CREDIT_MIN, CREDIT_MAX, CREDIT_COST = 5, 25, 5


class DriverNode(DovetailNode):
    """Publishes joint states and the world state, follows joint commands while active."""

    def __init__(self, **options: Any) -> None:
        super().__init__("driver", **options)
        self._clearance_mm = float(self.setting("clearance", 0.5))
        self._level = str(self.setting("level", "low"))
        self._seed = int(self.setting("seed", 0))
        self._task = str(self.setting("task", "peg_insert"))
        self._cell: MujocoCell | None = None
        self._timer: Timer | None = None
        self._refused = 0
        self._waited_ticks = 0
        # Whether the command that answers the last reading is still to come, and periods waited.
        self._awaiting, self._waited = False, 0
        self._credit = 0
        self._hold_logged = True

    def configure(self) -> None:
        """Builds the cell; from here on it runs and holds."""
        if self._driver not in DRIVERS:
            raise Refusal(f"driver: got {self._driver!r}, expected one of {', '.join(DRIVERS)}")
        if self._driver not in self.hardware.drivers:
            raise Refusal(
                f"{self._robot}:drivers: got no entry {self._driver!r}, expected its parameters"
            )
        self._objects = load_objects()
        self._cell = MujocoCell(
            self.hardware, self._clearance_mm, self._level, self._seed, self._task
        )
        self._cell.connect()
        self._states = self.create_publisher(
            JointState, self.topic_name("joint_states"), self.qos("joint_states")
        )
        self._world = self.create_publisher(
            WorldState, self.topic_name("world_state"), self.qos("world_state")
        )
        self.create_subscription(
            JointTrajectory,
            self.topic_name("joint_command"),
            self._on_command,
            self.qos("joint_command"),
        )
        self.create_service(LoadProduct, "/cell/load_product", self._on_load_product)
        self.create_service(FeedPart, "/cell/feed_part", self._on_feed_part)
        self.create_service(ResetCell, "/cell/reset", self._on_reset)
        self.create_service(CellTruth, "/cell/truth", self._on_truth)
        self._period_s = 1.0 / (self.hardware.rates.control_hz * self.real_time_factor)
        self._timer = self.create_timer(self._period_s, self._on_timer)

    def activate(self) -> None:
        """Follows commands from now on."""
        self._machine.enable(True)

    def deactivate(self) -> None:
        """Brakes and holds; commands are ignored."""
        self._machine.disconnect()
        self._hold_logged = False

    def stop(self, reason: str) -> None:
        """Brakes, waits until the arm is measured at rest and says so."""
        if self._cell is None or self._timer is None:
            return
        self._timer.cancel()
        self._cell.disconnect()
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while True:
            self._cell.tick()
            self._publish()
            if self._cell.settled or time.monotonic() > deadline_s:
                break
            # The machine needs its own time to come to rest.
            time.sleep(self._period_s)
        self._log_hold(reason)

    def diagnostics(self) -> dict[str, str]:
        """Refused commands, and periods spent waiting for a late one."""
        return {"refused_commands": str(self._refused), "waited_ticks": str(self._waited_ticks)}

    @property
    def _machine(self) -> MujocoCell:
        assert self._cell is not None
        return self._cell

    def _on_timer(self) -> None:
        prompt = self._credit >= CREDIT_MIN
        if self._awaiting and prompt and self._waited < PATIENCE_TICKS:
            self._waited += 1
            self._waited_ticks += 1
        else:
            self._tick()

    def _tick(self) -> None:
        was_holding = self._machine.holding
        if not was_holding:
            change = -CREDIT_COST if self._awaiting else 1
            self._credit = min(max(self._credit + change, 0), CREDIT_MAX)
        self._machine.tick()
        if self._machine.holding and not was_holding:
            self._hold_logged = False
        elif not self._machine.holding:
            self._hold_logged = True
        if not self._hold_logged and self._machine.settled:
            self._log_hold(f"no command for {self._machine.hold_age_s:.2f} s")
        self._publish()
        self._awaiting, self._waited = not self._machine.holding, 0

    def _log_hold(self, reason: str) -> None:
        self._hold_logged = True
        speed_rad_s = self._machine.speed_max_rad_s
        self.get_logger().info(f"robot holding: max |dq| = {speed_rad_s:.4f} rad/s ({reason})")

    def _publish(self) -> None:
        config, seen = self.hardware, self._machine.get_observation()
        state = JointState()
        state.header.stamp = self.get_clock().now().to_msg()
        state.header.frame_id = BASE_FRAME
        state.name = [*config.joint_names, config.gripper.joint]
        state.position = [*seen.q_rad.tolist(), seen.gripper_width_m]
        state.velocity = [*seen.dq_rad_s.tolist(), 0.0]
        state.effort = [*seen.effort_nm.tolist(), 0.0]
        world = WorldState(header=state.header, load_count=self._machine.load_count)
        for name, pose in zip(
            seen.names, poses.to_messages(seen.positions_m, seen.rotations), strict=True
        ):
            group = world.parts if name in self._objects.parts else world.sockets
            group.append(ObjectPose(name=name, pose=pose))
        self._world.publish(world)
        # Last, for it sets off the control cycle: whoever is asked by that sees this world.
        self._states.publish(state)

    def _on_command(self, message: JointTrajectory) -> None:
        if not self.active:
            return
        try:
            if len(message.points) != 1:
                raise CommandRefused(
                    f"command:points: got {len(message.points)}, expected exactly one"
                )
            point = message.points[0]
            self._machine.send_action(message.joint_names, point.positions, point.velocities)
        except CommandRefused as problem:
            self._refused += 1
            self.report(str(problem))
            return
        self._awaiting = False
        if self._waited and self._timer is not None:
            self._timer.reset()
            self._tick()

    def _on_load_product(
        self, request: LoadProduct.Request, response: LoadProduct.Response
    ) -> LoadProduct.Response:
        def load() -> None:
            self._machine.load_product(request.seed, request.index, request.level)

        return self._served(response, load)

    def _on_feed_part(
        self, request: FeedPart.Request, response: FeedPart.Response
    ) -> FeedPart.Response:
        return self._served(response, lambda: self._machine.feed_part(request.part))

    def _on_reset(
        self, request: ResetCell.Request, response: ResetCell.Response
    ) -> ResetCell.Response:
        def reset() -> None:
            episode = self._machine.reset(request.task, request.seed, request.level)
            response.part, response.socket = episode.part, episode.socket
            response.parameters = [
                KeyValue(key=key, value=repr(value)) for key, value in episode.parameters.items()
            ]
            response.time_limit_s = episode.time_limit_s

        return self._served(response, reset)

    def _served(self, response: Response, act: Callable[[], None]) -> Response:
        """Answers a service that lays the cell out anew: whether it did, why not, and the count."""
        try:
            act()
            response.success = True
        except ValueError as problem:
            response.message = str(problem)
        response.load_count = self._machine.load_count
        return response

    def _on_truth(
        self, request: CellTruth.Request, response: CellTruth.Response
    ) -> CellTruth.Response:
        try:
            truth = self._machine.truth(request.part, request.socket)
        except ValueError as problem:
            response.message = str(problem)
            return response
        response.success = True
        response.inserted = truth.inserted
        response.penetration_m = truth.penetration_m.tolist()
        response.peak_force_n = truth.peak_force_n
        return response


def main() -> None:
    """Runs the driver."""
    run(DriverNode)
