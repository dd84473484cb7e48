"""Straightened paths: pairs belong together, and few steps then agree with many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from policies.beso.diffusion import SamplerSettings, sample_ddim, sample_dpmpp_2m
from policies.beso.network import NetworkSettings
from policies.beso.policy import ScorePolicy
from training.reflow import ONE_WINDOW, Pairs, draw_pairs, window_sigmas

SAMPLER = SamplerSettings(steps=10, sigma_max=5.0, noise_scale=0.5)


def teacher(sampler: SamplerSettings = SAMPLER) -> ScorePolicy:
    torch.manual_seed(0)
    policy = ScorePolicy(NetworkSettings("mlp", 5, 2, 2, 3, width=32, blocks=1)).eval()
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    policy.sampler = sampler
    return policy


def observations(
    rows: torch.Tensor, ahead: torch.Tensor, asked: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.stack([rows.float(), ahead, -rows.float(), ahead**2, ahead], dim=1) / 10


def draw(
    policy: ScorePolicy,
    count: int = 64,
    goal_drop: float = 0.0,
    levels: tuple[float, ...] = ONE_WINDOW,
    student: ScorePolicy | None = None,
) -> Pairs:
    generator, rows = torch.Generator().manual_seed(1), torch.arange(20)
    return draw_pairs(policy, observations, rows, count, goal_drop, generator, levels, student)


def test_a_pair_is_noise_and_what_the_policy_makes_of_it() -> None:
    policy = teacher()
    pairs = draw(policy)
    with torch.no_grad():
        again = policy(observations(pairs.rows, pairs.ahead), pairs.noise)
    torch.testing.assert_close(policy.normaliser.raw_action(pairs.chunk), again)
    # The line from the chunk along its direction is at the noise at level 1.
    chunk, direction = pairs.line(torch.arange(64), torch.ones(64))
    torch.testing.assert_close(chunk, pairs.chunk)
    torch.testing.assert_close(chunk + direction, pairs.noise)


def test_hidden_goals_stay_hidden() -> None:
    policy = teacher()
    pairs = draw(policy, goal_drop=0.5)
    assert 0.2 < pairs.dropped.mean() < 0.8
    blind = teacher(replace(SAMPLER, cfg_lambda=0.0))
    with torch.no_grad():
        unconditional = blind(observations(pairs.rows, pairs.ahead), pairs.noise)
    same = (unconditional - pairs.chunk).abs().amax(dim=(1, 2)) < 1e-5
    assert torch.equal(same, pairs.dropped.bool())


def two_modes(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[a | x] where a is -0.5 or 0.5, as likely, in closed form."""
    return 0.5 * torch.tanh(0.5 * x / sigma**2)


class TwoModes(ScorePolicy):
    """Two modes for every observation: one step of the flow lands between them."""

    def denoiser(self, observation: torch.Tensor):  # type: ignore[no-untyped-def]
        return two_modes


MANY = SamplerSettings(steps=51, sigma_max=4.0)
WINDOWS = (4.0, 1.0, 0.25, 0.0)


@pytest.mark.parametrize(
    ("levels", "few"),
    [
        (ONE_WINDOW, SamplerSettings(steps=1)),
        ((4.0, 0.5, 0.0), SamplerSettings(steps=2, sigma_min=0.5, sigma_max=4.0)),
    ],
)
def test_few_steps_then_do_what_the_many_did(
    levels: tuple[float, ...], few: SamplerSettings
) -> None:
    exact = TwoModes(NetworkSettings("mlp", 5, 0, 1, 1, width=32, blocks=1)).eval()
    exact.sampler = MANY
    pairs = draw(exact, count=4096, levels=levels)
    exact.sampler = few
    with torch.no_grad():
        between = exact(observations(pairs.rows, pairs.ahead), pairs.noise)
    assert (pairs.chunk.abs() - 0.5).abs().median() < 0.02
    cut = (between - pairs.chunk).abs().mean()
    assert cut > 0.05

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    student = ScorePolicy(NetworkSettings("mlp", 5, 0, 1, 1, width=64, blocks=2))
    student.density = (0.0, 1.0, 0.005, levels[0])
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    observation = observations(pairs.rows, pairs.ahead)
    for _ in range(300):
        chosen = torch.randint(len(pairs), (256,))
        chosen, level = pairs.towards_tops(chosen, student.draw_level(torch.rand(256)), generator)
        target, direction = pairs.line(chosen, level)
        loss = student.loss(observation[chosen], target, level, direction).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    student.eval().sampler = few
    with torch.no_grad():
        found = student(observation, pairs.noise)
    clear = pairs.noise.abs().flatten() > 0.2
    error = (found - pairs.chunk).abs().flatten()[clear]
    assert error.median() < 0.05
    assert error.mean() < 0.5 * cut


def test_a_path_in_windows_is_followed_by_as_many_steps_and_by_more() -> None:
    policy = teacher(SamplerSettings("dpmpp_2m", steps=12, sigma_max=5.0, noise_scale=0.5))
    few = SamplerSettings(steps=3, sigma_min=0.2, sigma_max=5.0)
    pairs = draw(policy, levels=tuple(few.sigmas))
    everyone = torch.arange(len(pairs))
    torch.testing.assert_close(pairs.starts[:, 0], 2.5 * pairs.noise)

    def straight(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return pairs.line(everyone, torch.full((len(pairs),), sigma))[0]

    for steps in (3, 13):  # of 13 exponential ones down to 0.2, every sixth is one of the three
        sampler = SamplerSettings(steps=steps, sigma_min=0.2, sigma_max=5.0, noise_scale=0.5)
        end = sampler.sample(straight, pairs.noise[:, None])
        torch.testing.assert_close(end, pairs.chunk, rtol=1e-4, atol=1e-4)

    # The first network's flow, cut at the same levels: a pass over each window ends where it says.
    with torch.no_grad():
        denoise = policy.denoiser(
            policy.normaliser.observation(observations(pairs.rows, pairs.ahead))
        )
        x = pairs.starts[:, 1]
        for sigmas in window_sigmas(policy.sampler, pairs.levels)[1:]:
            x = sample_dpmpp_2m(denoise, x, sigmas)
    torch.testing.assert_close(x, pairs.chunk)


def test_some_goals_are_asked_for_wherever_they_were_achieved() -> None:
    seen: list[torch.Tensor] = []

    def inputs(rows: torch.Tensor, ahead: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        seen.append(asked)
        return observations(rows, ahead)

    generator = torch.Generator().manual_seed(1)
    others = torch.arange(5, 20)
    pairs = draw_pairs(teacher(), inputs, torch.arange(9), 400, 0.0, generator, asked=(0.3, others))
    torch.testing.assert_close(torch.cat(seen), pairs.asked)
    asked = pairs.asked[pairs.asked >= 0]
    assert len(asked) == pytest.approx(120, abs=30)
    assert set(asked.tolist()) == set(others.tolist())
    assert set(pairs.asked[pairs.asked < 0].tolist()) == {-1}


def test_half_of_the_pieces_begin_where_the_new_network_leads() -> None:
    policy = teacher(SamplerSettings("dpmpp_2m", steps=12, sigma_max=4.0))
    student = teacher(SamplerSettings(steps=3, sigma_min=0.25, sigma_max=4.0))
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pairs = draw(policy, count=2000, levels=WINDOWS, student=student)
    alone = draw(policy, count=2000, levels=WINDOWS)
    own = (pairs.starts[:, 2] - alone.starts[:, 2]).abs().amax(dim=(1, 2)) > 1e-6
    assert own.float().mean() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(pairs.starts[:, 0], alone.starts[:, 0])
    torch.testing.assert_close(pairs.ends[~own], alone.ends[~own])
    with torch.no_grad():
        # Three steps of the student, from where its second window begins, are those of its sampler.
        raw = student(observations(pairs.rows, pairs.ahead), pairs.noise)
        observation = policy.normaliser.observation(observations(pairs.rows, pairs.ahead))
        last = sample_ddim(student.denoiser(observation), pairs.starts[:, 2], WINDOWS[2:])
        # The pieces themselves are the teacher's, from wherever they begin.
        sigmas = window_sigmas(policy.sampler, WINDOWS)[1]
        end = sample_dpmpp_2m(policy.denoiser(observation), pairs.starts[:, 1], sigmas)
    torch.testing.assert_close(last[own], student.normaliser.action(raw)[own])
    torch.testing.assert_close(pairs.ends[:, 1], end)


def test_half_of_the_samples_are_moved_to_the_tops_of_windows() -> None:
    pairs = draw(teacher(replace(SAMPLER, sigma_max=4.0)), count=50, levels=WINDOWS)
    chosen, level = torch.full((6000,), -1), torch.rand(6000) * 3 + 0.5
    moved_pairs, moved = pairs.towards_tops(chosen, level, torch.Generator().manual_seed(0))
    shares = [float((moved == top).float().mean()) for top in WINDOWS[:-1]]
    assert shares == pytest.approx([1 / 6] * 3, abs=0.02)
    stayed = moved == level
    assert stayed.float().mean() == pytest.approx(0.5, abs=0.03)
    assert (moved_pairs[stayed] == -1).all()
    assert set(moved_pairs[~stayed].tolist()) == set(range(50))


def test_pieces_are_drawn_as_often_as_the_new_networks_steps_miss_them() -> None:
    exact = TwoModes(NetworkSettings("mlp", 5, 0, 1, 1, width=32, blocks=1)).eval()
    exact.sampler = replace(MANY, name="dpmpp_2m")
    pairs = draw(exact, count=20_000, levels=WINDOWS, student=exact)
    everyone = torch.arange(len(pairs))
    drawn = torch.bincount(pairs.often, minlength=60_000).reshape(20_000, 3).float()
    # One step of the denoiser itself, in closed form, against where the piece ends.
    for window, high in enumerate(WINDOWS[:-1]):
        wanted, _ = pairs.line(everyone, torch.full((len(pairs),), high))
        missed = (two_modes(pairs.starts[:, window], high) - wanted).abs().flatten()
        worst = missed > missed.quantile(0.8)
        expected = float(missed[worst].mean() / missed[~worst].mean())
        found = float(drawn[worst, window].mean() / drawn[~worst, window].mean())
        assert found == pytest.approx(expected, rel=0.1)
        assert expected > 1.2


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (SamplerSettings(steps=2, sigma_max=4.0), "--reflow-steps: got 2, expected at least one"),
        (SamplerSettings(steps=9, sigma_min=0.3, sigma_max=4.0), "--sampler.sigma-min: got 0.25"),
    ],
)
def test_windows_that_the_sampler_cannot_cut_are_refused(
    sampler: SamplerSettings, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(teacher(sampler), levels=WINDOWS)


def test_a_stochastic_sampler_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="got euler_ancestral, expected a deterministic one"):
        draw(teacher(SamplerSettings(name="euler_ancestral")))
