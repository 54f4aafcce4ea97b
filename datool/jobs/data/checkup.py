"""What a doctor looks at: facts of each pair of image and depth, and which of them do not fit their set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from datool.data.sample import Sample
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.jobs.data.agreement import agreement, bend, nearness_grid
from datool.jobs.data.duplicates import earlier_alike
from datool.jobs.data.quality import perceptual_hash

CELLS = 8
# Values of a map that are looked at for levels; a map of 8 bits has 256 in whatever part of it.
LOOKED_AT = 1 << 16
# Bins a decade, of depth and disparity from 10^-4 to 10^6.
BINS_PER_DECADE, DECADES = 4, (-4, 6)
BINS = np.logspace(*DECADES, (DECADES[1] - DECADES[0]) * BINS_PER_DECADE + 1)
COUNTS = (2, 2, len(BINS) - 1)

# One pair, 200 bytes; of a set of any size these are held, and nothing else.
FACTS = np.dtype(
    [
        ("status", "u1"),  # BROKEN, UNLABELLED or LABELLED
        ("metric", "?"),  # whether depth is in metres, disparity in 1/m
        ("image_px", "i4", 2),
        ("pixels", "u8"),  # hash of the image
        ("map", "u8"),  # hash of the map; 0 = none
        ("phash", "u8"),
        ("valid", "f4"),  # share of the map
        ("sky", "f4"),
        ("low", "f4"),  # 1 %, 50 %, 99 % and maximum of finite depth (1 / disparity)
        ("middle", "f4"),
        ("high", "f4"),
        ("top", "f4"),
        ("at_end", "f4"),  # share of finite pixels that hold the largest or the smallest value
        ("levels", "i4"),
        ("eight", "?"),  # whether the levels are those of 8 bits
        ("whole", "?"),  # whether all values are whole numbers
        ("edges", "f4", 5),  # NaN = no edges; here, elsewhere, mirrored, upside down, turned
        ("shift", "f4", 2),
        ("bend", "f4"),
        ("near", "u1", (CELLS, CELLS)),
    ]
)
BROKEN, UNLABELLED, LABELLED = range(3)


@dataclass(frozen=True)
class Fault:
    """A kind of thing that is found.

    Args:
        title: what it means, in words.
        broken: whether training on it does harm; else it is told and no more.
    """

    title: str
    broken: bool = True


def examine(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return the facts of a pair, and its histogram.

    Args:
        sample: with or without depth.
    Returns:
        () of `FACTS`; (2, 2, bins) float64: how many pixels lie in each of `BINS`, of maps up to scale and in metres,
        as depth and as disparity.
    Raises:
        DatoolError: imagehash is not installed.
    """
    facts = np.zeros((), FACTS)
    grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY)
    facts["image_px"] = sample.image.shape[:2]
    facts["pixels"] = _digest(sample.image)
    facts["phash"] = perceptual_hash(cv2.resize(grey, (128, 128), interpolation=cv2.INTER_AREA))
    facts["status"], facts["edges"] = UNLABELLED, np.nan
    counts = np.zeros(COUNTS)
    if sample.depth is not None:
        facts["status"] = LABELLED
        depth = _positive(sample.depth)
        _look_at_values(facts, sample.depth, depth)
        facts["near"], facts["bend"] = nearness_grid(depth, CELLS), bend(depth)
        found = agreement(sample.image, depth)
        if found is not None:
            facts["edges"] = found.here, found.elsewhere, found.mirrored, found.upside_down, found.turned
            facts["shift"] = found.shift
        finite = depth[np.isfinite(depth)]
        counts[int(facts["metric"])] = np.histogram(finite, BINS)[0], np.histogram(1 / finite, BINS)[0]
    return facts, counts


def judge(facts: np.ndarray) -> list[tuple[int, str, str]]:
    """Return what is wrong with single pairs, measured against their set: number, key of `FAULTS`, and the evidence.

    Args:
        facts: (N,) of `FACTS`.
    """
    found = [
        (int(number), kind, tell(facts[number]))
        for kind, (rule, tell) in RULES.items()
        for number in np.flatnonzero(rule(facts) & (facts["status"] == LABELLED))
    ]
    turned = {number for number, kind, _ in found if kind in ("upside-down", "turned")}
    found += [row for row in _inverted(facts) if row[0] not in turned]  # near is below, so these look inverted too
    return sorted(found + _scale(facts) + _alike(facts))


def guess_unit(facts: np.ndarray) -> tuple[str, str]:
    """Return what a set's values are in, and why, whatever its rows say.

    Args:
        facts: (N,) of `FACTS`.
    """
    labelled = facts[(facts["status"] == LABELLED) & (facts["valid"] > 0)]
    if not len(labelled):
        return "none", "no depth"
    middle, top = float(np.median(labelled["middle"])), float(np.median(labelled["top"]))
    typical = f"median of medians {middle:.3g}, of maxima {top:.3g}"
    if labelled["eight"].mean() > 0.5:
        return "8-bit", f"most maps have {int(np.median(labelled['levels']))} even levels or so; {typical}"
    if np.median(labelled["bend"]) > BENT:
        return "inverse (disparity)", "planes are straight as they are and bent after inversion"
    if labelled["metric"].mean() < 0.5:
        return "up to scale", f"the rows say so; {typical}"
    if top <= 1.001 and np.mean(np.abs(labelled["top"] - 1) < 0.005) > 0.5:
        return "normalised 0..1", f"most maps end at 1; {typical}"
    whole = labelled["whole"].mean() > 0.5
    # Scenes are seen from 4 m, give or take a decade; sensors' files count whole millimetres or centimetres.
    units = {"metres": 4.0, "centimetres": 400.0, "millimetres": 4000.0}
    if whole:
        del units["metres"]
    unit = min(units, key=lambda name: abs(np.log10(middle / units[name])))
    return unit, f"{typical}{', whole numbers' if whole else ''}"


def _look_at_values(facts: np.ndarray, given: DepthMap, depth: np.ndarray) -> None:
    finite = depth[np.isfinite(depth)]
    facts["metric"] = given.ambiguity is Ambiguity.NONE
    facts["map"] = _digest(given.values)
    facts["valid"], facts["sky"] = given.valid.mean(), np.isposinf(depth).mean()
    if not len(finite):
        return
    facts["low"], facts["middle"], facts["high"] = np.percentile(finite, (1, 50, 99))
    facts["top"] = finite.max()
    facts["at_end"] = max(np.mean(finite == finite.max()), np.mean(finite == finite.min()))
    stored = given.values[np.isfinite(given.values)]
    levels = np.unique(stored[:: max(1, len(stored) // LOOKED_AT)])
    facts["levels"], facts["eight"] = len(levels), _is_ladder(levels)
    facts["whole"] = bool((finite == np.rint(finite)).all())


def _is_ladder(levels: np.ndarray) -> bool:
    """Tell whether sorted values are steps of one ladder of 256; a sensor's few levels stand at uneven distances."""
    return 1 < len(levels) <= LEVELS and levels[-1] - levels[0] < (LEVELS + 1) * np.diff(levels).min()


def _positive(depth: DepthMap) -> np.ndarray:
    """Return depth above 0, whatever the map holds: (h, w) float32.

    Values known up to a shift are moved to begin above 0: their order and their edges stay.
    """
    if depth.ambiguity is not Ambiguity.SCALE_AND_SHIFT:
        return depth.to(Quantity.DEPTH).values
    values = depth.values
    if not depth.valid.any():
        return values
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    moved = values - low + np.float32(0.05 * (high - low) + 1e-6)
    return moved if depth.quantity is Quantity.DEPTH else np.float32(1) / moved


def _digest(values: np.ndarray) -> int:
    data = np.ascontiguousarray(values).data
    return int.from_bytes(hashlib.blake2b(repr(values.shape).encode() + bytes(data), digest_size=8).digest(), "big")


def _scale(facts: np.ndarray) -> list[tuple[int, str, str]]:
    """Return maps in another unit than the others: a factor of 40 off, where scenes differ by less."""
    some = np.flatnonzero((facts["status"] == LABELLED) & facts["metric"] & (facts["levels"] > 1))
    if len(some) < MIN_SET:
        return []
    decades = np.log10(facts["middle"][some])
    off = decades - np.median(decades)
    return [
        (int(number), "scale", f"median {facts['middle'][number]:.4g}, of the set {10 ** np.median(decades):.3g}")
        for number, by in zip(some, off, strict=True)
        if abs(by) > SCALE_DECADES
    ]


def _inverted(facts: np.ndarray) -> list[tuple[int, str, str]]:
    """Return maps in which far is near: bent the wrong way, and not near where the set's maps are."""
    some = np.flatnonzero((facts["status"] == LABELLED) & (facts["levels"] > 1))
    if len(some) < MIN_SET:
        return []
    grids = facts["near"][some].reshape(len(some), -1).astype(np.float64)
    others = (grids.sum(axis=0) - grids) / (len(some) - 1)
    grids -= grids.mean(axis=1, keepdims=True)
    others -= others.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(grids, axis=1) * np.linalg.norm(others, axis=1)
    like = (grids * others).sum(axis=1) / np.maximum(norms, 1e-9)
    bent = facts["bend"][some]
    wrong = ((bent > BENT) & (like < 0)) | (bent > VERY_BENT) | (like < UNLIKE)
    if np.median(bent) > BENT:  # then the set is inverted, and `guess_unit` says so
        wrong[:] = False
    return [
        (int(some[at]), "inverted", f"correlation of nearness with the set {like[at]:.2f}, bend {bent[at]:+.2f}")
        for at in np.flatnonzero(wrong)
    ]


def _alike(facts: np.ndarray) -> list[tuple[int, str, str]]:
    """Return images and maps that another pair has too; the evidence is the other's number."""
    found = []
    seen = np.flatnonzero(facts["status"] != BROKEN)
    exact, near = earlier_alike(facts["pixels"][seen], 0), earlier_alike(facts["phash"][seen], RADIUS)
    found += [(int(seen[at]), "duplicate", str(seen[exact[at]])) for at in np.flatnonzero(exact >= 0)]
    # An even picture has a fingerprint of noise.
    looks = np.flatnonzero((near >= 0) & (exact < 0))
    found += [(int(seen[at]), "near-duplicate", str(seen[near[at]])) for at in looks]
    mapped = np.flatnonzero((facts["status"] == LABELLED) & (facts["levels"] > 1))
    same = earlier_alike(facts["map"][mapped], 0)
    for at in np.flatnonzero(same >= 0):
        number, other = mapped[at], mapped[same[at]]
        if facts["pixels"][number] != facts["pixels"][other]:
            found.append((int(number), "borrowed", str(other)))
    return found


Rule = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], str]]

# Measured on 160 rendered scenes, of which 125 have enough edges to judge, and 11 dense real maps: none of those that
# are right is called wrong. Found: mirrored 116 of 125, upside down 119, turned 121, shifted by a tenth 109, another
# image's map 100; inverted 154 of 160; a factor of 1000 all, of 100 140.
MISFIT, TURNED, MOVED, MIN_SHIFT = 1.5, 3.0, 4.0, 0.03
MIN_SET, SCALE_DECADES = 8, 1.6
BENT, VERY_BENT, UNLIKE = 0.3, 1.0, -0.85
LEVELS, MIN_VALID, AT_END = 256, 0.05, 0.1
RADIUS = 4


def _edges(facts: np.ndarray, which: int) -> np.ndarray:
    return np.nan_to_num(facts["edges"][..., which], nan=0.0)


def _turned(which: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the rule that a map fits its image better when it is turned back."""

    def rule(facts: np.ndarray) -> np.ndarray:
        best = _edges(facts, which) >= np.maximum.reduce([_edges(facts, other) for other in (2, 3, 4)])
        return best & (_edges(facts, which) >= 5) & (_edges(facts, which) - _edges(facts, 0) >= TURNED)

    return rule


def _moved(facts: np.ndarray) -> np.ndarray:
    away = np.abs(facts["shift"]).max(axis=-1) >= MIN_SHIFT
    turned = np.logical_or.reduce([_turned(which)(facts) for which in (2, 3, 4)])
    return away & ~turned & (_edges(facts, 1) >= 6) & (_edges(facts, 1) - _edges(facts, 0) >= MOVED)


def _misfit(facts: np.ndarray) -> np.ndarray:
    """Edges do not meet, where those of the set do and no turn or shift explains it."""
    known = ~np.isnan(facts["edges"][..., 0])
    if not known.any() or np.median(_edges(facts, 0)[known]) < 5:
        return np.zeros(facts.shape, bool)
    explained = np.logical_or.reduce([_moved(facts), *(_turned(which)(facts) for which in (2, 3, 4))])
    return known & ~explained & (_edges(facts, 0) < MISFIT)


def _tell_turned(which: int) -> Callable[[np.ndarray], str]:
    return lambda pair: f"edges meet at {pair['edges'][0]:.1f}, turned back at {pair['edges'][which]:.1f}"


RULES: dict[str, Rule] = {
    "empty": (lambda facts: facts["valid"] == 0, lambda pair: "no pixel is known"),
    "sparse": (
        lambda facts: (facts["valid"] > 0) & (facts["valid"] < MIN_VALID),
        lambda pair: f"{pair['valid']:.1%} of the pixels are known",
    ),
    "constant": (lambda facts: facts["levels"] == 1, lambda pair: f"all {pair['middle']:.4g}"),
    "8-bit": (
        lambda facts: facts["eight"] & (facts["valid"] >= MIN_VALID),
        lambda pair: f"{pair['levels']} levels",
    ),
    "saturated": (
        lambda facts: (facts["levels"] > 1) & (facts["at_end"] >= AT_END),
        lambda pair: f"{pair['at_end']:.0%} of the pixels hold the largest or the smallest value",
    ),
    "mirrored": (_turned(2), _tell_turned(2)),
    "upside-down": (_turned(3), _tell_turned(3)),
    "turned": (_turned(4), _tell_turned(4)),
    "shifted": (
        _moved,
        lambda pair: f"by {pair['shift'][0]:+.0%} of the height, {pair['shift'][1]:+.0%} of the width",
    ),
    "misfit": (_misfit, lambda pair: f"edges meet at {pair['edges'][0]:.1f}, as those of another image's map"),
}

FAULTS: dict[str, Fault] = {
    "missing": Fault("a file is not there"),
    "unreadable": Fault("a file is empty, cut short or of another kind"),
    "colour-map": Fault("the depth is a picture in colours, not numbers"),
    "negative": Fault("the depth has values below 0"),
    "zero": Fault("the depth has zeros that are not marked as unknown"),
    "size": Fault("the depth is of another aspect than its image"),
    "empty": Fault("no pixel of the depth is known"),
    "sparse": Fault(f"less than {MIN_VALID:.0%} of the depth is known", broken=False),
    "constant": Fault("the depth is one value"),
    "8-bit": Fault("the depth has the 256 levels of 8 bits, or fewer", broken=False),
    "saturated": Fault("much of the depth is cut at one value"),
    "mirrored": Fault("the depth is mirrored"),
    "upside-down": Fault("the depth is upside down"),
    "turned": Fault("the depth is turned by 180 degrees"),
    "shifted": Fault("the depth is shifted"),
    "misfit": Fault("the depth is of another image"),
    "scale": Fault("the depth is in another unit than the set's"),
    "inverted": Fault("far is near"),
    "duplicate": Fault("the image is there twice", broken=False),
    "near-duplicate": Fault("the image looks like another", broken=False),
    "borrowed": Fault("two images have the same depth"),
}
