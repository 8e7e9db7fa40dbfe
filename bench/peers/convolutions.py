"""Convolutions and their derivatives in PyTorch in fp64: what scripts/cross-check-convolutions.ts compares with."""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F


def main():
    folder = pathlib.Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    values = np.fromfile(folder / "values.bin", np.float32).astype(np.float64)
    results = []
    for case in plan:
        x, w, b, g = (torch.from_numpy(values[at : at + np.prod(shape)].reshape(shape)) for shape, at in case["operands"])
        for each in (x, w, b):
            each.requires_grad_()
        top, bottom, left, right = case["pad"]
        options = {"stride": case["strides"], "dilation": case["dilations"], "groups": case["groups"]}
        if case["transposed"]:
            # what is cut off begins and ends where the padding says, which torch takes for both sides alone
            whole = F.conv_transpose2d(x, w, b, **options)
            y = whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]
        else:
            y = F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, **options)
        y.backward(g)
        results += [each.detach().ravel() for each in (y, x.grad, w.grad, b.grad)]
    (folder / "results.bin").write_bytes(torch.cat(results).numpy().tobytes())
    print(json.dumps({"torch": torch.__version__}))


if __name__ == "__main__":
    main()
