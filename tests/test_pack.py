"""Laws of packing: the shards hold what the source gave, and no kill, thread or rerun changes a byte."""

import hashlib
import io
import random
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from datool.data.sample import Sample
from datool.data.shards import open_shards
from datool.data.sources.base import Row, Source
from datool.data.sources.table import SOURCES
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.jobs.data.pack import PackOptions, pack
from datool.progress import Progress

ROOT = Path(__file__).parent.parent
HEIGHT, WIDTH = 10, 14


def picture(number: int, ending: str = "jpg") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return cv2.imencode(f".{ending}", pixels)[1].tobytes()


def images(root: Path, count: int) -> Path:
    for number in range(count):
        path = root / f"{number % 3}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return root


def manifest(root: Path, count: int) -> Path:
    """Rows with a JPEG, a PNG or a TIFF, and depth in 16-bit millimetres."""
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        ending = ("jpg", "png", "tiff")[number % 3]
        (root / f"{number}.{ending}").write_bytes(picture(number, ending))
        depth = np.random.default_rng(number).integers(0, 60000, (HEIGHT, WIDTH), dtype=np.uint16)
        cv2.imwrite(str(root / f"{number}-depth.png"), depth)
        lines.append(
            f'{{"image": "{number}.{ending}", "depth": "{number}-depth.png", "divisor": 1000, '
            f'"camera_px": [10, 10, 7, 5], "pseudo": {"true" if number % 2 else "false"}}}\n'
        )
    (root / "manifest.jsonl").write_text("".join(lines))
    return root


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def samples(folder: Path) -> list[Sample]:
    shards = open_shards(folder)
    return [shards.read(shard, number) for shard, count in enumerate(shards.counts) for number in range(count)]


def assert_as_the_source(folder: Path, name: str, root: Path) -> None:
    source = SOURCES[name]
    expected = [source.read(row) for row in source.index(root, source.splits[0])]
    packed = samples(folder)
    assert [one.id for one in packed] == [one.id for one in expected]
    for one, two in zip(packed, expected, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        assert (one.camera, one.pseudo, one.depth is None) == (two.camera, two.pseudo, two.depth is None)
        if one.depth is not None:
            assert (one.depth.quantity, one.depth.ambiguity) == (two.depth.quantity, two.depth.ambiguity)
            np.testing.assert_array_equal(one.depth.values, two.depth.values)


def test_a_folder_keeps_its_files_byte_for_byte(tmp_path):
    root = images(tmp_path / "in", 10)
    seen: list[Progress] = []
    summary = pack(PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=4), seen.append)
    assert (summary.num_shards, summary.num_samples, summary.num_failed, summary.num_skipped) == (3, 10, 0, 0)
    assert summary.num_bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert [step.done for step in seen] == list(range(1, 11))
    assert_as_the_source(tmp_path / "out", "images", root)
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        assert tar.extractfile("000000000.jpg").read() == (root / "0" / "000.jpg").read_bytes()


@pytest.mark.parametrize("image", ["original", "png", "jpeg"])
def test_a_manifest_is_packed_exactly(image, tmp_path):
    pytest.importorskip("OpenEXR")
    root = manifest(tmp_path / "in", 7)
    pack(PackOptions(source="manifest", out=tmp_path / "out", root=root, rows_per_shard=3, image=image))
    endings = set()
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            endings |= {name.partition(".")[2] for name in tar.getnames()}
    pictures = {"original": {"jpg", "png"}, "png": {"png"}, "jpeg": {"jpg"}}[image]
    assert endings == {"json", "depth.exr"} | pictures
    if image != "jpeg":
        assert_as_the_source(tmp_path / "out", "manifest", root)


def test_a_turned_photo_is_stored_as_it_is_and_read_upright(tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), (200, 10, 10)).save(tmp_path / "in" / "a.jpg", exif=exif)
    pack(PackOptions(source="images", out=tmp_path / "out", root=tmp_path / "in"))
    assert samples(tmp_path / "out")[0].image.shape == (8, 4, 3)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tars_are_packed_without_unpacking(name, tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / name, "w:gz" if name.endswith("gz") else "w") as tar:
        for number in range(5):
            info = tarfile.TarInfo(f"x/{number}.jpg")
            info.size = len(picture(number))
            tar.addfile(info, io.BytesIO(picture(number)))
    pack(PackOptions(source="tars", out=tmp_path / "out", root=tmp_path / "in", rows_per_shard=2))
    assert_as_the_source(tmp_path / "out", "tars", tmp_path / "in")


def test_shards_packed_again_are_the_same_images(tmp_path):
    images(tmp_path / "in", 6)
    pack(PackOptions(source="images", out=tmp_path / "one", root=tmp_path / "in", rows_per_shard=2))
    pack(PackOptions(source="shards", out=tmp_path / "two", root=tmp_path / "one", rows_per_shard=5))
    for one, two in zip(samples(tmp_path / "one"), samples(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(one.image, two.image)


def test_threads_and_reruns_change_no_byte(tmp_path):
    root = manifest(tmp_path / "in", 11)
    options = PackOptions(source="manifest", out=tmp_path / "one", root=root, rows_per_shard=4, depth="npz")
    pack(options)
    pack(replace(options, out=tmp_path / "two", threads=3))
    whole = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == whole
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "one").glob("*.tar"))]
    summary = pack(options)
    assert (summary.num_skipped, summary.images_per_s, summary.num_samples) == (11, 0, 11)
    assert contents(tmp_path / "one") == whole
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "one").glob("*.tar"))] == times


def test_the_bytes_do_not_depend_on_where_the_source_lies(tmp_path):
    pack(PackOptions(source="images", out=tmp_path / "one", root=images(tmp_path / "here", 5), rows_per_shard=2))
    pack(PackOptions(source="images", out=tmp_path / "two", root=images(tmp_path / "there", 5), rows_per_shard=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_rows_that_fail_are_kept_with_their_reason(tmp_path):
    root = images(tmp_path / "in", 8)
    (root / "0" / "003.jpg").write_bytes(picture(3)[:100])
    (root / "1" / "004.jpg").write_bytes(b"")
    summary = pack(PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=3))
    assert (summary.num_samples, summary.num_failed) == (6, 2)
    reasons = {failed.id: failed.reason for failed in summary.failed}
    assert set(reasons) == {"0/003.jpg", "1/004.jpg"}
    assert "cut short" in reasons["0/003.jpg"] and "empty" in reasons["1/004.jpg"]
    again = pack(PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=3))
    assert again.failed == summary.failed


def test_a_source_of_which_nothing_can_be_read_is_not_packed(tmp_path):
    root = images(tmp_path / "in", 4)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(DatoolError, match=r"no row of the first shard can be read; '0/000\.jpg'"):
        pack(PackOptions(source="images", out=tmp_path / "out", root=root))
    assert not list((tmp_path / "out").glob("*.tar")) and not list((tmp_path / "out").glob("*.tmp"))
    images(root, 4)
    assert pack(PackOptions(source="images", out=tmp_path / "out", root=root)).num_samples == 4


def test_another_list_or_other_settings_are_not_mixed_in(tmp_path):
    root = images(tmp_path / "in", 9)
    options = PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=3)
    pack(options)
    for change, message in (({"image": "png"}, "image was 'original', now 'png'"), ({"rows_per_shard": 4}, "was 3")):
        with pytest.raises(DatoolError, match=message):
            pack(replace(options, **change))
    (root / "1" / "010.jpg").write_bytes(picture(10))
    with pytest.raises(DatoolError, match="packed from other rows"):
        pack(options)


def test_rows_of_the_same_ids_but_other_files_are_another_list(tmp_path):
    root = manifest(tmp_path / "in", 4)
    rows = tmp_path / "in" / "manifest.jsonl"
    rows.write_text('{"id": "a", "image": "0.jpg"}\n')
    pack(PackOptions(source="manifest", out=tmp_path / "out", root=root, depth="npz"))
    rows.write_text('{"id": "a", "image": "3.jpg"}\n')
    with pytest.raises(DatoolError, match="packed from other rows"):
        pack(PackOptions(source="manifest", out=tmp_path / "out", root=root, depth="npz"))


def test_an_image_that_its_reader_changes_is_stored_as_read(tmp_path):
    root = images(tmp_path / "in", 2)
    plain = SOURCES["images"]

    def read(row: Row) -> Sample:
        sample = plain.read(row)
        return replace(sample, image=255 - sample.image)

    pack(PackOptions(source=replace(plain, read=read, title="negatives"), out=tmp_path / "out", root=root, depth="npz"))
    for one, row in zip(samples(tmp_path / "out"), plain.index(root, "all"), strict=True):
        np.testing.assert_array_equal(one.image, 255 - plain.read(row).image)


def test_wrong_options_say_so_before_anything_is_written(tmp_path):
    root = images(tmp_path / "in", 2)
    own = replace(SOURCES["images"], title="mine")
    for options, message in (
        (PackOptions(source="imags", out=tmp_path / "out", root=root), "Did you mean 'images'"),
        (PackOptions(source="images", out=tmp_path / "out", root=tmp_path / "no"), "no files of 'images'"),
        (PackOptions(source="images", out=tmp_path / "out", root=root, split="no"), "no folder 'no'"),
        (PackOptions(source="images", out=tmp_path / "out", root=root, image="gif"), "unknown image format"),
        (PackOptions(source="images", out=tmp_path / "out", root=root, depth="color"), "is a picture"),
        (PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=0), "expected at least 1"),
        (PackOptions(source="images", out=tmp_path / "out", root=root, threads=0), "threads"),
        (PackOptions(source=own, out=tmp_path / "out"), "no root for mine"),
    ):
        with pytest.raises(DatoolError, match=message):
            pack(options)
        assert not list((tmp_path / "out").glob("*.tar")) if (tmp_path / "out").exists() else True


def test_a_source_of_ones_own_is_packed(tmp_path):
    def index(root: Path, split: str):
        return (Row(f"{number}", root, member=number) for number in range(5))

    def read(row: Row) -> Sample:
        image = np.full((4, 6, 3), row.member, np.uint8)
        return Sample(row.id, image, DepthMap(np.full((4, 6), 1.5, np.float32), Quantity.DEPTH, Ambiguity.NONE))

    source = Source(index, read, ("all",), "none", Quantity.DEPTH, Ambiguity.NONE, "generated")
    pack(PackOptions(source=source, out=tmp_path / "out", root=tmp_path, rows_per_shard=2, depth="png16"))
    packed = samples(tmp_path / "out")
    assert [one.image[0, 0, 0] for one in packed] == [0, 1, 2, 3, 4] and packed[0].depth.values[0, 0] == 1.5


def test_failed_rows_are_tried_again_when_asked(tmp_path):
    root = images(tmp_path / "in", 9)
    broken = root / "1" / "004.jpg"
    whole, broken_bytes = broken.read_bytes(), b"nothing"
    broken.write_bytes(broken_bytes)
    options = PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=3)
    pack(options)
    broken.write_bytes(whole)
    assert pack(options).num_failed == 1
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    again = pack(replace(options, retry_failed=True))
    assert (again.num_failed, again.num_samples, again.num_skipped) == (0, 9, 6)
    changed = [path.name for path in (tmp_path / "out").glob("*.tar") if path.stat().st_mtime_ns != times[path.name]]
    assert changed == ["000001.tar"]
    pack(replace(options, out=tmp_path / "new"))
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
    broken.write_bytes(broken_bytes)
    assert pack(replace(options, retry_failed=True)).num_failed == 0  # what is packed is not read again


def test_a_retry_that_is_killed_is_gone_on_with(tmp_path):
    root = images(tmp_path / "in", 6)
    (root / "0" / "000.jpg").write_bytes(b"nothing")
    options = PackOptions(source="images", out=tmp_path / "out", root=root, rows_per_shard=3)
    pack(options)
    (root / "0" / "000.jpg").write_bytes(picture(0))

    def kill(step):
        if step.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(replace(options, retry_failed=True), kill)
    assert pack(options).num_failed == 0
    pack(replace(options, out=tmp_path / "new"))
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_images_of_a_database_keep_their_bytes(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "in")) as database, database.begin(write=True) as writing:
        for number, ending in enumerate(("jpg", "png", "webp", "bmp")):
            writing.put(f"{number}".encode(), picture(number, ending))
    pack(PackOptions(source="lmdb", out=tmp_path / "out", root=tmp_path / "in"))
    assert_as_the_source(tmp_path / "out", "lmdb", tmp_path / "in")
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        found = {name: tar.extractfile(name).read() for name in tar.getnames() if not name.endswith("json")}
    assert [name.partition(".")[2] for name in found] == ["jpg", "png", "webp", "png"]
    for number, (name, data) in enumerate(found.items()):
        assert data == picture(number, name.partition(".")[2]) or number == 3


# It says when a row is done, so that kills hit while shards are written.
CHILD = """
import sys
from pathlib import Path
from datool.jobs.data.pack import PackOptions, pack
from datool.progress import Progress

options = PackOptions(
    source="manifest", out=Path(sys.argv[1]), root=Path(sys.argv[2]), rows_per_shard=3, depth="npz"
)
pack(options, lambda step: step.done and print("done", flush=True))
"""


def test_twenty_kills_change_no_byte(tmp_path):
    root = manifest(tmp_path / "in", 90)
    pack(PackOptions(source="manifest", out=tmp_path / "whole", root=root, rows_per_shard=3, depth="npz"))
    rng = random.Random(0)
    kills, torn, sets = 0, 0, 0
    while kills < 20:
        sets += 1  # one more when a set was finished before it was killed so often
        out = tmp_path / f"killed-{sets}"
        while kills < 20:
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(out), str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            for _ in range(rng.randint(1, 7)):
                child.stdout.readline()
            time.sleep(rng.uniform(0, 0.004))
            child.kill()
            child.communicate()
            if child.returncode == 0:
                break
            assert child.returncode == -signal.SIGKILL
            kills += 1
            torn += any(out.glob(".datool-*.tmp"))
        pack(PackOptions(source="manifest", out=out, root=root, rows_per_shard=3, depth="npz"))
        assert contents(out) == contents(tmp_path / "whole")
    print(f"{kills} kills of {sets} sets, {torn} inside a shard")
    assert torn > 0, "no kill hit while a shard was written"
