"""The stored check of a bundle: inputs, and the outputs its graphs have to reproduce on them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_configs.strict import Problems
from policies.manifest import CHECK, GRAPH, RESIDUAL, Manifest

# Largest error on the stored check: absolute in fp32; in int8, whose rounding tips over with the
# last bit of another machine's arithmetic, in standard deviations of each action component.
TOLERANCE, TOLERANCE_INT8 = 1e-4, 0.1
# Observations this many times larger than the check's must not take a residual past its bound.
FAR = 1e3

Float32Array = npt.NDArray[np.float32]
Run = Callable[[Float32Array, Float32Array], Float32Array]


class BundleError(ValueError):
    """A bundle cannot be used; one ``file:key: got X, expected Y`` per line."""


@dataclass(frozen=True, eq=False)
class Check:
    """Inputs and the outputs that the graphs have to reproduce on them.

    Attributes:
        observation: (N, D) or (N, W, D) float32, inputs like those of the training data.
        noise: (N, *noise_shape) float32, unit normal.
        actions: (N, H, A) float32, from the network that was exported, not from the graph; in int8
            from the graph itself.
        base_action: (N, A) float32, inputs of the residual beside the newest observations; None in
            a bundle without one.
        refined: (N, A) float32, the residual network's answers.
    """

    observation: Float32Array
    noise: Float32Array
    actions: Float32Array
    base_action: Float32Array | None = None
    refined: Float32Array | None = None

    @property
    def newest(self) -> Float32Array:
        """The newest of the observations, (N, D)."""
        return self.observation if self.observation.ndim == 2 else self.observation[:, -1]

    def to_bytes(self) -> bytes:
        """The content of ``check.npz``."""
        buffer = io.BytesIO()
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def read_check(content: bytes, file: str, manifest: Manifest) -> Check:
    """Reads ``check.npz``.

    Args:
        content: of the file.
        file: how errors name it.
        manifest: what shapes have to agree with.

    Raises:
        BundleError: the arrays are not those of such a bundle.
    """
    problems = Problems(file)
    action_size = manifest.spec.action_size
    shapes: dict[str, tuple[int, ...]] = {
        "observation": manifest.observation_shape,
        "noise": manifest.noise_shape,
        "actions": (manifest.horizon, action_size),
    }
    if manifest.residual is not None:
        shapes |= {"base_action": (action_size,), "refined": (action_size,)}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as reason:
        raise BundleError(f"{file}: got no readable arrays ({reason}), expected an npz") from None
    if set(arrays) != set(shapes):
        problems.add("", "arrays " + ", ".join(sorted(arrays)), ", ".join(sorted(shapes)))
        problems.raise_if_any(BundleError)
    batch = len(arrays["noise"]) if arrays["noise"].ndim else 0
    for key, shape in shapes.items():
        array = arrays[key]
        if array.dtype != np.float32:
            problems.add(key, f"type {array.dtype}", "float32")
        elif array.shape != (batch, *shape) or batch < 1:
            problems.add(key, f"shape {array.shape}", f"shape (N, {', '.join(map(str, shape))})")
        elif not np.isfinite(array).all():
            problems.add(key, "a value that is not finite", "finite values")
    problems.raise_if_any(BundleError)
    return Check(**arrays)


def reproduce(
    check: Check, manifest: Manifest, folder: str, run: Run, run_residual: Run | None
) -> None:
    """Runs the graphs on the check's inputs.

    Args:
        check: inputs and right outputs.
        manifest: of the bundle.
        folder: how errors name it.
        run: observation and noise to actions.
        run_residual: newest observation and base action to refined action, where there is one.

    Raises:
        BundleError: a graph fails, answers something else, or corrects by more than its bound.
    """
    problems = Problems(f"{folder}/{GRAPH}")
    actions = _answer(problems, "actions", run, check.observation, check.noise, check.actions)
    difference, tolerance = np.abs(actions - check.actions), TOLERANCE
    if manifest.precision == "int8":
        difference = difference / (check.actions.std(axis=(0, 1)) + TOLERANCE)
        tolerance = TOLERANCE_INT8
    _compare(problems, "actions", difference, tolerance)
    if manifest.residual is None or run_residual is None:
        return
    assert check.base_action is not None and check.refined is not None
    problems = Problems(f"{folder}/{RESIDUAL}")
    inputs = check.newest, check.base_action
    refined = _answer(problems, "action", run_residual, *inputs, check.refined)
    _compare(problems, "action", np.abs(refined - check.refined), TOLERANCE)
    bound = np.array(manifest.residual.bound)
    for scale in (1.0, FAR, -FAR):
        seen = np.asarray(scale * check.newest, dtype=np.float32)
        far = _answer(problems, "action", run_residual, seen, check.base_action, check.refined)
        correction = np.abs(far.astype(float) - check.base_action)
        if (correction > bound + 1e-6).any():
            share = float((correction / bound).max())
            problems.add("action", f"a correction of {share:.3g} times the bound", "at most 1")
            break
    problems.raise_if_any(BundleError)


def _answer(
    problems: Problems,
    output: str,
    run: Run,
    first: Float32Array,
    second: Float32Array,
    expected: Float32Array,
) -> Float32Array:
    try:
        answer: Any = run(first, second)
    # onnxruntime's errors have no common base but Exception
    except Exception as reason:  # noqa: BLE001
        text = " ".join(str(reason).split())
        raise BundleError(
            f"{problems.file}: got a failing run on the check input ({text}), expected {output}"
        ) from None
    if answer.shape != expected.shape:
        problems.add(output, f"shape {answer.shape}", f"shape {expected.shape}")
    elif not np.isfinite(answer).all():
        problems.add(output, "a value that is not finite", "finite values on the check input")
    problems.raise_if_any(BundleError)
    return np.asarray(answer)


def _compare(
    problems: Problems, output: str, difference: npt.NDArray[np.floating], tolerance: float
) -> None:
    error = float(difference.max())
    if error > tolerance:
        expected = f"at most {tolerance:g}"
        problems.add(output, f"{error:.3g} away from the stored output of {CHECK}", expected)
    problems.raise_if_any(BundleError)
