"""A bundle that never moves: the right shapes, zero motion, open fingers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardware_configs import load
from policies.bundle import Bundle, Check, write_bundle
from policies.features import INSERTION_SPEC

HORIZON, EXECUTE_STEPS = 8, 2
SPEC = INSERTION_SPEC


def graph() -> bytes:
    """actions = 0 * noise + (0, ..., 0, 0.08): observation is only looked at for its shape."""
    shape = ["N", HORIZON, SPEC.action_size]
    still = np.zeros((1, 1, SPEC.action_size), dtype=np.float32)
    still[..., -1] = 0.08
    body = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["observation"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Mul", ["noise", "zero"], ["silence"]),
            helper.make_node("Add", ["silence", "nothing"], ["flat"]),
            helper.make_node("Add", ["flat", "still"], ["actions"]),
        ],
        "still",
        [
            helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", SPEC.input_size]),
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero"),
            numpy_helper.from_array(still, "still"),
        ],
    )
    body.node[0].attribute[0].i = 0
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"sampler": "null"})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write(folder: Path, hardware_hash: str = "") -> Bundle:
    """Writes the bundle for the Panda, or for a robot with another hash."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, HORIZON, SPEC.action_size)).astype(np.float32)
    actions = np.zeros_like(noise)
    actions[..., -1] = 0.08
    observation = rng.standard_normal((2, SPEC.input_size)).astype(np.float32)
    return write_bundle(
        folder,
        graph(),
        Check(observation, noise, actions),
        name="still",
        task="peg_insert",
        method="still",
        spec=SPEC,
        hardware_hash=hardware_hash or load("panda").hash,
        horizon=HORIZON,
        execute_steps=EXECUTE_STEPS,
        sampler=None,
        data_sha256="0" * 64,
        seeds={},
        commit="unknown",
        commands=[],
    )
