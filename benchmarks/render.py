"""Pictures a second that the renderer makes: `python benchmarks/render.py --device cpu`.

With the first scene set's looks and with all effects, at 224x224, all families mixed. On a CPU one thread is used and
CPU seconds are counted, so that other jobs do not matter; on CUDA wall seconds.
"""

import argparse
import time

import torch

from datool.render import Look, render

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--device", default="cpu")
parser.add_argument("--scenes", type=int, help="default: 48 on a CPU, 4096 on CUDA")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--compiled", action="store_true", help="through torch.compile; its minutes are not counted")
args = parser.parse_args()
on_cpu = args.device == "cpu"
num, clock = args.scenes or (48 if on_cpu else 4096), time.process_time if on_cpu else time.perf_counter
torch.set_num_threads(1)
for name, look in (("plain", Look.plain()), ("all effects", Look())):
    seconds = []
    for _ in range(2):  # the first is the warm-up
        start = clock()
        scenes = render(0, range(num), args.size, args.size, args.device, look=look, compiled=args.compiled)
        checksum = scenes.depth_bhw.isinf().sum().item()  # waits for the device
        seconds.append(clock() - start)
    unit = "CPU second" if on_cpu else "second"
    print(f"{name}: {num / seconds[1]:.1f} images a {unit} ({num} scenes, {checksum} pixels of sky)")
