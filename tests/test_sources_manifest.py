"""Laws of the manifest as a data set: rows of one's own and datool's, each by its number, whatever the file's size."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datool.data.manifest import ManifestRow, write_manifest
from datool.data.sample import Sample
from datool.data.sources.manifest import EVERY, MANIFEST, Manifest, entries, read_entry
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import output_path, write_map

REAL = Path(__file__).parents[2] / "shared" / "real"
HEIGHT, WIDTH = 4, 6
NAN, SKY = math.nan, math.inf


def filled(value: float, dtype: type = np.float32, **at: float) -> np.ndarray:
    """A map of ``value``; ``r0c1=5`` puts 5 at row 0, column 1."""
    values = np.full((HEIGHT, WIDTH), value, dtype)
    for place, other in at.items():
        row, column = place[1:].split("c")
        values[int(row), int(column)] = other
    return values


def png(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)
    return path


def manifest(folder: Path, *rows: Any) -> Path:
    """A manifest of ``rows``, texts as they are, with a picture ``a.png`` beside it."""
    png(folder / "a.png", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    path = folder / "manifest.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def only(folder: Path, **row: Any) -> Sample:
    """The sample of a manifest of one row, read both ways."""
    path = manifest(folder, {"image": "a.png", **row})
    sample = read_entry(Manifest(path)[0])
    (found,) = MANIFEST.index(path, "all")
    again = MANIFEST.read(found)
    assert (again.id, again.camera, again.pseudo) == (sample.id, sample.camera, sample.pseudo)
    if sample.depth is not None:
        assert again.depth is not None
        np.testing.assert_array_equal(again.depth.values, sample.depth.values)
    return sample


def is_map(depth: DepthMap | None, values: np.ndarray, quantity: str, ambiguity: str) -> None:
    assert depth is not None and (depth.quantity.value, depth.ambiguity.value) == (quantity, ambiguity)
    np.testing.assert_allclose(depth.values, values, rtol=1e-6)


# Rows of one's own


def test_an_image_alone_is_unlabelled(tmp_path: Path) -> None:
    sample = only(tmp_path)
    assert sample.depth is None and sample.camera is None and not sample.pseudo and sample.id == "a.png"


def test_floats_are_metres_with_unknown_and_sky(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", filled(2.5, r0c0=NAN, r0c1=SKY)[..., None])
    sample = only(tmp_path, depth="a.npy", camera_px=[10, 11, 3, 2], id="one")
    is_map(sample.depth, filled(2.5, r0c0=NAN, r0c1=SKY), "depth", "none")
    assert sample.camera == Camera(10, 11, 3, 2, HEIGHT, WIDTH) and sample.id == "one"


@pytest.mark.parametrize(
    ("stored", "row", "expected", "quantity", "ambiguity"),
    [
        (filled(1500, np.uint16, r0c0=0), {"divisor": 1000}, filled(1.5, r0c0=NAN), "depth", "none"),
        (
            filled(512, np.uint16, r0c0=7, r0c1=9, r0c2=65535),
            {"divisor": 256, "invalid": [7, 9], "infinite": 65535},
            filled(2, r0c0=NAN, r0c1=NAN, r0c2=SKY),
            "depth",
            "none",
        ),
        (filled(250, np.uint16), {"divisor": 1, "unit": "cm"}, filled(2.5), "depth", "none"),
        (filled(3, np.uint8, r0c0=0), {"divisor": 2, "ambiguity": "scale"}, filled(1.5, r0c0=NAN), "depth", "scale"),
        (
            filled(64, np.uint16, r0c0=0),
            {"divisor": 64, "quantity": "disparity", "unit": "px of stereo disparity"},
            filled(1, r0c0=NAN),
            "disparity",
            "scale",
        ),
        (
            filled(9, np.uint8, r0c0=0, r0c1=255),
            {"divisor": 1, "quantity": "disparity", "unit": "1/m", "invalid": None, "infinite": 255},
            filled(9, r0c0=0, r0c1=0),
            "disparity",
            "none",
        ),
        (
            filled(9, np.uint8, r0c1=255),
            {"divisor": 1, "quantity": "disparity", "ambiguity": "scale-and-shift", "infinite": 255},
            filled(9, r0c1=NAN),
            "disparity",
            "scale-and-shift",
        ),
    ],
)
def test_stored_numbers_become_values(
    tmp_path: Path, stored: np.ndarray, row: dict[str, Any], expected: np.ndarray, quantity: str, ambiguity: str
) -> None:
    png(tmp_path / "d.png", stored)
    is_map(only(tmp_path, depth="d.png", **row).depth, expected, quantity, ambiguity)


def test_a_mask_leaves_out(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", filled(1500, np.int32))
    png(tmp_path / "m.png", filled(255, np.uint8, r3c5=0))
    sample = only(tmp_path, depth="a.npy", mask="m.png", divisor=1000, pseudo=True)
    is_map(sample.depth, filled(1.5, r3c5=NAN), "depth", "none")
    assert sample.pseudo


def test_a_file_that_says_what_it_is_need_not_be_told(tmp_path: Path) -> None:
    relative = DepthMap(filled(-0.5, r0c0=2), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    write_map(tmp_path / "d.npz", relative, "npz")
    is_map(only(tmp_path, depth="d.npz").depth, relative.values, "disparity", "scale-and-shift")
    with pytest.raises(DatoolError, match=r"the row says quantity 'depth', .*d\.npz says 'disparity'"):
        only(tmp_path, depth="d.npz", quantity="depth")


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", filled(1))
    path = manifest(tmp_path / "deep", {"image": "a.png", "depth": "../d.npy"}, {"image": str(tmp_path / "deep/a.png")})
    assert [entry.image.name for entry in Manifest(path.parent)] == ["a.png"] * 2
    assert all(read_entry(entry).image.shape == (HEIGHT, WIDTH, 3) for entry in Manifest(path))


def test_other_fields_are_kept(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"image": "a.png", "licence": "CC BY 4.0", "image_hw": [4, 6]})
    assert Manifest(path)[0].fields == {"licence": "CC BY 4.0", "image_hw": [4, 6]}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"depth": "d.png"}, r"d\.png: got a PNG without datool's text"),
        ({"depth": "d.npy"}, r"d\.npy: depth must be above 0, got 0"),
        ({"depth": "d.jpg"}, r"got '\.jpg', expected one of"),
        ({"depth": "gone.npy"}, r"gone\.npy: it is not there"),
        ({"depth": "d.npy", "quantity": "disparity"}, r"neither unit nor ambiguity"),
        ({"depth": "d.npy", "unit": "feet"}, r"unknown unit of depth 'feet'"),
        ({"depth": "d.npy", "unit": "1/m"}, r"unknown unit of depth '1/m'"),
        ({"depth": "d.npy", "mask": "wide.png"}, r"got a mask of \(4, 7\)"),
    ],
)
def test_what_is_wrong_with_the_depth_is_told_with_its_row(tmp_path: Path, row: dict[str, Any], match: str) -> None:
    png(tmp_path / "d.png", filled(5, np.uint16))
    png(tmp_path / "wide.png", np.ones((HEIGHT, WIDTH + 1), np.uint8))
    np.save(tmp_path / "d.npy", filled(1, r1c1=0))
    with pytest.raises(DatoolError, match=match) as error:
        only(tmp_path, **row)
    assert "manifest.jsonl, row 0" in error.value.problem


WRONG: dict[str, Any] = {
    "image": 3,
    "depth": ["a.npy"],
    "mask": "",
    "quantity": "distance",
    "ambiguity": "affine",
    "unit": 1,
    "divisor": 0,
    "invalid": "0",
    "infinite": [1, "2"],
    "camera_px": [1, 2, 3],
    "camera": {"fx_px": 1},
    "id": 7,
    "pseudo": 1,
    "status": True,
    "outputs": ["x"],
}


@pytest.mark.parametrize(("name", "value"), WRONG.items(), ids=WRONG)
def test_a_field_of_another_type_is_told_with_file_and_line(tmp_path: Path, name: str, value: Any) -> None:
    path = manifest(tmp_path, {"image": "a.png"}, {"image": "a.png", name: value})
    with pytest.raises(DatoolError, match=rf"manifest\.jsonl:2: '{name}' is .*, expected ") as error:
        list(MANIFEST.index(path, "all"))
    assert json.dumps(value) in error.value.problem


@pytest.mark.parametrize("line", ["{", '["a.png"]', '{"depth": "a.npy"}', '{"image": "a.p', "a.png"])
def test_a_line_that_is_no_row_is_told(tmp_path: Path, line: str) -> None:
    path = manifest(tmp_path, {"image": "a.png"}, line)
    with pytest.raises(DatoolError, match=r"manifest\.jsonl:2: "):
        list(Manifest(path))
    with pytest.raises(DatoolError, match=r"manifest\.jsonl, row 1: "):
        Manifest(path)[1]


def test_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match=r"manifest\.jsonl"):
        list(MANIFEST.index(tmp_path, "all"))
    with pytest.raises(DatoolError, match="unknown split"):
        list(MANIFEST.index(manifest(tmp_path), "train"))


# Rows of datool's


def predicted(name: str, status: str, **fields: Any) -> ManifestRow:
    model = {"model": "tiny", "model_spec": "tiny", "model_sha256": "0" * 64, "size_px": 224, "precision": "fp32"}
    return ManifestRow(input=name, status=status, formats=("png16", "color"), **model, **fields)


def test_what_predict_writes_is_a_pseudo_label(tmp_path: Path) -> None:
    image = manifest(tmp_path / "photos").with_name("a.png")
    values = DepthMap(filled(0.25, r0c0=1.5), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    outputs = {}
    for format in ("color", "png16", "npy"):
        path = output_path(tmp_path, Path("a"), format)
        write_map(path, values, format)
        outputs[format] = path.name
    meaning = {"quantity": "disparity", "ambiguity": "scale-and-shift"}
    rows = [
        predicted(str(tmp_path / "photos/broken.png"), "failed", reason="cut short"),
        predicted(str(image), "done", outputs=outputs, **meaning),
        predicted(str(image), "done", outputs={"png16": outputs["png16"]}, **meaning),
        predicted(str(tmp_path / "photos/later.png"), "pending"),
        predicted(str(image), "done", outputs={"color": outputs["color"]}, **meaning),
    ]
    write_manifest(tmp_path, rows[:-1])
    opened = Manifest(tmp_path)
    assert len(opened) == 2 == len(list(opened)) == len(list(MANIFEST.index(tmp_path, "all")))
    for entry in opened:
        sample = read_entry(entry)
        is_map(sample.depth, values.values, "disparity", "scale-and-shift")
        assert sample.pseudo and sample.id == str(image) and entry.fields["model"] == "tiny"
    assert [opened[place].depth for place in (0, 1)] == [tmp_path / "a.npy", tmp_path / "a.png"]
    write_manifest(tmp_path, rows)
    with pytest.raises(DatoolError, match="are pictures"):
        Manifest(tmp_path)[2]


# Any number of rows


def messy(folder: Path, num_rows: int) -> tuple[Path, list[str]]:
    """A manifest with blank lines, failed rows and rows that only talk of failing, and the ids that count."""
    rows: list[Any] = []
    for number in range(num_rows):
        rows.append({"image": f"{number}.jpg", "note": 'an escaped "status": "failed"', "of": {"status": "failed"}})
        if number % 7 == 3:
            rows.append({"image": "x.jpg", "status": "failed"})
        if number % 11 == 5:
            rows.append('{"status":"pending","image":"y.jpg"}')
        if number % 13 == 2:
            rows.append("" if number % 2 else "   \r")
    return manifest(folder, *rows), [f"{number}.jpg" for number in range(num_rows)]


@pytest.mark.parametrize("num_rows", [0, 1, EVERY - 1, EVERY, EVERY + 1, 3 * EVERY + 5])
@pytest.mark.parametrize("block_bytes", [97, 10_000, 1 << 24])
def test_rows_by_number_are_the_rows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int, block_bytes: int
) -> None:
    monkeypatch.setattr("datool.data.sources.manifest.BLOCK_BYTES", block_bytes)
    path, ids = messy(tmp_path, num_rows)
    opened = Manifest(path)
    assert len(opened) == num_rows and [entry.id for entry in opened] == ids
    places = {*range(min(5, num_rows)), *range(max(0, num_rows - 5), num_rows), *range(0, num_rows, 211)}
    assert all(opened[place].id == ids[place] and opened[place - num_rows].id == ids[place] for place in places)
    for outside in (num_rows, -num_rows - 1):
        with pytest.raises(IndexError):
            opened[outside]
    assert [row.id for row in MANIFEST.index(path, "all")] == ids


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"image": "a.png"}, {"image": "a.png", "id": "last"})
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(Manifest(path)) == 2 and Manifest(path)[1].id == "last" == list(entries(path))[1][1].id


def test_a_manifest_that_changed_is_noticed(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"image": "a.png", "id": "one"}, {"image": "a.png", "id": "two"})
    row = list(MANIFEST.index(path, "all"))[1]
    manifest(tmp_path, {"image": "a.png", "id": "two"}, {"image": "a.png", "id": "one"})
    with pytest.raises(DatoolError, match="row 'one', expected 'two'"):
        MANIFEST.read(row)


def test_opening_and_streaming_need_no_memory_for_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datool.data.sources.manifest.BLOCK_BYTES", 1 << 16)
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"image": "some/folder/with/a/long/name/000000000.jpg"}\n' * 50_000)  # 2.8 MB
    tracemalloc.start()
    assert len(Manifest(path)) == sum(1 for _ in MANIFEST.index(path, "all")) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000


# The real pairs


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_pairs_are_read_as_they_are() -> None:
    opened = Manifest(REAL)
    samples = {entry.id: read_entry(entry) for entry in opened}
    assert len(opened) == len(samples) == 13
    for entry in opened:
        sample = samples[entry.id]
        assert sample.depth is not None and not sample.pseudo
        assert sample.image.shape[:2] == tuple(entry.fields["image_hw"])
        assert sample.depth.shape == tuple(entry.fields["truth_hw"])
        stored = cv2.imread(str(entry.depth), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(sample.depth.valid, stored != 0)
    meanings = {sample.depth and (sample.depth.quantity, sample.depth.ambiguity) for sample in samples.values()}
    assert meanings == {(Quantity.DEPTH, Ambiguity.NONE), (Quantity.DISPARITY, Ambiguity.SCALE)}
    carla, teddy = samples["carla-street"].depth, samples["middlebury-teddy"].depth
    assert carla is not None and np.isposinf(carla.values).mean() > 0.05
    assert teddy is not None and teddy.quantity is Quantity.DISPARITY
    assert samples["icl-office-1"].camera == Camera(481.2, -480.0, 319.5, 239.5, 480, 640)
