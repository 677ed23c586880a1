"""Small ONNX files that stand where those of other projects would: a picture in, a picture out."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def onnx_network(file: Path, *, side: int | str = 32, number: bool = False) -> Path:
    """Write a network that halves the signed picture, or scales it by the number it is given."""
    shape = [1, 3, side, side]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    nodes = [helper.make_node("Mul", ["input", "scale"], ["output"])]
    given = [helper.make_tensor("scale", TensorProto.FLOAT, [1], [0.5])]
    if number:
        inputs.append(helper.make_tensor_value_info("weight", TensorProto.DOUBLE, [1]))
        cast = helper.make_node("Cast", ["weight"], ["scale"], to=TensorProto.FLOAT)
        nodes, given = [cast, *nodes], []
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "network", inputs, [output], given)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(file))
    return file
