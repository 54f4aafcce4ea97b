"""Films: what goes in comes out at its time, without flicker, whole or not at all."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from films import HEIGHT, SIGNS, WIDTH, Brightness, Held, broken, film, scene

from datool.colour import between_ends, to_picture
from datool.data.manifest import CLIPS, read_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.steady import Cuts, flicker, shrunk
from datool.estimators.video import CHUNK_FRAMES, LOOK_AHEAD, RANGES, Video
from datool.evaluation.alignment import fit_scale_and_shift
from datool.files import LOCK
from datool.files.clips import CLIP_FORMATS
from datool.files.video import Film
from datool.jobs.predict.predict import PredictOptions, predict
from datool.models.depth_anything import build_model
from datool.models.weights import save
from datool.progress import Progress


def shown(estimator, images, range="clip", flow=False):
    return list(Video(estimator, range, flow).stream(Held(images)))


# Maps of neighbouring frames


@pytest.mark.parametrize("flow", [False, True])
def test_equal_frames_give_equal_maps(flow):
    maps = Video(Brightness(), flow=flow).predict([scene()] * 6)
    assert all(np.array_equal(depth.values, scene()[..., 1]) for depth in maps)


def test_frame_by_frame_gives_the_maps_of_photos():
    images = [scene(seed) for seed in range(5)]
    alone = Brightness().predict(images)
    for frame, depth in zip(shown(Brightness(), images, "frame"), alone, strict=True):
        assert np.array_equal(frame.depth.values, depth.values) and frame.ends is None


@pytest.mark.parametrize("range", ["clip", "ema"])
def test_scale_and_shift_that_jump_are_taken_out(range):
    rng = np.random.default_rng(0)
    jumping = Brightness(rng.uniform(0.8, 1.25, 40), rng.uniform(-30, 30, 40))
    before = flicker([depth.values for depth in jumping.predict([scene()] * 40)])
    after = flicker([frame.depth.values for frame in shown(jumping, [scene()] * 40, range)])
    assert after < before / 20


def test_flicker_of_a_still_shot_is_a_quarter_of_frame_by_frame_ranges():
    rng = np.random.default_rng(0)
    images = [np.clip(scene() + rng.normal(0, 3, scene().shape), 0, 255).astype(np.uint8) for _ in range(40)]
    for number, image in enumerate(images):  # something near that comes and goes takes the range with it
        cv2.circle(image, (2 * number - 8, 44), 6, (255, 255, 255), -1)
    still = np.zeros((HEIGHT, WIDTH), bool)
    still[:32] = True

    def of(range):
        estimator = Brightness(1 + 0.1 * np.sin(np.arange(97)), 5 * np.cos(np.arange(89)))
        return flicker([between_ends(frame.depth, frame.ends) for frame in shown(estimator, images, range)], still)

    assert of("clip") < of("frame") / 4
    assert of("ema") < of("frame") / 4


@pytest.mark.parametrize("flow", [False, True])
def test_metres_stay_metres_and_sky_and_unknown_stay(flow):
    image = scene()

    class Metres:
        def predict(self, images):
            values = 1 + images[0][..., 0].astype(np.float32) / 100
            values[:4], values[4:8] = np.inf, np.nan
            return [DepthMap(values.copy(), Quantity.DEPTH, Ambiguity.NONE) for _ in images]

    truth = Metres().predict([image])[0].values
    for depth in Video(Metres(), flow=flow).predict([image] * 4):
        assert depth.ambiguity is Ambiguity.NONE and np.array_equal(depth.values, truth, equal_nan=True)


def test_a_cut_begins_anew():
    images = [scene(1)] * 6 + [scene(2)] * 6
    cuts = Cuts()
    assert [number for number, image in enumerate(images) if cuts.step(shrunk(image, 96))] == [0, 6]
    frames = shown(Brightness([1.0] * 6 + [3.0] * 6), images, "ema")
    assert [number for number, frame in enumerate(frames) if frame.is_cut] == [0, 6]
    assert np.array_equal(frames[6].depth.values, 3 * scene(2)[..., 1].astype(np.float32))
    assert frames[5].ends != frames[6].ends and frames[6].ends == pytest.approx(frames[11].ends)


def test_a_moving_picture_is_no_cut():
    wide = scene(3, HEIGHT, 4 * WIDTH)
    cuts = Cuts()
    assert sum(cuts.step(shrunk(wide[:, x : x + WIDTH], 96)) for x in range(0, 180, 2)) == 1


def test_what_moves_keeps_its_depth():
    wide = scene(3, HEIGHT, 4 * WIDTH)
    images = [np.ascontiguousarray(wide[:, x : x + WIDTH]) for x in range(0, 120, 3)]
    for flow in (False, True):
        errors = []
        for depth, image in zip(Video(Brightness(), flow=flow).predict(images), images, strict=True):
            truth = image[..., 1].astype(np.float32)
            scale, shift = fit_scale_and_shift(depth.values.ravel(), truth.ravel())
            errors.append(np.abs(scale * depth.values + shift - truth).mean() / np.ptp(truth))
        assert np.mean(errors) < 0.02


def test_one_range_for_the_whole_clip_or_one_that_follows():
    images = [np.clip(scene() * gain, 0, 255).astype(np.uint8) for gain in np.linspace(0.3, 1, 60)]
    assert len({frame.ends for frame in shown(Brightness(), images, "clip")}) == 1
    followed = shown(Brightness(), images, "ema")
    assert len({frame.ends for frame in followed}) > 30
    for frame in followed[:-LOOK_AHEAD]:  # what comes is seen before it is there
        assert frame.ends[1] >= np.percentile(frame.depth.values, 99)


def test_a_calibrated_film_is_shown_in_its_own_range():
    def metres(depth):
        return DepthMap(1 / (depth.values / 255 + 0.1), Quantity.DEPTH, Ambiguity.NONE)

    frames = list(Video(Brightness(), "clip", finish=metres).stream(Held([scene()] * 4)))
    assert {frame.depth.ambiguity for frame in frames} == {Ambiguity.NONE}
    shown_values = between_ends(frames[0].depth, frames[0].ends)
    assert shown_values.min() < 0.06 and shown_values.max() > 0.94


def test_a_picture_between_given_ends():
    depth = DepthMap(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), *SIGNS)
    assert np.array_equal(to_picture(depth, "grey", (0.0, 1.0)), to_picture(depth, "grey"))
    wide = to_picture(depth, "grey", (-1.0, 1.0))
    assert wide.min() in (127, 128) and wide.max() == 255
    assert to_picture(depth, "grey", (0.25, 0.75))[0, 0, 0] == 0


def test_flicker_knows_no_scale():
    rng = np.random.default_rng(0)
    maps = [scene()[..., 0] + rng.normal(0, 5, (HEIGHT, WIDTH)) for _ in range(5)]
    assert flicker(maps) == pytest.approx(flicker([7 * values + 3 for values in maps]))
    assert flicker([maps[0]] * 3) == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(DatoolError, match="--range"):
        Video(Brightness(), "minmax")
    with pytest.raises(DatoolError, match="--flow"):
        Video(Brightness(), "frame", flow=True)


def test_a_broken_film_is_a_failed_row_and_leaves_nothing(tmp_path, weights):
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    broken(films)
    num = len(list(films.iterdir()))
    film(films / "whole.mp4", [scene()] * 5)
    summary = predict(options_for(films, out, weights))
    assert (summary.films, summary.frames, len(summary.failed)) == (1, 5, num)
    for path, reason in summary.failed:
        assert Path(path).name in reason and len(reason) > 40
    assert {path.name for path in out.iterdir()} - {LOCK} == {CLIPS, "whole.color.mp4", "whole.png16"}
    rows = read_manifest(out, CLIPS)
    assert sorted(row.status for row in rows.values()) == ["done"] + ["failed"] * num
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("range", RANGES)
def test_a_film_that_is_left_early_is_closed_though_it_is_being_read(range):
    waiting, closed = threading.Event(), []

    class Slow(Held):
        def frames(self, every=1):
            try:
                for frame in self.all:
                    if frame.number >= CHUNK_FRAMES and every == 1:
                        waiting.wait(0.3)
                    yield frame
            finally:
                closed.append(every)

    stream = Video(Brightness(), range).stream(Slow([scene()] * (CHUNK_FRAMES + 1)))
    next(stream)
    stream.close()
    assert closed[-1] == 1


# The command's job


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save(path, build_model("nano"), "nano")
    return path


def options_for(films, out, weights, **changes):
    options = PredictOptions(inputs=[str(films)], out=out, model=str(weights), size_px=56, device="cpu")
    return replace(options, **changes)


@pytest.fixture
def films(tmp_path):
    (tmp_path / "films/sub").mkdir(parents=True)
    film(tmp_path / "films/a.mp4", [scene(1)] * 6)
    film(tmp_path / "films/sub/b.mkv", [scene(2)] * 4)
    cv2.imwrite(str(tmp_path / "films/photo.png"), scene(3))
    return tmp_path / "films"


def test_photos_and_films_of_a_folder_and_a_rerun(films, tmp_path, weights):
    options = options_for(films, tmp_path / "out", weights)
    seen = []
    summary = predict(options, seen.append)
    assert (summary.done, summary.films, summary.frames, summary.skipped) == (1, 2, 10, 0)
    assert seen[-1].done == seen[-1].todo == 11
    assert {str(path.relative_to(options.out)) for path in options.out.rglob("*.mp4")} == {
        "a.color.mp4",
        "sub/b.color.mp4",
    }
    assert len(list((options.out / "sub/b.png16").glob("*.png"))) == 4
    assert list(read_manifest(options.out)) == [str(films / "photo.png")]
    rows = read_manifest(options.out, CLIPS)
    assert [row.num_frames for row in rows.values()] == [6, 4]
    assert {row.steadying for row in rows.values()} == {"clip"}
    again = predict(options)
    assert (again.done, again.films, again.skipped) == (0, 0, 3)
    (options.out / "a.color.mp4").unlink()
    assert predict(options).films == 1


def test_films_steadied_otherwise_are_not_mixed(films, tmp_path, weights):
    options = options_for(films, tmp_path / "out", weights)
    predict(options)
    with pytest.raises(DatoolError, match="--range"):
        predict(replace(options, range="ema"))
    assert predict(replace(options, range="ema", flow=True, overwrite=True)).films == 2


def test_what_cannot_be_is_refused_before_any_work(films, tmp_path, weights):
    for changes, option in (({"range": "minmax"}, "--range"), ({"range": "frame", "flow": True}, "--flow")):
        with pytest.raises(DatoolError, match=option):
            predict(options_for(films, tmp_path / "out", weights, **changes))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {LOCK}


def test_a_killed_film_leaves_nothing_half(films, tmp_path, weights):
    options = options_for(films / "a.mp4", tmp_path / "out", weights)

    def interrupt(progress: Progress):
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(options, interrupt)
    assert not [path for path in options.out.rglob("*") if path.suffix in (".mp4", ".png", ".tmp")]
    (options.out / ".datool-0123456789ab.tmp").mkdir()  # as a kill leaves it
    assert predict(options).films == 1
    assert not list(options.out.glob(".datool-*.tmp"))


def test_a_folder_of_frames_is_one_clip(tmp_path, weights):
    for folder in ("shots/one", "shots/two"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(5):
            cv2.imwrite(str(tmp_path / folder / f"{number:03}.png"), scene(number))
    options = options_for(tmp_path / "shots", tmp_path / "out", weights, sequence_hz=12.5)
    summary = predict(options)
    assert (summary.done, summary.films, summary.frames) == (0, 2, 10)
    times = [frame.time_s for frame in Film(options.out / "one.color.mp4").frames()]
    assert times == [Fraction(number * 2, 25) for number in range(5)]
    cv2.imwrite(str(tmp_path / "shots/two/005.png"), scene(0, 40, 40))
    failed = predict(replace(options, overwrite=True)).failed
    assert len(failed) == 1 and "40x40" in failed[0][1]


def frames_in(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), scene(number))


def test_a_folder_of_two_kinds_of_images_is_no_clip(tmp_path, weights):
    frames_in(tmp_path / "in/stereo", ["left_1.png", "left_2.png", "right_1.png", "right_2.png", "left_3.png"])
    frames_in(tmp_path / "in/good", ["1.png", "2.png"])
    options = options_for(tmp_path / "in", tmp_path / "out", weights, sequence_hz=25, formats=["npy"])
    summary = predict(options)
    assert summary.films == 1 and len(summary.failed) == 1
    assert "3 files left_#.png, 2 right_#.png" in summary.failed[0][1]
    for side, num in (("left", 3), ("right", 2)):  # as the message says
        summary = predict(replace(options, inputs=[str(tmp_path / f"in/stereo/{side}_*.png")]))
        assert (summary.films, summary.frames) == (1, num)
        assert len(list((tmp_path / "out/stereo" / f"{side}_1-{side}_{num}.npy").glob("*.npy"))) == num


def test_a_folder_that_gained_frames_is_done_again(tmp_path, weights):
    frames_in(tmp_path / "shot", ["1.png", "2.png"])
    options = options_for(tmp_path / "shot", tmp_path / "out", weights, sequence_hz=25, formats=["npy"])
    assert (predict(options).frames, predict(options).frames) == (2, 0)
    frames_in(tmp_path / "shot", ["1.png", "2.png", "3.png"])
    assert predict(options).frames == 3


def test_folders_of_any_names_are_clips_of_their_own(tmp_path, weights):
    folders = ["a/shot.v1", "a/shot.v2", "b/shot.v1", "c", "c/c"]
    for folder in folders:
        frames_in(tmp_path / folder, [f"{folders.index(folder)}.png"])
    inputs = [str(tmp_path / name) for name in ("a/shot.v1", "a/shot.v2", "b/shot.v1", "c")]
    options = options_for("", tmp_path / "out", weights, sequence_hz=25, formats=["npy"], inputs=inputs)
    assert predict(options).films == 5
    assert {path.name for path in options.out.glob("*.npy")} == {
        "shot.v1.npy",
        "shot.v2.npy",
        "shot.v1-2.npy",
        "c.npy",
        "c-2.npy",
    }


def test_what_the_user_put_into_a_folder_of_maps_is_not_lost(films, tmp_path, weights):
    options = options_for(films / "a.mp4", tmp_path / "out", weights, formats=["npy"])
    predict(options)
    (options.out / "a.npy/notes.txt").write_text("mine")
    assert "notes.txt" in predict(replace(options, overwrite=True)).failed[0][1]
    assert (options.out / "a.npy/notes.txt").read_text() == "mine"
    (options.out / "a.npy/notes.txt").unlink()
    assert predict(replace(options, overwrite=True)).films == 1


def test_formats_of_films_alone_are_refused_for_photos(films, tmp_path, weights):
    with pytest.raises(DatoolError, match="grey10"):
        predict(options_for(films, tmp_path / "out", weights, formats=["grey10"]))
    summary = predict(options_for(films / "a.mp4", tmp_path / "out", weights, formats=["grey10"]))
    assert summary.films == 1


def test_a_missing_library_is_named(films, tmp_path, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    summary = predict(options_for(films / "a.mp4", tmp_path / "out", weights))
    assert "pip install 'datool[video]'" in summary.failed[0][1]


def test_every_format_and_range_is_named_once():
    suffixes = [row.suffix for row in CLIP_FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes) and len(set(RANGES)) == 3
