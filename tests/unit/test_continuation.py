"""How a chunk takes over: what is frozen, what fades, what is free, and what a policy is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.chunks import Chunk, ChunkBuffer
from policies.continuation import (
    DelayEstimate,
    Handover,
    blend,
    delay_steps,
    hold,
    longest_delay,
    replan_steps,
    weights,
)

HORIZON, ACTIONS = 8, 3
STEP_S, STALE_S = 0.1, 0.6
counts = st.integers(0, 10)


@given(horizon=st.integers(1, 12), overlap=counts, frozen=counts, decay=counts)
def test_weights_are_one_then_fade_then_nothing(
    horizon: int, overlap: int, frozen: int, decay: int
) -> None:
    found = weights(horizon, overlap, frozen, decay)
    assert found.shape == (horizon,)
    assert np.all(np.diff(found) <= 0.0)
    assert np.all(found[: min(frozen, overlap)] == 1.0)
    assert np.all(found[min(frozen + decay, overlap) :] == 0.0)
    fading = found[frozen : min(frozen + decay, overlap)]
    assert np.all((fading > 0.0) & (fading < 1.0))


def test_weights_of_the_paper() -> None:
    """Table by hand: d = 2 frozen, c = 3/4, 2/4, 1/4, of c (e^c - 1) / (e - 1)."""
    assert weights(8, 6, 2, 3) == pytest.approx(
        [1, 1, 0.48756, 0.18877, 0.04132, 0, 0, 0], abs=1e-5
    )


@given(shift=st.integers(0, 12), frozen=counts, decay=counts)
def test_what_is_held_is_what_the_buffer_would_execute(shift: int, frozen: int, decay: int) -> None:
    """The buffer is the truth of which row of the last chunk belongs to which step."""
    actions = np.random.default_rng(shift).normal(size=(HORIZON, ACTIONS))
    buffer = ChunkBuffer(execute_steps=1, stale_s=10.0)
    buffer.push(Chunk(5, 1.0, actions))
    previous, weight = hold(actions, shift, frozen, decay)
    assert previous.shape == actions.shape and np.isfinite(previous).all()
    for row in range(HORIZON):
        executed = buffer.action_at(5 + shift + row, 1.0)
        if executed is None:
            assert weight[row] == 0.0
        else:
            assert np.array_equal(previous[row], executed)
            assert (weight[row] == 1.0) == (row < frozen)


@given(frozen=counts, decay=counts)
def test_blending_a_chunk_with_itself_changes_nothing(frozen: int, decay: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, HORIZON, ACTIONS))
    weight = weights(HORIZON, HORIZON, frozen, decay)
    assert blend(one, one, weight) == pytest.approx(one)
    mixed = blend(one, other, weight)
    assert np.all(mixed <= np.maximum(one, other) + 1e-12)
    assert np.all(mixed >= np.minimum(one, other) - 1e-12)
    assert mixed[: min(frozen, HORIZON)] == pytest.approx(other[: min(frozen, HORIZON)])
    assert np.array_equal(mixed[weight == 0.0], one[weight == 0.0])


class Asked:
    """A policy of zeros that remembers what it was asked to continue."""

    def __init__(self) -> None:
        self.continued: dict[str, Any] = {}

    def __call__(self, observation: Any, noise: Any, **continued: Any) -> Any:
        self.continued = continued
        return np.zeros((len(observation), HORIZON, ACTIONS))


LAST = (np.ones((HORIZON, ACTIONS)), 3)
ASKED = np.zeros((2, 4)), np.zeros((2, HORIZON, ACTIONS))


def test_a_switch_asks_for_nothing_and_changes_nothing() -> None:
    policy = Asked()
    chunks = Handover("switch", 3).infer(policy, *ASKED, [LAST, None], 1)
    assert policy.continued == {} and not chunks.any()


def test_blend_leaves_alone_who_stands() -> None:
    policy = Asked()
    chunks = Handover("blend", 2).infer(policy, *ASKED, [None, LAST], 1)
    assert policy.continued == {} and not chunks[0].any()
    assert chunks[1, :, 0] == pytest.approx(weights(HORIZON, 5, 1, 2), abs=1e-6)


def test_inpainting_tells_the_policy_what_is_executed_meanwhile() -> None:
    policy = Asked()
    Handover("inpaint", 2).infer(policy, *ASKED, [LAST, None], 2)
    assert policy.continued["previous"].shape == (2, HORIZON, ACTIONS)
    assert policy.continued["previous"].dtype == np.float32
    assert policy.continued["weight"][0] == pytest.approx(weights(HORIZON, 5, 2, 2))
    assert not policy.continued["weight"][1].any()
    Handover("inpaint", 2).infer(policy, *ASKED, [None, None], 2)
    assert policy.continued == {}, "nothing to continue"


def test_a_policy_that_cannot_continue_blends() -> None:
    assert Handover("inpaint", 2).within(continues=False) == Handover("blend", 2)
    assert Handover("inpaint", 2).within(continues=True) == Handover("inpaint", 2)
    assert Handover("switch").within(continues=False) == Handover("switch")


@pytest.mark.parametrize(
    ("delay_ms", "steps"), [(0, 0), (1, 1), (50, 1), (100, 1), (101, 2), (200, 2), (300, 3)]
)
def test_a_chunk_takes_over_at_the_first_boundary_after_it_came(delay_ms: int, steps: int) -> None:
    assert delay_steps(1e-3 * delay_ms, 10.0) == steps


@given(
    execute_steps=st.integers(1, HORIZON),
    delay=st.integers(0, HORIZON),
    horizon=st.integers(2, HORIZON),
)
def test_longest_delay_is_what_the_buffer_allows(
    execute_steps: int, delay: int, horizon: int
) -> None:
    """Runs the buffer under that delay: it never has to hold exactly up to the longest one."""
    buffer = ChunkBuffer(execute_steps, STALE_S)
    observed = [0]
    buffer.push(Chunk(0, 0.0, np.zeros((horizon, ACTIONS))))
    held = False
    for step in range(6 * HORIZON):
        if step == observed[-1] + delay and step:
            stamp_s = observed[-1] * STEP_S
            buffer.push(Chunk(observed[-1], stamp_s, np.zeros((horizon, ACTIONS))))
        if step == observed[-1] + replan_steps(execute_steps, delay):
            observed.append(step)
            if delay == 0:
                buffer.push(Chunk(step, step * STEP_S, np.zeros((horizon, ACTIONS))))
        # An action that is not fresh to the end of its step is a hold in the middle of it.
        fresh = buffer.action_at(buffer.step, (step + 1 - 1e-6) * STEP_S) is not None
        held |= buffer.take(step * STEP_S) is None or not fresh
        if held:
            break
    bearable = delay <= longest_delay(horizon, execute_steps, 1.0 / STEP_S, STALE_S)
    # At the very limit rounding decides in the buffer; longest_delay is on the safe side.
    used = replan_steps(execute_steps, delay) + delay
    if used * STEP_S != pytest.approx(STALE_S):
        assert held is not bearable
    assert not (bearable and held)


def test_a_third_of_the_horizon_is_bearable() -> None:
    assert longest_delay(8, 2, 10.0, 0.6) == 8 // 3
    assert longest_delay(8, 4, 10.0, 0.6) == 1
    assert longest_delay(8, 5, 10.0, 0.6) < 1


def test_the_largest_of_the_last_delays_is_expected() -> None:
    estimate = DelayEstimate(10.0, longest=2, memory=3)
    assert estimate.steps == 1
    expected = [(0.0, 1), (0.02, 1), (0.11, 2), (0.02, 2), (0.03, 2), (0.04, 1), (5.0, 2)]
    for delay_s, steps in expected:
        estimate.add(delay_s)
        assert estimate.steps == steps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Handover("jump"), "handover:kind: got 'jump', expected switch, blend"),  # type: ignore[arg-type]
        (lambda: Handover("blend", -1), "handover:decay_steps: got -1"),
        (lambda: weights(8, 3, -1, 0), "frozen -1"),
        (lambda: hold(LAST[0], -1, 0, 0), "hold:shift: got -1"),
        (lambda: delay_steps(float("nan"), 10.0), "delay_s: got nan"),
        (lambda: delay_steps(-0.1, 10.0), "delay_s: got -0.1"),
    ],
)
def test_nonsense_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
