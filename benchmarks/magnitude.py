"""How large a student's output grows: `python benchmarks/magnitude.py --out magnitude.png`.

People who rebuilt Depth Anything V2's student saw its output grow without bound (Distill-Any-Depth issue 36). The
losses are blind to the output's scale, so their gradient is at a right angle to it: the sum of prediction x gradient is
0, which is printed. Every step is then at a right angle to the output, and makes it longer, the more so the longer
steps are: with Adam, whose steps do not shrink with the gradient. Four small runs on the same rendered scenes,
differing in one thing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from datool.data.dataset import RenderedBatches
from datool.training.losses import scale_anchor
from datool.training.objectives import Relative
from datool.training.recipes import RECIPES
from datool.training.start import start_model

RUNS = {
    "least squares, as published": ("least-squares", 0.0),
    "median": ("median", 0.0),
    "least squares + anchor 0.1": ("least-squares", 0.1),
    "median + anchor 0.1": ("median", 0.1),
}
COLOURS = [(200, 60, 20), (40, 140, 230), (60, 150, 40), (150, 60, 150)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, help="PNG of the four curves")
    options = parser.parse_args()
    recipe = RECIPES["nano"]
    data = RenderedBatches(0, 64, (56, 70), ((0.0, 56, 70),), 0.6, 0.5, 8, options.steps)
    curves = {name: run(recipe, data, *settings, options) for name, settings in RUNS.items()}
    if options.out:
        cv2.imwrite(str(options.out), plot(curves))


def run(recipe, data, ssi, anchor, options) -> np.ndarray:
    """Return the mean spread of the predictions at each step."""
    model = start_model(recipe).train()
    torch.nn.init.constant_(model.head.output2[2].bias, 0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    relative = Relative(ssi, 2.0, 0.1, anchor_weight=anchor)
    row = model.encoder.row
    mean, std = (torch.tensor(values)[:, None, None] for values in (row.mean, row.std))
    spreads, losses, angles = [], [], []
    for _, batch in zip(range(options.steps), data.batches(0), strict=False):
        prediction = model((batch.image - mean) / std)
        parts = relative(prediction, batch, mixed=False)
        blind = parts["loss"] - anchor * parts.get("anchor", 0)
        (slope,) = torch.autograd.grad(blind.mean(), prediction, retain_graph=True)
        centred = (prediction - prediction.mean((1, 2), keepdim=True)).detach()
        angles.append(float((slope * centred).sum() / (slope.norm() * centred.norm() + 1e-12)))
        optimizer.zero_grad()
        parts["loss"].mean().backward()
        optimizer.step()
        spreads.append(float(centred.std(dim=(1, 2)).mean()))
        losses.append(float(blind.mean().detach()))
        assert scale_anchor(prediction, batch.target, batch.valid).isfinite().all()
    last = slice(-options.steps // 10, None)
    name = next(name for name, settings in RUNS.items() if settings == (ssi, anchor))
    print(
        f"{name:28} spread {np.mean(spreads[10:20]):.3f} -> {np.mean(spreads[last]):.3f}, "
        f"loss {np.mean(losses[last]):.4f}, cosine of slope and output {np.abs(angles).max():.1e} at most",
        flush=True,
    )
    return np.array(spreads)


def plot(curves: dict[str, np.ndarray]) -> np.ndarray:
    """Return (H, W, 3) uint8 BGR: spread of the output, logarithmic, over steps."""
    height, width, left, bottom = 420, 760, 70, 50
    picture = np.full((height, width, 3), 255, np.uint8)
    logs = {name: np.log10(np.maximum(values, 1e-4)) for name, values in curves.items()}
    low = min(np.floor(values.min()) for values in logs.values())
    high = max(np.ceil(values.max()) for values in logs.values())
    font = cv2.FONT_HERSHEY_SIMPLEX
    for power in range(int(low), int(high) + 1):
        y = round((height - bottom) * (1 - (power - low) / (high - low))) + (20 if power == high else 0)
        cv2.line(picture, (left, y), (width - 10, y), (225, 225, 225), 1)
        cv2.putText(picture, f"1e{power}", (14, y + 5), font, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    for number, (name, values) in enumerate(logs.items()):
        smooth = np.convolve(values, np.ones(10) / 10, mode="valid")
        x = left + np.arange(len(smooth)) / max(1, len(smooth) - 1) * (width - left - 10)
        y = (height - bottom) * (1 - (smooth - low) / (high - low))
        points = np.stack([x, y], 1).round().astype(np.int32)
        cv2.polylines(picture, [points], False, COLOURS[number], 2, cv2.LINE_AA)
        place = (left + 10 + 340 * (number % 2), height - 26 + 18 * (number // 2))
        cv2.putText(picture, name, place, font, 0.5, COLOURS[number], 1, cv2.LINE_AA)
    return picture


if __name__ == "__main__":
    main()
