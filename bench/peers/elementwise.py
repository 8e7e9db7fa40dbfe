"""Softmax over the last axis, and conversions between fp16 and fp32, in PyTorch."""

import time

started = time.perf_counter()

import torch  # noqa: E402
from serve import THREADS, arguments, serve  # noqa: E402


def main():
    config = arguments()
    torch.set_num_threads(THREADS)
    x = torch.randn(*config["shape"])
    y = torch.empty_like(x) if config["work"] == "softmax" else x.half()
    work = {
        "softmax": lambda: torch.softmax(x, -1, out=y),
        "narrow": lambda: y.copy_(x),
        "widen": lambda: x.copy_(y),
    }[config["work"]]

    def step(repetitions):
        for _ in range(repetitions):
            work()

    step(5)
    serve(f"PyTorch {torch.__version__}", step, started)


if __name__ == "__main__":
    main()
