"""Laws of the data engine: each bad image goes for its reason, good ones stay, and nothing is measured twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from datool.cli import app
from datool.data.batches.datasets import SetSpec, open_set
from datool.errors import DatoolError
from datool.jobs.data import filter as data_filter
from datool.jobs.data.duplicates import earlier_alike
from datool.jobs.data.filter import FilterOptions, Limits, filter_images
from datool.jobs.data.pack import PackOptions, pack

PHOTOS = Path(__file__).parent.parent.parent / "shared" / "photos"

pytest.importorskip("imagehash")


def photo(number: int, height: int = 300, width: int = 400) -> np.ndarray:
    """Return a picture with shapes, shades and texture."""
    rng = np.random.default_rng(number)
    pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(30):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(pixels, centre, int(rng.integers(8, 60)), rng.integers(0, 256, 3).tolist(), -1)
    noise = rng.normal(0, 12, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def page() -> np.ndarray:
    image = Image.new("RGB", (600, 800), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for row in range(24):
        draw.text((30, 30 + 30 * row), "the depth of a scene from one picture is learnt", fill="black", font=font)
    return np.array(image)


def framed() -> np.ndarray:
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[50:350] = photo(8)
    return pixels


BAD: dict[str, np.ndarray] = {
    "small": photo(1, 100, 400),
    "elongated": photo(2, 300, 1000),
    "flat": np.full((300, 400, 3), 90, np.uint8),
    "padded": framed(),
    "text": page(),
    "blurred": cv2.GaussianBlur(photo(3), (0, 0), 6),
    "alike": cv2.resize(photo(100), (480, 360), interpolation=cv2.INTER_AREA),
}
NUM_GOOD = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number in range(NUM_GOOD):
        cv2.imwrite(str(root / f"{number:03d}.jpg"), photo(100 + number))
    for name, pixels in BAD.items():
        cv2.imwrite(str(root / f"x-{name}.jpg"), pixels[:, :, ::-1] if name != "alike" else pixels)
    (root / "x-broken.jpg").write_bytes((root / "000.jpg").read_bytes()[:500])
    return root


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_bad_image_goes_for_its_reason(images, tmp_path):
    summary = filter_images(FilterOptions(inputs=[str(images)], out=tmp_path / "kept.jsonl", num_workers=1))
    assert summary.num_images == NUM_GOOD + len(BAD) + 1 and summary.num_kept == NUM_GOOD
    rejected = lines(summary.rejected)
    assert {row["id"]: row["reason"] for row in rejected} == {f"x-{name}.jpg": name for name in (*BAD, "broken")}
    values = {row["reason"]: row["value"] for row in rejected}
    assert values["alike"] == "000.jpg" and "cut short" in values["broken"] and values["small"] == "100x400"
    assert summary.reasons == dict.fromkeys(data_filter.REASONS, 1)
    assert [row["id"] for row in lines(summary.out)] == [f"{number:03d}.jpg" for number in range(NUM_GOOD)]


def test_the_list_is_a_manifest(images, tmp_path):
    filter_images(FilterOptions(inputs=[str(images)], out=tmp_path / "lists" / "kept.jsonl", num_workers=1))
    kept = open_set(SetSpec("manifest", tmp_path / "lists" / "kept.jsonl"))
    assert kept.counts == [NUM_GOOD] and kept.read(0, 3).image.shape == (300, 400, 3)


def test_rows_of_a_manifest_stay_whole(images, tmp_path):
    source = tmp_path / "in" / "manifest.jsonl"
    source.parent.mkdir()
    cv2.imwrite(str(source.parent / "a.jpg"), photo(5))
    np.save(source.parent / "a.npy", np.ones((300, 400), np.float32))
    source.write_text('{"image": "a.jpg", "depth": "a.npy", "licence": "mine", "camera_px": [9, 9, 9, 9]}\n')
    filter_images(FilterOptions(inputs=[str(source)], out=tmp_path / "out" / "kept.jsonl", num_workers=1))
    row = lines(tmp_path / "out" / "kept.jsonl")[0]
    assert row["licence"] == "mine" and row["camera_px"] == [9, 9, 9, 9]
    sample = open_set(SetSpec("manifest", tmp_path / "out" / "kept.jsonl")).read(0, 0)
    assert sample.depth is not None and sample.camera is not None


def test_kills_and_workers_change_nothing_and_limits_cost_nothing(images, tmp_path, monkeypatch):
    whole = FilterOptions(inputs=[str(images)], out=tmp_path / "whole" / "kept.jsonl", num_workers=1)
    filter_images(whole)
    killed = replace(whole, out=tmp_path / "killed" / "kept.jsonl")
    monkeypatch.setattr(data_filter, "BATCH", 4)
    for after in (4, 8, 12):

        def stop(progress, after=after):
            if progress.done + progress.failed >= after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            filter_images(killed, stop)
        records = killed.out.with_name("kept.jsonl.measures") / "records.bin"
        with open(records, "ab") as file:
            file.write(b"half a record")
        assert not killed.out.exists()
    last = filter_images(replace(killed, num_workers=2))
    assert 0 < last.num_measured < last.num_images
    for name in ("kept.jsonl", "kept.rejected.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    strict = filter_images(replace(killed, limits=Limits(min_side_px=301)))
    assert strict.num_measured == 0 and strict.num_kept < NUM_GOOD


def test_measures_of_other_images_are_not_used(images, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), photo(0))
    filter_images(FilterOptions(inputs=[str(tmp_path)], out=tmp_path / "kept.jsonl", num_workers=1))
    (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")
    with pytest.raises(DatoolError, match="measures of other images"):
        filter_images(FilterOptions(inputs=[str(tmp_path)], out=tmp_path / "kept.jsonl", num_workers=1))
    with pytest.raises(DatoolError, match="no data set"):
        filter_images(FilterOptions(inputs=[str(tmp_path / "no")], out=tmp_path / "k.jsonl"))


def test_what_is_kept_of_shards_is_packed(images, tmp_path):
    pack(PackOptions(source="images", out=tmp_path / "all", root=images, rows_per_shard=10))
    summary = filter_images(FilterOptions(inputs=[str(tmp_path / "all")], out=tmp_path / "kept.jsonl", num_workers=1))
    assert summary.num_kept == NUM_GOOD and summary.reasons["broken"] == 0
    packed = pack(PackOptions(source="shards", out=tmp_path / "kept", root=tmp_path / "all", only=summary.out))
    assert packed.num_samples == NUM_GOOD
    (tmp_path / "other.jsonl").write_text('{"id": "nothing"}\n')
    with pytest.raises(DatoolError, match="names 'nothing'"):
        pack(PackOptions(source="shards", out=tmp_path / "none", root=tmp_path / "all", only=tmp_path / "other.jsonl"))


@pytest.mark.parametrize("radius", [0, 1, 4, 7])
def test_the_earliest_alike_is_found_as_by_comparing_all(radius):
    rng = np.random.default_rng(radius)
    hashes = rng.integers(0, 1 << 63, 300, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (300, radius + 1), np.uint64)
    hashes = np.concatenate([hashes, np.bitwise_xor.reduce(flips, axis=1) ^ hashes, hashes[:50]])
    differ = np.array([[bin(int(a) ^ int(b)).count("1") for b in hashes] for a in hashes])
    expected = [next((j for j in range(i) if differ[i, j] <= radius), -1) for i in range(len(hashes))]
    assert earlier_alike(hashes, radius).tolist() == expected


def test_the_command_lists(images, tmp_path):
    arguments = ["data", "filter", str(images), "--out", str(tmp_path / "kept.jsonl"), "--workers", "1", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_kept"] == NUM_GOOD


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the real photos")
def test_good_photos_stay(tmp_path):
    chosen = tmp_path / "photos.jsonl"
    paths = sorted(PHOTOS.glob("*.jpg"))[::40]
    chosen.write_text("".join(json.dumps({"image": str(path)}) + "\n" for path in paths))
    summary = filter_images(FilterOptions(inputs=[str(chosen)], out=tmp_path / "kept.jsonl", num_workers=1))
    reasons = Counter(row["reason"] for row in lines(summary.rejected))
    assert summary.num_kept >= 0.97 * len(paths), reasons
