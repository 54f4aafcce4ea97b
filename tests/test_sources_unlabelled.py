"""Laws of unlabelled sets: every image once, whatever holds it; the broken is named, the dangerous refused."""

import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from datool.data.sources.base import Row, Source
from datool.data.sources.image_folders import image_folders
from datool.data.sources.image_lmdb import _open, image_lmdb
from datool.data.sources.image_shards import image_shards
from datool.data.sources.image_tars import image_tars
from datool.data.sources.video_frames import video_frames
from datool.errors import DatoolError

FOLDERS, TARS, SHARDS = image_folders("folders"), image_tars("tars"), image_shards("shards")
LMDB, VIDEOS = image_lmdb("lmdb"), video_frames("videos")


def encoded(grey: int, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, np.full((6, 8, 3), grey, np.uint8))[1].tobytes()


def tar(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def rows(source: Source, root: Path, split: str | None = None) -> list[Row]:
    return list(source.index(root, source.splits[0] if split is None else split))


def greys(source: Source, found: list[Row]) -> dict[str, int]:
    """The grey of each image by its id."""
    samples = [source.read(row) for row in found]
    assert all(sample.depth is None and sample.id == row.id for sample, row in zip(samples, found, strict=True))
    return {sample.id: int(sample.image.mean()) for sample in samples}


# Folders


def test_folders_give_every_image_and_a_split_is_a_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("train/b/1.png", "train/a.png", "val/x.png", "train/._a.png", "train/notes.txt")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(number))
    assert greys(FOLDERS, rows(FOLDERS, tmp_path)) == {"train/a.png": 1, "train/b/1.png": 0, "val/x.png": 2}
    assert [row.id for row in rows(FOLDERS, tmp_path, "train")] == ["train/a.png", "train/b/1.png"]
    for split in ("test", "../train", str(tmp_path / "train")):
        with pytest.raises(DatoolError, match="has no folder"):
            rows(FOLDERS, tmp_path, split)


# Tars


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".tar.gz"])
def test_tars_give_every_image_in_any_order_of_asking(tmp_path: Path, suffix: str) -> None:
    files = {f"./x/sa_{number}.png": encoded(number) for number in (30, 10, 20)}
    tar(tmp_path / f"part/sa_000000{suffix}", {"x/sa_10.json": b"{}", **files, "x/._sa_10.png": b"mac"})
    tar(tmp_path / f"sa_000001{suffix}", {"y" * 150 + ".png": encoded(40)})  # a name too long for one header
    found = rows(TARS, tmp_path)
    expected = {f"part/sa_000000{suffix}/x/sa_{number}.png": number for number in (10, 20, 30)}
    expected[f"sa_000001{suffix}/{'y' * 150}.png"] = 40
    assert greys(TARS, found) == greys(TARS, found[::-1]) == expected
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(lambda row: (row.id, int(TARS.read(row).image.mean())), found * 10)
    assert all(expected[name] == grey for name, grey in read)


def test_rows_of_a_plain_tar_are_sorted(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"2.png": encoded(2), "1.png": encoded(1)})
    tar(tmp_path / "a.b.tar", {"3.png": encoded(3)})
    ids = [row.id for row in rows(TARS, tmp_path)]
    assert ids == sorted(ids)


def link(kind: bytes, name: str = "a.png") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("source", [TARS, SHARDS], ids=["tars", "shards"])
@pytest.mark.parametrize(
    "info",
    [
        tarfile.TarInfo("../a.png"),
        tarfile.TarInfo("x/../../a.png"),
        tarfile.TarInfo("/etc/a.png"),
        tarfile.TarInfo("C:\\a.png"),
        link(tarfile.SYMTYPE),
        link(tarfile.LNKTYPE),
        link(tarfile.CHRTYPE),
        link(tarfile.FIFOTYPE, "pipe"),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_dangerous_members_are_refused(tmp_path: Path, source: Source, info: tarfile.TarInfo) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        out.addfile(info)
    with pytest.raises(DatoolError, match=r"refused .*a\.tar: member") as error:
        rows(source, tmp_path)
    assert info.name in error.value.problem


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
@pytest.mark.parametrize("keep", [0, 100, 700, 2000])
def test_a_tar_that_is_cut_short_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    path = tar(tmp_path / f"a{suffix}", {"1.png": encoded(1), "2.png": noise})
    (row, _) = rows(TARS, tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatoolError, match=rf"a\{suffix}"):
        rows(TARS, tmp_path)
    if keep < 600:
        with pytest.raises(DatoolError, match=rf"a\{suffix}"):
            TARS.read(Row(row.id + "2", path, member=row.member))


def test_a_broken_image_names_its_member_and_tar(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"x/1.png": encoded(1)[:40]})
    with pytest.raises(DatoolError, match=rf"x/1\.png in {path}"):
        TARS.read(rows(TARS, tmp_path)[0])


# WebDataset shards


def shard(path: Path, *keys: str, suffix: str = "png") -> Path:
    files: dict[str, bytes] = {}
    for key in keys:
        files[f"{key}.json"] = json.dumps({"status": "success", "key": key}).encode()
        files[f"{key}.{suffix}"] = encoded(int(key[-2:]))
        files[f"{key}.txt"] = b"a caption"
    return tar(path, files)


def test_shards_give_a_row_a_key(tmp_path: Path) -> None:
    shard(tmp_path / "00000.tar", "000000000", "000000001")
    shard(tmp_path / "00001.tar", "000010007")
    found = rows(SHARDS, tmp_path)
    assert greys(SHARDS, found) == {"00000.tar/000000000": 0, "00000.tar/000000001": 1, "00001.tar/000010007": 7}


def test_only_the_image_of_a_key_counts(tmp_path: Path) -> None:
    files = {"d.x/01.depth.png": encoded(9), "d.x/01.JPG": encoded(1, ".jpg"), "d.x/01.png": encoded(8), "02.cls": b"3"}
    tar(tmp_path / "0.tar", files)
    assert greys(SHARDS, rows(SHARDS, tmp_path)) == {"0.tar/d.x/01": 1}


def test_shards_are_named_by_braces(tmp_path: Path) -> None:
    for number in range(12):
        shard(tmp_path / f"laion/{number:05d}.tar", f"{number:09d}")
    chosen = ["00009.tar/000000009", "00010.tar/000000010"]
    assert [row.id for row in rows(SHARDS, tmp_path / "laion", "{00009..00010}.tar")] == chosen
    assert [row.id for row in rows(SHARDS, tmp_path / "laion" / "{00009..00010}.tar")] == chosen
    assert len(rows(SHARDS, tmp_path, "laion/{00000,00003}.tar")) == 2
    with pytest.raises(DatoolError, match=r"2 of the 3 shards .* first .*00012\.tar"):
        rows(SHARDS, tmp_path / "laion", "{00011..00013}.tar")


def test_our_rows_are_those_of_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as out:
        for number in range(5):
            out.write({"__key__": f"a/{number:03d}", "jpg": encoded(number, ".jpg"), "txt": "caption", "json": {}})
    theirs = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    assert [row.id for row in rows(SHARDS, tmp_path)] == [f"0.tar/{sample['__key__']}" for sample in theirs]


# LMDB


def lmdb_tree(root: Path) -> Path:
    lmdb = pytest.importorskip("lmdb")
    for category, key in (("kitchen_val_lmdb", "b"), ("bedroom_train_lmdb", "c"), ("bedroom_train_lmdb", "a")):
        (root / category).mkdir(parents=True, exist_ok=True)
        with lmdb.open(str(root / category), map_size=1 << 20) as database, database.begin(write=True) as writing:
            writing.put(key.encode(), encoded(ord(key), ".webp"))
            writing.put(key.encode() + b"\xff", encoded(9))
    return root


def test_lmdb_gives_every_key(tmp_path: Path) -> None:
    found = rows(LMDB, lmdb_tree(tmp_path))
    assert greys(LMDB, found) == {
        f"{place}{end}": grey
        for place, known in (("bedroom_train_lmdb/a", 97), ("bedroom_train_lmdb/c", 99), ("kitchen_val_lmdb/b", 98))
        for end, grey in (("", known), ("\udcff", 9))
    }
    assert rows(LMDB, tmp_path, "kitchen_val_lmdb")[0].id == "kitchen_val_lmdb/b"


def test_threads_open_a_database_once(tmp_path: Path) -> None:
    (row, *_) = rows(LMDB, lmdb_tree(tmp_path))
    _open.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert {int(sample.image.mean()) for sample in pool.map(LMDB.read, [row] * 64)} == {97}


def test_lmdb_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = lmdb_tree(tmp_path / "whole") / "kitchen_val_lmdb/data.mdb"
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/data.mdb").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatoolError, match=r"cut: no LMDB, or cut short"):
        rows(LMDB, tmp_path / "cut")


# Video

RATE = 10


def video(path: Path, num_frames: int = 35, group: int = 12, offset: int = 0) -> Path:
    """A video of 10 frames a second whose frame k shows k in eight black or white bars, with few key frames."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = group, 2
        for number in range(num_frames):
            bars = np.repeat(np.unpackbits(np.array([number], np.uint8)) * 255, 8)
            pixels = np.broadcast_to(bars[None, :, None], (48, 64, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number + offset, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def frame_number(source: Source, row: Row) -> int:
    bars = source.read(row).image.mean((0, 2)).reshape(8, 8).mean(1) > 127
    return int(np.packbits(bars)[0])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_videos_give_the_frame_that_is_shown_at_each_moment(tmp_path: Path, suffix: str) -> None:
    video(tmp_path / f"train/a{suffix}")
    found = rows(VIDEOS, tmp_path, "2fps")
    assert [row.id for row in found] == [f"train/a{suffix}/{half * 500_000:012d}" for half in range(7)]
    assert [frame_number(VIDEOS, row) for row in found] == [0, 5, 10, 15, 20, 25, 30]
    assert [frame_number(VIDEOS, row) for row in found[::-1]] == [30, 25, 20, 15, 10, 5, 0]
    assert VIDEOS.read(found[0]).image.shape == (48, 64, 3)


def test_any_rate_in_any_order(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    found = rows(VIDEOS, tmp_path, "3fps")
    expected = [number * RATE // 3 for number in range(11)]
    assert [frame_number(VIDEOS, row) for row in found] == expected
    order = np.random.default_rng(0).permutation(len(found))
    assert [frame_number(VIDEOS, found[place]) for place in order] == [expected[place] for place in order]
    assert [frame_number(VIDEOS, row) for row in rows(VIDEOS, tmp_path, "10fps")] == list(range(35))
    assert [frame_number(VIDEOS, row) for row in rows(VIDEOS, tmp_path, "20fps")[:4]] == [0, 0, 1, 1]
    assert len(rows(VIDEOS, tmp_path, "0.1fps")) == 1


def test_a_video_that_begins_late_begins_at_zero(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", num_frames=20, offset=7)
    assert [frame_number(VIDEOS, row) for row in rows(VIDEOS, tmp_path, "10fps")] == list(range(20))


def test_threads_do_not_move_each_others_video(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    found = rows(VIDEOS, tmp_path, "10fps")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda row: frame_number(VIDEOS, row), found)) == list(range(35))


def test_a_video_that_was_taken_upright_is_turned(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    # The track header's display matrix: a quarter turn clockwise. Source: ISO/IEC 14496-12, 8.3.2.
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    image = VIDEOS.read(rows(VIDEOS, tmp_path, "0.5fps")[1]).image
    assert image.shape == (64, 48, 3)
    bars = image.mean((1, 2)).reshape(8, 8).mean(1) > 127  # what was left is on top
    assert int(np.packbits(bars)[0]) == 20


def test_a_broken_video_is_a_row_that_fails(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(path.read_bytes()[:500])
    found = rows(VIDEOS, tmp_path, "1fps")
    assert [row.image.name for row in found] == ["a.mp4"] * 4 + ["b.mp4"]
    with pytest.raises(DatoolError, match=r"b\.mp4: no video, or cut short"):
        VIDEOS.read(found[-1])


@pytest.mark.parametrize("split", ["all", "0fps", "-1fps", "fps", "1"])
def test_what_is_no_rate_is_told(tmp_path: Path, split: str) -> None:
    with pytest.raises(DatoolError, match="is no rate of frames"):
        rows(VIDEOS, tmp_path, split)


# What every set owes


@pytest.mark.parametrize("source", [FOLDERS, TARS, SHARDS, LMDB, VIDEOS], ids=lambda source: source.title)
def test_a_wrong_root_names_the_expected_layout(tmp_path: Path, source: Source) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.md").write_text("")
    with pytest.raises(DatoolError) as error:
        rows(source, tmp_path / "nowhere")
    assert source.layout in error.value.hint
    with pytest.raises(DatoolError) as error:
        rows(source, tmp_path / "empty")
    assert source is FOLDERS or source.layout in error.value.hint


@pytest.mark.parametrize(
    ("source", "package", "extra", "build"),
    [
        (LMDB, "lmdb", "data", lmdb_tree),
        (VIDEOS, "av", "video", lambda root: video(root / "a.mp4")),
        (SHARDS, "braceexpand", "data", lambda root: shard(root / "0.tar", "00")),
    ],
    ids=["lmdb", "av", "braceexpand"],
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Source,
    package: str,
    extra: str,
    build: Callable[[Path], object],
) -> None:
    build(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DatoolError, match="optional library") as error:
        rows(source, tmp_path, "{0..0}.tar" if source is SHARDS else None)
    assert f"datool[{extra}]" in error.value.hint
