"""Demonstration files: what is written is read, and what is damaged is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.spec import Field, Spec
from training.dataset import DatasetError, Demonstrations, check, commands, concatenate, load, save

SPEC = Spec(
    observation=(Field("observation.state", (3,), "m", "base", ("x", "y", "z")),),
    goal=(),
    action=(Field("action", (2,), "m", "tool", ("dx", "gripper_width")),),
    rate_hz=10.0,
)


GENERATOR = {"hardware_hash": "a", "clearance_mm": 0.5, "command": "collect"}


def demonstrations() -> Demonstrations:
    length = np.array([3, 2])
    rows = int(length.sum())
    return Demonstrations(
        observation=np.arange(3 * rows, dtype=np.float32).reshape(rows, 3),
        action=np.arange(1, 2 * rows + 1, dtype=np.float32).reshape(rows, 2),
        disturbed=np.array([False, False, True, False, False]),
        episode_index=np.repeat(np.arange(2), length),
        seed=np.array([1_000_000, 1_000_003]),
        length=length,
        success=np.ones(2, dtype=np.bool_),
        spec=SPEC,
        task="toy",
        generator={"level": ["med"]},
    )


def test_round_trip(tmp_path: Path) -> None:
    data = demonstrations()
    sha256 = save(tmp_path / "deep" / "toy.npz", data)
    read = load(tmp_path / "deep" / "toy.npz")
    assert read.sha256 == sha256 == data.sha256
    assert (read.spec, read.task, read.generator) == (SPEC, "toy", {"level": ["med"]})
    for name, column in data.columns().items():
        np.testing.assert_array_equal(read.columns()[name], column)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["toy.npz"], "no partial file is left"


def test_hash_depends_on_content_alone(tmp_path: Path) -> None:
    data = demonstrations()
    assert save(tmp_path / "a.npz", data) == save(tmp_path / "b.npz", data)
    for other in (
        replace(data, action=data.action + 1),
        replace(data, seed=data.seed + 1),
        replace(data, generator={"level": ["low"]}),
    ):
        assert other.sha256 != data.sha256


def test_chunks_hold_past_the_end_of_an_episode() -> None:
    chunks = demonstrations().chunks(3)
    assert chunks.shape == (5, 3, 2)
    np.testing.assert_array_equal(chunks[0], [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(chunks[1], [[3, 4], [5, 6], [0, 6]])
    np.testing.assert_array_equal(chunks[2], [[5, 6], [0, 6], [0, 6]])
    np.testing.assert_array_equal(chunks[3], [[7, 8], [9, 10], [0, 10]])


def test_a_disturbance_spoils_the_chunks_that_last_beyond_it() -> None:
    data = demonstrations()
    assert data.undisturbed(1).all(), "a single action is what was wanted, whatever was executed"
    assert data.undisturbed(2).tolist() == [True, True, False, True, True]
    assert data.undisturbed(3).tolist() == [True, False, False, True, True]


def test_files_are_laid_end_to_end() -> None:
    data = replace(demonstrations(), generator=GENERATOR)
    both = concatenate([data, data])
    check(both, "both")
    assert both.length.tolist() == [3, 2, 3, 2]
    np.testing.assert_array_equal(both.action[5:], data.action)
    np.testing.assert_array_equal(both.chunks(3)[5:], data.chunks(3))
    assert commands(both) == ["collect", "collect"]
    assert concatenate([data]) is data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "other"}, "got task 'other', expected 'toy'"),
        ({"generator": GENERATOR | {"hardware_hash": "b"}}, "got files of different robots"),
    ],
)
def test_files_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    data = replace(demonstrations(), generator=GENERATOR)
    with pytest.raises(DatasetError, match=message):
        concatenate([data, replace(data, **change)])  # type: ignore[arg-type]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file, expected demonstrations"):
        load(tmp_path / "nothing.npz")


def test_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    save(path, demonstrations())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match="toy.npz: not a readable"):
        load(path)


def test_foreign_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(DatasetError, match="other.npz: not a readable"):
        load(tmp_path / "other.npz")


def test_changed_content_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    save(path, demonstrations())
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["action"][2, 1] += 1e-3
    np.savez(path, **arrays)
    with pytest.raises(DatasetError, match="toy.npz:sha256: got .*, expected"):
        load(path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"observation": np.zeros((5, 4), np.float32)}, "observation"),
        ({"action": np.full((5, 2), np.nan, np.float32)}, "action"),
        ({"episode_index": np.array([0, 1, 0, 1, 1])}, "episode_index"),
        ({"seed": np.array([1])}, "episode.seed"),
    ],
)
def test_inconsistent_content_is_refused(change: dict[str, np.ndarray], key: str) -> None:
    with pytest.raises(DatasetError, match=f"x.npz:{key}: got"):
        check(replace(demonstrations(), **change), "x.npz")
