"""Films for tests: made, held in memory, and an estimator that needs no network."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from datool.depth import Ambiguity, DepthMap, Quantity

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64
SIGNS = Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT


def scene(seed=0, height=HEIGHT, width=WIDTH):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)


def film(path, frames, times=None, time_base=Fraction(1, 25), sound="aac", sound_hz=16000, turned=0, **options):
    """Write frames to a file, by default 25 a second; times are ticks of the time base."""
    with av.open(str(path), "w", **options) as container:
        pictures = container.add_stream("libx264", rate=25, options={"crf": "15", "bf": "2"})
        pictures.width, pictures.height, pictures.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        pictures.codec_context.time_base = time_base
        if turned:
            if not hasattr(pictures, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            pictures.set_display_rotation(turned)
        audio = container.add_stream(sound, rate=sound_hz, layout="mono") if sound else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], time_base
            container.mux(pictures.encode(frame))
            if audio is not None:
                num = sound_hz // 25
                noise = np.random.default_rng(number).integers(-3000, 3000, (1, num), dtype=np.int16)
                samples = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
                samples.sample_rate, samples.time_base, samples.pts = sound_hz, Fraction(1, sound_hz), number * num
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
    old = film(folder / "old.avi", images).read_bytes()
    (folder / "half.avi").write_bytes(old[: len(old) // 4])
    (folder / "unknown.avi").write_bytes(old.replace(b"H264", b"ZZQ9"))
    for name in ("good.mp4", "plain.mp4", "loose.mkv", "old.avi"):
        (folder / name).unlink()
