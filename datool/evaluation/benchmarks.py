"""The public benchmarks: which data, scored how by whom, and what was published.

Crops, caps and splits that a protocol has for one set are fields here; ``protocol_for`` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from datool.errors import lookup
from datool.evaluation.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True)
class Published:
    """One table of numbers by others.

    Args:
        source: paper or repository, and the table.
        protocol: a name of `PROTOCOLS` that comes nearest to theirs.
        reproducible: whether independent runs under that protocol came within 0.004 of AbsRel.
        why: what is known about it.
        values: model -> metric -> value.
    """

    source: str
    protocol: str
    reproducible: bool
    why: str
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        source: the data set's name in the table of sources.
        protocols: name of `PROTOCOLS` -> the fields that it has for this set; the first is the default.
        pairs: whether truth is pairs of points.
        group: which part of a sample's id names its group, such as the scene; None = no groups.
        published: tables by others.
    """

    source: str
    protocols: Mapping[str, Mapping[str, Any]]
    pairs: bool = False
    group: int | None = None
    published: tuple[Published, ...] = field(default=())


def protocol_for(bench: str, name: str = "") -> Protocol:
    """Return a protocol as it is for a benchmark.

    A protocol that says nothing about the set is taken with its general fields; its name tells (``+general``).

    Args:
        bench: a name of `BENCHMARKS`.
        name: of `PROTOCOLS`; empty = the benchmark's default.
    Raises:
        DatoolError: unknown name.
    """
    row = lookup(BENCHMARKS, bench, "benchmark")
    name = name or next(iter(row.protocols))
    protocol = lookup(PROTOCOLS, name, "protocol")
    if name not in row.protocols:
        return replace(protocol, name=f"{name}+general")
    return replace(protocol, **row.protocols[name])


V2_PAPER = "Yang et al. 2024 (V2), arXiv:2406.09414, table 2"
V1_PAPER = "Yang et al. 2024 (V1), arXiv:2401.10891, table 2"
PLUMBLINE = "an independent run (plumbline) with inversion to depth gets V2-S / B / L"
NO_CODE = "no evaluation code was released"


def _relative(values: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {model: {"abs_rel": abs_rel, "delta1": delta1} for model, (abs_rel, delta1) in values.items()}


def _papers(
    v1: tuple[tuple[float, float], ...], v2: tuple[tuple[float, float], ...], reproducible: bool, why: str
) -> tuple[Published, ...]:
    """Return the rows of both papers, Small to Large (V2: to Giant)."""
    sizes = ("small", "base", "large", "giant")
    return tuple(
        Published(
            source,
            "da-v2-reconstructed",
            reproducible,
            why,
            _relative({f"{version}-{size}": pair for size, pair in zip(sizes, pairs, strict=False)}),
        )
        for source, version, pairs in ((V2_PAPER, "v2", v2), (V1_PAPER, "v1", v1))
        if pairs
    )


def _metric(rows: Mapping[str, tuple[float, ...]], last: str) -> Published:
    names = ("delta1", "delta2", "delta3", "abs_rel", "rmse", last)
    return Published(
        "Yang et al. 2024 (V2), table 4; V1: its metric_depth/README.md",
        "zoe-metric",
        False,
        "of models fine-tuned on this set, whose weights V2 did not release; nobody is known to have run it again",
        {model: dict(zip(names, values, strict=True)) for model, values in rows.items()},
    )


# Kinds of scene of DA-2K: the share of pairs (V2 paper, figure 9b) and table 14's accuracy, %.
DA2K_SHARES = {
    "indoor": 0.20,
    "outdoor": 0.17,
    "non_real": 0.15,
    "transparent_reflective": 0.10,
    "adverse_style": 0.16,
    "aerial": 0.09,
    "underwater": 0.06,
    "object": 0.07,
}
DA2K_TABLE_14 = {
    "v2-small": (92.9, 93.0, 98.4, 94.4, 95.7, 96.4, 99.2, 96.6),
    "v2-base": (96.2, 94.8, 98.7, 96.3, 96.7, 99.0, 100.0, 97.3),
    "v2-large": (96.4, 93.9, 99.0, 96.3, 97.3, 99.5, 99.2, 98.0),
}

BENCHMARKS: dict[str, Benchmark] = {
    "da2k": Benchmark(
        "da2k",
        {"da-2k": {"split": "test"}},
        pairs=True,
        group=1,
        published=(
            Published(
                "Yang et al. 2024 (V2), table 3; Giant as printed, not released",
                "da-2k",
                True,
                "pooled over pairs: table 14 weighted by figure 9b gives the printed means; an independent run of V2-S "
                "gets 95.2 (Depth Anything AC)",
                {
                    model: {"accuracy": percent / 100}
                    for model, percent in {
                        "v1-large": 88.5,
                        "v2-small": 95.3,
                        "v2-base": 97.0,
                        "v2-large": 97.1,
                        "v2-giant": 97.4,
                        "marigold": 86.8,
                        "geowizard": 88.1,
                        "depthfm": 85.8,
                    }.items()
                },
            ),
        ),
    ),
    "nyu": Benchmark(
        "nyu",
        {
            "da-v2-reconstructed": {"split": "test", "crop": "eigen-nyu", "far": 10.0},
            "midas": {"split": "test", "far": 10.0},
            "marigold": {"split": "test", "crop": "eigen-nyu", "near": 1e-3, "far": 10.0},
            "zoe-metric": {"split": "test", "crop": "eigen-nyu", "far": 10.0},
            "v2-metric": {"split": "test", "far": 20.0},
        },
        published=(
            *_papers(
                ((0.053, 0.972), (0.046, 0.979), (0.043, 0.981)),
                ((0.053, 0.973), (0.049, 0.976), (0.045, 0.979), (0.044, 0.979)),
                True,
                f"{PLUMBLINE} .0510 / .0456 / .0428 on raw depth with Eigen's crop; filled depth gives .062",
            ),
            _metric(
                {
                    "zoedepth": (0.951, 0.994, 0.999, 0.077, 0.282, 0.033),
                    "v1-large": (0.984, 0.998, 1.000, 0.056, 0.206, 0.024),
                    "v2-small": (0.961, 0.996, 0.999, 0.073, 0.261, 0.032),
                    "v2-base": (0.977, 0.997, 1.000, 0.063, 0.228, 0.027),
                    "v2-large": (0.984, 0.998, 1.000, 0.056, 0.206, 0.024),
                },
                "log10",
            ),
        ),
    ),
    "kitti": Benchmark(
        "kitti",
        {
            "da-v2-reconstructed": {"split": "eigen", "crop": "garg"},
            # MiDaS takes 161 images of val-selection, whose list is not part of the set.
            "midas": {"split": "val-selection"},
            "marigold": {"split": "eigen", "crop": "kb-eigen"},
            "zoe-metric": {"split": "eigen", "crop": "kb-garg"},
            "v2-metric": {"split": "eigen"},
        },
        group=1,
        published=(
            *_papers(
                ((0.080, 0.936), (0.080, 0.939), (0.076, 0.947)),
                ((0.078, 0.936), (0.078, 0.939), (0.074, 0.946), (0.075, 0.948)),
                True,
                f"{PLUMBLINE} .0770 / .0756 / .0710 on the 652 with Garg's crop",
            ),
            _metric(
                {
                    "zoedepth": (0.971, 0.996, 0.999, 0.054, 2.281, 0.082),
                    "v1-large": (0.982, 0.998, 1.000, 0.046, 1.896, 0.069),
                    "v2-small": (0.973, 0.997, 0.999, 0.053, 2.235, 0.081),
                    "v2-base": (0.979, 0.998, 1.000, 0.048, 1.999, 0.072),
                    "v2-large": (0.983, 0.998, 1.000, 0.045, 1.861, 0.067),
                },
                "rmse_log",
            ),
        ),
    ),
    "sintel": Benchmark(
        "sintel",
        {
            "da-v2-reconstructed": {"split": "final", "far": 70.0},
            "midas": {"split": "final", "far": 72.0},
        },
        group=1,
        published=_papers(
            ((0.464, 0.739), (0.432, 0.756), (0.458, 0.760)),
            ((0.500, 0.718), (0.495, 0.734), (0.487, 0.752), (0.506, 0.772)),
            False,
            f"cap and pass are not stated and {NO_CODE}; with cap 70 V2-L gets .232 (plumbline), .214 (MoGe's)",
        ),
    ),
    "ddad": Benchmark(
        "ddad",
        {
            "da-v2-reconstructed": {"split": "val", "crop": "garg"},
            "zoe-metric": {"split": "val", "crop": "garg"},
        },
        group=0,
        published=_papers(
            ((0.247, 0.768), (0.232, 0.786), (0.230, 0.789)),
            (),
            False,
            f"cameras, range and crop are not stated and {NO_CODE}; V2 dropped the set",
        ),
    ),
    "eth3d": Benchmark(
        "eth3d",
        {
            "da-v2-reconstructed": {"split": "train", "far": 72.0},
            "midas": {"split": "train", "far": 72.0},
            "marigold": {"split": "train", "far": float("inf"), "fit_max_px": 1024},
        },
        group=0,
        published=_papers(
            ((0.127, 0.885), (0.126, 0.884), (0.127, 0.882)),
            ((0.142, 0.851), (0.137, 0.858), (0.131, 0.865), (0.132, 0.862)),
            False,
            f"cap is not stated and {NO_CODE}; {PLUMBLINE} .1012 / .0936 / .0888, better than the paper",
        ),
    ),
    "diode": Benchmark(
        "diode",
        {
            "da-v2-reconstructed": {"split": "val-indoors"},
            "marigold": {"split": "val", "near": 0.6, "far": 350.0},
            "zoe-metric": {"split": "val-indoors", "crop": "eigen-nyu", "far": 10.0},
        },
        group=1,
        published=_papers(
            ((0.076, 0.939), (0.069, 0.946), (0.066, 0.952)),
            ((0.073, 0.942), (0.068, 0.950), (0.066, 0.952), (0.065, 0.954)),
            True,
            "on the 325 indoor images alone, which is inferred: there V2-S gets .0720, on all 771 .2196 (plumbline)",
        ),
    ),
    "ibims": Benchmark(
        "ibims",
        {
            "lsq-disparity": {},
            "moge-disparity": {},
            "zoe-metric": {"crop": "eigen-nyu", "near": 0.0, "far": 10.0},
        },
        published=(
            Published(
                "MoGe's harness, as quoted by plumbline (protocols/*_moge.yaml)",
                "moge-disparity",
                False,
                "there the images are warped and cut first, which is not done here",
                {"v2-large": {"abs_rel": 0.0348, "delta1": 0.985}, "moge-large": {"abs_rel": 0.0320}},
            ),
        ),
    ),
}
