"""Samples made from samples: the observation somewhat different, and what to do then.

They take away what a network may lean on instead of looking at the things it handles, and cost no
simulation.

*Errors on the lead.* An action is an increment of the command, and the lead, from the measured tool
to the command, tells where the command already is. It also tells which way the tool was sent last:
in demonstrations that go straight to things the next action all but follows from it, and a network
that learns this much hardly looks at the things ("copycat", Wen et al. 2020; de Haan et al. 2019).
Then a first action that is a little off is carried on to its end. With an error on the lead the
command would really stand elsewhere, and who goes for a thing comes back: the demonstrators of the
cell make up for the same share of what is left in every policy step (`gain` in sim.experts.motion).
Only sideways: up or down the lead tells apart a thing that is being put down and one that is being
taken, which look alike otherwise.

*Shifts of the scene.* Where things always stand near the same places, where the tool is says nearly
as much as where the thing is. With robot, things and goals moved together along the table what is
to be done stays the same, and only the thing says where it is.

*Shifts of the tool.* Were the tool a little elsewhere, and command and things where they are, the
same would be commanded: lead and things, as seen from the tool, move against it. With errors on
the lead this says that what counts is how far the command is from the thing. It holds as long as
nothing is in hand or about to be, so only where nothing is near.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policies.beso.policy import ChunkPolicy
from policies.features import FINE_RANGE_M
from policies.spec import Field, Spec
from training.dataset import action_names

LEAD = "observation.state.lead"
TOOL = "observation.state.tool_pose"
THING = ("x", "y", "z", "fine_x", "fine_y", "fine_z")
"""How the components of a thing in the tool frame begin."""
STEP_M = 0.004
"""How far the lead is moved to see what a policy makes of it."""
NEAR_M = 0.05
"""A thing nearer to the tool than this may be in hand, or about to be."""
RETURN = 0.6
"""Share of a command's error that is made up for in one policy step."""


@dataclass(frozen=True)
class Perturbation:
    """K independent perturbations of a sample.

    Attributes:
        std: standard deviation of each (K,), m.
        shows: what each adds to the raw flat input (K, D), per unit.
        commands: by what it moves the command (K, A), per unit, which the chunk makes up for.
        tool: what a shift of the tool changes besides, by the last two perturbations; if any.
    """

    std: Tensor
    shows: Tensor
    commands: Tensor
    tool: ToolEntries | None = None

    @classmethod
    def of(
        cls, spec: Spec, lead_noise: float, scene_shift: float, tool_shift: float
    ) -> Perturbation | None:
        """What --lead-noise, --scene-shift and --tool-shift ask for, m, None for nothing.

        Raises:
            ValueError: the spec has no lead, or nothing that a shift changes.
        """
        inputs = _components(spec)
        found: list[tuple[float, list[int], list[int]]] = []
        if lead_noise:
            found += [(lead_noise, [seen], [commanded]) for seen, commanded in _lead(spec)]
            if not found:
                raise ValueError(f"--lead-noise: got data without {LEAD}, expected 0")
        if scene_shift:
            for axis in "xy":
                moved = [i for i, (field, name) in enumerate(inputs) if _lies(field, name, axis)]
                if not moved:
                    raise ValueError(
                        f"--scene-shift: got data without positions along {axis} in frame base, "
                        "expected 0"
                    )
                found.append((scene_shift, moved, []))
        tool = None
        if tool_shift:
            tool = ToolEntries.of(spec)
            found += [(tool_shift, [], [])] * 2
        if not found:
            return None
        shows = torch.zeros(len(found), len(inputs))
        commands = torch.zeros(len(found), spec.action_size)
        for k, (_, entries, components) in enumerate(found):
            shows[k, entries] = 1.0
            commands[k, components] = 1.0
        return cls(torch.tensor([std for std, _, _ in found]), shows, commands, tool)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Perturbations (count, K)."""
        return self.std * torch.randn(count, len(self.std), generator=generator)

    def shown(self, observation: Tensor, by: Tensor) -> Tensor:
        """Raw inputs (N, D) perturbed by (N, K)."""
        observation = observation + by @ self.shows
        return self.tool.moved(observation, by[:, -2:]) if self.tool else observation

    def answered(self, chunk: Tensor, by: Tensor) -> Tensor:
        """Raw chunks (N, H, A) that make up for perturbations (N, K)."""
        left = (1.0 - RETURN) ** torch.arange(chunk.shape[1])
        return chunk - RETURN * left[:, None] * (by @ self.commands)[:, None]


def lead_answer(
    policy: ChunkPolicy, spec: Spec, observation: Tensor, noise: Tensor
) -> float | None:
    """What a policy makes of its own command: how far its chunk moves the command where the lead is
    shown a unit further sideways, all else alike.

    Near -1 it goes where things are, wherever the command stands already. Above 0 it goes on the
    way it is going.

    Args:
        policy: with the sampler to use.
        spec: the policy's.
        observation: raw inputs (N, D).
        noise: unit normal noise (N, *noise_shape).

    Returns:
        The median over rows and axes; None where the spec has no lead.
    """
    lead = _lead(spec)
    if not lead:
        return None
    moved = []
    with torch.no_grad():
        chunk = policy(observation, noise)
        for seen, commanded in lead:
            shown = observation.clone()
            shown[:, seen] += STEP_M
            change = (policy(shown, noise) - chunk)[:, :, commanded]
            moved.append(change.sum(dim=1) / STEP_M)
    return float(torch.stack(moved).median())


@dataclass(frozen=True)
class ToolEntries:
    """Where in the flat input stands what depends on where the tool is.

    Attributes:
        pose: x, y and yaw of the tool in the base frame.
        lead: x of the lead, followed by its y.
        things: x of each thing in the tool frame, followed by y, z and their fine twins.
    """

    pose: tuple[int, int, int]
    lead: int
    things: tuple[int, ...]

    @classmethod
    def of(cls, spec: Spec) -> ToolEntries:
        """Those of `spec`.

        Raises:
            ValueError: it says too little.
        """
        at = {(field.name, name): i for i, (field, name) in enumerate(_components(spec))}
        things = tuple(at[f.name, "x"] for f in spec.observation if f.names[:6] == THING)
        needed = {(LEAD, "x"), (LEAD, "y"), (TOOL, "x"), (TOOL, "y"), (TOOL, "yaw")}
        if not (things and needed <= at.keys()):
            raise ValueError(
                f"--tool-shift: got data without {LEAD}, x, y and yaw of {TOOL}, or a thing in "
                "frame tool, expected 0"
            )
        return cls((at[TOOL, "x"], at[TOOL, "y"], at[TOOL, "yaw"]), at[LEAD, "x"], things)

    def moved(self, observation: Tensor, by: Tensor) -> Tensor:
        """Raw inputs (N, D) with the tool moved by (N, 2), m, tool frame, where nothing is near."""
        away = [observation[:, k : k + 3].norm(dim=1) > NEAR_M for k in self.things]
        by = by * torch.stack(away).all(dim=0)[:, None]
        moved = observation.clone()
        moved[:, self.lead : self.lead + 2] -= by
        for k in self.things:
            moved[:, k : k + 2] -= by
            moved[:, k + 3 : k + 5] = torch.tanh(moved[:, k : k + 2] / FINE_RANGE_M)
        x, y, yaw = self.pose
        # The tool points down.
        cos, sin = torch.cos(observation[:, yaw]), torch.sin(observation[:, yaw])
        moved[:, x] += cos * by[:, 0] + sin * by[:, 1]
        moved[:, y] += sin * by[:, 0] - cos * by[:, 1]
        return moved


def _components(spec: Spec) -> list[tuple[Field, str]]:
    """Field and name of each entry of the flat input, the name empty where it has none."""
    return [(f, name) for f in spec.input_fields for name in f.names or [""] * f.size]


def _lead(spec: Spec) -> list[tuple[int, int]]:
    """Entries of the flat input that say where the command is sideways, each with the component of
    an action that moves it.
    """
    actions = action_names(spec)
    return [
        (entry, actions.index(f"d{name}"))
        for entry, (field, name) in enumerate(_components(spec))
        if field.name == LEAD and name in ("x", "y") and f"d{name}" in actions
    ]


def _lies(field: Field, name: str, axis: str) -> bool:
    """Whether a component is a position along an axis of the robot's base."""
    stem, _, last = name.rpartition("_")
    return field.frame == "base" and field.unit.startswith("m") and last == axis and stem != "axis"
