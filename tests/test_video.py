"""Films: what goes in comes out at its time, without flicker, whole or not at all."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datool.colour import between_ends, to_picture
from datool.data.manifest import CLIPS, read_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.clips import write_clip
from datool.estimators.steady import Cuts, flicker, shrunk
from datool.estimators.video import LOOK_AHEAD, RANGES, Video
from datool.evaluation.alignment import fit_scale_and_shift
from datool.files import LOCK, read_map
from datool.files.atomic import whole
from datool.files.clips import CLIP_FORMATS, clip_output
from datool.files.video import Film, FrameFolder
from datool.jobs.predict import PredictOptions, Progress, predict
from datool.models.depth_anything import build_model
from datool.models.weights import save

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64
SIGNS = Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT


def scene(seed=0, height=HEIGHT, width=WIDTH):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)


def film(path, frames, times=None, time_base=Fraction(1, 25), sound="aac", turned=0, **options):
    """Write frames to a file, by default 25 a second; times are ticks of the time base."""
    with av.open(str(path), "w", **options) as container:
        pictures = container.add_stream("libx264", rate=25, options={"crf": "15", "bf": "2"})
        pictures.width, pictures.height, pictures.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        pictures.codec_context.time_base = time_base
        if turned:
            if not hasattr(pictures, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            pictures.set_display_rotation(turned)
        audio = container.add_stream(sound, rate=16000, layout="mono") if sound else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], time_base
            container.mux(pictures.encode(frame))
            if audio is not None:
                noise = np.random.default_rng(number).integers(-3000, 3000, (1, 640), dtype=np.int16)
                samples = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
                samples.sample_rate, samples.time_base, samples.pts = 16000, Fraction(1, 16000), number * 640
                container.mux(audio.encode(samples))
        for stream in (pictures, audio):
            if stream is not None:
                container.mux(stream.encode())
    return path


class Brightness:
    """An estimator that sees near where it is bright, in a scale and shift of its own for each frame, as asked."""

    def __init__(self, scales=(1.0,), shifts=(0.0,)):
        self.scales, self.shifts, self.number = scales, shifts, 0

    def predict(self, images):
        maps = []
        for image in images:
            scale, shift = (some[self.number % len(some)] for some in (self.scales, self.shifts))
            maps.append(DepthMap((scale * image[..., 1] + shift).astype(np.float32), *SIGNS))
            self.number += 1
        return maps


class Held:
    """Frames in memory as a clip."""

    path, sound = Path("held"), None
    rate_hz, time_base_s, pixel_aspect = Fraction(25), Fraction(1, 25), Fraction(1)

    def __init__(self, images):
        from datool.files.video import Frame

        self.all = [Frame(number, Fraction(number, 25), image) for number, image in enumerate(images)]
        self.num_frames = len(self.all)

    def frames(self, every=1):
        yield from self.all[::every]


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


# Files


def containers(folder):
    """One film a kind: (file, frames, times in s)."""
    images = [scene(number // 10) for number in range(24)]
    even = [Fraction(number, 25) for number in range(24)]
    varied = [number if number < 8 else 8 + 3 * (number - 8) for number in range(24)]
    yield film(folder / "even.mp4", images), even
    yield film(folder / "varied.mp4", images, varied), [Fraction(tick, 25) for tick in varied]
    yield film(folder / "varied.mkv", images, varied), [Fraction(tick, 25) for tick in varied]
    yield film(folder / "silent.mov", images, sound=None), even
    yield film(folder / "raw sound.mkv", images, sound="pcm_s16le"), even


def test_times_frames_and_sound_come_out_as_they_went_in(tmp_path):
    for path, times in containers(tmp_path):
        clip = Film(path)
        assert [frame.time_s for frame in clip.frames()] == times, path
        names = ("color", "grey10", "side-by-side", "npy")
        outputs = {name: clip_output(tmp_path, Path("out"), name) for name in names}
        result = write_clip(Video(Brightness()), clip, outputs, {})
        assert (result.num_frames, result.image_size) == (24, (HEIGHT, WIDTH))
        for name in names[:3]:
            again = Film(outputs[name])
            assert [frame.time_s for frame in again.frames()] == times, (path, name)
            assert (again.sound is None) == (clip.sound is None)
            if clip.sound is not None:
                with av.open(str(outputs[name])) as made:
                    sound = made.streams.audio[0]
                    assert sound.codec_context.name == "aac"
                    assert float(sound.duration * sound.time_base) == pytest.approx(24 / 25, abs=0.15)
        lines = (outputs["npy"] / "frames.csv").read_text().splitlines()[1:]
        assert [float(line.split(",")[1]) for line in lines] == pytest.approx([float(time) for time in times])
        assert len(list(outputs["npy"].glob("*.npy"))) == 24


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_sound_is_copied_as_it_is(tmp_path):
    path = film(tmp_path / "a.mp4", [scene()] * 12)
    write_clip(Video(Brightness()), Film(path), {"color": tmp_path / "out.mp4"}, {})
    assert packets(tmp_path / "out.mp4") == packets(path)


def test_a_turned_film_is_upright(tmp_path):
    path = film(tmp_path / "turned.mp4", [scene()] * 3, turned=90)
    frame = next(Film(path).frames())
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    error, other = (np.abs(np.rot90(scene(), turns).astype(int) - frame.image).mean() for turns in (1, 3))
    assert error < 10 < 30 < other
    write_clip(Video(Brightness()), Film(path), {"side-by-side": tmp_path / "side.mp4"}, {})
    assert next(Film(tmp_path / "side.mp4").frames()).image.shape == (WIDTH, 2 * HEIGHT + 16, 3)


def test_odd_sizes_are_padded_to_pairs(tmp_path):
    clip = Held([scene(0, 47, 63)] * 3)
    write_clip(Video(Brightness()), clip, {name: tmp_path / f"{name}.mp4" for name in ("color", "grey10")}, {})
    assert next(Film(tmp_path / "color.mp4").frames()).image.shape == (48, 64, 3)
    assert next(Film(tmp_path / "grey10.mp4").frames()).image.shape == (48, 64, 3)


def test_ten_bits_are_ten_bits(tmp_path):
    ramp = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))

    class Ramp:
        def predict(self, images):
            return [DepthMap(ramp, *SIGNS) for _ in images]

    write_clip(Video(Ramp(), "frame"), Held([scene()] * 3), {"grey10": tmp_path / "a.mp4"}, {})
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
        frame = next(container.decode(video=0))
        grey = frame.to_ndarray()[:HEIGHT].astype(int)
    assert frame.format.name == "yuv420p10le" and len(np.unique(grey)) > 60
    assert np.abs(grey - np.rint(ramp * 1023)).max() <= 4


def test_values_are_written_as_they_are_and_png16_shares_its_scale(tmp_path):
    images = [np.clip(scene() * gain, 0, 255).astype(np.uint8) for gain in (0.8, 0.9, 1.0)]
    outputs = {name: tmp_path / name for name in ("npy", "png16", "npz")}
    write_clip(Video(Brightness()), Held(images), outputs, {"model": "brightness"})
    maps = Video(Brightness()).predict(images)
    lines = [line.split(",") for line in (tmp_path / "png16/frames.csv").read_text().splitlines()[1:]]
    assert len({tuple(line[2:]) for line in lines}) == 1
    for number, depth in enumerate(maps):
        assert np.array_equal(np.load(tmp_path / f"npy/{number:06d}.npy"), depth.values)
        again = read_map(tmp_path / f"png16/{number:06d}.png")
        assert np.abs(again.values - depth.values).max() <= float(lines[0][2])
        assert again.quantity is Quantity.DISPARITY
        assert np.array_equal(read_map(tmp_path / f"npz/{number:06d}.npz").values, depth.values)


def broken(folder):
    """One file a kind of harm."""
    images = [
        np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for number in range(40)
    ]
    good = film(folder / "good.mp4", images, options={"movflags": "+faststart"}).read_bytes()
    (folder / "half.mp4").write_bytes(good[: len(good) // 2])
    plain = film(folder / "plain.mp4", images).read_bytes()
    (folder / "no index.mp4").write_bytes(plain[: len(plain) // 2])
    loose = film(folder / "loose.mkv", images).read_bytes()
    (folder / "half.mkv").write_bytes(loose[: len(loose) // 3])
    (folder / "text.mp4").write_text("not a film")
    (folder / "empty.mp4").write_bytes(b"")
    hurt = bytearray(good)
    hurt[len(hurt) // 2 : len(hurt) // 2 + 4000] = bytes(4000)
    (folder / "hurt.mp4").write_bytes(bytes(hurt))
    for name in ("good.mp4", "plain.mp4", "loose.mkv"):
        (folder / name).unlink()


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


def test_frames_of_a_folder_are_read_in_order(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), scene(number))
    clip = FrameFolder(tmp_path, sorted(tmp_path.iterdir()), Fraction(24))
    assert [frame.time_s for frame in clip.frames()] == [Fraction(number, 24) for number in range(3)]
    assert [frame.number for frame in clip.frames(2)] == [0, 2]


def test_formats_of_films_alone_are_refused_for_photos(films, tmp_path, weights):
    with pytest.raises(DatoolError, match="grey10"):
        predict(options_for(films, tmp_path / "out", weights, formats=["grey10"]))
    summary = predict(options_for(films / "a.mp4", tmp_path / "out", weights, formats=["grey10"]))
    assert summary.films == 1


def test_a_missing_library_is_named(films, tmp_path, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    summary = predict(options_for(films / "a.mp4", tmp_path / "out", weights))
    assert "pip install 'datool[video]'" in summary.failed[0][1]


def test_a_folder_is_replaced_whole_or_left(tmp_path):
    target = tmp_path / "maps"
    for content in ("old", "new"):
        with whole(target) as folder:
            folder.mkdir()
            (folder / "a").write_text(content)
    assert (target / "a").read_text() == "new"
    with pytest.raises(ZeroDivisionError), whole(target) as folder:
        folder.mkdir()
        raise ZeroDivisionError
    assert (target / "a").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_every_format_and_range_is_named_once():
    suffixes = [row.suffix for row in CLIP_FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes) and len(set(RANGES)) == 3
