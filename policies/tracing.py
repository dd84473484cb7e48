"""From a torch module to an ONNX model with a free batch size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def trace(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
    """Traces a module into an onnx.ModelProto.

    Args:
        module: what is traced; set to evaluation.
        inputs: example inputs in the order of its arguments, all with a leading batch of 2: a batch
            of 1 would be specialised.
        outputs: names of what it returns.
    """
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Of torch's own deprecated calls, and of dimensions that two inputs share.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            # 23 is the first with attention and GELU as operators.
            opset_version=23,
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]
    for node in model.graph.node:
        # The exporter records source lines and stack traces of the machine that ran it.
        del node.metadata_props[:]
        node.doc_string = ""
    return model
