"""Laws of pseudo labels: they are the teacher's maps, and no worker, kill or rerun changes a byte or loses one."""

import errno
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import random
import signal
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from datool.cli import app
from datool.data.batches.datasets import SetSpec, open_set
from datool.data.shards import open_shards
from datool.depth import Ambiguity, Quantity
from datool.errors import DatoolError
from datool.estimators.predictor import Predictor
from datool.files import decode_image, read_image
from datool.jobs.pseudo_label import PseudoLabelOptions, pseudo_label, read_status
from datool.labelling import leases as leasing
from datool.labelling.label_set import LabelSet
from datool.labelling.labeller import LabelOptions, disagreement
from datool.labelling.leases import Leases
from datool.models.depth_anything import build_model
from datool.models.weights import load as load_model
from datool.models.weights import save

pytest.importorskip("OpenEXR")
PATIENCE_S = 300
LABELS = LabelOptions(size_px=42)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save(path, build_model("nano"), "nano")
    return path


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def jpeg(number: int, height: int = 48, width: int = 64) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def folder(root: Path, count: int) -> Path:
    """Photos of two shapes in sub-folders."""
    for number in range(count):
        path = root / f"{number % 3}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number, *((48, 64) if number % 4 else (64, 48))))
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=tarfile.USTAR_FORMAT) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def shards(root: Path, count: int = 3, each: int = 4) -> Path:
    """As img2dataset writes them."""
    for shard in range(count):
        members = {}
        for number in range(shard * each, shard * each + each):
            members |= {f"{number:09d}.jpg": jpeg(number), f"{number:09d}.json": b'{"status": "success"}'}
            members[f"{number:09d}.txt"] = b"a caption"
        tar(root / f"{shard:05d}.tar", members)
    return root


def label(*inputs, out, model, **rest) -> Path:
    how = {"rows_per_shard": 5, "device": "cpu", "labels": LABELS, **rest}
    pseudo_label(PseudoLabelOptions(inputs=tuple(map(str, inputs)), out=out, model=str(model), **how))
    return out


def contents(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def samples(out: Path, source: str = "shards"):
    found = open_set(SetSpec(source, out))
    return [found.read(shard, number) for shard, count in enumerate(found.counts) for number in range(count)]


# What labels are


def test_labels_are_the_teachers_maps_of_the_networks_size(tmp_path, weights):
    root = folder(tmp_path / "in", 12)
    out = label(root, out=tmp_path / "out", model=weights)
    teacher = Predictor(load_model(weights), "cpu", size_px=42)
    found = samples(out)
    assert [sample.id for sample in found] == sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))
    for sample in found:
        photo = read_image(root / sample.id)
        np.testing.assert_array_equal(sample.image, photo)
        assert sample.pseudo and sample.camera is None and min(sample.depth.shape) == 42
        assert (sample.depth.quantity, sample.depth.ambiguity) == (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
        whole = teacher.predict(photo).values
        back = cv2.resize(sample.depth.values, whole.shape[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.abs(back - whole).mean() < 0.05 * np.abs(whole - whole.mean()).mean() + 1e-6
    with tarfile.open(out / "000000.tar") as stored:
        names = stored.getnames()
        said = json.load(stored.extractfile(names[1]))
    assert names[:2] == ["000000000000.depth.half.exr", "000000000000.json"]
    assert said["image_size"] in ([48, 64], [64, 48]) and said["image"] == {"input": 0, "path": found[0].id}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("format", ["shards", "files"])
def test_both_layouts_train_alike_with_photos_kept_or_not(format, keep, tmp_path, weights):
    root = folder(tmp_path / "in", 7)
    labels = replace(LABELS, keep_images=keep)
    plain = samples(label(root, out=tmp_path / "plain", model=weights))
    out = label(root, out=tmp_path / "out", model=weights, format=format, labels=labels)
    if keep:
        root.rename(tmp_path / "gone")
    else:
        assert not (out / "images").exists()
    found = samples(out, "shards" if format == "shards" else "manifest")
    assert len(found) == 7
    for one, two in zip(found, plain, strict=True):
        assert (one.id, one.pseudo) == (two.id, True)
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.depth.values, two.depth.values)


@pytest.mark.parametrize("scale", [1e9, 1e-9])
@pytest.mark.parametrize("format", ["shards", "files"])
def test_a_teacher_of_any_scale_keeps_its_values(format, scale, tmp_path, weights, monkeypatch):
    whole = Predictor._map
    monkeypatch.setattr(Predictor, "_map", lambda self, values: whole(self, values * np.float32(scale)))
    root = folder(tmp_path / "in", 2)
    out = label(root, out=tmp_path / "large", model=weights, format=format)
    large = samples(out, "shards" if format == "shards" else "manifest")
    monkeypatch.setattr(Predictor, "_map", whole)
    exact = LabelOptions(size_px=42, depth="npz")
    for one, two in zip(large, samples(label(root, out=tmp_path / "x", model=weights, labels=exact)), strict=True):
        np.testing.assert_allclose(one.depth.values, two.depth.values * scale, rtol=2**-11, atol=scale * 1e-8)


def test_native_labels_have_the_photos_size(tmp_path, weights):
    root = folder(tmp_path / "in", 3)
    for sample in samples(
        label(root, out=tmp_path / "out", model=weights, labels=replace(LABELS, label_size="native"))
    ):
        assert sample.depth.shape == sample.image.shape[:2]


def test_flip_averages_what_the_mirror_image_gives(tmp_path, weights):
    root = folder(tmp_path / "in", 2)
    (tmp_path / "mirrored").mkdir()
    for path in root.rglob("*.jpg"):  # as PNG, so that the pixels are the same
        pixels = cv2.imread(str(path))
        cv2.imwrite(str(tmp_path / "mirrored" / f"{path.stem}.png"), pixels[:, ::-1])
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".png")), pixels)
    labels = replace(LABELS, flip=True, depth="npz", confidence="map")
    one = samples(label(root, out=tmp_path / "one", model=weights, labels=labels))
    two = samples(label(tmp_path / "mirrored", out=tmp_path / "two", model=weights, labels=labels))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.depth.values, b.depth.values[:, ::-1], atol=1e-4 * np.ptp(a.depth.values))
    with tarfile.open(tmp_path / "one" / "000000.tar") as stored:
        said = json.load(stored.extractfile("000000000000.json"))
        picture = stored.extractfile("000000000000.disagreement.png").read()
    grey = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey.shape == one[0].depth.shape and said["disagreement"] > 0
    if grey.max() < 255:
        assert abs(grey.mean() / 255 - said["disagreement"]) < 0.01


def test_disagreement_knows_no_scale_and_no_shift():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (2, 8, 9)).astype(np.float32)
    np.testing.assert_allclose(disagreement(7 * a + 3, 7 * b + 3), disagreement(a, b), rtol=1e-4)
    assert not disagreement(a, a).any() and not disagreement(np.ones_like(a), np.ones_like(a)).any()


# What may be named


def test_a_tar_is_a_shard_and_its_photos_are_found_again(tmp_path, weights):
    root = shards(tmp_path / "in")
    out = label(str(root / "{00000..00002}.tar"), out=tmp_path / "out", model=weights)
    assert open_shards(out).counts == [4, 4, 4]
    assert [sample.id for sample in samples(out)] == [f"{n // 4:05d}.tar/{n:09d}" for n in range(12)]
    for number, sample in enumerate(samples(out)):
        np.testing.assert_array_equal(sample.image, decode_image(jpeg(number), ""))
    # The folder, tars of any pictures, a manifest and one shard of them give the same maps.
    (tmp_path / "photos").mkdir()
    for number in range(12):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(jpeg(number))
    (tmp_path / "list.jsonl").write_text("".join(f'{{"image": "photos/{n:02d}.jpg"}}\n' for n in range(12)))
    tar(tmp_path / "loose" / "a.tar", {f"x/y.{n:02d}.jpg": jpeg(n) for n in range(12)})
    for given in (root, tmp_path / "photos", tmp_path / "list.jsonl", tmp_path / "loose"):
        other = label(given, out=tmp_path / f"out-{given.name}", model=weights)
        for one, two in zip(samples(other), samples(out), strict=True):
            np.testing.assert_array_equal(one.image, two.image)
            np.testing.assert_array_equal(one.depth.values, two.depth.values)
    status = read_status(label(out, out=tmp_path / "again", model=weights))
    assert status.reasons == {"no picture in it": 3}, "labels hold no photos, unless they are kept"


def test_several_inputs_are_one_set(tmp_path, weights):
    one, two = folder(tmp_path / "one", 6), shards(tmp_path / "two", 1)
    out = label(one, two, out=tmp_path / "out", model=weights)
    assert open_shards(out).counts == [5, 1, 4] and len(samples(out)) == 10
    index = json.loads((out / "index.json").read_text())
    assert index["roots"] == [str(one), str(two)]
    one.rename(tmp_path / "moved")
    (out / "index.json").write_text(json.dumps(index | {"roots": ["../moved", str(two)]}))
    assert len(samples(out)) == 10


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_addresses_and_commands_stream(tmp_path, weights, server):
    root = shards(tmp_path / "served", 2)
    tar(root / "b.tar.gz", {"0.jpg": jpeg(0)})
    labels = replace(LABELS, keep_images=True)
    plain = samples(label(str(root / "{00000..00001}.tar"), out=tmp_path / "plain", model=weights))
    for number, given in enumerate((f"{server}/{{00000..00001}}.tar", f"pipe:cat {root}/{{00000..00001}}.tar")):
        out = label(given, out=tmp_path / f"{number}", model=weights, labels=labels)
        for one, two in zip(samples(out), plain, strict=True):
            np.testing.assert_array_equal(one.image, two.image)
            np.testing.assert_array_equal(one.depth.values, two.depth.values)
    assert len(samples(label(f"{server}/b.tar.gz", out=tmp_path / "gz", model=weights, labels=labels))) == 1
    with pytest.raises(DatoolError, match="--keep-images"):
        label(f"{server}/00000.tar", out=tmp_path / "no", model=weights)
    for given, message in (
        (f"{server}/no.tar", "404"),
        ("http://127.0.0.1:9/0.tar", "cannot fetch"),
        ("pipe:false", r"no tar|ended with"),
        (f"pipe:cat {root}/00000.tar; false", "ended with 1"),
    ):
        out = tmp_path / message
        with pytest.raises(DatoolError, match=message):
            label(given, out=out, model=weights, labels=labels)
        assert not list(out.glob("*.tar"))


def test_what_cannot_be_labelled_says_so_before_anything_is_written(tmp_path, weights):
    root = folder(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    for inputs, rest, message in (
        ((), {}, "nothing to label"),
        ((tmp_path / "no",), {}, "no folder"),
        ((tmp_path / "empty",), {}, "no image"),
        ((tmp_path / "{0..2}.tar",), {}, "3 of the 3 tars"),
        (("kitti",), {"roots": {"kitti": root}}, "Pack it first"),
        ((root,), {"format": "tars"}, "format of labels"),
        ((root,), {"engine": "spark"}, "engine"),
        ((root,), {"worker": (2, 2)}, "counted from 0: 0/2 to 1/2"),
        ((root,), {"labels": LabelOptions(depth="color")}, "picture"),
        ((root,), {"labels": LabelOptions(label_size="big")}, "label size"),
        ((root,), {"labels": LabelOptions(confidence="yes")}, "confidence"),
        ((root,), {"rows_per_shard": 0}, "at least 1"),
    ):
        with pytest.raises(DatoolError, match=message):
            label(*inputs, out=tmp_path / "out", model=weights, **rest)
        assert not list(tmp_path.glob("out/*.tar"))
    with pytest.raises(DatoolError, match="'auto' may change"):
        label(root, out=tmp_path / "out", model="auto")
    with pytest.raises(DatoolError, match="itself an input"):
        label(root, out=root, model=weights)


# The same bytes


def test_workers_lanes_and_reruns_change_no_byte(tmp_path, weights):
    root = folder(tmp_path / "in", 23)
    whole = contents(label(root, out=tmp_path / "one", model=weights))
    torch.set_num_threads(3)
    assert contents(label(root, out=tmp_path / "two", model=weights, worker=(4, 7))) == whole
    label(root, out=tmp_path / "one", model=weights)
    assert contents(tmp_path / "one") == whole
    moved = root.rename(tmp_path / "elsewhere")
    again = contents(label(moved, out=tmp_path / "three", model=weights))
    assert {name for name in whole if whole[name] != again[name]} == {"index.json"}, "which says where the photos are"


def test_batches_end_with_their_unit(tmp_path, weights):
    """Labels of a unit do not change with what else there is."""
    root = folder(tmp_path / "in", 20)
    labels = replace(LABELS, batch_size=4)
    label(root, out=tmp_path / "all", model=weights, labels=labels, rows_per_shard=7)
    for path in sorted(root.rglob("*.jpg"))[7:]:
        path.unlink()
    label(root, out=tmp_path / "some", model=weights, labels=labels, rows_per_shard=7)
    assert (tmp_path / "all/000000.tar").read_bytes() == (tmp_path / "some/000000.tar").read_bytes()


def test_another_list_teacher_or_way_is_refused_by_name(tmp_path, weights):
    root = folder(tmp_path / "in", 11)
    out = label(root, out=tmp_path / "out", model=weights)
    whole = contents(out)
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save(other, build_model("nano"), "nano")
    for change, message in (
        ({"model": other}, "model_sha256 was"),
        ({"labels": replace(LABELS, size_px=56)}, "size_px was 42, now 56"),
        ({"labels": replace(LABELS, batch_size=2)}, "batch_size was 1, now 2"),
        ({"labels": replace(LABELS, depth="png16")}, "depth was 'exr-half', now 'png16'"),
        ({"format": "files"}, "format was 'shards', now 'files'"),
        ({"rows_per_shard": 6}, "in shard 0, files was"),
    ):
        with pytest.raises(DatoolError, match=message):
            label(root, out=out, **{"model": weights, **change})
    new = root / "0" / "0000a.jpg"
    new.write_bytes(jpeg(0))
    with pytest.raises(DatoolError, match=r"in shard 0, files was '0/0003.jpg', now '0/0000a.jpg'"):
        label(root, out=out, model=weights)
    new.unlink()
    (out / "labels.json").write_text((out / "labels.json").read_text().replace('"torch": "', '"torch": "0.'))
    with pytest.raises(DatoolError, match="torch was '0"):
        label(root, out=out, model=weights)
    assert contents(out) == whole | {"labels.json": contents(out)["labels.json"]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.tar").write_bytes(b"precious")
    with pytest.raises(DatoolError, match=r"holds a\.tar"):
        label(root, out=tmp_path / "mine", model=weights)


def test_a_tar_that_changed_or_was_cut_is_noticed(tmp_path, weights):
    root = shards(tmp_path / "in", 2)
    out = label(root, out=tmp_path / "out", model=weights)
    (out / "000001.tar").write_bytes(b"cut")
    with pytest.raises(DatoolError, match=r"000001\.tar is 3 bytes"):
        label(root, out=out, model=weights)
    shards(root, 1, 5)
    with pytest.raises(DatoolError, match="in shard 0, bytes was"):
        label(root, out=out, model=weights)


# Kills


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datool.jobs.pseudo_label", "datool.labelling.worker"])
    return context


def _child(options):
    torch.set_num_threads(1)
    pseudo_label(options)


def start(options, number, of):
    process = _context().Process(target=_child, args=(replace(options, worker=(number, of)),))
    process.start()
    return process


def run_with_kills(options, kills, seed, workers=3):
    """Run workers, each killed now and then and started again, until the set is finished; return how many were."""
    rng, killed, torn = random.Random(seed), 0, 0
    running = [start(options, number, workers) for number in range(workers)]
    deadline = time.monotonic() + PATIENCE_S
    while any(process.is_alive() for process in running) and time.monotonic() < deadline:
        if killed < kills:
            time.sleep(rng.uniform(0, 0.25))
            number = rng.randrange(workers)
            if not options.out.exists() or not list(options.out.glob(".datool-*.lease")):
                continue
            running[number].kill()
            running[number].join()
            killed += running[number].exitcode == -signal.SIGKILL
            torn += any(options.out.glob(".datool-*.tmp"))
            running[number] = start(options, number, workers)
        else:
            time.sleep(0.05)
    for process in running:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    return killed, torn


def assert_kills_change_nothing(tmp_path, weights, count, kills, size_px, **rest):
    root = folder(tmp_path / "in", count)
    (root / "0" / "0003.jpg").write_bytes(jpeg(3)[:200])
    how = {"rows_per_shard": 10, "labels": LabelOptions(size_px=size_px), **rest}
    whole = contents(label(root, out=tmp_path / "quiet", model=weights, **how))
    killed = 0
    for seed in range(20):  # a set may be finished before it was killed so often: then another one
        out = tmp_path / f"killed-{seed}"
        options = PseudoLabelOptions(inputs=(str(root),), out=out, model=str(weights), device="cpu", **how)
        now, torn = run_with_kills(options, kills - killed, seed)
        print(f"{now} workers killed, {torn} of them with a shard half written")
        pseudo_label(options)
        assert contents(out) == whole
        assert not list(out.rglob(".datool-*"))
        killed += now
        if killed >= kills:
            return
    raise AssertionError(f"{killed} workers were killed, expected {kills}")


@pytest.mark.parametrize("format", ["shards", "files"])
def test_three_kills_change_no_byte(format, tmp_path, weights):
    assert_kills_change_nothing(tmp_path, weights, 60, 3, 112, format=format)


def test_a_lease_is_kept_by_the_living_and_taken_from_the_dead_and_the_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(leasing, "SILENT_S", 0.05)
    path = tmp_path / ".datool-000003.lease"
    with Leases(tmp_path) as leases:
        assert leases.take(3) and not leases.take(3)
        assert leases.silent([3]) == [] and leasing.working(tmp_path) == 1, "it is our own"
        leases.release(3)
        assert not path.exists()
        process = _context().Process(target=time.sleep, args=(0,))
        process.start()
        process.join()
        path.write_text(json.dumps([leasing.HOST, process.pid]))
        assert leasing.working(tmp_path) == 0 and leases.take(3)
        leases.release(3)
        for owner in (["another-host", 1], [leasing.HOST, os.getpid()]):  # the latter: a number that is in use again
            path.write_text(json.dumps(owner))
            assert not leases.take(3)
            assert leases.silent([3]) == [3]
        with monkeypatch.context() as beating:
            beating.setattr(leasing, "SILENT_S", 1000)
            beating.setattr(leasing.time, "sleep", lambda _: os.utime(path))
            assert leases.silent([3]) == []
        assert leases.take(3, anyhow=True)


def test_a_unit_taken_over_meanwhile_is_left_to_the_other(tmp_path, weights):
    root = folder(tmp_path / "in", 4)
    out = label(root, out=tmp_path / "out", model=weights)
    whole = contents(out)
    labels = LabelSet(out)
    labels.agree({name: value for name, value in json.loads((out / "labels.json").read_text()).items()})
    (out / "000000.json").unlink()

    def entries():
        yield {"png": b"1"}
        for path in out.glob(".datool-*.tmp"):
            path.unlink()

    assert labels.write(0, entries(), []) is False and not labels.is_done(0)
    label(root, out=out, model=weights)
    assert contents(out) == whole


# What goes wrong


def test_a_photo_that_cannot_be_read_is_a_row_with_its_reason(tmp_path, weights):
    root = folder(tmp_path / "in", 9)
    (root / "0" / "0003.jpg").write_bytes(jpeg(3)[:200])
    (root / "1" / "0004.jpg").write_bytes(b"")
    (root / "2" / "0005.jpg").write_bytes(jpeg(5, 16, 512))
    rows = tmp_path / "list.jsonl"
    rows.write_text("".join(f'{{"image": "in/{n % 3}/{n:04d}.jpg"}}\n' for n in [*range(9), 99]))
    for given, failing in ((root, 3), (rows, 4)):
        options = PseudoLabelOptions(
            inputs=(str(given),), out=tmp_path / given.name / "out", model=str(weights), labels=LABELS, device="cpu"
        )
        summary = pseudo_label(replace(options, out=tmp_path / f"out-{given.name}"))
        status = summary.status
        assert (status.done, status.failed, status.finished) == (6 + failing, failing, True)
        reasons = {Path(failed.id).name: failed.reason for failed in summary.failed}
        assert (
            "cut short" in reasons["0003.jpg"] and "empty" in reasons["0004.jpg"] and "32.0 to 1" in reasons["0005.jpg"]
        )
        assert sum(status.reasons.values()) == failing
        assert len(samples(summary.data)) == 6
    assert "not there" in reasons["0099.jpg"]


def test_too_many_failures_stop_the_run_and_any_rerun(tmp_path, weights):
    root = folder(tmp_path / "in", 20)
    for number in (2, 9, 14):
        (root / f"{number % 3}" / f"{number:04d}.jpg").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(DatoolError, match="3 photos failed, more than --max-failures 2"):
            label(root, out=tmp_path / "out", model=weights, max_failures=2)
    whole = contents(label(root, out=tmp_path / "quiet", model=weights))
    assert contents(label(root, out=tmp_path / "out", model=weights, max_failures=3)) == whole


def test_a_vanished_mount_is_no_row(tmp_path, weights, monkeypatch):
    root = folder(tmp_path / "in", 15)
    whole = contents(label(root, out=tmp_path / "quiet", model=weights))
    out = tmp_path / "out"
    from datool.labelling import shard_plan as units

    def vanishing(path, seen=[]):  # noqa: B006
        seen.append(path)
        if len(seen) == 8:
            root.rename(tmp_path / "away")
        return read_image(path)

    monkeypatch.setattr(units, "read_image", vanishing)
    with pytest.raises(DatoolError, match=r"could not be read"):
        label(root, out=out, model=weights)
    (tmp_path / "away").rename(root)

    def failing(path):
        raise DatoolError("cannot read") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(units, "read_image", failing)
    with pytest.raises(DatoolError, match="cannot read"):
        label(root, out=out, model=weights)

    def closed(path):
        raise DatoolError("cannot read: no permission.") from PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(units, "read_image", closed)  # an expired ticket closes all of them
    with pytest.raises(DatoolError, match="could not be read"):
        label(root, out=out, model=weights)

    def leaving(path):
        if (root / "1").exists():
            (root / "1").rename(tmp_path / "1")  # one of three mounts
        return read_image(path)

    monkeypatch.setattr(units, "read_image", leaving)
    with pytest.raises(DatoolError, match="its folder is not there"):
        label(root, out=out, model=weights)
    (tmp_path / "1").rename(root / "1")
    monkeypatch.setattr(units, "read_image", read_image)
    assert len(list(out.glob("*.tar"))) < 3
    assert contents(label(root, out=out, model=weights)) == whole


def test_a_broken_tar_keeps_what_comes_before_and_a_refused_one_is_named(tmp_path, weights):
    root = shards(tmp_path / "in", 2)
    data = (root / "00001.tar").read_bytes()
    (root / "00001.tar").write_bytes(data[: data.index(b"000000006.jpg") + 700])
    tar(root / "00002.tar", {"0.jpg": jpeg(0), "../1.jpg": jpeg(1)})
    out = tmp_path / "out"
    summary = pseudo_label(
        PseudoLabelOptions(inputs=(str(root),), out=out, model=str(weights), labels=LABELS, device="cpu")
    )
    assert open_shards(out).counts == [4, 2, 1]
    reasons = {failed.id: failed.reason for failed in summary.failed}
    assert set(reasons) == {"00001.tar", "00002.tar"}
    assert "cut short" in reasons["00001.tar"] and "leave the folder" in reasons["00002.tar"]
    for length in range(0, len(data), 512):
        (root / "00001.tar").write_bytes(data[:length])
        from datool.labelling.tar_stream import stream_tar

        found = list(stream_tar(root / "00001.tar", lambda name: True))
        ended = data[:length].rstrip(b"\0") == data.rstrip(b"\0") and length >= len(data.rstrip(b"\0")) + 512
        assert isinstance(found[-1].data, DatoolError) or ended, length


def _limited(options):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        pseudo_label(options)
    except DatoolError as error:
        assert "cannot write" in str(error)
        os._exit(17)


def test_a_full_disk_stops_and_leaves_nothing_half_written(tmp_path, weights):
    root = folder(tmp_path / "in", 40)
    whole = contents(label(root, out=tmp_path / "quiet", model=weights, rows_per_shard=20))
    options = PseudoLabelOptions(
        inputs=(str(root),), out=tmp_path / "out", model=str(weights), labels=LABELS, rows_per_shard=20, device="cpu"
    )
    process = _context().Process(target=_limited, args=(options,))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 17
    assert set(contents(options.out)) == {"labels.json", "units.jsonl"}
    pseudo_label(options)
    assert contents(options.out) == whole


def test_memory_that_ends_names_the_batch_that_fits(tmp_path, weights, monkeypatch):
    root = folder(tmp_path / "in", 12)
    whole = Predictor._forward

    def forward(self, batch, sizes, most=2):
        if len(batch) > most:
            raise torch.OutOfMemoryError("full")
        return whole(self, batch, sizes)

    monkeypatch.setattr(Predictor, "_forward", forward)
    with pytest.raises(DatoolError, match="2 fit: --batch-size 2"):
        label(root, out=tmp_path / "out", model=weights, labels=replace(LABELS, batch_size=4))
    monkeypatch.setattr(Predictor, "_forward", lambda *given: forward(*given, most=0))
    with pytest.raises(DatoolError, match="not enough memory"):
        label(root, out=tmp_path / "out1", model=weights)
    assert not list(tmp_path.glob("out*/*.tar"))


# The command


def test_the_command_labels_and_tells_from_anywhere_how_far_it_is(tmp_path, weights):
    root = folder(tmp_path / "in", 6)
    (root / "0" / "0003.jpg").write_bytes(b"")
    run = CliRunner().invoke
    arguments = ["pseudo-label", str(root), "--model", str(weights), "--out", str(tmp_path / "out"), "--size", "42"]
    done = run(app, [*arguments, "--device", "cpu", "--json"])
    assert done.exit_code == 0, "a photo that failed is a row"
    summary = json.loads(done.stdout)
    assert summary["status"]["done"] == 6 and summary["failed"][0]["id"] == "0/0003.jpg"
    assert run(app, [*arguments, "--device", "cpu", "--max-failures", "1"]).exit_code == 0
    assert run(app, [*arguments, "--device", "cpu", "--max-failures", "0"]).exit_code == 1
    status = run(app, ["pseudo-label", "--status", str(tmp_path / "out")])
    assert status.exit_code == 0 and "1 of 1" in status.stdout and "the file is empty" in status.stdout
    as_json = json.loads(run(app, ["pseudo-label", "--status", str(tmp_path / "out"), "--json"]).stdout)
    assert as_json["finished"] and as_json["reasons"] == {"the file is empty": 1}
    assert run(app, ["pseudo-label", "--status", str(root)]).exit_code == 1
    assert run(app, ["pseudo-label", str(root), "--out", "x"]).exit_code == 2
    assert run(app, [*arguments, "--worker", "1of2"]).exit_code == 2


def test_the_rate_is_of_the_last_minutes_and_the_time_left_of_the_rest(tmp_path, weights):
    root = folder(tmp_path / "in", 25)
    out = label(root, out=tmp_path / "out", model=weights)
    (out / "000004.json").rename(tmp_path / "later")
    for number, at in enumerate((1000, 5000, 5010, 5020)):
        os.utime(out / f"00000{number}.json", (at, at))
    status = read_status(out)
    assert (status.done, status.units_done, status.num_units) == (20, 4, 5)
    assert (status.images_per_s, status.left_s) == (0.5, 10)


def test_photos_decoded_on_the_device_give_the_same_labels(tmp_path, weights):
    root = folder(tmp_path / "in", 6)
    (root / "0" / "0003.jpg").write_bytes(jpeg(3)[:200])
    cv2.imwrite(str(root / "0" / "no-jpeg.png"), np.zeros((30, 40, 3), np.uint8))
    one = label(root, out=tmp_path / "one", model=weights, labels=replace(LABELS, flip=True, depth="exr"))
    two = label(
        root, out=tmp_path / "two", model=weights,
        labels=replace(LABELS, flip=True, depth="exr", decoder="torchvision", keep_images=True),
    )  # fmt: skip
    pairs = list(zip(samples(one), samples(two), strict=True))
    assert len(pairs) == 6
    for ours, other in pairs:
        assert ours.id == other.id
        np.testing.assert_allclose(ours.depth.values, other.depth.values, rtol=1e-4, atol=1e-6)
    assert read_status(two).failed == 1
    with pytest.raises(DatoolError, match="decoder was"):
        label(
            root,
            out=tmp_path / "one",
            model=weights,
            labels=replace(LABELS, flip=True, depth="exr", decoder="torchvision"),
        )
