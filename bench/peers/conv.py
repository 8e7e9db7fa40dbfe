"""A convolution of 3 x 3 windows, or one of its derivatives, in PyTorch, in the order of memory in which it is faster; fp32."""

import time

started = time.perf_counter()

import torch  # noqa: E402
from serve import THREADS, arguments, fastest, serve  # noqa: E402

FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def main():
    config = arguments()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    batch, channels, size = config["batch"], config["channels"], config["size"]

    def prepared(layout):
        """The call, its operands already in that order."""
        x, dy = (torch.randn(batch, channels, size, size).to(memory_format=layout) for _ in range(2))
        w = torch.randn(channels, channels, 3, 3).to(memory_format=layout)
        ones, zeros = [1, 1], [0, 0]
        if config["pass"] == "forward":
            return lambda: torch.conv2d(x, w, padding=1)
        wanted = [config["pass"] == "dx", config["pass"] == "dw", False]
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, ones, ones, ones, False, zeros, 1, wanted)

    works = {name: prepared(layout) for name, layout in FORMATS.items()}
    with torch.no_grad():
        faster = fastest(works, 20)

        def step(repetitions):
            for _ in range(repetitions):
                works[faster]()

        step(5)
        serve(f"PyTorch {torch.__version__} eager, {faster}", step, started)


if __name__ == "__main__":
    main()
