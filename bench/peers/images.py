"""Networks for images in PyTorch: torchvision's, and U-Net and ESPCN written out. Run with a folder, it answers scripts/cross-check-images.ts."""

import json
import pathlib
import sys
from functools import partial

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck


def resnet(block, layers, width=64, channels=3, classes=1000):
    kind = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
    model = torchvision.models.ResNet(kind, layers, num_classes=classes)
    if width == 64 and channels == 3:
        return model
    # torchvision fixes the width: its own methods make the layers again.
    model.inplanes = width
    model.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    for stage, count in enumerate(layers):
        made = model._make_layer(kind, width << stage, count, stride=1 if stage == 0 else 2)
        setattr(model, f"layer{stage + 1}", made)
    model.fc = nn.Linear((width << (len(layers) - 1)) * kind.expansion, classes)
    return model


def mobilenet(widthMultiplier=1.0, channels=3, classes=1000):
    assert channels == 3
    return torchvision.models.MobileNetV2(num_classes=classes, width_mult=widthMultiplier, dropout=0)


def vit(imageSize, patchSize, nLayer, nHead, nEmbd, hiddenDim=None, channels=3, classes=1000):
    assert channels == 3
    hidden = hiddenDim or 4 * nEmbd
    return torchvision.models.VisionTransformer(imageSize, patchSize, nLayer, nHead, nEmbd, hidden, num_classes=classes)


class DoubleConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        layer = lambda i: (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())  # noqa: E731
        self.double_conv = nn.Sequential(*layer(i), *layer(o))

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(i, o))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.up = nn.ConvTranspose2d(i, o, 2, 2)
        self.conv = DoubleConv(2 * o, o)

    def forward(self, x, skip):
        return self.conv(torch.cat([skip, self.up(x)], 1))


class Out(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 1)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self, channels=3, classes=2, width=64, depth=4):
        super().__init__()
        self.depth = depth
        self.inc = DoubleConv(channels, width)
        for i in range(depth):
            setattr(self, f"down{i + 1}", Down(width << i, width << (i + 1)))
        for i in range(depth):
            setattr(self, f"up{i + 1}", Up(width << (depth - i), width << (depth - i - 1)))
        self.outc = Out(width, classes)

    def forward(self, x):
        levels = [self.inc(x)]
        for i in range(self.depth):
            levels.append(getattr(self, f"down{i + 1}")(levels[-1]))
        x = levels.pop()
        for i in range(self.depth):
            x = getattr(self, f"up{i + 1}")(x, levels.pop())
        return self.outc(x)


class Espcn(nn.Module):
    def __init__(self, upscaleFactor, channels=1, filters=((5, 64), (3, 32)), lastFilter=3, activation="tanh"):
        super().__init__()
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[activation]
        self.count = len(filters) + 1
        for i, (kernel, to) in enumerate((*filters, (lastFilter, channels * upscaleFactor**2))):
            before = channels if i == 0 else filters[i - 1][1]
            setattr(self, f"conv{i + 1}", nn.Conv2d(before, to, kernel, padding=kernel // 2))
        self.shuffle = nn.PixelShuffle(upscaleFactor)

    def forward(self, x):
        for i in range(1, self.count):
            x = self.activation(getattr(self, f"conv{i}")(x))
        return self.shuffle(getattr(self, f"conv{self.count}")(x))


makers = {"ResNet": resnet, "MobileNetV2": mobilenet, "VisionTransformer": vit, "UNet": UNet, "Espcn": Espcn}


def build(kind, config):
    return makers[kind](**config)


def state(model):
    """Parameters and statistics by name, without the counts of batches."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def main():
    folder = pathlib.Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    torch.set_num_threads(plan["threads"])
    model = build(plan["kind"], plan["config"]).eval()
    raw = memoryview(bytearray((folder / "weights.bin").read_bytes()))
    read = partial(torch.frombuffer, raw, dtype=torch.float32)
    given = {name: read(offset=at, count=count).view(shape) for name, shape, at, count in plan["weights"]}
    shape, at, count = plan["image"]
    ours, theirs = set(given), set(state(model))
    if ours != theirs:
        sys.exit(f"names differ: {sorted(ours ^ theirs)[:8]}")
    model.load_state_dict(given, strict=False)
    with torch.inference_mode():
        result = model(read(offset=at, count=count).view(shape))
    (folder / "result.bin").write_bytes(result.contiguous().numpy().tobytes())
    print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "shape": list(result.shape)}))


if __name__ == "__main__":
    main()
