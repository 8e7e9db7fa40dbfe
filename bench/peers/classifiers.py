"""Networks for images in ONNX Runtime, the files written with onnx's helpers, as exporters write them: ResNet, MobileNetV2, vision transformers.

Run with a folder, it answers scripts/cross-check-onnx.ts.
"""

import json
import pathlib
import sys
import time

started = time.perf_counter()

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from serve import THREADS, arguments, serve  # noqa: E402


class Graph:
    """Nodes and weights of a file. Weights have torchvision's names; `given` has them, or they are random."""

    def __init__(self, given=None):
        self.nodes, self.weights, self.given = [], {}, given
        self.random = np.random.default_rng(0)

    def constant(self, value, name=None):
        name = name or f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value)
        return name

    def weight(self, name, *shape, value=None):
        if self.given is not None:
            return self.constant(self.given[name].reshape(shape), name)
        if value is not None:
            return self.constant(np.full(shape, value, np.float32), name)
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return self.constant(self.random.standard_normal(shape, dtype=np.float32) * np.float32(scale), name)

    def node(self, kind, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, at, i, o, kernel, stride=1, pad=None, groups=1, bias=False):
        pad = (kernel - 1) // 2 if pad is None else pad
        operands = [x, self.weight(f"{at}.weight", o, i // groups, kernel, kernel)]
        operands += [self.weight(f"{at}.bias", o, value=0)] if bias else []
        sides = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
        return self.node("Conv", *operands, **sides)

    def batch_norm(self, x, at, channels):
        names = (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1))
        return self.node(
            "BatchNormalization", x, *(self.weight(f"{at}.{n}", channels, value=v) for n, v in names), epsilon=1e-5
        )

    def head(self, x, at, i, o):
        """The mean over positions and a linear layer."""
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.node("Gemm", x, self.weight(f"{at}.weight", o, i), self.weight(f"{at}.bias", o, value=0), transB=1)

    def model(self, image, result, classes):
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, image)
        y = helper.make_tensor_value_info(result, TensorProto.FLOAT, [image[0], classes])
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "classifier", [x], [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def resnet(g, block, layers, width=64, channels=3, classes=1000):
    norm = lambda x, at, bn, o: g.batch_norm(x, f"{at}{bn}", o)  # noqa: E731
    x = g.node("Relu", norm(g.conv("x", "conv1", channels, width, 7, 2), "", "bn1", width))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    before = width
    for stage, count in enumerate(layers):
        inside = width << stage
        for i in range(count):
            at, stride = f"layer{stage + 1}.{i}.", 2 if i == 0 and stage > 0 else 1
            if block == "basic":
                filters = [(3, inside, stride), (3, inside, 1)]
            else:
                filters = [(1, inside, 1), (3, inside, stride), (1, 4 * inside, 1)]
            y, after = x, before
            for n, (kernel, o, step) in enumerate(filters, 1):
                y = g.node("Relu", y) if n > 1 else y
                y = norm(g.conv(y, f"{at}conv{n}", after, o, kernel, step), at, f"bn{n}", o)
                after = o
            if stride != 1 or before != after:
                x = norm(g.conv(x, f"{at}downsample.0", before, after, 1, stride), at, "downsample.1", after)
            x, before = g.node("Relu", g.node("Add", y, x)), after
    return g.head(x, "fc", before, classes)


def mobilenet(g, channels=3, classes=1000):
    low, high = (g.constant(np.float32(value)) for value in (0, 6))
    relu6 = lambda x: g.node("Clip", x, low, high)  # noqa: E731
    x = relu6(g.batch_norm(g.conv("x", "features.0.0", channels, 32, 3, 2), "features.0.1", 32))
    before, n = 32, 1
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, o, count, first in stages:
        for i in range(count):
            at, stride, inside, y, place = f"features.{n}.conv.", first if i == 0 else 1, before * expansion, x, 0
            if expansion > 1:
                y = relu6(g.batch_norm(g.conv(y, f"{at}0.0", before, inside, 1), f"{at}0.1", inside))
                place = 1
            y = g.conv(y, f"{at}{place}.0", inside, inside, 3, stride, groups=inside)
            y = relu6(g.batch_norm(y, f"{at}{place}.1", inside))
            y = g.batch_norm(g.conv(y, f"{at}{place + 1}", inside, o, 1), f"{at}{place + 2}", o)
            x = g.node("Add", x, y) if stride == 1 and before == o else y
            before, n = o, n + 1
    x = relu6(g.batch_norm(g.conv(x, f"features.{n}.0", before, 1280, 1), f"features.{n}.1", 1280))
    return g.head(x, "classifier.1", 1280, classes)


def vit(g, imageSize, patchSize, nLayer, nHead, nEmbd, hiddenDim=None, channels=3, classes=1000):
    hidden, positions = hiddenDim or 4 * nEmbd, (imageSize // patchSize) ** 2 + 1
    ints = lambda *values: g.constant(np.array(values, np.int64))  # noqa: E731
    # exporters of linear layers over three axes write the transposed weight
    matrix = lambda at, o, i: g.constant(  # noqa: E731
        np.ascontiguousarray(g.weights.pop(g.weight(at, o, i)).T), at
    )

    def linear(x, at, i, o, between="."):
        y = g.node("MatMul", x, matrix(f"{at}{between}weight", o, i))
        return g.node("Add", y, g.weight(f"{at}{between}bias", o, value=0))

    def norm(x, at):
        gamma, beta = g.weight(f"{at}.weight", nEmbd, value=1), g.weight(f"{at}.bias", nEmbd, value=0)
        return g.node("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-6)

    split, merge = ints(1, positions, nHead, nEmbd // nHead), ints(1, positions, nEmbd)
    root = g.constant(np.float32(np.sqrt(nEmbd // nHead)))
    half, one, root2 = (g.constant(np.float32(value)) for value in (0.5, 1, np.sqrt(2)))
    thirds = ints(nEmbd, nEmbd, nEmbd)

    x = g.conv("x", "conv_proj", channels, nEmbd, patchSize, patchSize, 0, bias=True)
    x = g.node("Transpose", g.node("Reshape", x, ints(1, nEmbd, positions - 1)), perm=[0, 2, 1])
    x = g.node("Concat", g.weight("class_token", 1, 1, nEmbd), x, axis=1)
    x = g.node("Add", x, g.weight("encoder.pos_embedding", 1, positions, nEmbd))
    for layer in range(nLayer):
        at = f"encoder.layers.encoder_layer_{layer}"
        qkv = linear(norm(x, f"{at}.ln_1"), f"{at}.self_attention.in_proj", nEmbd, 3 * nEmbd, "_")
        q, k, v = (g.node("Reshape", each, split) for each in g.node("Split", qkv, thirds, outputs=3, axis=-1))
        q, v = (g.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
        scores = g.node("Div", g.node("MatMul", q, g.node("Transpose", k, perm=[0, 2, 3, 1])), root)
        y = g.node("Transpose", g.node("MatMul", g.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        x = g.node("Add", x, linear(g.node("Reshape", y, merge), f"{at}.self_attention.out_proj", nEmbd, nEmbd))
        y = linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.0", nEmbd, hidden)
        # gelu as exporters write it; ONNX Runtime fuses it
        y = g.node("Mul", g.node("Mul", y, g.node("Add", g.node("Erf", g.node("Div", y, root2)), one)), half)
        x = g.node("Add", x, linear(y, f"{at}.mlp.3", hidden, nEmbd))
    token = g.node("Gather", norm(x, "encoder.ln"), g.constant(np.int64(0)), axis=1)
    head = (g.weight("heads.head.weight", classes, nEmbd), g.weight("heads.head.bias", classes, value=0))
    return g.node("Gemm", token, *head, transB=1)


MAKERS = {"ResNet": resnet, "MobileNetV2": mobilenet, "VisionTransformer": vit}


def session(model, config, image, given=None):
    g = Graph(given)
    file = g.model(image, MAKERS[model](g, **config), config.get("classes", 1000))
    onnx.checker.check_model(file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(folder):
    plan = json.loads((folder / "plan.json").read_text())
    values = np.fromfile(folder / "values.bin", np.float32)
    given = {name: values[at : at + count] for name, at, count in plan["weights"]}
    at, count = plan["x"]
    runs = session(plan["model"], plan["config"], plan["image"], given)
    (result,) = runs.run(None, {"x": values[at : at + count].reshape(plan["image"])})
    print(json.dumps({"onnxruntime": ort.__version__, "result": result.ravel().tolist()}))


def main():
    if not sys.argv[1].startswith("{"):
        return check(pathlib.Path(sys.argv[1]))
    config = arguments()
    runs = session(**config)
    x = np.random.default_rng(0).standard_normal(config["image"], dtype=np.float32)

    def step(repetitions):
        for _ in range(repetitions):
            runs.run(None, {"x": x})

    step(5)
    serve(f"ONNX Runtime {ort.__version__}", step, started)


if __name__ == "__main__":
    main()
