"""Demonstration files: what `training.collect` writes and `training.train_beso` reads.

One `.npz` holds every step of every episode, one row each, under LeRobot's feature names, and a
JSON header with the spec, the generator's settings and the SHA-256 of the content. A file is
written beside its place and moved there when whole, so an interrupted run leaves no half file, and
a changed byte is noticed at loading.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.spec import Spec, SpecError

FORMAT = "dovetail-demonstrations-2"
COLUMNS = {
    "observation": (np.float32, 2),
    "action": (np.float32, 2),
    "disturbed": (np.bool_, 1),
    "episode_index": (np.int64, 1),
    "episode.seed": (np.int64, 1),
    "episode.length": (np.int64, 1),
    "episode.success": (np.bool_, 1),
}

# Seeds of demonstrations start here; evaluation warns where it meets a bundle's own.
FIRST_TRAINING_SEED = 1_000_000


class DatasetError(ValueError):
    """A demonstrations file is missing, damaged or does not say what it should."""


@dataclass(frozen=True)
class Demonstrations:
    """Whole episodes laid end to end.

    Attributes:
        observation: (T, D) float32, the flat input of the spec.
        action: (T, A) float32, what the demonstrator wanted at that observation.
        disturbed: (T,) whether something else than that was executed.
        episode_index: (T,) row -> episode.
        seed: (E,) seed of each episode.
        length: (E,) steps of each episode.
        success: (E,) whether it succeeded.
        spec: names, units and frames of the columns.
        task: what was demonstrated.
        generator: settings that made the file.
    """

    observation: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    disturbed: npt.NDArray[np.bool_]
    episode_index: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    success: npt.NDArray[np.bool_]
    spec: Spec
    task: str
    generator: dict[str, Any]

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First row of each episode (E,)."""
        return np.concatenate([[0], np.cumsum(self.length)[:-1]]).astype(np.int64)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by their names in the file."""
        return {
            "observation": self.observation,
            "action": self.action,
            "disturbed": self.disturbed,
            "episode_index": self.episode_index,
            "episode.seed": self.seed,
            "episode.length": self.length,
            "episode.success": self.success,
        }

    def header(self) -> dict[str, Any]:
        """What the file says beside the arrays, without its hash."""
        return {
            "format": FORMAT,
            "task": self.task,
            "spec": self.spec.to_dict(),
            "generator": self.generator,
        }

    @property
    def sha256(self) -> str:
        """Hash of the content: header, names, types, shapes and bytes. Independent of how the file
        is packed.
        """
        digest = hashlib.sha256(json.dumps(self.header(), sort_keys=True).encode())
        for name, column in sorted(self.columns().items()):
            digest.update(f"{name} {column.dtype.str} {column.shape}".encode())
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def chunks(self, horizon: int, window: int = 1) -> npt.NDArray[np.float32]:
        """The actions from `window - 1` rows before every row onwards (T, window - 1 + horizon, A).

        Past the end of an episode the robot should hold: zero motion, since actions are
        increments, and the last gripper width, which is absolute. Which components are absolute is
        read from their unit's field name: an action component named "gripper_width" keeps its last
        value, all others become 0. Before its start the first action stands.
        """
        first, wanted, last = self._window(horizon, window - 1)
        chunk = self.action[np.clip(wanted, first, last)]
        motion = np.array([not name.startswith("gripper") for name in action_names(self.spec)])
        chunk[(wanted > last)[:, :, None] & motion] = 0.0
        return chunk

    def history(self, window: int) -> npt.NDArray[np.int64]:
        """Rows of the last `window` observations at every row (T, window), the newest last; before
        an episode's start its first.
        """
        first, wanted, _ = self._window(1, window - 1)
        return np.maximum(wanted, first)

    def undisturbed(self, horizon: int) -> npt.NDArray[np.bool_]:
        """Rows (T,) whose chunk is what the demonstrator would have done left alone.

        A disturbance while a chunk lasts changes what was wanted later in it, by something that the
        observation at its start cannot tell.
        """
        _, wanted, last = self._window(horizon - 1)
        answer: npt.NDArray[np.bool_] = ~(self.disturbed[np.minimum(wanted, last)]).any(axis=1)
        return answer

    @property
    def last_row(self) -> npt.NDArray[np.int64]:
        """Last row of the episode of every row (T,)."""
        return (self.starts + self.length - 1)[self.episode_index]

    def _window(
        self, steps: int, before: int = 0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First row of each episode (T, 1), rows of the steps from `before` ago (T, before +
        steps), unbounded, and the episode's last row (T, 1).
        """
        first = self.starts[self.episode_index]
        wanted = np.arange(len(self.action))[:, None] + np.arange(-before, steps)
        return first[:, None], wanted, self.last_row[:, None]


def action_names(spec: Spec) -> list[str]:
    """One name per action component."""
    names: list[str] = []
    for field in spec.action:
        names += field.names or [f"{field.name}[{i}]" for i in range(field.size)]
    return names


def save(path: Path, data: Demonstrations) -> str:
    """Writes a demonstrations file in one step and returns its content hash."""
    sha256 = data.sha256
    header = json.dumps({**data.header(), "sha256": sha256}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, header=np.array(header), **data.columns())  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return sha256


def load(path: Path) -> Demonstrations:
    """Reads and verifies a demonstrations file.

    Raises:
        DatasetError: the file is missing, unreadable, of another format, inconsistent, or its
        content differs from its hash.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: no such file, expected demonstrations from training.collect"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: not a readable demonstrations file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DatasetError(f"{path}:format: got {header!r:.60}, expected {FORMAT!r}")
    if set(arrays) != set(COLUMNS):
        raise DatasetError(f"{path}: got columns {sorted(arrays)}, expected {sorted(COLUMNS)}")
    for name, (dtype, axes) in COLUMNS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != axes:
            raise DatasetError(
                f"{path}:{name}: got {arrays[name].dtype} with {arrays[name].ndim} axes, "
                f"expected {np.dtype(dtype).name} with {axes}"
            )
    try:
        spec = Spec.from_dict(header["spec"])
    except (SpecError, KeyError) as error:
        raise DatasetError(f"{path}:spec: {error}") from error
    data = Demonstrations(
        observation=arrays["observation"],
        action=arrays["action"],
        disturbed=arrays["disturbed"],
        episode_index=arrays["episode_index"],
        seed=arrays["episode.seed"],
        length=arrays["episode.length"],
        success=arrays["episode.success"],
        spec=spec,
        task=header["task"],
        generator=header["generator"],
    )
    if data.sha256 != header["sha256"]:
        raise DatasetError(f"{path}:sha256: got {data.sha256}, expected {header['sha256']}")
    check(data, str(path))
    return data


def check(data: Demonstrations, name: str) -> None:
    """Raises DatasetError if sizes disagree, also with the spec, or a value is not finite."""
    rows = int(data.length.sum())
    expected = {
        "observation": (rows, data.spec.input_size),
        "action": (rows, data.spec.action_size),
        "disturbed": (rows,),
        "episode_index": (rows,),
        "episode.seed": data.length.shape,
        "episode.success": data.length.shape,
    }
    for column, shape in expected.items():
        array = data.columns()[column]
        if array.shape != shape:
            raise DatasetError(f"{name}:{column}: got shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise DatasetError(f"{name}:{column}: got a value that is not finite")
    if not np.array_equal(data.episode_index, np.repeat(np.arange(len(data.length)), data.length)):
        raise DatasetError(
            f"{name}:episode_index: got rows out of order, expected 0, 0, ..., 1, 1, ..."
        )
    if rows == 0:
        raise DatasetError(f"{name}: got no steps, expected at least one episode")


def concatenate(parts: Sequence[Demonstrations]) -> Demonstrations:
    """Lays files of the same task and spec end to end; one file stays as it is.

    Raises:
        DatasetError: the parts do not fit together.
    """
    if not parts:
        raise DatasetError("data: got no file, expected at least one")
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if (part.task, part.spec) != (first.task, first.spec):
            raise DatasetError(
                f"data: got task {part.task!r}, expected {first.task!r} and its spec"
            )
        if part.generator["hardware_hash"] != first.generator["hardware_hash"]:
            raise DatasetError("data: got files of different robots, expected one robot")
    length = np.concatenate([part.length for part in parts])
    return Demonstrations(
        observation=np.concatenate([part.observation for part in parts]),
        action=np.concatenate([part.action for part in parts]),
        disturbed=np.concatenate([part.disturbed for part in parts]),
        episode_index=np.repeat(np.arange(len(length)), length),
        seed=np.concatenate([part.seed for part in parts]),
        length=length,
        success=np.concatenate([part.success for part in parts]),
        spec=first.spec,
        task=first.task,
        generator={
            "hardware_hash": first.generator["hardware_hash"],
            "clearance_mm": first.generator["clearance_mm"],
            "parts": [part.generator for part in parts],
        },
    )


def commands(data: Demonstrations) -> list[str]:
    """The commands that made the data, in order."""
    parts = data.generator.get("parts", [data.generator])
    return [str(part["command"]) for part in parts]
