"""Makes small ONNX graphs and bundles around them for the tests of bundle and runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from policies.bundle import Bundle, Check, write_bundle
from policies.manifest import Residual
from policies.spec import Field, Spec

HARDWARE_HASH = "a" * 64
HORIZON, ACTION_SIZE = 4, 3
SPEC = Spec(
    observation=(Field("observation.state", (5,), "m", "base", ("a", "b", "c", "d", "e")),),
    goal=(Field("goal.point", (1,), "m", "base"),),
    action=(Field("action", (ACTION_SIZE,), "m", "tool", ("x", "y", "z")),),
    rate_hz=10.0,
)
SAMPLER: dict[str, str | int | float] = {
    "name": "ddim",
    "schedule": "exponential",
    "steps": 3,
    "sigma_min": 0.005,
    "sigma_max": 1.0,
    "noise_scale": 0.5,
    "cfg_lambda": 1.0,
}
MANIFEST: dict[str, Any] = {
    "name": "tiny_linear",
    "task": "peg_insert",
    "method": "linear",
    "spec": SPEC,
    "hardware_hash": HARDWARE_HASH,
    "horizon": HORIZON,
    "execute_steps": 2,
    "sampler": SAMPLER,
    "data_sha256": "b" * 64,
    "seeds": {"collect": 0, "train": 1},
    "commit": "unknown",
    "commands": ["python -m training.export"],
}


def weights(input_size: int = SPEC.input_size, horizon: int = HORIZON) -> np.ndarray:
    """The linear policy's matrix (D, H * A)."""
    rng = np.random.default_rng(3)
    return rng.standard_normal((input_size, horizon * ACTION_SIZE)).astype(np.float32)


def answer(observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What the graph of ``graph()`` computes: actions = observation W + noise."""
    return (observation @ weights()).reshape(noise.shape) + noise


def check(count: int = 2, near: float = 1.0) -> Check:
    """A check input and the right output."""
    rng = np.random.default_rng(4)
    observation = near * rng.standard_normal((count, SPEC.input_size)).astype(np.float32)
    noise = rng.standard_normal((count, HORIZON, ACTION_SIZE)).astype(np.float32)
    return Check(observation, noise, answer(observation, noise))


def graph(
    horizon: int = HORIZON,
    input_size: int = SPEC.input_size,
    batch: str | int = "N",
    sampler: dict[str, str | int | float] | None = SAMPLER,
    extra_input: str = "",
    output: str = "actions",
    element: int = TensorProto.FLOAT,
    last: str = "Identity",
    metadata: bool = True,
) -> bytes:
    """Serialises a linear policy; each argument spoils one thing.

    ``last`` is the operator before the output, such as Log for outputs that are not finite.
    """
    chunk = [batch, horizon, ACTION_SIZE]
    dtype = helper.tensor_dtype_to_np_dtype(element)
    inputs = [
        helper.make_tensor_value_info("observation", element, [batch, input_size]),
        helper.make_tensor_value_info("noise", element, chunk),
    ]
    if extra_input:
        inputs.append(helper.make_tensor_value_info(extra_input, element, [batch, 1]))
    shape = np.array([-1, horizon, ACTION_SIZE], dtype=np.int64)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "weights"], ["flat"]),
            helper.make_node("Reshape", ["flat", "shape"], ["mean"]),
            helper.make_node("Add", ["mean", "noise"], ["sum"]),
            helper.make_node(last, ["sum"], [output]),
        ],
        "linear",
        inputs,
        [helper.make_tensor_value_info(output, element, chunk)],
        [
            numpy_helper.from_array(weights(input_size, horizon).astype(dtype), "weights"),
            numpy_helper.from_array(shape, "shape"),
        ],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if metadata:
        helper.set_model_props(model, {"sampler": json.dumps(sampler, sort_keys=True)})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


BOUND = (0.01, 0.02, 0.03)


def residual_graph(bound: tuple[float, ...] = BOUND, name: str = "base_action") -> bytes:
    """Serialises a residual: base action plus the first observations, clipped to the bound."""
    limit = np.array(bound, dtype=np.float32)
    arrays = {"upper": limit, "lower": -limit, "ends": np.array([ACTION_SIZE], dtype=np.int64)}
    arrays |= {"starts": np.array([0], dtype=np.int64), "axes": np.array([1], dtype=np.int64)}
    float32 = TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Slice", ["observation", "starts", "ends", "axes"], ["seen"]),
            helper.make_node("Min", ["seen", "upper"], ["below"]),
            helper.make_node("Max", ["below", "lower"], ["correction"]),
            helper.make_node("Add", [name, "correction"], ["action"]),
        ],
        "residual",
        [
            helper.make_tensor_value_info("observation", float32, ["N", SPEC.input_size]),
            helper.make_tensor_value_info(name, float32, ["N", ACTION_SIZE]),
        ],
        [helper.make_tensor_value_info("action", float32, ["N", ACTION_SIZE])],
        [numpy_helper.from_array(array, key) for key, array in arrays.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def refine(observation: np.ndarray, base_action: np.ndarray) -> np.ndarray:
    """What the graph of ``residual_graph()`` computes."""
    return base_action + np.clip(observation[:, :ACTION_SIZE], np.negative(BOUND), BOUND)


def write_refined(folder: Path, model: bytes | None = None, near: float = 1.0) -> Bundle:
    """Writes a bundle with a residual, the valid one unless told otherwise.

    ``near`` scales the check's observations.
    """
    base = check(near=near)
    action = base.actions[:, 0]
    refined = refine(base.observation, action).astype(np.float32)
    stored = Check(base.observation, base.noise, base.actions, action, refined)
    residual = model or residual_graph(), Residual(0.1, BOUND)
    return write_bundle(folder, graph(), stored, **MANIFEST, residual=residual)


def write(folder: Path, model: bytes | None = None, stored: Check | None = None) -> Bundle:
    """Writes a bundle, the valid one unless told otherwise."""
    return write_bundle(folder, model or graph(), stored or check(), **MANIFEST)
