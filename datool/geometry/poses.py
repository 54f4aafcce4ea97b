"""Where each frame was taken: camera-to-world matrices from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from datool.errors import DatoolError
from datool.files.images import explained

FORMS = (
    'Write a line an image, {"image": "a.jpg", "pose": [[...], [...], [...], [...]]}; or text, a line an input: '
    "12 or 16 numbers a line (KITTI), or 8 (TUM: time, position, quaternion x y z w)."
)


@dataclass(frozen=True, eq=False)
class Poses:
    """Camera-to-world matrices by image, or in the order of the inputs.

    Args:
        path: the file, for messages.
        rows: image as the file writes it -> (4, 4) float64.
        ordered: (4, 4) float64 each; empty if the rows name their images.
    """

    path: Path
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    ordered: tuple[np.ndarray, ...] = ()

    def of(self, image: Path, number: int) -> np.ndarray | None:
        """Return the pose of the ``number``-th input, None if the file has none."""
        if self.ordered:
            return self.ordered[number] if number < len(self.ordered) else None
        parts = PurePath(image).parts
        tails = (str(PurePath(*parts[start:])) for start in range(len(parts)))
        return next((self.rows[tail] for tail in tails if tail in self.rows), None)

    def check_number(self, num: int) -> None:
        """Refuse a file that gives poses by the order of the inputs, but not one for each of ``num``.

        Raises:
            DatoolError: so many or so few.
        """
        if self.ordered and len(self.ordered) != num:
            raise DatoolError(
                f"{self.path} has {len(self.ordered)} poses, the inputs are {num}: which belongs to which?", FORMS
            )


def read_poses(path: Path) -> Poses:
    """Return the poses of a file: JSON lines, or text of numbers (``FORMS`` shows them).

    Raises:
        DatoolError: unreadable, of no such form, or a matrix that does not keep lengths and angles.
    """
    path = Path(path)
    with explained(f"poses {path}"):
        text = path.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        if text.lstrip().startswith(("{", "[")):
            rows = [json.loads(line) for line in lines]
            return Poses(path, {str(PurePath(row["image"])): to_pose(row["pose"]) for row in rows})
        return Poses(path, ordered=tuple(to_pose([float(word) for word in line.split()]) for line in lines))
    except (KeyError, TypeError, ValueError) as error:
        raise DatoolError(f"cannot read poses {path}: {type(error).__name__}, {error}.", FORMS) from error
    except DatoolError as error:
        raise error.reworded(f"cannot read poses {path}: {error.problem}") from error


def to_pose(numbers: Sequence[Any]) -> np.ndarray:
    """Return a camera-to-world matrix, (4, 4) float64: x right, y down, z ahead of the camera, in metres.

    Args:
        numbers: 16 or 12 numbers by rows, flat or nested; or 8: time, position, quaternion x y z w.
    Raises:
        DatoolError: another count, no rotation, a mirror, or a last row other than 0 0 0 1 (a matrix by columns).
    """
    values = np.array(numbers, np.float64).ravel()
    pose = np.eye(4)
    if values.size == 16 and not np.allclose(values[12:], pose[3]):
        raise DatoolError(f"the last row of a pose is {values[12:].tolist()}, expected 0 0 0 1.", "Is it by columns?")
    if values.size in (12, 16):
        pose[:3] = values[:12].reshape(3, 4)
    elif values.size == 8:
        pose[:3, :3], pose[:3, 3] = _rotation(values[4:]), values[1:4]
    else:
        raise DatoolError(f"got {values.size} numbers in a pose, expected 16, 12 or 8.", FORMS)
    if not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3):
        raise DatoolError("the first three columns of a pose are no rotation.", FORMS)
    if np.linalg.det(pose[:3, :3]) < 0 or not np.isfinite(pose).all():
        raise DatoolError("a pose mirrors the scene, or is not finite.", "Give x right, y down, z ahead.")
    return pose


def turned_down(pose: np.ndarray) -> np.ndarray:
    """Return a pose given with y up for y down, camera and world alike, so that nothing is mirrored."""
    turn = np.diag([1.0, -1.0, 1.0, 1.0])
    return turn @ pose @ turn


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation of a quaternion (x, y, z, w), by Rodrigues' formula on its axis."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
