"""Writes a policy as one ONNX graph with its sampler loop unrolled inside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import torch

from policies.beso.policy import ChunkPolicy, ScorePolicy
from policies.tracing import trace


def export_onnx(policy: ChunkPolicy, path: Path) -> None:
    """Traces `policy` into a file with inputs observation (N, D), or (N, W, D) with a window above
    1, and noise (N, *noise_shape), and output actions (N, H, A).

    Two more inputs have defaults and may be left out: previous (N, H, A) and weight (N, H), by
    which a chunk continues the one in execution; see ChunkPolicy.forward. The batch size N stays
    free. The noise levels become constants, so the sampler's settings cannot be changed
    afterwards; they are written into the graph's metadata under "sampler".

    Args:
        policy: weights, statistics and sampler settings, on the CPU.
        path: file to write.
    """
    settings = policy.settings
    seen = (
        (settings.input_size,) if settings.window == 1 else (settings.window, settings.input_size)
    )
    chunk = (settings.horizon, settings.action_size)
    inputs = {
        "observation": torch.zeros(2, *seen),
        "noise": torch.zeros(2, *policy.noise_shape),
        "previous": torch.zeros(2, *chunk),
        "weight": torch.zeros(2, settings.horizon),
    }
    model = trace(policy, inputs, ["actions"])
    sampler = policy.sampler.to_dict() if isinstance(policy, ScorePolicy) else None
    onnx.helper.set_model_props(model, {"sampler": json.dumps(sampler, sort_keys=True)})
    for value in model.graph.input:
        if value.name in ("previous", "weight"):
            # An initialiser of an input's name is its default; one row of it serves any batch.
            value.type.tensor_type.shape.dim[0].dim_param = f"{value.name}_batch"
            default = np.zeros((1, *inputs[value.name].shape[1:]), dtype=np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(default, value.name))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
