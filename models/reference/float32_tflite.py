"""Rewrites YAMNet's int8 TFLite file with its weights dequantised to float32.

    python models/reference/float32_tflite.py YAMNET.tflite WHOLE.tflite CORE.tflite

WHOLE takes the waveform [15600], as the original; CORE begins at the log-mel patch [1, 96, 64, 1].
Both compute what the weights mean: the original also quantises activations on the fly. In a file
that is float32 already nothing changes.
"""

import sys

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def dequantise(model):
    """Every int8 constant becomes float32."""
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.INT8 or data is None:
            continue
        scale = np.asarray(tensor.quantization.scale, dtype=np.float32)
        along = [1] * len(tensor.shape)
        if len(scale) > 1:
            along[tensor.quantization.quantizedDimension] = len(scale)
        values = np.asarray(data, dtype=np.uint8).view(np.int8).astype(np.float32)
        values = values.reshape(tensor.shape) * scale.reshape(along)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype("<f4").tobytes(), dtype=np.uint8)
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
        tensor.type = schema.TensorType.FLOAT32
        tensor.quantization = None


def begin_at_patch(model):
    """Drops the front end: the input is what the first convolution takes."""
    graph = model.subgraphs[0]
    code = lambda op: model.operatorCodes[op.opcodeIndex].builtinCode
    first = next(i for i, op in enumerate(graph.operators) if code(op) == schema.BuiltinOperator.CONV_2D)
    graph.inputs = [graph.operators[first].inputs[0]]
    graph.operators = graph.operators[first:]
    model.signatureDefs = None
    model.metadata = None


def pack(model):
    builder = flatbuffers.Builder(32 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main(source, whole, core):
    raw = open(source, "rb").read()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    dequantise(model)
    open(whole, "wb").write(pack(model))
    begin_at_patch(model)
    open(core, "wb").write(pack(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
