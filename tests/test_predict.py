from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datool.data.manifest import MANIFEST, read_manifest
from datool.depth import Quantity
from datool.errors import DatoolError
from datool.estimators.load import load
from datool.files import LOCK, read_image, read_map, read_meta
from datool.jobs.predict.predict import PredictOptions, predict
from datool.models.depth_anything import build_model
from datool.models.weights import save
from datool.progress import Progress

as_root = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save(path, build_model("nano"), "nano")
    return path


def photo(path, height=48, width=64, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def photos(tmp_path):
    shapes = {"a.jpg": (48, 64), "sub/b.png": (64, 48), "sub/deep er/c.jpg": (40, 90), "d.png": (48, 64)}
    for seed, (name, shape) in enumerate(shapes.items()):
        photo(tmp_path / "photos" / name, *shape, seed=seed)
    return tmp_path / "photos"


@pytest.fixture
def options(photos, tmp_path, weights):
    return PredictOptions(inputs=[str(photos)], out=tmp_path / "out", model=str(weights), device="cpu")


def test_a_depth_map_is_not_predicted_as_a_photo(options, photos):
    cv2.imwrite(str(photos / "kinect.png"), np.full((48, 64), 2000, np.uint16))
    summary = predict(options)
    (failed,) = summary.failed
    assert summary.done == 4 and Path(failed[0]).name == "kinect.png" and "--as-photo" in failed[1]
    assert predict(replace(options, as_photo=True)).done == 1


def tree(folder):
    """Every file below a folder but the lock, with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def statuses(folder):
    return {Path(row.input).name: row.status for row in read_manifest(folder).values()}


def test_outputs_mirror_the_inputs_and_the_manifest_tells_all(options, photos, weights):
    summary = predict(options)
    out = options.out
    stems = ["a", "d", "sub/b", "sub/deep er/c"]
    assert sorted(tree(out)) == sorted(
        [f"{stem}{end}" for stem in stems for end in (".png", ".color.png")] + [MANIFEST]
    )
    assert (summary.done, summary.skipped, summary.failed) == (4, 0, ())
    rows = read_manifest(out)
    assert set(rows) == {str(path) for path in photos.rglob("*.*")}
    alone = load(weights, device="cpu")
    for row in rows.values():
        image = read_image(row.input)
        depth = read_map(out / row.outputs["png16"])
        assert depth.shape == image.shape[:2] == row.image_size
        assert (row.quantity, row.ambiguity) == (depth.quantity.value, depth.ambiguity.value)
        assert np.abs(depth.values - alone.predict(image).values).max() <= row.scale
        pixels = cv2.imread(str(out / row.outputs["png16"]), cv2.IMREAD_UNCHANGED)
        assert np.allclose(pixels * row.scale + row.offset, depth.values, atol=row.scale / 10)
        assert read_meta(out / row.outputs["png16"])["model_sha256"] == row.model_sha256 == summary.model_sha256
        assert (row.status, row.model, row.size_px, row.camera) == ("done", "nano", 112, None)


def test_every_line_of_the_manifest_is_one_image_in_plain_json(options):
    predict(options)
    rows = [json.loads(line) for line in (options.out / MANIFEST).read_text("ascii").splitlines()]
    assert len({row["input"] for row in rows}) == len(rows) == 4


def test_a_rerun_does_nothing(options):
    predict(options)
    before = stamps(options.out)
    summary = predict(options)
    assert (summary.done, summary.skipped) == (0, 4)
    assert stamps(options.out) == before


def test_a_rerun_does_what_is_missing_and_what_is_new(options, photos):
    predict(options)
    whole = tree(options.out)
    (options.out / "sub/b.png").unlink()
    photo(photos / "new.jpg")
    summary = predict(options)
    assert (summary.done, summary.skipped) == (2, 3)
    assert tree(options.out)["sub/b.png"] == whole["sub/b.png"]


def test_colliding_names_keep_their_suffix_and_older_outputs_their_name(options, photos):
    predict(options)
    before = tree(options.out)
    photo(photos / "a.png", seed=9)
    assert predict(options).done == 1
    after = tree(options.out)
    assert {name: after[name] for name in before if name != MANIFEST} == {
        n: b for n, b in before.items() if n != MANIFEST
    }
    assert "a.png.png" in after
    both = replace(options, out=options.out.parent / "both")
    predict(both)
    assert {"a.jpg.png", "a.png.png", "d.png"} <= set(tree(both.out))


def test_an_output_folder_inside_the_input_is_not_read(options, photos):
    inside = replace(options, out=photos / "depth")
    assert predict(inside).done == 4
    assert predict(inside).skipped == 4
    with pytest.raises(DatoolError, match="itself an input"):
        predict(replace(options, out=photos))


def test_a_photo_is_never_replaced(options, photos):
    before = tree(photos)
    here = replace(options, inputs=[str(photos / "d.png")], out=photos, overwrite=True)
    with pytest.raises(DatoolError, match="would replace the photo"):
        predict(here)
    assert tree(photos) == before


def test_a_users_file_is_replaced_only_with_overwrite(options):
    options.out.mkdir()
    (options.out / "a.png").write_bytes(b"mine")
    with pytest.raises(DatoolError, match="--overwrite") as caught:
        predict(options)
    assert "a.png" in caught.value.problem
    assert tree(options.out) == {"a.png": b"mine"}
    assert predict(replace(options, overwrite=True)).done == 4


def test_one_folder_does_not_take_the_maps_of_equal_names_from_two(options, tmp_path):
    predict(options)
    before = tree(options.out)
    other = photo(tmp_path / "other" / "a.jpg", seed=7).parent
    with pytest.raises(DatoolError, match="is the map of"):
        predict(replace(options, inputs=[str(other)]))
    assert tree(options.out) == before


def test_a_second_folder_of_other_names_joins_the_manifest(options, tmp_path):
    predict(options)
    other = photo(tmp_path / "other" / "e.jpg", seed=7).parent
    assert predict(replace(options, inputs=[str(other)])).done == 1
    assert set(statuses(options.out)) == {"a.jpg", "b.png", "c.jpg", "d.png", "e.jpg"}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"size_px": 126}, "--size"), ({"formats": ["npy"]}, "--format"), ({"model": "other"}, "model")],
)
def test_another_run_refuses_to_mix(options, tmp_path, change, named):
    predict(options)
    before = stamps(options.out)
    if named == "model":
        torch.manual_seed(1)
        save(tmp_path / "other.safetensors", build_model("nano"), "nano")
        change = {"model": str(tmp_path / "other.safetensors")}
    with pytest.raises(DatoolError, match=named) as caught:
        predict(replace(options, **change))
    assert "--overwrite" in caught.value.hint
    assert stamps(options.out) == before
    summary = predict(replace(options, **change, overwrite=True))
    assert (summary.done, summary.skipped) == (4, 0)
    assert predict(replace(options, **change)).skipped == 4


def test_the_order_of_formats_is_no_difference(options):
    predict(options)
    assert predict(replace(options, formats=["color", "png16"])).skipped == 4


def test_auto_is_the_model_that_the_folder_holds(options, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    predict(options)
    summary = predict(replace(options, model="auto"))
    assert (summary.model, summary.skipped) == ("nano", 4)


def test_every_format_is_written_and_read(options):
    formats = ["png16", "npy", "npz", "tiff", "pfm", "color", "grey", "side-by-side"]
    predict(replace(options, formats=formats))
    for row in read_manifest(options.out).values():
        exact = read_map(options.out / row.outputs["npz"])
        assert exact.quantity is Quantity.DISPARITY
        assert np.array_equal(np.load(options.out / row.outputs["npy"]), exact.values)
        assert cv2.imread(str(options.out / row.outputs["side-by-side"])).shape[1] > 2 * exact.shape[1]


# Bad input


def bad_inputs(folder):
    """One file a kind of harm -> what its reason must say."""
    good = (folder / "a.jpg").read_bytes()
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "zero.bmp").write_bytes(zero_sized_bmp())
    photo(folder / "huge.png", 300, 400)
    photo(folder / "long.png", 4, 300)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    expected = {
        "text.jpg": "not an image",
        "empty.jpg": "empty",
        "truncated.jpg": "cut short",
        "zero.bmp": "",
        "huge.png": "--max-pixels",
        "long.png": "--max-aspect",
        "gone.jpg": "not there",
    }
    if not as_root:
        photo(folder / "locked.jpg").chmod(0)
        expected["locked.jpg"] = "permission"
    return expected


def zero_sized_bmp():
    header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    return (
        header
        + (40).to_bytes(4, "little")
        + bytes(8)
        + (1).to_bytes(2, "little")
        + (24).to_bytes(2, "little")
        + bytes(24)
    )


def test_every_bad_input_is_a_failed_row_and_the_rest_is_whole(options, photos):
    predict(options)
    good = tree(options.out)
    expected = bad_inputs(photos)
    strict = replace(options, out=options.out.parent / "strict", max_pixels=100_000)
    summary = predict(strict)
    assert (summary.done, len(summary.failed)) == (4, len(expected))
    reasons = {Path(path).name: reason for path, reason in summary.failed}
    assert set(reasons) == set(expected)
    for name, words in expected.items():
        assert words in reasons[name] and len(reasons[name]) > 20, (name, reasons[name])
    assert {n: b for n, b in tree(strict.out).items() if n != MANIFEST} == {
        n: b for n, b in good.items() if n != MANIFEST
    }
    assert sum(row.status == "failed" for row in read_manifest(strict.out).values()) == len(expected)


def test_what_failed_is_tried_again(options, photos):
    (photos / "late.jpg").write_bytes(b"")
    assert len(predict(options).failed) == 1
    photo(photos / "late.jpg")
    summary = predict(options)
    assert (summary.done, summary.skipped, summary.failed) == (1, 4, ())
    assert set(statuses(options.out).values()) == {"done"}


def test_a_map_that_cannot_be_written_fails_alone(options, photos):
    options.out.mkdir()
    (options.out / "sub").write_text("a file where a folder must go")
    summary = predict(options)
    assert summary.done == 2
    assert {Path(path).name for path, _ in summary.failed} == {"b.png", "c.jpg"}
    assert (options.out / "sub").read_text() == "a file where a folder must go"


def test_a_full_disk_stops_the_run_and_keeps_what_is_whole(options, monkeypatch):
    whole = replace(options, out=options.out.parent / "whole")
    predict(whole)
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DatoolError, match="disk full"):
        predict(options)
    monkeypatch.undo()
    assert not list(options.out.rglob("*.tmp"))
    kept = [row for row in read_manifest(options.out).values() if row.status == "done"]
    assert 1 <= len(kept) <= 2
    for row in kept:
        assert all((options.out / path).exists() for path in row.outputs.values())
    summary = predict(options)
    assert summary.done + summary.skipped == 4 and summary.skipped == len(kept)
    assert tree(options.out) == tree(whole.out)


def test_ctrl_c_keeps_what_is_finished(photos, options):
    for number in range(40):  # many more than are in flight at once, whose writing is finished
        photo(photos / f"many/{number:02}.jpg", 48, 64, seed=number)
    whole = replace(options, out=options.out.parent / "whole")
    predict(whole)

    def interrupt(progress: Progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(options, interrupt)
    states = list(statuses(options.out).values())
    assert len(states) == 44 and 2 <= states.count("done") < 44 and "failed" not in states
    assert not list(options.out.rglob("*.tmp"))
    assert predict(options).skipped == states.count("done")
    assert tree(options.out) == tree(whole.out)


# Killed


def finished_lines(out):
    path = out / MANIFEST
    return path.read_bytes().count(b'"status": "done"') if path.exists() else 0


def test_killed_at_any_moment_then_rerun_is_never_killed(photos, tmp_path, options):
    for number in range(60):
        photo(photos / f"many/{number:02}.jpg", 48 + 16 * (number % 3), 64, seed=number)
    formats = ["png16", "npy", "color"]
    killed, never = (replace(options, out=tmp_path / name, formats=formats) for name in ("killed", "never"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datool.estimators.predictor", "datool.jobs.predict.predict"])
    chance, killed_in_time = random.Random(0), 0
    for after in (0, 1, 8, 15, 30, 45):
        process = context.Process(target=predict, args=(killed,))
        process.start()
        limit = time.monotonic() + 120
        while finished_lines(killed.out) < after and process.is_alive() and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        killed_in_time += process.exitcode == -signal.SIGKILL
        for row in read_manifest(killed.out).values():
            if row.status == "done":
                assert all((killed.out / path).stat().st_size > 0 for path in row.outputs.values())
    assert killed_in_time >= 3, "the others ended before they were killed"
    last = predict(killed)
    assert last.skipped >= 45 and last.done + last.skipped == 64
    predict(never)
    assert tree(killed.out) == tree(never.out)


def test_a_manifest_that_was_cut_off_loses_one_row(options):
    predict(options)
    whole = tree(options.out)
    path = options.out / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_manifest(options.out)) == 3
    path.write_bytes(whole[MANIFEST][: len(whole[MANIFEST]) // 2])
    summary = predict(replace(options, overwrite=True))
    assert summary.done == 4
    assert {n: b for n, b in tree(options.out).items() if n != MANIFEST} == {
        n: b for n, b in whole.items() if n != MANIFEST
    }


def test_a_manifest_of_something_else_is_left_alone(options):
    options.out.mkdir()
    (options.out / MANIFEST).write_text('{"image": "x.png"}\n')
    with pytest.raises(DatoolError, match="line 1"):
        predict(options)
    assert tree(options.out) == {MANIFEST: b'{"image": "x.png"}\n'}


def test_two_runs_at_once_on_one_folder_are_refused(options):
    def second(progress: Progress):
        if progress.done == 1:
            with pytest.raises(DatoolError, match="another datool run"):
                predict(options)

    assert predict(options, second).done == 4


def test_progress_counts_every_image(options, photos):
    (photos / "bad.jpg").write_bytes(b"")
    seen = []
    predict(options, seen.append)
    assert [p.done + p.failed for p in seen] == list(range(6))
    assert (seen[-1].todo, seen[-1].done, seen[-1].failed) == (5, 4, 1)


def test_nothing_to_predict_is_an_error(tmp_path, options):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatoolError, match="no image"):
        predict(replace(options, inputs=[str(tmp_path / "empty")]))
    with pytest.raises(DatoolError, match="format"):
        predict(replace(options, formats=["jpeg"]))
