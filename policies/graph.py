"""Opens a bundle's ONNX graph with onnxruntime and holds it against the manifest."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hardware_configs.strict import Problems
from policies.manifest import Manifest


def make_session(graph: bytes) -> Any:
    """An onnxruntime session as policies are served: on the CPU, in one thread.

    Raises:
        Exception: whatever onnxruntime finds wrong with the graph.
    """
    # Imported here: it takes most of a second, and only who runs a graph should pay for it.
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    # One thread: small graphs lose by more, and the control loop needs the other core.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is in the exception
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def open_graph(graph: bytes, manifest: Manifest, problems: Problems) -> Any:
    """Opens a graph and compares its inputs, output and baked-in sampler with the manifest.

    Args:
        graph: a serialised ONNX model whose hash has been verified.
        manifest: what the graph has to agree with.
        problems: where disagreements are recorded.

    Returns:
        the onnxruntime session, or None when onnxruntime refuses the graph.
    """
    session = _open(graph, problems)
    if session is None:
        return None
    chunk = (manifest.horizon, manifest.spec.action_size)
    inputs = {"observation": manifest.observation_shape, "noise": manifest.noise_shape}
    _compare_tensors(problems, "inputs", session.get_inputs(), inputs)
    _compare_tensors(problems, "outputs", session.get_outputs(), {"actions": chunk})
    defaulted = session.get_overridable_initializers()
    if defaulted:
        continuing = {"previous": chunk, "weight": chunk[:1]}
        _compare_tensors(problems, "inputs with a default", defaulted, continuing)
    sampler = None if manifest.sampler is None else dict(manifest.sampler)
    baked = session.get_modelmeta().custom_metadata_map.get("sampler", "")
    try:
        agrees = json.loads(baked) == sampler
    except json.JSONDecodeError:
        agrees = False
    if not agrees:
        expected = f"{json.dumps(sampler, sort_keys=True)} of the manifest"
        problems.add("metadata.sampler", baked or "nothing", expected)
    return session


def open_residual(graph: bytes, manifest: Manifest, problems: Problems) -> Any:
    """Opens a residual's graph; arguments and return as `open_graph`'s."""
    session = _open(graph, problems)
    if session is None:
        return None
    action = (manifest.spec.action_size,)
    inputs = {"observation": (manifest.spec.input_size,), "base_action": action}
    _compare_tensors(problems, "inputs", session.get_inputs(), inputs)
    _compare_tensors(problems, "outputs", session.get_outputs(), {"action": action})
    return session


def _open(graph: bytes, problems: Problems) -> Any:
    try:
        return make_session(graph)
    # onnxruntime's errors have no common base but Exception
    except Exception as reason:  # noqa: BLE001
        text = " ".join(str(reason).split())
        problems.add("", f"a graph that onnxruntime refuses ({text})", "a valid ONNX model")
        return None


def _compare_tensors(
    problems: Problems, key: str, tensors: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    found = {tensor.name: tensor for tensor in tensors}
    if set(found) != set(shapes):
        problems.add(key, ", ".join(sorted(found)) or "none", ", ".join(sorted(shapes)))
        return
    for name, shape in shapes.items():
        tensor = found[name]
        if tensor.type != "tensor(float)":
            problems.add(f"{key}.{name}", tensor.type, "tensor(float)")
        # A fixed batch shows as a number, a free one as a name or nothing.
        if len(tensor.shape) != len(shape) + 1 or tuple(tensor.shape[1:]) != shape:
            expected = f"(N, {', '.join(map(str, shape))}) of the manifest"
            problems.add(f"{key}.{name}", f"shape {tuple(tensor.shape)}", f"shape {expected}")
        elif isinstance(tensor.shape[0], int):
            problems.add(f"{key}.{name}", f"a fixed batch of {tensor.shape[0]}", "a free batch")
