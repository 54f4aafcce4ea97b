"""Laws of the doctor: every planted fault is found for what it is, and nothing that is right is called wrong."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from datool.cli import app
from datool.colour import to_picture
from datool.data.sample import Sample
from datool.data.sources.base import Row
from datool.data.sources.manifest import read
from datool.data.sources.table import SOURCES
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import write_map
from datool.jobs.data.agreement import agreement
from datool.jobs.data.check import CheckOptions, SetReport, check
from datool.jobs.data.checkup import FACTS, FAULTS
from datool.progress import Progress
from datool.render import Look, render

REAL = Path(__file__).parent.parent.parent / "shared" / "real"
SIZE = (96, 128)
NUM = 96
# Rooms, tables, streets and land of about one scale, in pictures with edges: no views from the air, no close-ups.
FIRST = {name: 0.0 for name in ("layouts", "tilt", "lens", "overhang", "detail", "tone")}
LOOK = Look(**FIRST, fences=0.25, panes=0.12, night=0.15, photos=0.3, fog=0.1, focus=0.2, motion=0.12)

pytest.importorskip("imagehash")


@cache
def scenes() -> tuple[np.ndarray, np.ndarray]:
    made = render(7, range(NUM), *SIZE, look=LOOK)
    return made.image_b3hw.permute(0, 2, 3, 1).numpy(), made.depth_bhw.numpy()


def write_image(folder: Path, number: int, pixels: np.ndarray) -> None:
    cv2.imwrite(str(folder / f"{number:02d}.png"), cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR))


def write_depth(folder: Path, number: int, depth: np.ndarray, format: str = "tiff") -> str:
    map = DepthMap(np.ascontiguousarray(depth, np.float32), Quantity.DEPTH, Ambiguity.NONE)
    name = f"{number:02d}.{format}"
    write_map(folder / name, map, format)
    return name


def clean(folder: Path) -> list[dict[str, object]]:
    """Write a set without faults, and return its rows."""
    folder.mkdir(parents=True)
    rows = []
    for number, (image, depth) in enumerate(zip(*scenes(), strict=True)):
        write_image(folder, number, image)
        rows.append({"image": f"{number:02d}.png", "depth": write_depth(folder, number, depth)})
    return rows


def checked(folder: Path, rows: list[dict[str, object]], **options: object) -> SetReport:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return check(CheckOptions(sources=[str(folder)], num_workers=1, **options))[0]


def found(report: SetReport) -> dict[int, set[str]]:
    """Return the kinds that were found of each pair."""
    kinds: dict[int, set[str]] = {}
    for finding in report.findings:
        kinds.setdefault(int(finding.id[:2]), set()).add(finding.kind)
    return kinds


Plant = Callable[[Path, list, np.ndarray, np.ndarray, int], None]


def depth_as(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(folder, rows, images, depths, number):
        write_depth(folder, number, change(depths[number]))

    return plant


def inverted(depth: np.ndarray) -> np.ndarray:
    """Disparity, taken for depth."""
    return 10 / np.minimum(depth, 100)


def numbers_as(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """As a file that DepthMap would refuse to write."""

    def plant(folder, rows, images, depths, number):
        np.save(folder / f"{number:02d}.npy", change(np.minimum(depths[number], 100).astype(np.float32)))
        rows[number]["depth"] = f"{number:02d}.npy"

    return plant


def with_corner(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(depth):
        depth[:20, :20] = value
        return depth

    return change


def eight_bits(folder, rows, images, depths, number):
    near = 1 / depths[number]
    cv2.imwrite(str(folder / f"{number:02d}-8.png"), np.rint(near / near.max() * 254 + 1).astype(np.uint8))
    rows[number] |= {"depth": f"{number:02d}-8.png", "divisor": 255, "quantity": "disparity", "ambiguity": "scale"}


def colours(folder, rows, images, depths, number):
    picture = to_picture(DepthMap(depths[number], Quantity.DEPTH, Ambiguity.NONE))
    cv2.imwrite(str(folder / f"{number:02d}-c.png"), picture[:, :, ::-1])
    rows[number] |= {"depth": f"{number:02d}-c.png", "divisor": 100}


def cut_short(folder, rows, images, depths, number):
    path = folder / f"{number:02d}.png"
    path.write_bytes(path.read_bytes()[:300])


def removed(folder, rows, images, depths, number):
    (folder / rows[number]["depth"]).unlink()


def swapped(folder, rows, images, depths, number):
    write_depth(folder, number, depths[number + 1])
    write_depth(folder, number + 1, depths[number])


def borrowed(folder, rows, images, depths, number):
    write_depth(folder, number, depths[number - 1])


def twice(folder, rows, images, depths, number):
    write_image(folder, number, images[number - 1])
    write_depth(folder, number, depths[number - 1])


def brighter(folder, rows, images, depths, number):
    pixels = cv2.convertScaleAbs(images[number - 1], alpha=1.05, beta=3)
    write_image(folder, number, cv2.imdecode(cv2.imencode(".jpg", pixels)[1], cv2.IMREAD_COLOR))
    write_depth(folder, number, depths[number - 1] * 1.001)


PLANTS: dict[str, Plant] = {
    "mirrored": depth_as(lambda depth: depth[:, ::-1]),
    "upside-down": depth_as(lambda depth: depth[::-1]),
    "turned": depth_as(lambda depth: depth[::-1, ::-1]),
    "shifted": depth_as(lambda depth: np.roll(depth, 14, axis=1)),
    "misfit": swapped,
    "inverted": depth_as(inverted),
    "scale": depth_as(lambda depth: depth * 1000),
    "constant": depth_as(lambda depth: np.full_like(depth, 3.0)),
    "saturated": depth_as(lambda depth: np.minimum(depth, np.percentile(depth, 60))),
    "8-bit": eight_bits,
    "colour-map": colours,
    "negative": numbers_as(with_corner(-1.0)),
    "zero": numbers_as(with_corner(0.0)),
    "unreadable": cut_short,
    "missing": removed,
    "size": depth_as(lambda depth: depth[:, : SIZE[1] // 2]),
    "empty": depth_as(lambda depth: np.full_like(depth, np.nan)),
    "borrowed": borrowed,
    "duplicate": twice,
    "near-duplicate": brighter,
}


NEED_EDGES = ("mirrored", "upside-down", "turned", "shifted", "misfit")


@cache
def clear() -> list[bool]:
    """Return which scenes have edges to judge by."""
    judged = [agreement(image, depth) for image, depth in zip(*scenes(), strict=True)]
    return [fit is not None and fit.here > 8 for fit in judged]


@cache
def places() -> dict[str, int]:
    """Return in which pair each fault is planted: three apart, and where there are edges to judge by."""
    found, number = {}, 2
    for kind in PLANTS:
        while kind in NEED_EDGES and not (clear()[number] and clear()[number + 1]):
            number += 1
        found[kind] = number
        number += 3
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> SetReport:
    folder = tmp_path_factory.mktemp("planted") / "set"
    rows = clean(folder)
    for kind, plant in PLANTS.items():
        plant(folder, rows, *scenes(), places()[kind])
    return checked(folder, rows, sheet=folder / "sheet.png")


@pytest.mark.parametrize("kind", PLANTS)
def test_every_planted_fault_is_found(planted, kind):
    assert kind in found(planted)[places()[kind]]


def test_nothing_else_is_called_wrong(planted):
    expected = {*places().values(), places()["misfit"] + 1}
    assert {number for number, kinds in found(planted).items()} <= expected
    assert planted.is_broken and planted.num_seen == NUM and planted.num_labelled == NUM - 6
    assert set(PLANTS) | {"sparse"} == set(FAULTS)


def test_the_sheet_shows_the_findings(planted):
    sheet = cv2.imread(str(planted.root / "sheet.png"))
    assert sheet is not None and sheet.std() > 20


def test_a_set_without_faults_is_called_right(tmp_path):
    seen: list[Progress] = []
    rows = clean(tmp_path / "set")
    (tmp_path / "set" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check(CheckOptions(sources=[str(tmp_path / "set")], num_workers=1), seen.append)[0]
    assert report.findings == () and not report.is_broken
    assert report.unit == "metres" and report.valid == 1 and 0 < report.sky < 0.5
    assert sum(report.depth_counts) == sum(report.disparity_counts) > 0
    assert (seen[0].todo, seen[-1].done) == (NUM, NUM)


@pytest.mark.parametrize(
    ("change", "unit"),
    [
        (lambda depth: np.rint(depth * 1000), "millimetres"),
        (lambda depth: np.rint(depth * 100), "centimetres"),
        (lambda depth: depth / depth[np.isfinite(depth)].max(), "normalised 0..1"),
        (inverted, "inverse (disparity)"),
    ],
)
def test_the_unit_is_guessed_whatever_the_rows_say(tmp_path, change, unit):
    rows = clean(tmp_path / "set")[:24]
    for number in range(len(rows)):
        write_depth(tmp_path / "set", number, change(scenes()[1][number]))
    assert checked(tmp_path / "set", rows).unit == unit


def test_rows_are_taken_evenly_and_workers_change_nothing(tmp_path):
    folder = tmp_path / "set"
    rows = clean(folder)
    number = 6 * next(at for at in range(1, 16) if clear()[6 * at])
    write_depth(folder, number, scenes()[1][number][:, ::-1])
    one = checked(folder, rows, num=16)
    assert one.num_seen == 16 and [finding.id for finding in one.findings] == [f"{number:02d}.png"]
    two = check(CheckOptions(sources=[str(folder)], num=16, num_workers=2))[0]
    assert replace(two, seconds=0) == replace(one, seconds=0)


def read_or_die(row: Row) -> Sample:
    """Read a row; one of them kills the process, as memory that ends does."""
    if row.id.startswith("05"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(row)


def test_a_pair_that_kills_its_worker_is_a_finding_and_the_others_are_checked(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    rows = clean(folder)[:24]
    whole = checked(folder, rows)
    monkeypatch.setitem(SOURCES, "manifest", replace(SOURCES["manifest"], read=read_or_die))
    report = check(CheckOptions(sources=[str(folder)], num_workers=2))[0]
    (finding,) = [finding for finding in report.findings if finding not in whole.findings]
    assert (finding.id, finding.kind) == ("05.png", "unreadable")
    assert "05.png" in finding.detail and "killed" in finding.detail
    assert (report.num_seen, report.num_labelled) == (24, 23)


def test_shards_and_unlabelled_images_are_checked_too(tmp_path):
    from datool.jobs.data.pack import PackOptions, pack

    folder = tmp_path / "set"
    rows = clean(folder)
    checked(folder, rows)
    pack(PackOptions(source="manifest", out=tmp_path / "shards", root=folder, rows_per_shard=20, depth="npz"))
    report = check(CheckOptions(sources=[str(tmp_path / "shards")], num_workers=1))[0]
    assert (report.name, report.num_labelled, report.findings) == ("packed", NUM, ())
    (folder / "manifest.jsonl").unlink()
    for path in folder.glob("*.tiff"):
        path.unlink()
    report = check(CheckOptions(sources=[str(folder)], num_workers=1))[0]
    assert (report.name, report.num_labelled, report.unit, report.findings) == ("images", 0, "none", ())


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DatoolError, match="no data set"):
        check(CheckOptions(sources=[str(tmp_path / "no")]))
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(DatoolError, match="no rows"):
        check(CheckOptions(sources=[str(tmp_path)]))


def test_a_pair_costs_little_memory():
    assert FACTS.itemsize <= 200


def test_the_command_draws_and_fails_on_what_is_broken(tmp_path):
    folder = tmp_path / "set"
    rows = clean(folder)[:12]
    checked(folder, rows)
    right = CliRunner().invoke(app, ["data", "check", str(folder), "--workers", "1"])
    assert right.exit_code == 0 and "metres" in right.output, right.output
    write_depth(folder, 3, np.full(SIZE, 2.0))
    wrong = CliRunner().invoke(app, ["data", "check", str(folder), "--workers", "1", "--json", "--quiet"])
    assert wrong.exit_code == 1
    assert json.loads(wrong.stdout)[0]["findings"] == [{"id": "03.png", "kind": "constant", "detail": "all 2"}]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images")
def test_real_maps_are_called_right():
    report = check(CheckOptions(sources=[str(REAL)], num_workers=1))[0]
    assert report.unit == "metres" and not report.is_broken
    assert [(finding.id, finding.kind) for finding in report.findings] == [("middlebury-teddy", "8-bit")]
