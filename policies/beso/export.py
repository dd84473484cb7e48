"""Writes a policy as one ONNX graph with its sampler loop unrolled inside."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import onnx
import torch

from policies.beso.network import ScorePolicy


def export_onnx(policy: ScorePolicy, path: Path) -> None:
    """Traces `policy` into a file with inputs observation (N, D) and noise (N, H, A) and output
    actions (N, H, A).

    The batch size N stays free. The noise levels become constants, so the sampler's settings
    cannot be changed afterwards; they are written into the graph's metadata under "sampler".

    Args:
        policy: weights, statistics and sampler settings, on the CPU.
        path: file to write.
    """
    settings = policy.settings
    policy = policy.eval()
    # Traced at batch 2: a batch of 1 would be specialised.
    observation = torch.zeros(2, settings.input_size)
    noise = torch.zeros(2, settings.horizon, settings.action_size)
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        policy,
        (observation, noise),
        input_names=["observation", "noise"],
        output_names=["actions"],
        dynamic_shapes=({0: batch}, {0: batch}),
        dynamo=True,
        verbose=False,
        optimize=True,
    )
    assert program is not None
    model = program.model_proto
    sampler = None if policy.is_regression else policy.sampler.to_dict()
    onnx.helper.set_model_props(model, {"sampler": json.dumps(sampler, sort_keys=True)})
    del model.graph.value_info[:]
    for node in model.graph.node:
        # The exporter records source lines and stack traces of the machine that ran it.
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
