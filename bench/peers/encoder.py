"""A BERT-style sentence encoder (post-norm, gelu by erf) in ONNX Runtime; the file is written with onnx's helpers, weights inside."""

import time

started = time.perf_counter()

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from serve import THREADS, arguments, serve  # noqa: E402


def encoder(dim, hidden, layers, heads, sequence, vocab):
    """The model: token ids [1, sequence] to the mean of the last layer [1, dim]."""
    random = np.random.default_rng(0)
    nodes, weights = [], []

    def weight(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind, *inputs, name=None, **attributes):
        name = name or f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def normal(name, *shape):
        return weight(name, (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))

    def linear(x, at, i, o):
        y = node("MatMul", x, normal(f"{at}.weight", i, o))
        return node("Add", y, weight(f"{at}.bias", np.zeros(o, np.float32)))

    def norm(x, at):
        gamma, beta = weight(f"{at}.gamma", np.ones(dim, np.float32)), weight(f"{at}.beta", np.zeros(dim, np.float32))
        return node("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-12)

    split = weight("split", np.array([1, sequence, heads, dim // heads], np.int64))
    merge = weight("merge", np.array([1, sequence, dim], np.int64))
    root = weight("root", np.float32(np.sqrt(dim // heads)))
    half, one, root2 = (weight(n, np.float32(v)) for n, v in (("half", 0.5), ("one", 1), ("root2", np.sqrt(2))))

    x = node("Gather", normal("words", vocab, dim), "tokens")
    x = norm(node("Add", x, normal("positions", sequence, dim)), "embedding")
    for i in range(layers):
        at = f"layers.{i}"
        head = lambda name, perm: node(  # noqa: E731
            "Transpose", node("Reshape", linear(x, f"{at}.{name}", dim, dim), split), perm=perm
        )
        q, k, v = head("q", [0, 2, 1, 3]), head("k", [0, 2, 3, 1]), head("v", [0, 2, 1, 3])
        scores = node("Div", node("MatMul", q, k), root)
        y = node("Transpose", node("MatMul", node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        x = norm(node("Add", x, linear(node("Reshape", y, merge), f"{at}.o", dim, dim)), f"{at}.norm1")
        y = linear(x, f"{at}.up", dim, hidden)
        # gelu as exporters write it; ONNX Runtime fuses it
        y = node("Mul", node("Mul", y, node("Add", node("Erf", node("Div", y, root2)), one)), half)
        x = norm(node("Add", x, linear(y, f"{at}.down", hidden, dim)), f"{at}.norm2")
    node("ReduceMean", x, weight("axes", np.array([1], np.int64)), name="embedding", keepdims=0)
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, sequence])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, dim])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main():
    config = arguments()
    model = encoder(**config)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tokens = np.random.default_rng(0).integers(0, config["vocab"], (1, config["sequence"]))

    def step(repetitions):
        for _ in range(repetitions):
            session.run(None, {"tokens": tokens})

    step(5)
    serve(f"ONNX Runtime {ort.__version__}", step, started)


if __name__ == "__main__":
    main()
