"""Files of films: what goes in comes out at its time, whole or not at all."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from films import HEIGHT, SIGNS, WIDTH, Brightness, Held, film, scene

from datool.depth import DepthMap, Quantity
from datool.estimators.video import Video
from datool.files import read_map
from datool.files.atomic import whole
from datool.files.clips import clip_output
from datool.files.video import Film, FrameFolder
from datool.jobs.predict.films import write_clip

av = pytest.importorskip("av")


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
    yield film(folder / "192 kHz.mkv", images, sound="pcm_s16le", sound_hz=192_000), even
    late = [10_000 + 40 * number for number in range(24)]  # from the middle of a longer one
    yield film(folder / "late.mkv", images, late, Fraction(1, 1000), sound=None), even


def test_times_frames_and_sound_come_out_as_they_went_in(tmp_path):
    for path, times in containers(tmp_path):
        clip = Film(path)
        first, *_ = seen = [frame.time_s for frame in clip.frames()]
        assert [time - first for time in seen] == times, path
        names = ("color", "grey10", "side-by-side", "npy")
        outputs = {name: clip_output(tmp_path, Path("out"), name) for name in names}
        result = write_clip(Video(Brightness()), clip, outputs, {})
        assert (result.num_frames, result.image_size) == (24, (HEIGHT, WIDTH))
        for name in names[:3]:
            again = Film(outputs[name])
            assert [frame.time_s for frame in again.frames()] == seen, (path, name)
            assert (again.sound is None) == (clip.sound is None)
            if clip.sound is not None:
                with av.open(str(outputs[name])) as made:
                    sound = made.streams.audio[0]
                    assert sound.codec_context.name == "aac"
                    assert float(sound.duration * sound.time_base) == pytest.approx(24 / 25, abs=0.15)
        lines = (outputs["npy"] / "frames.csv").read_text().splitlines()[1:]
        assert [float(line.split(",")[1]) for line in lines] == pytest.approx([float(time) for time in seen])
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


@pytest.mark.parametrize("num", [1, 2, 3])
def test_short_films_are_written_too(tmp_path, num):
    outputs = {name: tmp_path / f"{name}.mp4" for name in ("color", "grey10")}
    write_clip(Video(Brightness()), Held([scene()] * num), outputs, {})
    for path in outputs.values():
        assert len(list(Film(path).frames())) == num


def test_a_last_frame_that_is_shown_for_long_is_no_missing_end(tmp_path):
    path = tmp_path / "screen.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(scene(), format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                packet.duration = 200 if number == 4 else 1
                container.mux(packet)
    assert len(list(Film(path).frames())) == 5


def test_a_film_that_does_not_tell_its_length_is_counted(tmp_path):
    path = film(tmp_path / "live.mkv", [scene()] * 30, format="matroska", options={"live": "1"})
    assert Film(path).num_frames == len(list(Film(path).frames())) == 30


@pytest.mark.skipif(int(av.__version__.split(".")[0]) < 18, reason="this PyAV does not convert it")
def test_hdr_looks_like_other_films(tmp_path):
    # White at 203 nits, in the primaries and on the curve of HDR10. Source: ITU-R BT.2408, BT.2100.
    image = scene() // 2 + 64
    linear = ((image / 255 + 0.055) / 1.055) ** 2.4
    wide = linear @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T
    power = (wide * 203 / 10_000) ** 0.1593017578125
    coded = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1
        frame = av.VideoFrame.from_ndarray(np.rint(coded * 65535).astype(np.uint16), format="rgb48le")
        container.mux(stream.encode(frame.reformat(format="yuv420p10le", dst_colorspace=9, dst_color_range=1)))
        container.mux(stream.encode())
    seen = next(Film(path).frames()).image
    assert np.abs(seen.astype(int) - image).mean() < 6 < 20 < np.abs(coded * 255 - image).mean()


def test_ten_bits_are_ten_bits(tmp_path):
    ramp = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))

    class Ramp:
        def predict(self, images):
            return [DepthMap(ramp, *SIGNS) for _ in images]

    write_clip(Video(Ramp(), "frame"), Held([scene()] * 3), {"grey10": tmp_path / "a.mp4"}, {})
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
        frame = next(container.decode(video=0))
        grey = np.frombuffer(frame.planes[0], np.uint16).reshape(HEIGHT, -1)[:, :WIDTH].astype(int)
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


def test_frames_of_a_folder_are_read_in_the_order_of_their_numbers_and_keep_their_names(tmp_path):
    names = ["shot.8", "shot.9", "shot.10", "shot.101"]
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), scene(number))
    clip = FrameFolder(tmp_path / "in", sorted((tmp_path / "in").iterdir()), Fraction(24))
    for number, frame in enumerate(clip.frames()):
        assert np.array_equal(frame.image, scene(number)[..., ::-1])  # cv2 writes blue first
        assert (frame.name, frame.time_s) == (names[number], Fraction(number, 24))
    assert [frame.number for frame in clip.frames(2)] == [0, 2]
    write_clip(Video(Brightness()), clip, {"npy": tmp_path / "out"}, {})
    lines = (tmp_path / "out/frames.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [f"{name}.npy" for name in names]
    assert all((tmp_path / "out" / f"{name}.npy").is_file() for name in names)


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
