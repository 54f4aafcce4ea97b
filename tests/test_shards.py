"""Laws of shards: read(write(x)) = x, the same bytes each time, others read them, and what is not whole is refused."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datool.data.sample import Sample
from datool.data.shards import (
    INDEX,
    Failed,
    Shard,
    ShardSet,
    ShardWriter,
    decode_sample,
    encode_sample,
    image_ending,
    open_shards,
)
from datool.data.shards.tars import members, read_member
from datool.data.sources import image_shards
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import MAP_FORMATS

ROOT = Path(__file__).parent.parent
SETTINGS = {"source": "generated"}
HEIGHT, WIDTH = 12, 16


def generated(number: int) -> Sample:
    """Labelled with depth, disparity or nothing in turn; with and without a camera."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    values = rng.uniform(0.1, 90, (HEIGHT, WIDTH)).astype(np.float32)
    values[0, :3] = np.nan
    depth = None
    if number % 3 == 0:
        values[1, :4] = np.inf
        depth = DepthMap(values, Quantity.DEPTH, Ambiguity.SCALE if number % 2 else Ambiguity.NONE)
    elif number % 3 == 1:
        depth = DepthMap(values - 10, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    camera = Camera(20.0, 20.5, 8.0, 6.25, HEIGHT, WIDTH) if number % 2 else None
    return Sample(f"a.b/{number}.é", image, depth, camera, pseudo=number % 3 == 1)


def assert_same(one: Sample, two: Sample) -> None:
    assert (one.id, one.camera, one.pseudo) == (two.id, two.camera, two.pseudo)
    np.testing.assert_array_equal(one.image, two.image)
    assert (one.depth is None) == (two.depth is None)
    if one.depth is not None and two.depth is not None:
        assert (one.depth.quantity, one.depth.ambiguity) == (two.depth.quantity, two.depth.ambiguity)
        np.testing.assert_array_equal(one.depth.values, two.depth.values)


def write_set(folder: Path, count: int = 11, per_shard: int = 4, depth: str = "npz") -> Path:
    with ShardWriter(folder, SETTINGS, per_shard) as writer:
        for number, first in enumerate(range(0, count, per_shard)):
            rows = range(first, min(first + per_shard, count))
            if not writer.is_finished(number, str(rows)):
                writer.write(number, str(rows), (encode_sample(generated(row), depth=depth) for row in rows))
        writer.finish(number + 1)
    return folder


def all_of(shards: ShardSet) -> list[Sample]:
    return [shards.read(shard, number) for shard, count in enumerate(shards.counts) for number in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(tmp_path):
    shards = open_shards(write_set(tmp_path / "set"))
    assert len(shards) == 11 and shards.counts == [4, 4, 3]
    read = all_of(shards)
    assert len(read) == 11
    for number, sample in enumerate(read):
        assert_same(sample, generated(number))


def test_by_number_in_any_order(tmp_path):
    shards = open_shards(write_set(tmp_path / "set"))
    for number in (10, 0, 7, 4):
        assert_same(shards.read(number // 4, number % 4), generated(number))
    for wrong in ((3, 0), (0, 4), (0, -1), (-1, 0)):
        with pytest.raises(IndexError):
            shards.read(*wrong)


@pytest.mark.parametrize("form", [name for name, row in MAP_FORMATS.items() if not row.picture])
def test_maps_keep_the_law_of_their_format(form, tmp_path):
    pytest.importorskip("OpenEXR")
    for number in range(6):
        sample = generated(number)
        back = decode_sample("0", encode_sample(sample, depth=form), tmp_path)
        if sample.depth is None or MAP_FORMATS[form].lossless:
            assert_same(back, sample)
            continue
        step = (100 / 65533) if form == "png16" else 100 * 2**-11
        np.testing.assert_allclose(back.depth.values, sample.depth.values, atol=step, rtol=0)
        assert (back.depth.quantity, back.depth.ambiguity) == (sample.depth.quantity, sample.depth.ambiguity)


@given(st.binary(max_size=64), st.sampled_from(["jpg", "png", "webp"]))
@settings(max_examples=20, deadline=None)
def test_stored_pictures_are_kept_byte_for_byte(noise, ending):
    pixels = np.frombuffer(noise.ljust(64, b"x") * 3, np.uint8).reshape(8, 8, 3)
    data = cv2.imencode(f".{ending}", pixels)[1].tobytes()
    assert image_ending(data) == ending
    decoded = decode_sample("0", {ending: data}, Path("x.tar"))
    members = encode_sample(decoded, stored=data)
    assert members[ending] == data
    assert_same(decode_sample("0", members, Path("x.tar")), decoded)


def test_same_samples_same_bytes(tmp_path):
    assert contents(write_set(tmp_path / "one")) == contents(write_set(tmp_path / "two"))


def test_the_index_says_what_is_there_and_opens_without_the_tars(tmp_path):
    import hashlib

    folder = write_set(tmp_path / "set")
    for shard in open_shards(folder).shards:
        data = (folder / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.num_bytes, shard.sha256)
        (folder / shard.name).unlink()
    assert len(open_shards(folder)) == 11 and open_shards(folder).settings["source"] == "generated"
    with pytest.raises(DatoolError, match=r"000000\.tar.*not there"):
        open_shards(folder).read(0, 0)
    (folder / INDEX).unlink()
    with pytest.raises(DatoolError, match="not finished"):
        open_shards(folder)


def test_rows_that_failed_leave_a_gap_and_their_reason(tmp_path):
    with ShardWriter(tmp_path / "set", SETTINGS, 3) as writer:
        entries = [encode_sample(generated(0)), Failed("b", "broken"), encode_sample(generated(2))]
        writer.write(0, "x", entries)
        writer.write(1, "y", [Failed("d", "gone")])
        writer.finish(2)
    shards = open_shards(tmp_path / "set")
    assert shards.counts == [2, 0] and list(shards.failed) == [Failed("b", "broken"), Failed("d", "gone")]
    assert_same(shards.read(0, 1), generated(2))
    assert list(members(shards.folder / "000001.tar")) == []
    with tarfile.open(shards.folder / "000000.tar") as tar:
        assert {name.split(".")[0] for name in tar.getnames()} == {"000000000", "000000002"}


def test_what_was_left_half_done_does_not_show(tmp_path):
    whole = contents(write_set(tmp_path / "one"))
    folder = write_set(tmp_path / "two")
    before = (folder / "000000.tar").stat().st_mtime_ns
    (folder / "000001.json").unlink()  # killed after the tar, before its marker
    (folder / "000001.tar").write_bytes(b"torn")
    (folder / "000002.tar").unlink()
    (folder / INDEX).unlink()
    (folder / ".datool-000001.tmp").write_bytes(b"half")
    assert contents(write_set(folder)) == whole
    assert (folder / "000000.tar").stat().st_mtime_ns == before, "finished shards are not written again"


def test_another_run_is_not_mixed_in(tmp_path):
    folder = write_set(tmp_path / "set")
    with pytest.raises(DatoolError, match="rows_per_shard was 4, now 5"):
        write_set(folder, per_shard=5)
    with (
        pytest.raises(DatoolError, match="source was 'generated', now 'other'"),
        ShardWriter(folder, {"source": "other"}, 4) as writer,
    ):
        writer.is_finished(0, "range(0, 4)")
    with pytest.raises(DatoolError, match=r"000002\.tar was packed from other rows"):
        write_set(folder, count=12)
    with pytest.raises(DatoolError, match="rows end before it"):
        write_set(folder, count=8)
    (folder / "000000.tar").write_bytes(b"cut")
    with pytest.raises(DatoolError, match=r"000000\.tar is 3 bytes"):
        write_set(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.tar").write_bytes(b"precious")
    with pytest.raises(DatoolError, match="datool did not write"):
        write_set(tmp_path / "mine")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from datool.data.shards import ShardWriter
from datool.errors import DatoolError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
with ShardWriter(Path(sys.argv[1]), {}, 9) as writer:
    for size in (100, 30000, 1000):
        try:
            writer.write(0, "", [{"png": bytes(size)}] * 9)
            print("written")
        except DatoolError as error:
            print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files there")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    """As a limit on the size of files gives it: within a large sample, and at the end of buffered small ones."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "set")], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == "written" and len(lines) == 3
    assert all(line.startswith("cannot write") and "000000.tar" in line for line in lines[1:])
    assert not list((tmp_path / "set").glob("*.tmp"))


def test_two_at_once_are_refused(tmp_path):
    with ShardWriter(tmp_path, SETTINGS, 4), pytest.raises(DatoolError, match="another datool run"):
        ShardWriter(tmp_path, SETTINGS, 4).__enter__()


def test_webdataset_reads_them(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    folder = write_set(tmp_path / "set", depth="npz")
    urls = [str(folder / f"{number:06d}.tar") for number in range(3)]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [item["__key__"] for item in found] == [f"{number:09d}" for number in range(11)]
    for number, item in enumerate(found):
        sample = generated(number)
        np.testing.assert_array_equal(item["png"], sample.image)
        assert item["json"]["id"] == sample.id
        if sample.depth is not None:
            np.testing.assert_array_equal(item["depth.npz"]["values"], sample.depth.values)


def test_shards_that_webdataset_wrote_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "00000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(3):
            picture = cv2.imencode(".jpg", generated(number).image)[1].tobytes()
            writer.write({"__key__": f"x/{number}", "jpg": picture, "txt": "caption", "json": {"url": "u"}})
    read = [image_shards.read(row) for row in image_shards.index(tmp_path, "all")]
    assert [(sample.id, sample.depth) for sample in read] == [(f"00000.tar/x/{n}", None) for n in range(3)]


def tar_of(path: Path, *infos: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("../0.png"),
        member("a/../../0.png"),
        member("/etc/0.png"),
        member("C:/0.png"),
        member("0.png", tarfile.SYMTYPE, "/etc/passwd"),
        member("0.png", tarfile.LNKTYPE, "1.png"),
        member("0.png", tarfile.CHRTYPE),
        member("0.png", tarfile.BLKTYPE),
        member("0.png", tarfile.FIFOTYPE),
        member("0.png", tarfile.GNUTYPE_SPARSE),
        member("..", tarfile.DIRTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type!r}",
)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_malicious_members_are_refused_by_name(info, form, tmp_path):
    path = tar_of(tmp_path / "bad.tar", member("ok.txt"), info, form=form)
    with pytest.raises(DatoolError, match=r"refused .*bad\.tar: member") as caught:
        list(members(path))
    assert info.name in str(caught.value)


def test_a_member_that_claims_to_be_huge_is_refused(tmp_path):
    info = member("0.png")
    info.size = 1 << 40
    path = tmp_path / "bad.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DatoolError, match=r"bad\.tar: member '0\.png'.*bytes"):
        read_member(path, 0)


def test_two_of_one_ending_are_refused(tmp_path):
    path = tar_of(tmp_path / "bad.tar", member("0.json"), member("0.JSON"))
    path.with_suffix(".json").write_text(json.dumps({"shard": {"sha256": ""}, "offsets": [0]}))
    with pytest.raises(DatoolError, match="has two"):
        ShardSet(tmp_path, {}, (Shard(path.name, 1, 0, 0, ""),)).read(0, 0)


def test_a_cut_tar_is_named_wherever_it_is_cut(tmp_path):
    whole = (write_set(tmp_path / "set", count=3, per_shard=4) / "000000.tar").read_bytes()
    path = tmp_path / "cut.tar"
    end = len(whole.rstrip(b"\0"))
    for length in [*range(0, end, 512), *range(100, end, 777)]:
        path.write_bytes(whole[:length])
        with pytest.raises(DatoolError, match=r"cut\.tar"):
            list(members(path))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_header_never_passes_for_the_end(data, tmp_path_factory):
    encoded = encode_sample(generated(0), depth="npy")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(2):
            for ending, content in encoded.items():
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        headers = [info.offset for info in tar.getmembers()]
    torn = bytearray(out.getvalue())
    # Bytes 0 to 499 of a header are under its checksum or are it.
    place = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 154))
    torn[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("torn") / "torn.tar"
    path.write_bytes(torn)
    try:
        read = [(member.name, member.read()) for member in members(path)]
    except DatoolError as error:
        assert "torn.tar" in str(error)
    else:
        assert len(read) == 2 * len(encoded)


def test_a_broken_json_or_picture_is_named(tmp_path):
    members = encode_sample(generated(3), depth="npz")
    for ending, broken in {"json": b"[]", "png": b"\x89PNG\r\n\x1a\n", "depth.npz": b"PK"}.items():
        with pytest.raises(DatoolError, match=rf"7\.{ending} in .*x\.tar"):
            decode_sample("7", {**members, ending: broken}, Path("x.tar"))
    said = json.loads(members["json"]) | {"quantity": "disparity"}
    with pytest.raises(DatoolError, match=r"x\.tar.*quantity"):
        decode_sample("7", {**members, "json": json.dumps(said).encode()}, Path("x.tar"))
