"""Writes a policy as one ONNX graph with its sampler loop unrolled inside."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from policies.beso.policy import ChunkPolicy, ScorePolicy


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
    policy = policy.eval()
    # Traced at batch 2: a batch of 1 would be specialised.
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
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Of torch's own deprecated calls, and of dimensions that two inputs share.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            policy,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=["actions"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            # 23 is the first with attention and GELU as operators.
            opset_version=23,
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    assert program is not None
    model = program.model_proto
    sampler = policy.sampler.to_dict() if isinstance(policy, ScorePolicy) else None
    onnx.helper.set_model_props(model, {"sampler": json.dumps(sampler, sort_keys=True)})
    for value in model.graph.input:
        if value.name in ("previous", "weight"):
            # An initialiser of an input's name is its default; one row of it serves any batch.
            value.type.tensor_type.shape.dim[0].dim_param = f"{value.name}_batch"
            default = np.zeros((1, *inputs[value.name].shape[1:]), dtype=np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(default, value.name))
    del model.graph.value_info[:]
    for node in model.graph.node:
        # The exporter records source lines and stack traces of the machine that ran it.
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
