"""Turns an exported fp32 graph into one whose large matrix products are in 8 bits."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

# Smaller weights stay in fp32: those that read observation and action and write the action. Eight
# bits would save no time there, and an observation may reach 10 standard deviations.
LEAST_ELEMENTS = 2**15


def quantise(graph: bytes) -> bytes:
    """Quantises the matrix products of a graph: weights here, activations at every call.

    Weights get 7 bits of the 8, with a scale for each column. On CPUs without VNNI onnxruntime
    multiplies unsigned by signed bytes and adds pairs of products in 16 bits, which saturate
    (255 * 127 * 2 > 32767); with 7 bits they cannot (255 * 64 * 2 < 32767), and every CPU adds up
    the same integers. Activations have one scale for the whole batch, so that a row of the answer
    depends, within that rounding, on what else is in the batch.

    Args:
        graph: a serialised ONNX model as `export_onnx` writes it.

    Returns:
        The serialised quantised model, of standard operators, with the metadata of the original.
        onnxruntime fuses each product with its rounding when it loads it.
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
        model = onnx.load(folded)
        size = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
        small = [
            # The quantiser takes a product with bias apart and names the parts so.
            node.name + {"Gemm": "_MatMul", "MatMul": ""}[node.op_type]
            for node in model.graph.node
            if node.op_type in ("Gemm", "MatMul") and size.get(node.input[1], 0) < LEAST_ELEMENTS
        ]
        # It would advise a preprocessing that has just been done.
        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(
            folded,
            quantised,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=small,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantised)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised
