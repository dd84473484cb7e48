"""Writes a residual policy as an ONNX graph."""

from __future__ import annotations

import onnx
import torch

from policies.residual.network import ResidualPolicy
from policies.tracing import trace


def export_residual(policy: ResidualPolicy) -> bytes:
    """The graph with inputs observation (N, D) and base_action (N, A), output action (N, A).

    Normalisation and the bound are inside; the batch size N stays free.
    """
    settings = policy.settings
    inputs = {
        "observation": torch.zeros(2, settings.input_size),
        "base_action": torch.zeros(2, settings.action_size),
    }
    model = trace(policy, inputs, ["action"])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
