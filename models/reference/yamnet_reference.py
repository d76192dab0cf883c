"""YAMNet v1 in NumPy and onnxruntime, written apart from the Rust code, as its judge.

Reads the weights of a TFLite file (float32 or int8, dequantised), computes the log-mel patch as
published, and builds the network as an ONNX graph. See requirements.txt for the packages.
"""

import numpy as np
import tflite

SAMPLE_RATE = 16_000
PATCH_SAMPLES = 15_600


def mel_matrix():
    """HTK mel, 64 bands, 125 to 7500 Hz, 257 bins; the DC bin is zero (tf.signal)."""
    hertz_to_mel = lambda f: 1127.0 * np.log(1.0 + f / 700.0)
    bins = hertz_to_mel(np.linspace(0.0, SAMPLE_RATE / 2, 257)[1:])[:, None]
    edges = np.linspace(hertz_to_mel(125.0), hertz_to_mel(7500.0), 66)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - lower) / (center - lower)
    falling = (upper - bins) / (upper - center)
    matrix = np.maximum(0.0, np.minimum(rising, falling))
    return np.vstack([np.zeros((1, 64)), matrix])


def log_mel(waveform):
    """[n] samples to [frames, 64]: 25 ms periodic Hann, 10 ms hop, magnitude, log(mel + 0.001)."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(400) / 400)
    count = 1 + (len(waveform) - 400) // 160
    frames = np.stack([waveform[i * 160 : i * 160 + 400] for i in range(count)])
    magnitude = np.abs(np.fft.rfft(frames.astype(np.float64) * window, 512))
    return np.log(magnitude @ mel_matrix() + 0.001).astype(np.float32)


class TfliteFile:
    """Constants and operators of a TFLite file."""

    def __init__(self, path):
        self.raw = open(path, "rb").read()
        self.model = tflite.Model.GetRootAs(self.raw, 0)
        self.graph = self.model.Subgraphs(0)

    def code(self, op):
        code = self.model.OperatorCodes(op.OpcodeIndex())
        return max(code.BuiltinCode(), code.DeprecatedBuiltinCode())

    def constant(self, index):
        tensor = self.graph.Tensors(index)
        shape = tensor.ShapeAsNumpy()
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        if tensor.Type() == tflite.TensorType.FLOAT32:
            return data.view(np.float32).reshape(shape)
        if tensor.Type() != tflite.TensorType.INT8:
            raise ValueError(f"tensor {tensor.Name()!r} has type {tensor.Type()}")
        quantization = tensor.Quantization()
        scale = quantization.ScaleAsNumpy().astype(np.float32)
        along = [1] * len(shape)
        if len(scale) > 1:
            along[quantization.QuantizedDimension()] = len(scale)
        return data.view(np.int8).reshape(shape).astype(np.float32) * scale.reshape(along)


def layers(path):
    """[(weight as ONNX has it, bias, stride, depthwise)] of the 27 convolutions, then the matrix."""
    file = TfliteFile(path)
    convolutions, matrix = [], None
    for i in range(file.graph.OperatorsLength()):
        op = file.graph.Operators(i)
        code = file.code(op)
        inputs = op.InputsAsNumpy()
        if code == tflite.BuiltinOperator.CONV_2D:
            options = tflite.Conv2DOptions()
            options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
            weight = file.constant(inputs[1]).transpose(0, 3, 1, 2)
            convolutions.append((weight, file.constant(inputs[2]), options.StrideH(), False))
        elif code == tflite.BuiltinOperator.DEPTHWISE_CONV_2D:
            options = tflite.DepthwiseConv2DOptions()
            options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
            weight = file.constant(inputs[1]).transpose(3, 0, 1, 2)
            convolutions.append((weight, file.constant(inputs[2]), options.StrideH(), True))
        elif code == tflite.BuiltinOperator.FULLY_CONNECTED and convolutions:
            matrix = (file.constant(inputs[1]), file.constant(inputs[2]))
    assert len(convolutions) == 27 and matrix is not None
    return convolutions, matrix


def session(path):
    """An onnxruntime session: `x` [N, 1, 96, 64] to l12, l14 (mean ++ max), embedding, scores."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    convolutions, (matrix, offsets) = layers(path)
    nodes, constants, outputs, last = [], [], [], "x"
    put = lambda name, value: constants.append(
        numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
    )
    for i, (weight, bias, stride, depthwise) in enumerate(convolutions):
        put(f"w{i}", weight)
        put(f"b{i}", bias)
        size = weight.shape[2]
        pads = [0] * 4 if size == 1 else [0, 0, 1, 1] if stride == 2 else [1] * 4
        group = weight.shape[0] if depthwise else 1
        nodes.append(
            helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], pads=pads, group=group,
                             strides=[stride] * 2, kernel_shape=[size] * 2)
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
        if i in (12, 14):
            nodes.append(helper.make_node("ReduceMean", [last], [f"mean{i}"], axes=[2, 3], keepdims=0))
            nodes.append(helper.make_node("ReduceMax", [last], [f"max{i}"], axes=[2, 3], keepdims=0))
            nodes.append(helper.make_node("Concat", [f"mean{i}", f"max{i}"], [f"l{i}"], axis=1))
            outputs.append(f"l{i}")
    put("matrix", matrix)
    put("offsets", offsets)
    nodes.append(helper.make_node("ReduceMean", [last], ["embedding"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("Gemm", ["embedding", "matrix", "offsets"], ["logits"], transB=1))
    nodes.append(helper.make_node("Sigmoid", ["logits"], ["scores"]))
    outputs += ["embedding", "scores"]
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "yamnet", [value("x", ["N", 1, 96, 64])], [value(o, None) for o in outputs], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
