"""Trained networks as ONNX files of the operators that a bundle may use."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Graph:
    def __init__(self, name, inputs, output):
        self.name, self.inputs, self.output = name, inputs, output
        self.nodes, self.constants = [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def encode(self):
        def info(name, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])

        graph = helper.make_graph(
            self.nodes, self.name, [info(*self.inputs)], [info(*self.output)], self.constants
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="ecosight-models"
        )
        return model.SerializeToString(deterministic=True)


def numpy_of(tensor):
    return tensor.detach().double().numpy()


def folded(conv, norm):
    """Weights and bias of a convolution with the normalisation behind it."""
    scale = numpy_of(norm.weight) / np.sqrt(numpy_of(norm.running_var) + norm.eps)
    weight = numpy_of(conv.weight) * scale[:, None, None, None]
    return weight, numpy_of(norm.bias) - numpy_of(norm.running_mean) * scale


def network_onnx(networks, patch_frames, bands):
    """The mean of some networks' logits."""
    classes = networks[0].out.out_features
    graph = Graph("compact", ("patch", [2, patch_frames, bands]), ("logits", [classes]))
    mean = None
    for n, network in enumerate(networks):

        def conv(x, name, weight, bias, **attributes):
            weight = graph.constant(f"{name}.weight", weight)
            bias = graph.constant(f"{name}.bias", bias)
            size = list(graph.constants[-2].dims[2:])
            y = graph.node("Conv", [x, weight, bias], f"{name}.conv", kernel_shape=size, **attributes)
            return graph.node("Relu", [y], name)

        x = conv("patch", f"{n}.stem", *folded(network.stem, network.stem_norm), strides=[2, 2], pads=[2] * 4)
        for b, block in enumerate(network.blocks):
            depth = folded(block.depth, block.depth_norm)
            x = conv(
                x, f"{n}.{b}.depth", *depth,
                strides=list(block.depth.stride), pads=[1] * 4, group=block.depth.groups,
            )
            x = conv(x, f"{n}.{b}.point", *folded(block.point, block.point_norm))
        bands_conv = network.bands
        x = conv(x, f"{n}.bands", numpy_of(bands_conv.weight), numpy_of(bands_conv.bias), group=bands_conv.groups)
        average = graph.node("GlobalAveragePool", [x], f"{n}.average")
        highest = graph.node("GlobalMaxPool", [x], f"{n}.highest")
        x = graph.node("Concat", [average, highest], f"{n}.pooled", axis=1)
        x = graph.node("Flatten", [x], f"{n}.flat", axis=1)
        weight = graph.constant(f"{n}.out.weight", numpy_of(network.out.weight).T / len(networks))
        bias = graph.constant(f"{n}.out.bias", numpy_of(network.out.bias) / len(networks))
        last = "logits" if n == len(networks) - 1 and mean is None else f"{n}.out"
        x = graph.node("Gemm", [x, weight, bias], last)
        if mean is not None:
            x = graph.node("Add", [mean, x], "logits" if n == len(networks) - 1 else f"{n}.sum")
        mean = x
    return graph.encode()


# The stream's logits are handed to the head in units of so much.
LOGIT_UNIT = 4.0


def head_onnx(numbers, classes, share):
    """`share` of the network's logits and the rest of the mean of `numbers`' logits; takes both
    streams standardised, the network's first."""
    inputs = classes + numbers[0].mean.size
    graph = Graph("head", ("features", [inputs]), ("logits", [classes]))
    hidden = np.concatenate([numpy_of(net.net.hidden.weight).T for net in numbers], 1)
    hidden = np.concatenate([np.zeros((classes, hidden.shape[1])), hidden])
    bias = np.concatenate([numpy_of(net.net.hidden.bias) for net in numbers])
    x = graph.node("Gemm", ["features", graph.constant("hidden.weight", hidden), graph.constant("hidden.bias", bias)], "hidden")
    x = graph.node("Relu", [x], "active")
    rest = (1 - share) / len(numbers)
    out = np.concatenate([numpy_of(net.net.out.weight).T for net in numbers]) * rest
    bias = sum(numpy_of(net.net.out.bias) for net in numbers) * rest
    x = graph.node("Gemm", [x, graph.constant("out.weight", out), graph.constant("out.bias", bias)], "from_numbers")
    through = np.zeros((inputs, classes))
    through[:classes] = np.eye(classes) * share * LOGIT_UNIT
    zero = graph.constant("through.bias", np.zeros(classes))
    y = graph.node("Gemm", ["features", graph.constant("through.weight", through), zero], "from_network")
    graph.node("Add", [x, y], "logits")
    return graph.encode()
