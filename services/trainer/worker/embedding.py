"""A graph within another: what draws a graph of several bodies takes theirs as they are."""

import onnx
from onnx import compose


def embed(graph: onnx.GraphProto, body: onnx.ModelProto, name: str, taken: str) -> dict[str, str]:
    """Adds a body's nodes and constants, which take the value of that name for their one input; what its outputs are
    called now, by what they were called.
    """
    outputs = [one.name for one in body.graph.output]
    body = compose.add_prefix(body, f"{name}/")
    (first,) = body.graph.input
    for node in body.graph.node:
        for place, value in enumerate(node.input):
            if value == first.name:
                node.input[place] = taken
    graph.node.extend(body.graph.node)
    graph.initializer.extend(body.graph.initializer)
    return {output: f"{name}/{output}" for output in outputs}
