"""Films and folders of frames as clips: decoded upright one frame after another, encoded likewise, whole or not at all.

Memory is that of a few frames, however long the clip. Times are kept: a frame goes out at the time at which it came in,
also where the rate varies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datool.errors import DatoolError, require
from datool.files.atomic import whole
from datool.files.images import MAX_PIXELS, explained, read_image

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv",
})
# fmt: on
DIGITS = re.compile(r"[0-9]+")
REPAIR = "Fetch it again, or let 'ffmpeg -i CLIP repaired.mp4' make what it can of it."
# Matroska tells where a track ends in a tag, AVI how many frames it has; MP4 says what it holds in an index.
LENGTH_TAG = "DURATION"
TOLERANCE_S = 1
# FFmpeg's numbers: the matrix of HD video, and whether codes 16 to 235 of 255 are used or all.
BT709, PART_OF_CODES, ALL_CODES = 1, 1, 2
COLOURLESS = 512  # the middle of 10 bits
# The curves of HDR, PQ and HLG, and what every other picture is in: sRGB, with the primaries of HD video. Before 18,
# PyAV does not convert them: HDR looks pale then.
HDR_CURVES, SRGB_CURVE, HD_PRIMARIES = (16, 18), 13, 1
# FFmpeg writes them into MP4, the last as an experiment, but browsers and players do not play them from there.
NOT_IN_MP4 = frozenset({"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8", "vorbis", "truehd"})
# AAC knows few rates; sound of another one is written at this.
USUAL_RATE_HZ = 48_000


@dataclass(frozen=True)
class Frame:
    """One frame of a clip.

    Args:
        number: 0, 1, 2 ... in the order of showing.
        time_s: when it is shown, from the clip's start.
        image: (H, W, 3) uint8 RGB, upright.
        name: of its file, without suffix, if it has one of its own.
    """

    number: int
    time_s: Fraction
    image: np.ndarray
    name: str = ""


class Clip(Protocol):
    """Frames in the order of showing, as often as asked for."""

    path: Path
    num_frames: int  # as the file says
    rate_hz: Fraction  # mean
    time_base_s: Fraction  # every time is a multiple
    pixel_aspect: Fraction
    sound: Path | None

    def frames(self, every: int = 1) -> Generator[Frame]:
        """Yield every ``every``-th frame from the first on; numbers count all of them."""
        ...


class Film:
    """A video file.

    Args:
        path: the file.
        max_pixels: the largest height x width.
    Raises:
        DatoolError: no such file, no film, cut short, frames too large, or PyAV is not installed.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.path = path
        with self._open() as container:
            stream = container.streams.best("video")
            context = stream.codec_context
            if context is None:
                raise DatoolError(
                    f"cannot read {path}: FFmpeg has no decoder for its pictures.",
                    "Convert it to H.264 where it plays.",
                )
            if context.width * context.height > max_pixels:
                raise DatoolError(
                    f"cannot read {path}: frames of {context.width}x{context.height}, more than the "
                    f"{max_pixels / 1e6:g} M pixels of --max-pixels.",
                    "Raise --max-pixels, or make the film smaller.",
                )
            end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
            if end > path.stat().st_size:
                raise DatoolError(f"cannot read {path}: cut short at {path.stat().st_size} of {end} bytes.", REPAIR)
            self.rate_hz: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.time_base_s: Fraction = stream.time_base
            self.pixel_aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
            self.sound = path if container.streams.audio else None
            counted_s = stream.frames / self.rate_hz if container.format.name == "avi" else Fraction(0)
            self._end_s = counted_s or _seconds(stream.metadata.get(LENGTH_TAG, ""))
            self.num_frames = stream.frames or round((container.duration or 0) * self.rate_hz / 1_000_000)
            if not self.num_frames:  # recorded by a browser: its end was not known when it began
                self.num_frames = sum(packet.size > 0 for packet in container.demux(stream))

    def frames(self, every: int = 1) -> Generator[Frame]:
        """Yield every ``every``-th frame, upright; HDR is brought to the range of other films.

        Raises:
            DatoolError: the film is broken or ends too early.
        """
        with self._open() as container:
            stream = container.streams.best("video")
            to_rgb = _to_rgb()
            stream.thread_type = "AUTO"
            start_s = _whole_ticks(_start_s(container), self.time_base_s)
            number, last_s, size = 0, None, None
            for frame in container.decode(stream):
                time_s = None if frame.pts is None else frame.pts * frame.time_base - start_s
                if time_s is None or (last_s is not None and time_s <= last_s):  # old AVI: no times, or not in order
                    time_s = Fraction(0) if last_s is None else last_s + self._mean_s()
                where = f"cannot read {self.path}: frame {number} at {float(time_s):.2f} s"
                if frame.is_corrupt:
                    raise DatoolError(f"{where} is damaged.", REPAIR)
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    raise DatoolError(
                        f"{where} is {frame.width}x{frame.height}, the first {size[0]}x{size[1]}.", REPAIR
                    )
                turns = round(frame.rotation / 90)
                if number == 0 and turns % 2:
                    self.pixel_aspect = 1 / (stream.sample_aspect_ratio or Fraction(1))
                if number % every == 0:
                    yield Frame(number, time_s, np.ascontiguousarray(np.rot90(to_rgb(frame), turns)))
                number, last_s = number + 1, time_s
                shown_s = max(1 / self.rate_hz, (frame.duration or 0) * frame.time_base)
            if last_s is None:
                raise DatoolError(f"cannot read {self.path}: it has no frames.", REPAIR)
            length_s = self._end_s - start_s
            if last_s + shown_s < length_s - TOLERANCE_S:
                raise DatoolError(
                    f"cannot read {self.path}: it ends at {float(last_s):.1f} of {float(length_s):.1f} s.", REPAIR
                )

    def _mean_s(self) -> Fraction:
        return max(_whole_ticks(1 / self.rate_hz, self.time_base_s), self.time_base_s)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        av = require("av", "video", f"reading {self.path}")
        with explained(str(self.path)), open(self.path, "rb"):
            pass  # so that what hinders every file is told as for every file
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise DatoolError(f"cannot read {self.path}: it has no pictures.", "Name a film.")
                yield container
        except av.FFmpegError as error:
            raise DatoolError(
                f"cannot read {self.path}: no film, or cut short or broken ({error.strerror}).", REPAIR
            ) from error


class FrameFolder:
    """Image files as a clip, in the order of the numbers in their names.

    Args:
        path: what the clip is called.
        files: its frames.
        rate_hz: frames a second.
        max_pixels: as for `read_image`.
    Raises:
        DatoolError: their names differ in more than numbers, so that they are no one clip's.
    """

    pixel_aspect = Fraction(1)
    sound: Path | None = None

    def __init__(self, path: Path, files: Sequence[Path], rate_hz: Fraction, max_pixels: int = MAX_PIXELS) -> None:
        kinds = Counter(DIGITS.sub("#", file.name) for file in files)
        if len(kinds) > 1:
            (most, many), *_, (fewest, few) = kinds.most_common()
            raise DatoolError(
                f"cannot take {path} as a clip: {many} files {most}, {few} {fewest}; expected names that differ in "
                "numbers alone.",
                f"Name the frames: '{path / most.replace('#', '*')}'.",
            )
        self.files = sorted(files, key=numbers_in)
        self.path, self.rate_hz, self.max_pixels = path, rate_hz, max_pixels
        self.num_frames = len(files)
        self.time_base_s = 1 / rate_hz

    def frames(self, every: int = 1) -> Generator[Frame]:
        """Yield every ``every``-th frame.

        Raises:
            DatoolError: one cannot be read, or differs from the first in size.
        """
        shape = None
        for number in range(0, len(self.files), every):
            image = read_image(self.files[number], self.max_pixels)
            shape = shape or image.shape
            if image.shape != shape:
                raise DatoolError(
                    f"{self.files[number]} is {image.shape[1]}x{image.shape[0]}, the clip's first frame "
                    f"{shape[1]}x{shape[0]}.",
                    "Put photos of another size elsewhere, or predict without --sequence.",
                )
            yield Frame(number, number / self.rate_hz, image, self.files[number].stem)


def numbers_in(file: Path) -> tuple[list[int], str]:
    """Return what sorts files by the numbers in their names: 2 before 10."""
    return [int(digits) for digits in DIGITS.findall(file.name)], file.name


@dataclass(frozen=True)
class Encoding:
    """How pictures become a film.

    Args:
        codec: FFmpeg's name of the encoder.
        pixels: its pixel format.
        options: its options.
        from_rgb: takes (H, W, 3) uint8 RGB; else (H, W) uint16 grey of 10 bits, written as it is.
    """

    codec: str
    pixels: str
    options: dict[str, str]
    from_rgb: bool = True


@contextmanager
def film_writer(path: Path, encoding: Encoding, clip: Clip) -> Iterator[Callable[[Frame, np.ndarray], None]]:
    """Give a function that appends a picture for a frame of ``clip``; the file appears when the block ends well.

    An MP4 with the clip's times, pixel aspect and sound. Sound is copied; what MP4 cannot hold becomes AAC. A side of
    odd length gets its last row or column twice, since the pixel formats that play everywhere hold pairs.

    Args:
        path: of the film.
        encoding: how.
        clip: whose frames these are.
    Raises:
        DatoolError: it cannot be written, or PyAV is not installed.
    """
    av = require("av", "video", f"writing {path}")
    with whole(path) as temporary:
        try:
            options = {"movflags": "+faststart"}
            with (
                av.open(str(temporary), "w", format="mp4", options=options) as container,
                closing(_Writer(container, encoding, clip)) as writer,
            ):
                yield writer.add
                writer.finish()
        except av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno:
                raise  # a full disk: `whole` knows what to say
            raise DatoolError(f"cannot write {path}: {error.strerror}.", "Choose another --format.") from error


class _Writer:
    """An MP4 that is open; its streams are made with the first frame, which tells the size."""

    def __init__(self, container: Any, encoding: Encoding, clip: Clip) -> None:
        self.container, self.encoding, self.clip = container, encoding, clip
        self.stream: Any = None
        self.sound: _Sound | None = None

    def add(self, frame: Frame, picture: np.ndarray) -> None:
        """Append the picture for a frame, and the sound up to it."""
        odd = [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)]
        picture = np.pad(picture, odd[: picture.ndim], mode="edge")
        if self.stream is None:
            self._begin(picture.shape[0], picture.shape[1])
        packed = self._packed(picture)
        packed.time_base = self.clip.time_base_s
        packed.pts = round(frame.time_s / self.clip.time_base_s)
        self.container.mux(self.stream.encode(packed))
        if self.sound is not None:
            self.sound.copy_until(frame.time_s)

    def finish(self) -> None:
        """Write what the encoders still hold."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())
        if self.sound is not None:
            self.sound.copy_rest()

    def close(self) -> None:
        """Close the film that the sound is from."""
        if self.sound is not None:
            self.sound.source.close()

    def _begin(self, height: int, width: int) -> None:
        self.stream = self.container.add_stream(
            self.encoding.codec, rate=self.clip.rate_hz, options=dict(self.encoding.options)
        )
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, self.encoding.pixels
        context.time_base = self.clip.time_base_s
        context.sample_aspect_ratio = self.clip.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = PART_OF_CODES if self.encoding.from_rgb else ALL_CODES
        if self.encoding.codec == "libx265":
            context.codec_tag = "hvc1"  # the name that Apple's players look for
        if self.clip.sound is not None:
            self.sound = _Sound(self.clip.sound, self.container)

    def _packed(self, picture: np.ndarray) -> Any:
        from av import VideoFrame
        from av.video.reformatter import Colorspace

        if self.encoding.from_rgb:
            rgb = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            return rgb.reformat(format=self.encoding.pixels, dst_colorspace=Colorspace.ITU709)
        grey = VideoFrame(picture.shape[1], picture.shape[0], self.encoding.pixels)
        for number, plane in enumerate(grey.planes):
            codes = np.full((plane.height, plane.line_size // 2), COLOURLESS, np.uint16)
            if number == 0:
                codes[:, : plane.width] = picture
            plane.update(codes.tobytes())
        return grey


class _Sound:
    """The sound of one film on its way into another: packets as they are, or as AAC where MP4 cannot hold them."""

    def __init__(self, path: Path, container: Any) -> None:
        av = require("av", "video", f"reading {path}")
        self.container = container
        self.source = av.open(str(path))
        self.start_s = _start_s(self.source)
        self.targets: dict[int, Any] = {}
        self.encoded: set[int] = set()
        for stream in self.source.streams.audio:
            if stream.codec_context is None:  # Apple's spatial sound, which FFmpeg does not know, beside its plain one
                continue
            if stream.codec_context.codec.canonical_name in container.supported_codecs - NOT_IN_MP4:
                self.targets[stream.index] = container.add_stream_from_template(stream)
            else:
                layout = "mono" if stream.channels == 1 else "stereo"
                known_hz = av.Codec("aac", "w").audio_rates or []
                rate_hz = stream.rate if stream.rate in known_hz else USUAL_RATE_HZ
                self.targets[stream.index] = container.add_stream("aac", rate=rate_hz, layout=layout)
                self.encoded.add(stream.index)
        known = [stream for stream in self.source.streams.audio if stream.index in self.targets]
        self.packets = self.source.demux(*known) if known else iter(())
        self.waiting: Any = None

    def copy_until(self, time_s: Fraction | None) -> None:
        """Write the packets that begin by ``time_s`` of the clip; None = all that are left."""
        while True:
            packet = self.waiting if self.waiting is not None else next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            begin = packet.pts if packet.pts is not None else packet.dts
            if begin is not None and time_s is not None and begin * packet.time_base - self.start_s > time_s:
                self.waiting = packet
                return
            if begin is not None:  # what has no time ends the stream
                self._copy(packet)

    def copy_rest(self) -> None:
        """Write what is left."""
        self.copy_until(None)
        for index in self.encoded:
            self.container.mux(self.targets[index].encode())

    def _copy(self, packet: Any) -> None:
        target = self.targets[packet.stream.index]
        if packet.stream.index in self.encoded:
            for frame in packet.decode():
                frame.pts = frame.pts - round(self.start_s / frame.time_base)
                self.container.mux(target.encode(frame))
            return
        shift = round(self.start_s / packet.time_base)
        for name in ("pts", "dts"):
            if getattr(packet, name) is not None:
                setattr(packet, name, getattr(packet, name) - shift)
        packet.stream = target
        self.container.mux(packet)


def _to_rgb() -> Callable[[Any], np.ndarray]:
    """Return what makes (H, W, 3) uint8 RGB of the frames of one film."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: it keeps the table for HDR, which takes seconds to make

    def to_rgb(frame: Any) -> np.ndarray:
        curve, primaries = (SRGB_CURVE, HD_PRIMARIES) if frame.color_trc in HDR_CURVES else (None, None)
        converted = reformatter.reformat(frame, format="rgb24", dst_color_trc=curve, dst_color_primaries=primaries)
        pixels: np.ndarray = converted.to_ndarray()
        return pixels

    return to_rgb


def _start_s(container: Any) -> Fraction:
    """Return when the first picture or sound of a film is, in the film's own time."""
    return Fraction(container.start_time or 0, 1_000_000)


def _whole_ticks(time_s: Fraction, time_base_s: Fraction) -> Fraction:
    """Return the last multiple of the time base that is not after ``time_s``."""
    return time_s // time_base_s * time_base_s


def _seconds(text: str) -> Fraction:
    """Return the seconds of ``01:02:03.5``; 0 if it is no such text."""
    try:
        hours, minutes, seconds = (Fraction(part) for part in text.split(":"))
    except ValueError:
        return Fraction(0)
    return hours * 3600 + minutes * 60 + seconds
