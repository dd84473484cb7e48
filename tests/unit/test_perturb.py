"""Perturbed samples: what is put on a chunk really makes up for what is put on the observation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.beso.baselines import make_policy
from policies.beso.network import NetworkSettings
from policies.features import ACTION, FINE_RANGE_M, INSERTION_SPEC, Signals
from policies.spec import Field, Spec
from sim.experts import motion
from sim.tasks.play_parts import PLAY_SPEC, PlayPartsBatch
from training.beso_args import Args, check
from training.beso_samples import OfData
from training.perturb import LEAD, RETURN, Perturbation, lead_answer
from training.reflow import draw_pairs

HORIZON = 6
STD = 0.006


def perturbation(
    spec: Spec,
    lead_noise: float = STD,
    scene_shift: float = 0.0,
    tool_shift: float = 0.0,
) -> Perturbation:
    found = Perturbation.of(spec, lead_noise, scene_shift, tool_shift)
    assert found is not None
    return found


def entries(spec: Spec) -> slice:
    """Where x and y of the lead stand in the flat input."""
    names = [field.name for field in spec.observation]
    first = sum(field.size for field in spec.observation[: names.index(LEAD)])
    return slice(first, first + 2)


MOVED_M = (0.007, -0.004)


def replace_tool(each: list[Signals], by: tuple[float, float]) -> list[Signals]:
    """The same readings with the tool moved sideways, tool frame, and the command where it was."""
    return [
        replace(s, tool_position=s.tool_position + s.tool_rotation[:, :, :2] @ np.array(by))
        for s in each
    ]


def flat(env: PlayPartsBatch, each: list[Signals]) -> np.ndarray:
    """The flat input from readings."""
    env.signals = lambda noisy=True: each  # type: ignore[method-assign]
    env._parts = lambda: np.zeros((env.num_envs, 2, 3))  # type: ignore[method-assign]
    return env.observe()


def demonstrated(command: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Translations (H, 3), target frame, that the cell's demonstrator commands from where the
    command stands, the tool waiting.
    """
    down = np.diag([1.0, -1.0, -1.0])[None]
    zero, one = np.zeros((1, 3)), np.zeros(1)
    signals = Signals(
        zero, down, np.zeros((1, 6)), command[None], down, one, one, zero, down, zero, down,
        one.astype(int), zero, one.astype(int),
    )  # fmt: skip
    unhurried = motion.Speeds(step_m=1.0, step_change_m=1.0)
    moves = []
    for _ in range(HORIZON):
        action = motion.action(signals, goal[None], one, one, np.ones(1), unhurried)
        moves.append(action[0, :3])
        target = signals.target_position + np.einsum("bij,bj->bi", down, action[:, :3])
        signals = replace(signals, target_position=target)
    return np.array(moves)


def test_the_chunk_makes_up_for_an_error_as_the_demonstrator_does() -> None:
    goal, command = np.array([0.02, -0.01, 0.03]), np.array([0.012, 0.004, 0.01])
    error = np.array([0.006, -0.009, 0.0])
    lead = perturbation(PLAY_SPEC)
    # The tool points down: its x is the base's, its y is turned.
    in_tool = torch.tensor([[error[0], -error[1]]], dtype=torch.float32)
    chunk = torch.zeros(1, HORIZON, 7)
    chunk[0, :, :3] = torch.from_numpy(demonstrated(command, goal)).float()
    answered = lead.answered(chunk, in_tool)
    expected = torch.from_numpy(demonstrated(command + error, goal)).float()
    torch.testing.assert_close(answered[0, :, :3], expected, atol=1e-7, rtol=0.0)
    torch.testing.assert_close(answered[..., 3:], chunk[..., 3:])
    assert motion.Speeds().gain == RETURN


def test_errors_fall_on_the_lead_sideways_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    for spec in (PLAY_SPEC, INSERTION_SPEC):
        lead = perturbation(spec)
        clean = torch.zeros(20_000, spec.input_size)
        shown = lead.shown(clean, lead.draw(len(clean), generator))
        where = entries(spec)
        expected = torch.tensor([0.006] * 2)
        torch.testing.assert_close(shown[:, where].std(dim=0), expected, rtol=0.03, atol=0.0)
        shown[:, where] = 0.0
        assert not shown.any() and not clean.any()


def test_a_shift_moves_all_that_is_given_in_the_base_frame_together() -> None:
    shift = perturbation(PLAY_SPEC, 0.0, 0.01)
    names = [f"{field.name}.{name}" for field in PLAY_SPEC.input_fields for name in field.names]
    by = torch.tensor([[0.3, -0.2]])
    shown = dict(zip(names, shift.shown(torch.zeros(1, len(names)), by)[0].tolist(), strict=True))
    places = ("observation.state.parts.square_peg", "goal.parts.round_peg")
    for name in ("observation.state.tool_pose", *places):
        joint = "." if name.endswith("tool_pose") else "_"
        assert shown.pop(f"{name}{joint}x") == pytest.approx(0.3)
        assert shown.pop(f"{name}{joint}y") == pytest.approx(-0.2)
    others = sorted(name[-5:] for name, value in shown.items() if value)
    assert others == ["peg_x"] * 2 + ["peg_y"] * 2
    chunk = torch.randn(1, HORIZON, 7)
    torch.testing.assert_close(shift.answered(chunk, by), chunk)
    assert len(perturbation(PLAY_SPEC, STD, 0.01).std) == 4
    assert Perturbation.of(PLAY_SPEC, 0.0, 0.0, 0.0) is None


def test_a_shift_of_the_tool_shows_what_would_be_seen_from_there() -> None:
    env = PlayPartsBatch(4, nthread=1)
    env.reset(np.arange(4))
    first, second = (replace_tool(env.signals(noisy=False), by) for by in ((0.0, 0.0), MOVED_M))
    shift = perturbation(PLAY_SPEC, 0.0, 0.0, 0.01)
    by = torch.tensor([MOVED_M], dtype=torch.float32).expand(4, -1)
    seen = torch.from_numpy(flat(env, first))
    # The tool leans by a hundredth: its sideways is not quite level.
    expected = torch.from_numpy(flat(env, second))
    torch.testing.assert_close(shift.shown(seen, by), expected, atol=1e-4, rtol=0.0)
    assert (expected - seen).abs().max() > 0.005
    # Where a thing is near the tool, nothing changes.
    names = [f"{field.name}.{name}" for field in PLAY_SPEC.input_fields for name in field.names]
    near = seen.clone()
    entry = names.index("observation.state.round_peg.x")
    near[:, entry : entry + 3] = torch.tensor([0.02, 0.0, 0.03])
    near[:, entry + 3] = torch.tanh(torch.tensor(0.02 / FINE_RANGE_M))
    near[:, entry + 4] = 0.0
    torch.testing.assert_close(shift.shown(near, by), near)
    chunk = torch.randn(4, HORIZON, 7)
    torch.testing.assert_close(shift.answered(chunk, by), chunk)
    with pytest.raises(ValueError, match="--tool-shift: got data without"):
        Perturbation.of(INSERTION_SPEC, 0.0, 0.0, 0.01)


def test_data_without_lead_are_refused() -> None:
    spec = Spec((Field("observation.state", (1,), "m", "base", ("x",)),), (), (ACTION,), 10.0)
    with pytest.raises(ValueError, match="--lead-noise: got data without observation.state.lead"):
        Perturbation.of(spec, STD, 0.0, 0.0)
    with pytest.raises(ValueError, match="--scene-shift: got data without positions along y"):
        Perturbation.of(spec, 0.0, 0.01, 0.0)
    with pytest.raises(ValueError, match="--lead-noise: got 0.006, .* a --window above 1"):
        check(Args((Path("a"),), lead_noise=STD, window=2))
    with pytest.raises(ValueError, match="--lead-noise: got -1.0, expected at least 0"):
        check(Args((Path("a"),), lead_noise=-1.0))
    with pytest.raises(ValueError, match="--scene-shift: got -0.1, expected at least 0"):
        check(Args((Path("a"),), scene_shift=-0.1))


class Line:
    """One axis: the tool waits at 0, a thing stands at x, the command is most of the way there."""

    spec = Spec(
        (
            Field(LEAD, (1,), "m", "tool", ("x",)),
            Field("observation.state.thing", (1,), "m", "tool", ("x",)),
        ),
        (),
        (Field("action", (1,), "m", "target", ("dx",)),),
        10.0,
    )

    def __init__(self, rows: int) -> None:
        thing = 0.05 * torch.randn(rows, 1, generator=torch.Generator().manual_seed(0))
        self.observation = torch.cat([0.5 * thing, thing + 0.005 * torch.randn(rows, 1)], dim=1)
        left = 0.5 * thing * (1 - RETURN) ** torch.arange(HORIZON)
        self.chunks = RETURN * left[:, :, None]

    def __call__(
        self, rows: torch.Tensor, ahead: torch.Tensor, asked: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.observation[rows]


def responses(lead_noise: float) -> tuple[float, float]:
    """How far a trained network's chunk moves by lead and by thing."""
    torch.manual_seed(0)
    data = Line(2000)
    policy = make_policy("bc", NetworkSettings("mlp", 2, 0, 1, HORIZON, width=64, blocks=1))
    policy.fit(data.observation, data.chunks.flatten(0, 1))
    lead = Perturbation.of(Line.spec, lead_noise, 0.0, 0.0)
    args = Args((Path("a"),), batch_size=256)
    source = OfData(args, data, data.chunks, torch.arange(2000), policy, lead)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        samples = source.draw(step, generator)
        shown = policy.normaliser.observation(samples.observation)
        loss = policy.loss(shown, samples.action, samples.level, samples.noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    noise = torch.zeros(1, *policy.noise_shape)
    by_lead = lead_answer(policy, Line.spec, torch.tensor([[0.01, 0.02]]), noise)
    assert by_lead is not None

    def way(thing_m: float) -> float:
        with torch.no_grad():
            return float(policy(torch.tensor([[0.01, thing_m]]), noise).sum())

    return by_lead, (way(0.025) - way(0.02)) / 0.005


def test_who_is_shown_errors_looks_at_the_thing() -> None:
    # The lead says exactly where things go, the reading of the thing is a little off.
    by_lead, by_thing = responses(0.0)
    assert by_lead > 0.4 and by_thing < 0.4
    by_lead, by_thing = responses(0.02)
    assert by_lead < -0.7 and by_thing > 0.7


def test_pairs_are_what_the_teacher_does_from_where_the_lead_is_shown() -> None:
    data = Line(50)
    torch.manual_seed(0)
    teacher = make_policy("beso", NetworkSettings("mlp", 2, 0, 1, HORIZON, width=32, blocks=1))
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    lead = perturbation(Line.spec, 0.05)
    pairs = draw_pairs(
        teacher.eval(),  # type: ignore[arg-type]
        data,
        torch.arange(50),
        64,
        0.0,
        torch.Generator().manual_seed(1),
        perturbation=lead,
    )
    assert pairs.by is not None
    shown = lead.shown(data(pairs.rows, pairs.ahead), pairs.by)
    with torch.no_grad():
        again = teacher(shown, pairs.noise)
        clean = teacher(data(pairs.rows, pairs.ahead), pairs.noise)
    torch.testing.assert_close(teacher.normaliser.raw_action(pairs.chunk), again)
    assert (again - clean).abs().max() > 1e-3
