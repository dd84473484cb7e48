"""What a network is shown of rows of the data: their history, and goals in hindsight."""

from __future__ import annotations

import torch

from policies.beso.network import NetworkSettings
from policies.spec import Spec
from training.dataset import Demonstrations


class Inputs:
    """Raw network inputs of rows of the data: with their history, with goals in hindsight.

    Args:
        data: the demonstrations.
        settings: window and goal states of the network.
        hindsight_steps: how far ahead a goal may lie; 0 keeps the goals of the file.
        hindsight_draws: a goal lies at the furthest of so many places drawn evenly.

    Attributes:
        visited: inputs as a policy saw them elsewhere, (n, D) or (n, W, D), with goals of their
            own; they are rows beyond those of the data.
    """

    def __init__(
        self,
        data: Demonstrations,
        settings: NetworkSettings,
        hindsight_steps: int,
        hindsight_draws: int = 1,
    ) -> None:
        self.observation = torch.from_numpy(data.observation)
        self.settings = settings
        self.hindsight_steps = hindsight_steps
        self.hindsight_draws = hindsight_draws
        if hindsight_steps and not settings.goal_size:
            raise ValueError(
                f"--hindsight-steps: got {hindsight_steps} and data without goal fields, expected 0"
            )
        if hindsight_draws < 1:
            raise ValueError(f"--hindsight-draws: got {hindsight_draws}, expected at least 1")
        self._last = torch.from_numpy(data.last_row)
        self._history = torch.from_numpy(data.history(settings.window))
        window = () if settings.window == 1 else (settings.window,)
        self.visited = self.observation.new_empty(0, *window, settings.input_size)

    def __call__(
        self, rows: torch.Tensor, ahead: torch.Tensor, asked: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Inputs (n, D), or (n, W, D) with a window above 1.

        Args:
            rows: (n,), of the data or of what was visited.
            ahead: (n,) in [0, 1): where in the allowed stretch the goal lies, as a quantile.
            asked: (n,), the row whose achieved state is the goal instead, -1 for none.
        """
        settings = self.settings
        elsewhere = rows - len(self.observation)
        rows = rows.clamp(max=len(self.observation) - 1)
        batch = self.observation[self._history[rows]]
        if self.hindsight_steps:
            # At least one step ahead, and never beyond the episode.
            place = ahead ** (1.0 / self.hindsight_draws)
            reach = 1 + (place * self.hindsight_steps).long().clamp(max=self.hindsight_steps - 1)
            goals = []
            for state in range(1, settings.goal_states + 1):
                offset = -(-reach * state // settings.goal_states)
                later = torch.minimum(rows + offset, self._last[rows])
                if asked is not None:
                    later = torch.where(asked < 0, later, asked)
                goals.append(self.observation[later, -settings.goal_state_size :])
            goal = torch.cat(goals, dim=1)[:, None].expand(-1, settings.window, -1)
            batch = torch.cat([batch[:, :, : settings.observation_size], goal], dim=2)
        batch = batch[:, 0] if settings.window == 1 else batch
        there = elsewhere >= 0
        batch[there] = self.visited[elsewhere[there]]
        return batch


def achieved_entry(spec: Spec) -> int:
    """Where in the flat input stands what the goal is asked of: its first entry, -1 for nowhere.

    The one goal field `goal.x` is asked of the observation field `observation.state.x` or
    `observation.x` of the same shape.
    """
    if len(spec.goal) != 1:
        return -1
    (goal,), entry = spec.goal, 0
    asked_of = [f"observation.{part}{goal.name.removeprefix('goal.')}" for part in ("state.", "")]
    for field in spec.observation:
        if field.name in asked_of and field.shape == goal.shape:
            return entry
        entry += field.size
    return -1


def with_starts(rows: torch.Tensor, data: Demonstrations, first: int, weight: int) -> torch.Tensor:
    """Rows to draw samples from: `rows`, those among the `first` of their episode `weight` times.

    Raises:
        ValueError: they would not occur at all, or there are none.
    """
    for name, number in (("weight", weight), ("rows", first)):
        if number < 1:
            raise ValueError(f"--start-{name}: got {number}, expected at least 1")
    since_start = torch.arange(len(data.action)) - torch.from_numpy(data.starts[data.episode_index])
    at_start = rows[since_start[rows] < first]
    return torch.cat([rows, at_start.repeat(weight - 1)])
