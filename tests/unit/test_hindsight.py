"""Network inputs drawn from play: histories within an episode, goals from its future."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.beso.network import NetworkSettings
from policies.spec import Field, Spec
from training.dataset import Demonstrations
from training.inputs import Inputs, with_starts

LENGTHS = (6, 3)


def play(goal_size: int) -> Demonstrations:
    """Two episodes; a row says its number, and as achieved 100 more."""
    rows = sum(LENGTHS)
    number = np.arange(rows, dtype=np.float32)[:, None]
    goal = (Field("goal.state", (goal_size,), "1", "none"),) if goal_size else ()
    return Demonstrations(
        observation=np.concatenate([number] + [100 + number] * goal_size, axis=1),
        action=number.copy(),
        disturbed=np.zeros(rows, dtype=np.bool_),
        episode_index=np.repeat(np.arange(2), LENGTHS),
        seed=np.arange(2),
        length=np.array(LENGTHS),
        success=np.ones(2, dtype=np.bool_),
        spec=Spec(
            (Field("observation.state", (1,), "1", "none"),),
            goal,
            (Field("action", (1,), "1", "none"),),
            10.0,
        ),
        task="toy",
        generator={},
    )


def settings(goal_size: int, window: int = 1, goal_states: int = 1) -> NetworkSettings:
    return NetworkSettings(
        "mlp", 1 + goal_size, goal_size, 1, 2, window=window, goal_states=goal_states
    )


def test_goals_lie_ahead_in_the_same_episode() -> None:
    inputs = Inputs(play(1), settings(1), hindsight_steps=4)
    rows = torch.arange(9).repeat_interleave(200)
    batch = inputs(rows, torch.rand(len(rows)))
    ahead = batch[:, 1] - 100 - rows
    last = torch.tensor([5] * 6 + [8] * 3)[rows]
    assert (ahead <= 4).all() and (rows + ahead <= last).all()
    assert ((ahead >= 1) | (rows == last)).all(), "only the last row has no later one"
    assert set(ahead[rows == 0].tolist()) == {1.0, 2.0, 3.0, 4.0}, "every distance occurs"


def test_the_furthest_of_several_draws_prefers_what_takes_long() -> None:
    inputs = Inputs(play(1), settings(1), hindsight_steps=4, hindsight_draws=2)
    count = 20_000
    batch = inputs(torch.zeros(count, dtype=torch.long), torch.rand(count))
    found = torch.bincount((batch[:, 1] - 100).long(), minlength=5)[1:] / count
    # Both of two even draws from 4 places are at most k with probability (k / 4) squared.
    expected = torch.tensor([1.0, 3.0, 5.0, 7.0]) / 16
    torch.testing.assert_close(found, expected, atol=0.015, rtol=0.0)
    furthest = inputs(torch.tensor([0]), torch.tensor([1.0 - 2**-24]))
    assert furthest[0, 1] == 104.0
    with pytest.raises(ValueError, match="--hindsight-draws: got 0, expected at least 1"):
        Inputs(play(1), settings(1), 4, 0)


def test_without_hindsight_the_goals_of_the_file_stay() -> None:
    batch = Inputs(play(1), settings(1), 0)(torch.arange(9), torch.rand(9))
    torch.testing.assert_close(batch[:, 1], 100 + batch[:, 0])


def test_several_goal_states_are_spread_over_the_way() -> None:
    inputs = Inputs(play(2), settings(2, goal_states=2), hindsight_steps=4)
    batch = inputs(torch.tensor([0]), torch.tensor([0.9]))
    assert batch.tolist() == [[0.0, 102.0, 104.0]]


def test_histories_end_at_the_row_and_begin_in_its_episode() -> None:
    inputs = Inputs(play(1), settings(1, window=3), hindsight_steps=1)
    batch = inputs(torch.tensor([0, 3, 6, 8]), torch.zeros(4))
    assert batch[:, :, 0].tolist() == [[0, 0, 0], [1, 2, 3], [6, 6, 6], [6, 7, 8]]
    assert batch[:, :, 1].tolist() == [[101] * 3, [104] * 3, [107] * 3, [108] * 3]
    chunks = play(1).chunks(horizon=2, window=3)
    assert chunks[3, :, 0].tolist() == [1, 2, 3, 4]
    assert chunks[7, :, 0].tolist() == [6, 6, 7, 8], "before its start the first action stands"


def test_hindsight_needs_goals() -> None:
    with pytest.raises(ValueError, match="--hindsight-steps: got 4 and data without goal fields"):
        Inputs(play(0), settings(0), 4)


def test_rows_at_the_start_of_an_episode_count_more_often() -> None:
    rows = torch.tensor([0, 1, 2, 4, 6, 8])  # of the second episode, which begins at 6, two
    drawn = with_starts(rows, play(1), first=2, weight=3)
    assert sorted(drawn.tolist()) == [0, 0, 0, 1, 1, 1, 2, 4, 6, 6, 6, 8]
    torch.testing.assert_close(with_starts(rows, play(1), first=2, weight=1), rows)
    with pytest.raises(ValueError, match="--start-weight: got 0, expected at least 1"):
        with_starts(rows, play(1), first=2, weight=0)
    with pytest.raises(ValueError, match="--start-rows: got 0, expected at least 1"):
        with_starts(rows, play(1), first=0, weight=3)


@pytest.mark.parametrize("window", [1, 3])
def test_what_was_visited_stands_beyond_the_data(window: int) -> None:
    inputs = Inputs(play(1), settings(1, window=window), hindsight_steps=4)
    rows, ahead = torch.tensor([2, 7]), torch.tensor([0.3, 0.6])
    alone = inputs(rows, ahead)
    inputs.visited = torch.randn(5, *alone.shape[1:])
    count = len(inputs.observation)
    both = inputs(torch.tensor([count + 4, 2, count, 7]), torch.tensor([0.9, 0.3, 0.1, 0.6]))
    torch.testing.assert_close(both[[1, 3]], alone)
    assert both[[0, 2]].equal(inputs.visited[[4, 0]]), "their goals are not of the data"


def test_a_goal_that_is_asked_for_may_be_of_another_episode() -> None:
    inputs = Inputs(play(1), settings(1, window=3), hindsight_steps=4)
    rows, ahead = torch.tensor([2, 2, 7]), torch.zeros(3)
    batch = inputs(rows, ahead, torch.tensor([-1, 8, 0]))
    assert batch[:, -1, 1].tolist() == [103, 108, 100]
    torch.testing.assert_close(batch[:, :, 0], inputs(rows, ahead)[:, :, 0])
