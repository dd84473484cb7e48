"""Chunks in time: nothing twice, nothing left out, nothing old, nothing stale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.chunks import Chunk, ChunkBuffer, ChunkError

HORIZON = 8
STEP_S = 0.1


def chunk(first_step: int, stamp_s: float, horizon: int = HORIZON) -> Chunk:
    """A chunk whose actions say which step they are for and which chunk they are of."""
    steps = first_step + np.arange(horizon)
    return Chunk(first_step, stamp_s, np.stack([steps, np.full(horizon, stamp_s)], 1).astype(float))


def step_of(action: np.ndarray | None) -> int | None:
    return None if action is None else int(action[0])


def listed(action: np.ndarray | None) -> list[float]:
    assert action is not None
    return list(action)


def test_holds_without_a_chunk() -> None:
    buffer = ChunkBuffer(execute_steps=4, stale_s=1.0)
    assert buffer.take(0.0) is None
    assert buffer.step == 0
    assert buffer.due()


def test_runs_a_chunk_to_its_end_and_then_holds() -> None:
    buffer = ChunkBuffer(execute_steps=4, stale_s=10.0)
    assert buffer.push(chunk(0, 0.0))
    taken = [step_of(buffer.take(STEP_S * i)) for i in range(HORIZON + 2)]
    assert taken == [*range(HORIZON), None, None]
    assert buffer.step == HORIZON


def test_late_chunk_starts_at_the_present_step() -> None:
    buffer = ChunkBuffer(execute_steps=2, stale_s=10.0)
    buffer.push(chunk(0, 0.0))
    for i in range(5):
        buffer.take(STEP_S * i)
    assert buffer.push(chunk(2, 0.2))
    assert listed(buffer.take(0.5)) == [5, 0.2]


def test_chunk_that_is_late_by_its_whole_length_is_never_replayed() -> None:
    buffer = ChunkBuffer(execute_steps=4, stale_s=10.0)
    assert buffer.push(chunk(0, 0.0))
    for _ in range(HORIZON):
        buffer.take(0.0)
    assert buffer.push(chunk(0, 0.1))
    assert buffer.take(0.2) is None
    assert buffer.step == HORIZON


def test_chunk_for_a_later_step_holds_until_then() -> None:
    buffer = ChunkBuffer(execute_steps=4, stale_s=10.0)
    buffer.push(chunk(3, 0.0))
    assert buffer.action_at(2, 0.0) is None
    assert step_of(buffer.action_at(3, 0.0)) == 3


@pytest.mark.parametrize(
    ("now_s", "fresh"), [(5.0, True), (5.35, True), (5.36, False), (4.6, False), (np.nan, False)]
)
def test_stale_chunk_holds(now_s: float, fresh: bool) -> None:
    buffer = ChunkBuffer(execute_steps=2, stale_s=0.35 + 1e-9)
    buffer.push(chunk(0, 5.0))
    assert (buffer.take(now_s) is not None) is fresh
    assert buffer.step == int(fresh)


@pytest.mark.parametrize(
    ("first_step", "stamp_s"), [(4, 0.9), (4, 1.0), (3, 1.1)], ids=["older", "same", "earlier"]
)
def test_older_chunk_never_replaces_a_newer_one(first_step: int, stamp_s: float) -> None:
    buffer = ChunkBuffer(execute_steps=2, stale_s=1.0)
    buffer.push(chunk(4, 1.0))
    assert not buffer.push(chunk(first_step, stamp_s))
    assert listed(buffer.action_at(4, 1.0)) == [4, 1.0]


def test_next_chunk_is_due_once_its_steps_are_executed() -> None:
    buffer = ChunkBuffer(execute_steps=3, stale_s=10.0)
    buffer.push(chunk(0, 0.0))
    due = []
    for _ in range(4):
        due.append(buffer.due())
        buffer.take(0.0)
    assert due == [False, False, False, True]


def test_clear_holds_but_the_count_goes_on() -> None:
    buffer = ChunkBuffer(execute_steps=2, stale_s=1.0)
    buffer.push(chunk(0, 0.0))
    buffer.take(0.0)
    buffer.clear(0.2)
    assert buffer.take(0.2) is None
    assert buffer.due()
    assert buffer.step == 1
    assert not buffer.push(chunk(1, 0.1)), "made for what has ended"
    assert buffer.push(chunk(1, 0.3))
    assert step_of(buffer.take(0.3)) == 1


def test_stays_as_it_was_when_the_sender_changes_its_array() -> None:
    actions = np.zeros((2, 7))
    sent = Chunk(0, 0.0, actions)
    actions[:] = np.nan
    assert np.isfinite(sent.actions).all()
    with pytest.raises(ValueError, match="read-only"):
        sent.actions[0] = 1.0


@pytest.mark.parametrize(
    ("first_step", "stamp_s", "actions", "message"),
    [
        (0, 0.0, np.zeros(7), r"chunk:actions: got shape \(7,\), expected \(H, A\)"),
        (0, 0.0, np.zeros((0, 7)), r"chunk:actions: got shape \(0, 7\)"),
        (0, 0.0, np.full((2, 7), np.nan), "chunk:actions: got values that are not finite"),
        (0, 0.0, np.zeros((2, 7), dtype=object), "chunk:actions: got values that are not finite"),
        (-1, 0.0, np.zeros((2, 7)), "chunk:first_step: got -1, expected at least 0"),
        (0, np.inf, np.zeros((2, 7)), "chunk:stamp_s: got inf, expected a finite time"),
    ],
)
def test_bad_chunk_is_refused(
    first_step: int, stamp_s: float, actions: np.ndarray, message: str
) -> None:
    with pytest.raises(ChunkError, match=message):
        Chunk(first_step, stamp_s, actions)


def test_bad_buffer_is_refused() -> None:
    with pytest.raises(ChunkError, match="execute_steps: got 0, expected at least 1"):
        ChunkBuffer(0, 1.0)
    with pytest.raises(ChunkError, match="stale_s: got nan, expected more than 0"):
        ChunkBuffer(1, np.nan)


@given(
    execute_steps=st.integers(1, HORIZON),
    latencies=st.lists(st.integers(0, 12), min_size=30, max_size=30),
    lost=st.sets(st.integers(0, 29)),
)
def test_any_latency_and_loss_gives_each_step_once_in_order(
    execute_steps: int, latencies: list[int], lost: set[int]
) -> None:
    """A policy that answers after any number of ticks, sometimes never, and out of order."""
    buffer = ChunkBuffer(execute_steps, stale_s=100.0)
    under_way: list[tuple[int, Chunk]] = []
    done: list[int] = []
    newest_s = -1.0
    for tick in range(200):
        now_s = tick * STEP_S
        if buffer.due() and latencies:
            number = 30 - len(latencies)
            arrival = tick + latencies.pop()
            if number not in lost:
                under_way.append((arrival, chunk(buffer.step, now_s)))
        for _, arrived in [entry for entry in under_way if entry[0] <= tick]:
            buffer.push(arrived)
        under_way = [entry for entry in under_way if entry[0] > tick]
        before = buffer.step
        action = buffer.take(now_s)
        assert buffer.step == before + (action is not None)
        if action is not None:
            done.append(int(action[0]))
            assert action[1] >= newest_s
            newest_s = float(action[1])
    assert done == list(range(len(done)))


@given(
    pushes=st.lists(st.tuples(st.integers(0, 20), st.floats(0, 10)), max_size=12),
    step=st.integers(0, 40),
    now_s=st.floats(0, 12),
)
def test_an_action_is_always_for_its_step_fresh_and_of_the_newest_chunk(
    pushes: list[tuple[int, float]], step: int, now_s: float
) -> None:
    buffer = ChunkBuffer(execute_steps=1, stale_s=0.35)
    kept: tuple[int, float] | None = None
    for first_step, stamp_s in pushes:
        newer = kept is None or (stamp_s > kept[1] and first_step >= kept[0])
        assert buffer.push(chunk(first_step, stamp_s)) is newer
        kept = (first_step, stamp_s) if newer else kept
    action = buffer.action_at(step, now_s)
    covered = (
        kept is not None and kept[0] <= step < kept[0] + HORIZON and abs(now_s - kept[1]) <= 0.35
    )
    assert (action is not None) is covered
    if action is not None and kept is not None:
        assert list(action) == [step, kept[1]]
