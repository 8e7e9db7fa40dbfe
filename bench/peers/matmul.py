"""fp32 matrix products by OpenBLAS (numpy): forward x W^T, dX = dY W, dW = dY^T x of a layer with weight [out, in]."""

import os
import time

started = time.perf_counter()

from serve import THREADS, arguments, serve  # noqa: E402

os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)

import numpy as np  # noqa: E402


def main():
    config = arguments()
    rows, inputs, outputs = config["rows"], config["in"], config["out"]
    random = np.random.default_rng(0)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    a, b = {
        "forward": lambda: (normal(rows, inputs), normal(outputs, inputs).T),
        "dx": lambda: (normal(rows, outputs), normal(outputs, inputs)),
        "dw": lambda: (normal(rows, outputs).T, normal(rows, inputs)),
    }[config["pass"]]()
    c = np.empty((a.shape[0], b.shape[1]), np.float32)

    def step(repetitions):
        for _ in range(repetitions):
            np.matmul(a, b, out=c)

    step(3)
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    serve(f"{blas['name'].replace('scipy-openblas', 'OpenBLAS')} {blas['version']} (numpy {np.__version__})", step, started)


if __name__ == "__main__":
    main()
