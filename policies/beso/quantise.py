"""Turns an exported fp32 graph into one whose matrix products are in 8 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic


def quantise(graph: bytes) -> bytes:
    """Quantises the matrix products of a graph: weights here, activations at every call.

    Args:
        graph: a serialised ONNX model as `export_onnx` writes it.

    Returns:
        The serialised quantised model, with the metadata of the original.
    """
    properties = {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    with tempfile.TemporaryDirectory() as folder:
        folded, quantised = Path(folder) / "folded.onnx", Path(folder) / "quantised.onnx"
        options = onnxruntime.SessionOptions()
        # Constants are folded first: a transposed weight would not be seen as one.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        quantize_dynamic(
            folded, quantised, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8, reduce_range=True,
        )  # fmt: skip
        model = onnx.load(quantised)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    return model.SerializeToString()
