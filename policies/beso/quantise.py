"""Turns an exported fp32 graph into one whose large matrix products are in 8 bits."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.onnx_model import ONNXModel

# Smaller weights stay in fp32: those that read observation and action and write the action. Eight
# bits would save no time there, and an observation may reach 10 standard deviations.
LEAST_ELEMENTS = 2**15
# Numbers that share a scale, along the rows of weights and of activations.
BLOCK = 32


def quantise(graph: bytes, blockwise: bool) -> bytes:
    """Quantises the matrix products of a graph: weights here, activations at every call.

    Args:
        graph: a serialised ONNX model as `export_onnx` writes it.
        blockwise: every 32 numbers of a weight's column, and of an activation's row, have a scale
            of their own (`MatMulNBits` of onnxruntime). Nearer to fp32 than a scale for each column
            of weights and one for all activations of a call, and as fast for one row; but its time
            grows with every further row, and that of the other hardly. So it is right for a network
            that multiplies one row a sample, as the MLP, and wrong for a transformer's dozen of
            tokens.

    Returns:
        The serialised quantised model with the metadata of the original. With a scale by column it
        is of standard operators; onnxruntime fuses each product with its rounding on loading it.
    """
    properties = {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        # Constants are folded first: a transposed weight would not be seen as one.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        plain = ONNXModel(onnx.load(folded))
        # A product with bias is taken apart; onnxruntime puts the two together again.
        plain.replace_gemm_with_matmul()
    size = {tensor.name: int(np.prod(tensor.dims)) for tensor in plain.model.graph.initializer}
    small = [
        node.name
        for node in plain.model.graph.node
        if node.op_type == "MatMul" and size.get(node.input[1], 0) < LEAST_ELEMENTS
    ]
    model = _by_block(plain.model, small) if blockwise else _by_column(plain.model, small)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def _by_block(model: onnx.ModelProto, excluded: list[str]) -> onnx.ModelProto:
    # Importing it turns on logging for the whole process.
    from onnxruntime.quantization import matmul_nbits_quantizer

    # It would list what it leaves alone.
    for name in ("", matmul_nbits_quantizer.__name__):
        logging.getLogger(name).setLevel(logging.ERROR)
    quantiser = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        model,
        bits=8,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,  # activations in 8 bits too
        nodes_to_exclude=excluded,
    )
    quantiser.process()
    quantised: onnx.ModelProto = quantiser.model.model
    return quantised


def _by_column(model: onnx.ModelProto, excluded: list[str]) -> onnx.ModelProto:
    """Weights get 7 bits of the 8, with a scale for each column. On CPUs without VNNI onnxruntime
    multiplies unsigned by signed bytes and adds pairs of products in 16 bits, which saturate (255 *
    127 * 2 > 32767); with 7 bits they cannot (255 * 64 * 2 < 32767), and every CPU adds up the same
    integers. Activations have one scale for the whole batch, so that a row of the answer depends,
    within that rounding, on what else is in the batch.
    """
    # It would advise a preprocessing that has just been done.
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        quantised = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            model,
            quantised,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(quantised)
