# Shared by the generators: the number sequence that tests compute too, and arrays as base64 of little-endian float32.
# To write the files again: pip install torch numpy; python composites.py; python optimizers.py; python models.py; python images.py (torchvision, too); npx biome check --write .

import base64
import json
import pathlib

import numpy as np
import torch

torch.set_num_threads(1)


def numbers(shape, seed, scale=1.0, offset=0.0):
    """fp32 numbers in offset -scale..scale; test/goldens/figures.ts has the same formula, exact in float64."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    raw = (i * 7919 + seed * 1543 + (i * i) % 613 * 31) % 2003
    return torch.from_numpy((offset + scale * (raw / 1001 - 1)).astype(np.float32).reshape(shape))


def pack(tensor):
    return base64.b64encode(tensor.detach().to(torch.float32).numpy().astype("<f4").tobytes()).decode()


def write(name, content):
    path = pathlib.Path(__file__).parent / f"{name}.json"
    path.write_text(json.dumps({"torch": torch.__version__, **content}, indent=2) + "\n")
