# Writes images.json: results, gradients and running statistics of small networks for images, from torchvision's code or written in plain torch, computed in fp64.

import math
import pathlib
import sys

import torch

from figures import numbers, pack, write

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench/peers"))
from images import build, state  # noqa: E402

cases = {
    "resnet of basic blocks": ("ResNet", {"block": "basic", "layers": [2, 1, 1, 1], "width": 8, "classes": 10}, [2, 3, 64, 64]),
    "resnet of bottlenecks": ("ResNet", {"block": "bottleneck", "layers": [1, 2, 1, 1], "width": 4, "classes": 10}, [2, 3, 65, 72]),
    "mobilenet": ("MobileNetV2", {"widthMultiplier": 0.35, "classes": 10}, [4, 3, 64, 64]),
    "vit": (
        "VisionTransformer",
        {"imageSize": 16, "patchSize": 4, "nLayer": 2, "nHead": 2, "nEmbd": 16, "hiddenDim": 24, "classes": 5},
        [2, 3, 16, 16],
    ),
    "unet": ("UNet", {"channels": 2, "classes": 3, "width": 4, "depth": 2}, [2, 2, 16, 12]),
    "espcn": ("Espcn", {"upscaleFactor": 3}, [1, 1, 9, 7]),
    "espcn with relu": (
        "Espcn",
        {"upscaleFactor": 2, "channels": 3, "filters": [[5, 8], [3, 8], [3, 4]], "activation": "relu"},
        [1, 3, 8, 8],
    ),
}


def initial(name, shape, n):
    """Number n of the state, by name: test/models/images.test.ts has the same rule."""
    if len(shape) == 4 or (len(shape) == 2 and name.endswith("weight")):
        return numbers(shape, n, math.sqrt(6 / math.prod(shape[1:])))
    if name.endswith("running_var"):
        return numbers(shape, n, 0.5, 1.0)
    return numbers(shape, n, 0.2, 1.0 if name.endswith("weight") else 0.0)


def projection(tensor, n):
    """One number of a tensor, and what an error in it is relative to."""
    x, r = tensor.detach().double().flatten(), numbers(tensor.shape, 700 + n).double().flatten()
    return [float(x @ r), float(x.norm() * r.norm())]


def figures(kind, config, image):
    model = build(kind, config).double()
    names = list(state(model))
    start = {name: initial(name, tuple(value.shape), 300 + n) for n, (name, value) in enumerate(state(model).items())}
    model.load_state_dict(start, strict=False)
    x = numbers(image, 1).double()
    with torch.no_grad():
        evaluated = model.eval()(x)
    x.requires_grad_()
    trained = model.train()(x)
    (trained * numbers(trained.shape, 99)).sum().backward()
    after = state(model)
    grads = {name: projection(parameter.grad, n) for n, (name, parameter) in enumerate(model.named_parameters())}
    statistics = [name for name in names if "running" in name]
    return {
        "kind": kind,
        "config": config,
        "image": image,
        "state": {name: list(start[name].shape) for name in names},
        "shape": list(evaluated.shape),
        "evaluated": pack(evaluated),
        "trained": pack(trained),
        "statistics": {name: projection(after[name], n) for n, name in enumerate(statistics)},
        "image gradient": projection(x.grad, 50),
        "grads": grads,
    }


write("images", {"cases": {name: figures(*case) for name, case in cases.items()}})
