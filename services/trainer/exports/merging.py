"""A backbone's graph and a head as one ONNX graph: pixels in, probabilities out."""

import numpy as np
import onnx
from onnx import checker, compose, numpy_helper, parser

from handful.bundle.heads import LinearHead
from handful.v1.bundle_pb2 import Head

OUTPUTS = ("probabilities", "logits", "features")

# What `handful.bundle.heads` computes, as operators; it has the formulas.
_HEAD = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
head (float[n,{width}] features) => (float[n,{classes}] probabilities, float[n,{classes}] logits)
{{
    {normalization}
    logits = Gemm<transB = 1>(head_input, head_weight, head_bias)
    probabilities = Softmax<axis = 1>(logits)
}}
"""
_NORMALIZATIONS = {
    Head.NORMALIZATION_NONE: "head_input = Identity(features)",
    Head.NORMALIZATION_CENTER_L2: """
    head_centred = Sub(features, head_mean)
    head_axis = Constant<value = int64[1] {1}>()
    head_length = ReduceL2<keepdims = 1>(head_centred, head_axis)
    head_bounded = Max(head_length, head_smallest)
    head_scale = Div(head_target, head_bounded)
    head_input = Mul(head_centred, head_scale)
    """,
}


def merge(backbone: bytes, head: LinearHead) -> bytes:
    """One graph: uint8[n, size, size, 3] to probabilities and logits float32[n, classes], and features."""
    body = onnx.load_model_from_string(backbone)
    model = compose.merge_models(body, _head(body, head), io_map=[("features", "features")], outputs=list(OUTPUTS))
    outputs = {output.name: output for output in model.graph.output}
    del model.opset_import[1:]  # the head's, which is the body's
    del model.graph.output[:]
    model.graph.output.extend(outputs[name] for name in OUTPUTS)
    model.graph.name, model.producer_name, model.producer_version = "classifier", "handful", ""
    checker.check_model(model, full_check=True)
    merged: bytes = model.SerializeToString(deterministic=True)
    return merged


def _head(body: onnx.ModelProto, head: LinearHead) -> onnx.ModelProto:
    opset = next(one.version for one in body.opset_import if not one.domain)
    classes, width = head.weight.shape
    text = _HEAD.format(
        ir_version=body.ir_version,
        opset=opset,
        width=width,
        classes=classes,
        normalization=_NORMALIZATIONS[head.normalization],
    )
    model = parser.parse_model(text)
    numbers = {"head_weight": head.weight, "head_bias": head.bias}
    if head.normalization == Head.NORMALIZATION_CENTER_L2:
        smallest, target = np.float32(1e-12), np.sqrt(np.float32(width))
        numbers |= {"head_mean": head.mean, "head_smallest": np.asarray(smallest), "head_target": np.asarray(target)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in numbers.items())
    return model
