"""KITTI depth: driving, semi-dense truth of eleven accumulated lidar scans, about 1242x375.

Depth is a 16-bit grey PNG, metres = value / 256, planar; 0 = not measured. Sky is never measured, so it is unknown
here.

Splits:

- ``eigen``: the 652 of Eigen's 697 test images that have this truth. The list is not part of datool: it lies in the
  root under one of the names of ``EIGEN_LISTS``, or is named itself. Accepted are the lines of BTS and its heirs (697,
  "None" where there is no truth), Depth Anything V2 (652) and monodepth2 (697 or 652: folder, frame, side). Where a
  line names no truth, a frame before the first or after the last map of its drive is left out, since the annotation has
  none for the first and last five frames (UNVERIFIED that this explains all 45 of the 697); any other missing map is an
  error.
- ``eigen-train``: those of Eigen's training images that have this truth (23,158 lines in BTS's list), by a list under
  one of the names of ``EIGEN_TRAIN_LISTS``; the only one by name to train on, since ``train`` and ``val`` hold drives
  of which ``eigen`` has frames.
- ``val-selection``: the 1,000 cropped images of the depth benchmark, 1216x352.
- ``val``, ``train``: every map of the annotation, both colour cameras.

Camera: P_rect_02 of each day, the same for both colour cameras; the files of ``val-selection`` are of the crop. Both
count from the middle of the first pixel (OpenCV), so 0.5 is added.

No crop is applied and no far limit set: those belong to the benchmark.

Source: Uhrig et al. 2017, arXiv:1708.06500 (devkit readme); Eigen et al. 2014; Depth-Anything-V2
metric_depth/dataset/kitti.py; UniDepth unidepth/datasets/kitti.py (cameras).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.cameras import opencv_camera, read_numbers
from datool.data.sources.decode import depth_map, read_png16
from datool.data.sources.trees import find_list, find_root, folders, keys, listed, read_list, require_pairs
from datool.depth import Ambiguity, Quantity
from datool.errors import DatoolError
from datool.files.images import read_image

TITLE = "KITTI depth (Uhrig et al. 2017; split of Eigen et al. 2014)"
SPLITS = ("eigen", "eigen-train", "val-selection", "val", "train")
LAYOUT = """\
2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000005.png                (raw data, one zip a drive)
val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000005.png     (data_depth_annotated.zip)
train/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png   (the same)
eigen_test_files_with_gt.txt                                                      (for eigen; or name a list)
kitti_eigen_train_files_with_gt.txt                                               (for eigen-train)
depth_selection/val_selection_cropped/{image,groundtruth_depth,intrinsics}/...    (data_depth_selection.zip)"""

EIGEN_LISTS = (
    "eigen_test_files_with_gt.txt",
    "kitti_eigen_test_files_with_gt.txt",
    "splits/kitti/val.txt",
    "splits/eigen/test_files.txt",
)
EIGEN_TRAIN_LISTS = (
    "kitti_eigen_train_files_with_gt.txt",
    "eigen_train_files_with_gt.txt",
    "splits/kitti/train.txt",
    "splits/eigen/train_files.txt",
)
EIGEN = {"eigen": EIGEN_LISTS, "eigen-train": EIGEN_TRAIN_LISTS}
DAY = re.compile(r"\d{4}_\d{2}_\d{2}")
FRAME = re.compile(r"(\d{4}_\d{2}_\d{2})_drive_(\d{4})_sync/image_(0[23])/data/(\d+)\.(?:png|jpg)$")
DRIVE = re.compile(r"(\d{4}_\d{2}_\d{2})_drive_(\d{4})_sync$")
SIDES = {"l": "02", "r": "03"}
RAW_FOLDERS = ("raw_data", "raw", "kitti_raw", "rgb")
TRUTH_FOLDERS = tuple(
    f"{parent}{part}" for parent in ("", "data_depth_annotated/", "depth/", "gts/") for part in ("val", "train", ".")
)
UNITS_PER_METRE = 256

# Focal length (both axes) and principal point in pixels, from the middle of the first pixel.
CAMERAS = {
    "2011_09_26": (721.5377, 609.5593, 172.8540),
    "2011_09_28": (707.0493, 604.0814, 180.5066),
    "2011_09_29": (718.3351, 600.3891, 181.5122),
    "2011_09_30": (707.0912, 601.8873, 183.1104),
    "2011_10_03": (718.8560, 607.1928, 185.2157),
}


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder that holds the days and the annotation; each may lie one folder deeper (``RAW_FOLDERS``,
            ``TRUTH_FOLDERS``).
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the tree or the list is not there, or files that the split needs are missing.
    """
    expect(root, root.is_dir(), "folder", LAYOUT)
    path = find_list(root, split, SPLITS, "KITTI")
    if split == "val-selection":
        return _selection(root)
    if split in EIGEN:
        path = next((root / name for name in EIGEN[split] if (root / name).is_file()), None)
        expect(root, path is not None, f"list of Eigen's images for '{split}' ({', '.join(EIGEN[split])})", LAYOUT)
    frames = _Frames(root)
    if path is not None:
        rows = (row for words in read_list(path) if (row := _listed_row(frames, words, path)) is not None)
        return listed(rows, path, LAYOUT)
    return _annotated(frames, split)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres.

    Raises:
        DatoolError: a file is unreadable, or the day is none of the set's.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    values = read_png16(row.depth, "metres x 256 (KITTI)")
    if row.camera is not None:
        k = read_numbers(row.camera, 9, "a 3x3 matrix, row by row")
        camera = opencv_camera((k[0], k[4], k[2], k[5]), image.shape)
    else:
        focal_px, cx_px, cy_px = CAMERAS[row.id[:10]]
        camera = opencv_camera((focal_px, focal_px, cx_px, cy_px), image.shape)
    return Sample(row.id, image, depth_map(values / UNITS_PER_METRE, Ambiguity.NONE), camera)


class _Frames:
    """Where the pictures and maps of each drive lie."""

    def __init__(self, root: Path) -> None:
        self.raw = find_root(root, RAW_FOLDERS, lambda place: any(DAY.fullmatch(name) for name in folders(place)))
        places = [root / name for name in TRUTH_FOLDERS if (root / name).is_dir()]
        # The first place that has a drive wins, so that links to the same maps do no harm.
        self.truth = {drive: place / drive for place in reversed(places) for drive in folders(place)}
        self.parts = {drive: place.parent.name for drive, place in self.truth.items()}
        self.keys = cache(keys)

    def maps(self, drive: str, camera: str) -> tuple[Path, list[str]]:
        """Return the folder of a drive's maps and the frames that have one.

        Raises:
            DatoolError: the drive has no maps.
        """
        if drive not in self.truth:
            raise DatoolError(f"no depth of drive {drive}.", f"Is the annotation unpacked? Expected layout:\n{LAYOUT}")
        folder = self.truth[drive] / "proj_depth" / "groundtruth" / f"image_{camera}"
        return folder, self.keys(folder, "", ".png")

    def row(self, drive: str, camera: str, frame: str) -> Row:
        """Return the row of a frame, whether its files are there or not; some mirrors keep pictures as JPEG."""
        day = drive[:10]
        folder = self.raw / day / drive / f"image_{camera}" / "data"
        suffix = ".jpg" if frame in self.keys(folder, "", ".jpg") else ".png"
        truth, _ = self.maps(drive, camera)
        return Row(f"{day}/{drive}/image_{camera}/data/{frame}.png", folder / (frame + suffix), truth / f"{frame}.png")


def _listed_row(frames: _Frames, words: list[str], path: Path) -> Row | None:
    """Return the row of one line, None where it has no truth."""
    if match := FRAME.search(words[0]):
        day, drive, camera, number = match.groups()
    elif len(words) == 3 and (match := DRIVE.search(words[0])) and words[1].isdigit() and words[2] in SIDES:
        (day, drive), number, camera = match.groups(), words[1], SIDES[words[2]]
    else:
        raise DatoolError(
            f"cannot place '{' '.join(words)}' of list {path}.",
            "Expected '<date>/<drive>/image_02/data/<frame>.png <depth>' or '<date>/<drive> <frame> l'.",
        )
    if day not in CAMERAS:
        raise DatoolError(f"list {path} names day {day}, which is none of KITTI's: {', '.join(CAMERAS)}.")
    drive, frame = f"{day}_drive_{drive}_sync", f"{int(number):010d}"
    names_truth = len(words) > 1 and words[1].endswith(".png")
    if len(words) > 1 and words[1] == "None":
        return None
    if not names_truth:
        _, annotated = frames.maps(drive, camera)
        if annotated and not annotated[0] <= frame <= annotated[-1]:
            return None
    return frames.row(drive, camera, frame)


def _annotated(frames: _Frames, part: str) -> Iterator[Row]:
    drives = sorted(drive for drive, parent in frames.parts.items() if parent == part and DRIVE.search(drive))
    expect(frames.raw, bool(drives), f"folder {part}/*_drive_*_sync", LAYOUT)
    for drive in drives:
        for camera in ("02", "03"):
            folder, annotated = frames.maps(drive, camera)
            rows = [frames.row(drive, camera, frame) for frame in annotated]
            yield from listed(rows, folder, LAYOUT)


def _selection(root: Path) -> Iterator[Row]:
    below = ("depth_selection/val_selection_cropped", "data_depth_selection/val_selection_cropped")
    place = find_root(root, (*below, "val_selection_cropped"), lambda place: (place / "groundtruth_depth").is_dir())
    names = {
        part: keys(place / part, "", suffix)
        for part, suffix in (("image", ".png"), ("groundtruth_depth", ".png"), ("intrinsics", ".txt"))
    }
    expect(root, bool(names["image"]), "picture depth_selection/val_selection_cropped/image/*.png", LAYOUT)
    truth = [name.replace("_sync_groundtruth_depth_", "_sync_image_") for name in names["groundtruth_depth"]]
    require_pairs(place / "image", names["image"], place / "groundtruth_depth", truth, LAYOUT)
    require_pairs(place / "image", names["image"], place / "intrinsics", names["intrinsics"], LAYOUT)
    for name in names["image"]:
        yield Row(
            f"val_selection_cropped/image/{name}.png",
            place / "image" / f"{name}.png",
            place / "groundtruth_depth" / f"{name.replace('_sync_image_', '_sync_groundtruth_depth_')}.png",
            camera=place / "intrinsics" / f"{name}.txt",
        )


KITTI = Source(
    index,
    read,
    SPLITS,
    LAYOUT,
    Quantity.DEPTH,
    Ambiguity.NONE,
    TITLE,
    scored=("eigen", "val-selection", "val", "train"),
)
