"""ONNX Runtime as all of ours loads it: one thread per call, and nothing told to anyone.

Its official builds collect events and send them to Microsoft unless ORT_DISABLE_TELEMETRY is set before they are loaded
(Privacy.md in the package, since 1.32), so nothing else here imports it.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

VERSION: str = ort.__version__


def session(graph: bytes) -> ort.InferenceSession:
    """A graph, ready to run; calls may come from several threads at once."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
