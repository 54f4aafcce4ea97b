"""Clips from their files to their outputs: predicted, steadied and written at once, whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from datool.data.manifest import CLIPS, ManifestRow, append_row, write_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.video import Shown, Video
from datool.files.atomic import disk_is_full
from datool.files.clips import clip_writer
from datool.files.video import Clip
from datool.parallel import map_threads

# Frames that may wait to be written.
MAX_WAITING = 4


@dataclass(frozen=True)
class ClipResult:
    """What a clip came to.

    Args:
        num_frames: written.
        quantity, ambiguity: of the maps.
        image_size: (height, width) of the frames.
    """

    num_frames: int
    quantity: Quantity
    ambiguity: Ambiguity
    image_size: tuple[int, int]


def write_clip(
    video: Video,
    clip: Clip,
    outputs: Mapping[str, Path],
    meta: Mapping[str, str],
    on_frame: Callable[[], None] = lambda: None,
) -> ClipResult:
    """Write the depth of a clip; outputs appear once the whole clip is done, and none of them if anything fails.

    Args:
        video: how its depth is estimated.
        clip: the frames.
        outputs: name of `datool.files.clips.CLIP_FORMATS` -> film or folder.
        meta: fields to keep in each file of values.
        on_frame: called after each frame that is predicted.
    Raises:
        DatoolError: the clip is broken, or an output cannot be written.
    """
    with ExitStack() as stack:
        adds = [stack.enter_context(clip_writer(path, format, clip, meta)) for format, path in outputs.items()]

        def predicted() -> Generator[Shown]:
            with closing(video.stream(clip)) as stream:
                for shown in stream:
                    on_frame()
                    yield shown

        def write(shown: Shown) -> DepthMap:
            for add in adds:
                add(shown.frame, shown.depth, shown.ends)
            return shown.depth

        # One thread writes, so that frames keep their order while the next are predicted.
        with closing(map_threads(write, predicted(), 1, ahead=MAX_WAITING, name="datool-write")) as written:
            ((num_frames, depth),) = deque(enumerate(written, 1), maxlen=1)  # the last
    return ClipResult(num_frames, depth.quantity, depth.ambiguity, depth.shape)


class Reel:
    """Clips of one output folder, one after another, each with its row in ``clips.jsonl``.

    Args:
        out: the folder.
        rows: of the clips that it holds and of those to come, by input; kept up to date.
        plan: format -> output, by input.
        video: how the depth of an input is estimated.
        count: called with the frames begun and done so far, and the clips that failed.
    """

    def __init__(
        self,
        out: Path,
        rows: dict[str, ManifestRow],
        plan: Mapping[str, Mapping[str, Path]],
        video: Callable[[str], Video],
        count: Callable[[int, int, int], None],
    ) -> None:
        self.out, self.rows, self.plan, self.video, self.count = out, rows, plan, video, count
        self._done = self._failed = 0

    def write(self, clips: Mapping[str, Callable[[], Clip]]) -> list[int]:
        """Predict and write clips, record each, and return the number of frames of each that is done.

        Args:
            clips: input -> what opens it.
        Raises:
            DatoolError: the disk is full, which meets the others too.
        """
        if not self.rows:
            return []
        write_manifest(self.out, self.rows.values(), CLIPS)
        done = []
        for key, open_clip in clips.items():
            self.rows[key] = row = self._write(key, open_clip)
            append_row(self.out, row, CLIPS)
            if row.num_frames is not None:
                done.append(row.num_frames)
        write_manifest(self.out, self.rows.values(), CLIPS)
        return done

    def _write(self, key: str, open_clip: Callable[[], Clip]) -> ManifestRow:
        row, before = self.rows[key], self._done
        try:
            clip = open_clip()

            def on_frame() -> None:
                self._done += 1
                self.count(max(before + clip.num_frames, self._done) + self._failed, self._done, self._failed)

            result = write_clip(self.video(key), clip, self.plan[key], row.meta(), on_frame)
        except DatoolError as error:
            if disk_is_full(error):
                raise
            self._done, self._failed = before, self._failed + 1
            self.count(self._done + self._failed, self._done, self._failed)
            return replace(row, status="failed", reason=str(error))
        self.count(self._done + self._failed, self._done, self._failed)  # what a file says of its length may be wrong
        return replace(
            row,
            status="done",
            outputs={name: path.relative_to(self.out).as_posix() for name, path in self.plan[key].items()},
            quantity=result.quantity.value,
            ambiguity=result.ambiguity.value,
            image_size=result.image_size,
            num_frames=result.num_frames,
        )
