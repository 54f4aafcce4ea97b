"""What each part of the student's recipe buys, in miniature: `python benchmarks/ablation.py PHOTOS --work DIR`.

The bundled `tiny` is the teacher: it labels photos, and a `nano` student (64 wide, 4 blocks) learns from them at 112
pixels, with one part more a row. Held-out are rendered scenes that nobody trained on. Every row is run with several
seeds; the table has their mean and spread, whatever it says. `--frozen FILE` are weights of a `nano` encoder that was
trained without labels, for alignment; without it that row is left out. Killed and run again it goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

PLAIN = ["augment=null", "cutmix=0", "gradient_weight=0", "drop_share=0", "ssi=median"]
JITTER = ["augment={}", "cutmix=0.5"]


def rows(frozen: str | None) -> dict[str, list[str] | None]:
    """Return the settings of each row, each with those of the rows before it; None = rendered scenes alone."""
    steps = {"+ pseudo labels": [], "+ augmentation": JITTER}
    if frozen:
        steps["+ alignment"] = ["align_weight=1", f"align_init={frozen}"]
    steps |= {"+ gradient matching": ["gradient_weight=2"], "+ 10 % drop": ["drop_share=0.1"]}
    found: dict[str, list[str] | None] = {"synthetic only": None}
    settings = PLAIN
    for name, added in steps.items():
        settings = settings + added
        found[name] = settings
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--frozen", help="weights of a nano encoder trained without labels")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--real", help="manifest with truth, read once at the end")
    options = parser.parse_args()
    labels, held_out = options.work / "labels", options.work / "held-out"
    call("predict", options.photos, "--out", labels, "--model", "tiny", "--format", "npz")
    if not (held_out / "manifest.jsonl").exists():
        call("data", "synth", "--out", held_out, "--num", "128", "--size", "112x144", "--seed", "999")
    results: dict[str, list[dict[str, float]]] = {}
    for name, settings in rows(options.frozen).items():
        for seed in range(options.seeds):
            out = options.work / "runs" / f"{name.strip('+ ').replace(' ', '-')}-{seed}"
            if not (out / "last.safetensors").exists():
                train(out, settings, seed, options, labels, held_out)
            results.setdefault(name, []).append(score(out, held_out / "manifest.jsonl"))
        show(name, results[name])
    if options.real:
        print("the same models on", options.real)
        for name in results:
            runs = sorted((options.work / "runs").glob(f"{name.strip('+ ').replace(' ', '-')}-*"))
            show(name, [score(out, options.real) for out in runs])


def train(out, settings, seed, options, labels, held_out) -> None:
    """Train one row with one seed, or go on with it."""
    command = "train-teacher" if settings is None else "train-student"
    if (out / "recipe.json").exists():
        call(command, "--out", out, "--resume", "--workers", 0)
        return
    common = [
        "--out",
        out,
        "--steps",
        options.steps,
        "--set",
        f"seed={seed}",
        "--set",
        f"validate_every={options.steps}",
    ]
    if settings is None:
        call(command, "--recipe", "nano-teacher", *common, "--set", "gradient_weight=0", "--workers", 0)
        return
    sets = [part for setting in settings for part in ("--set", setting)]
    call(
        command,
        "--recipe",
        "nano-student-v2",
        "--data",
        labels / "manifest.jsonl",
        *common,
        *sets,
        "--workers",
        0,
    )


def score(out: Path, manifest: Path | str) -> dict[str, float]:
    """Return the scores of the last weights: least squares in disparity."""
    model = str(out / "last.safetensors")
    done = call("eval", "--manifest", manifest, "--model", model, "--json", capture=True)
    return json.loads(done)["results"][0]["values"]


def show(name: str, found: list[dict[str, float]]) -> None:
    columns = []
    for metric in ("abs_rel", "delta1"):
        values = [each[metric] for each in found]
        spread = stdev(values) if len(values) > 1 else 0.0
        columns.append(f"{metric} {mean(values):.4f} +- {spread:.4f}")
    print(f"{name:22}", "   ".join(columns), f"  ({len(found)} seeds)", flush=True)


def call(*arguments, capture: bool = False) -> str:
    command = [sys.executable, "-m", "datool", *map(str, arguments), *([] if capture else ["--quiet"])]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None).stdout or ""


if __name__ == "__main__":
    main()
