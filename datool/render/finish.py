"""Effects on surfaces: glass and metal things, mirrors, polished floors and wet roads, wear, photos."""

from __future__ import annotations

import torch
from torch import Tensor

from datool.render.draws import COLUMN, Draws, changed
from datool.render.props import Stage
from datool.render.views import View


def glass(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Make some things and bottles of clear glass: one sees through them, straight on."""
    for mark in ("thing", "bottle"):
        for kind, place, run in stage.marked(mark):
            n = run.active.shape[1]
            clear = draws.chance(n, share)
            coat = changed(run.coat, clear, glass=draws.uniform(n, 0.6, 0.92), shine=draws.uniform(n, 0.5, 1.0))
            stage.shapes[kind][place] = run._replace(coat=coat)
    return view


def mirrors(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Make some pictures mirrors, some things polished metal, and let the glass of cars reflect."""
    for mark, chance, low, high in (
        ("picture", share, 0.8, 0.97),
        ("thing", share / 2, 0.4, 0.9),
        ("cabin", min(1.0, 4 * share), 0.15, 0.5),
    ):
        for kind, place, run in stage.marked(mark):
            n = run.active.shape[1]
            coat = changed(run.coat, draws.chance(n, chance), mirror=draws.uniform(n, low, high), glass=0.0)
            stage.shapes[kind][place] = run._replace(coat=coat)
    return view


def polish(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Let a room's floor or a road mirror a little; open land stays dull."""
    if stage.room is None and stage.kerb_b1 is None:
        return view
    centre, axes, coat = stage.planes[0]
    wet = draws.chance(1, share if stage.room is not None else share / 2)
    coat = changed(coat[:, None], wet, mirror=draws.uniform(1, 0.03, 0.3), shine=0.8)[:, 0]
    stage.planes[0] = (centre, axes, coat)
    return view


def detail(coat_bpk: Tensor, size_bp: Tensor, draws: Draws, share: float) -> Tensor:
    """Return the materials, some with a finer, rougher and stronger grain."""
    n = coat_bpk.shape[1]
    grained, finer = draws.chance(n, share), draws.log_uniform(n, 1, 5)
    columns = {f"noise_{axis}": coat_bpk[..., COLUMN[f"noise_{axis}"]] * finer for axis in "xyz"}
    strong = coat_bpk[..., COLUMN["by_noise"]].maximum(draws.uniform(n, 0.1, 1.0) ** 1.5)
    return changed(coat_bpk, grained, by_noise=strong, rough=draws.uniform(n, 0.6, 1.0), **columns)


def wear(coat_bpk: Tensor, size_bp: Tensor, draws: Draws, share: float) -> Tensor:
    """Return the materials, some with stains, fewer with veins, and some grids as cobbles."""
    n = coat_bpk.shape[1]
    gridded = (coat_bpk[..., COLUMN["by_joint"]] > 0.15) & (coat_bpk[..., COLUMN["joint"]] < 0.2)
    coat = changed(coat_bpk, draws.chance(n, share), stain=draws.uniform(n, 0.05, 0.5))
    coat = changed(coat, draws.chance(n, share / 4), vein=draws.uniform(n, 0.4, 1.0))
    coat = changed(coat, draws.chance(n, share / 2) & gridded, cobble=1.0)
    every = torch.ones_like(gridded)
    return changed(coat, every, wear_scale=draws.log_uniform(n, 0.5, 2.0) / size_bp.clamp(0.05, 2))


def photos(coat_bpk: Tensor, size_bp: Tensor, draws: Draws, share: float) -> Tensor:
    """Return the materials, some covered by a photo about as wide as the surface."""
    n = coat_bpk.shape[1]
    other = (coat_bpk[..., COLUMN["glow"]] > 0) | (coat_bpk[..., COLUMN["glass"]] > 0)
    covered = draws.chance(n, share) & ~other
    wide, opaque = draws.log_uniform(n, 0.8, 4.0) * size_bp.clamp(0.03, 4), draws.uniform(n, 0.7, 1.0)
    return changed(coat_bpk, covered, photo=opaque, photo_pick=draws.uniform(n), photo_m=wide)
