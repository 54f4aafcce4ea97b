"""The one reader of a map that is stored in a file, by datool or by any other program.

What zero means is decided here, once:

- depth 0 is never a depth. In whole numbers, and with a divisor, it is unknown (KITTI depth devkit; ROS REP 118 for
  Kinect and RealSense). Plain floats mark unknown by NaN, so a 0 among them is refused until ``invalid`` or a divisor
  says that it means unknown.
- disparity 0 of whole numbers is unknown (KITTI stereo devkit, Middlebury 2003); of floats it is infinitely far, a
  known value, as inverse depth has it.
- disparity +inf of floats is unknown (Middlebury 2014); depth +inf is sky.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files.images import BROKEN, explained, open_lazily
from datool.files.maps import KEY, READERS, read_meta

UNITS = {Quantity.DEPTH: {"m": 1.0, "cm": 0.01, "mm": 0.001}, Quantity.DISPARITY: {"1/m": 1.0}}
PNG_OR_TIFF = (b"\x89PNG", b"II*\0", b"MM\0*")
# Of stereo disparity, which is known up to scale; what follows is ignored.
PIXELS = "px"


class WrongValuesError(DatoolError):
    """A map whose numbers its quantity does not allow: depth not above 0, negative metric disparity."""


@dataclass(frozen=True, kw_only=True)
class MapMeaning:
    """What the user says about maps that may not say it themselves. What a file says may not be contradicted.

    Args:
        quantity: of the values. A divisor or a unit without it means depth.
        ambiguity: of the values. Depth without it is metric; disparity needs it or a unit.
        unit: of the values after division: m, cm, mm, 1/m, or px of stereo disparity.
        divisor: value = stored / divisor, above 0; whole numbers need it or a unit.
        invalid: stored numbers that mean unknown; None = what zero means by convention (see the module).
        infinite: stored numbers that mean infinitely far.
        said_by: who says all this, for messages.
    Raises:
        DatoolError: the divisor is not a positive number.
    """

    quantity: Quantity | None = None
    ambiguity: Ambiguity | None = None
    unit: str | None = None
    divisor: float | None = None
    invalid: tuple[float, ...] | None = None
    infinite: tuple[float, ...] = ()
    said_by: str = "the command"

    def __post_init__(self) -> None:
        if self.divisor is not None and not 0 < self.divisor < np.inf:
            raise DatoolError(f"--divisor is {self.divisor:g}, expected a number above 0.")

    @property
    def is_said(self) -> bool:
        """Whether it says what the numbers are, so that files are maps though they do not say so."""
        return any(value is not None for value in (self.quantity, self.unit, self.divisor))


UNSAID = MapMeaning()


def read_stored(path: Path, pictures: bool = False) -> tuple[np.ndarray, dict[str, str]]:
    """Return the numbers in a map's file, and datool's text in it.

    Args:
        path: the file.
        pictures: whether a picture of a map is read as its pixels, and not refused.
    Returns:
        the array as it is stored, of any type and shape, and no text; or, of datool's own files, the (H, W) values, and
        a text with ``quantity`` and ``ambiguity``.
    Raises:
        DatoolError: missing, broken, not a file of maps, or a picture of datool's.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise DatoolError(f"cannot read map {path}: got '{path.suffix}', expected one of {', '.join(READERS)}.")
    with explained(f"map {path}"):
        if suffix != ".png" or ("quantity" in (text := read_meta(path)) and not ("picture" in text and pictures)):
            return READERS[suffix](path)
        data = path.read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
        if pixels is None:
            raise ValueError(f"{len(data)} bytes that do not decode")
        return pixels, {}


def one_channel(stored: np.ndarray) -> np.ndarray:
    """Return (H, W) of (1, H, W), (H, W, 1), or three equal channels with or without alpha; anything else as it is."""
    if stored.ndim != 3:
        return stored
    if stored.shape[2] in (3, 4):  # first, since a picture may have one row
        first, second, third = (stored[:, :, channel] for channel in range(3))
        nan = stored.dtype.kind == "f"
        if np.array_equal(first, second, equal_nan=nan) and np.array_equal(first, third, equal_nan=nan):
            return first
    elif 1 in (stored.shape[0], stored.shape[2]):
        return stored[0] if stored.shape[0] == 1 else stored[:, :, 0]
    return stored


def read_stored_map(
    path: Path,
    meaning: MapMeaning = UNSAID,
    says: Mapping[str, str] | None = None,
    assumed: Quantity | None = None,
    scale: float = 1.0,
    mask: np.ndarray | None = None,
) -> DepthMap:
    """Return the map in a file.

    Args:
        path: a file of a suffix in `datool.files.maps.READERS`.
        meaning: what the user says.
        says: ``quantity`` and ``ambiguity``, where datool says them outside the file (its manifest, of a .npy).
        assumed: the quantity where nobody says it.
        scale: value = stored * scale, of datool's own files that were scaled to fit half floats.
        mask: (H, W), 0 where the value does not count.
    Raises:
        WrongValuesError: a value that the quantity does not allow.
        DatoolError: unreadable; nothing says what the numbers are; or the user contradicts the file.
    """
    stored, fields = read_stored(path)
    shape = stored.shape
    stored = one_channel(stored)
    if stored.ndim != 2 or stored.dtype.kind not in "fiu":
        raise DatoolError(
            f"cannot read map {path}: got {stored.dtype} {shape}, expected (H, W) numbers.",
            "A picture in colours holds no values: give the map itself.",
        )
    fields = {**(says or {}), **fields}
    is_own = "quantity" in fields
    quantity, ambiguity, per_unit = _settled(path, meaning, fields, assumed)
    if is_own:
        _check_own(path, meaning, fields, per_unit)
    elif stored.dtype.kind != "f" and meaning.divisor is None and meaning.unit is None:
        png = path.suffix.lower() == ".png"
        got = "a PNG without datool's text" if png else f"whole numbers ({stored.dtype})"
        raise DatoolError(
            f"cannot read map {path}: got {got}, expected a divisor that makes values of it.",
            "Say how its numbers become metres: --divisor 256 (KITTI), 1000 (millimetres), 1 (as they are); in a "
            'manifest "divisor": 1000.',
        )
    values = stored.astype(np.float64) / (meaning.divisor or 1) * per_unit * scale
    if not is_own and quantity is Quantity.DISPARITY:
        values[np.isposinf(values)] = np.nan
    if meaning.infinite:
        # Disparity 0 is infinitely far; where the offset is unknown no number is.
        far = np.inf if quantity is Quantity.DEPTH else 0.0
        values[np.isin(stored, meaning.infinite)] = np.nan if ambiguity is Ambiguity.SCALE_AND_SHIFT else far
    values[np.isin(stored, _invalid(meaning, quantity, stored, is_own))] = np.nan
    if mask is not None:
        if mask.shape != stored.shape:
            raise DatoolError(f"map {path}: got a mask of {mask.shape}, expected {stored.shape}.", "Give its own mask.")
        values[mask == 0] = np.nan
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    try:
        return DepthMap(values, quantity, ambiguity)
    except DatoolError as error:
        has_zero = quantity is Quantity.DEPTH and bool((values == 0).any()) and not bool((values < 0).any())
        hint = (
            'If 0 means unknown, give --divisor 1. In a manifest, "invalid" and "infinite" are the numbers that mean '
            "unknown and sky."
        )
        raise WrongValuesError(f"cannot read map {path}: {error.problem}", hint if has_zero else error.hint) from error


def refuse_depth(path: Path) -> None:
    """Refuse to take for a photo what holds depth: a map of datool's, or a PNG or TIFF of one channel of 16 bits.

    Kinect, RealSense and many data sets keep depth so, and photos are hardly ever kept so. The header is enough; what
    cannot be opened passes, since reading it as a photo tells why.

    Raises:
        DatoolError: it holds depth, most likely.
    """
    if not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            header = open_lazily(file) if file.read(4) in PNG_OR_TIFF else None
            if header is None or not header.mode.startswith("I"):
                return
            is_own = KEY in header.info
    except BROKEN:
        return
    if is_own:
        raise DatoolError(
            f"{path} is a map of datool's, not a photo.",
            "datool pointcloud takes maps; --as-photo takes it for a photo.",
        )
    raise DatoolError(
        f"{path} has one channel of 16 bits, as the maps of depth cameras have: not a photo, it seems.",
        "Depth: give datool pointcloud --divisor 1000 (millimetres). A photo all the same: --as-photo.",
    )


def _invalid(meaning: MapMeaning, quantity: Quantity, stored: np.ndarray, is_own: bool) -> tuple[float, ...]:
    """Return the stored numbers that mean unknown."""
    if meaning.invalid is not None:
        return meaning.invalid
    coded = stored.dtype.kind != "f" or (quantity is Quantity.DEPTH and meaning.divisor is not None)
    return (0,) if coded and not is_own else ()


def _settled(
    path: Path, meaning: MapMeaning, fields: Mapping[str, str], assumed: Quantity | None
) -> tuple[Quantity, Ambiguity, float]:
    """Return what the values are, and what makes metres or 1/m of them."""
    for name, given in (("quantity", meaning.quantity), ("ambiguity", meaning.ambiguity)):
        if given is not None and fields.get(name, given.value) != given.value:
            raise DatoolError(
                f"{meaning.said_by} says {name} '{given.value}', {path} says '{fields[name]}'.",
                "What the file says holds: it was written with it.",
            )
    if "quantity" in fields:
        quantity = Quantity(fields["quantity"])
    elif meaning.quantity is not None:
        quantity = meaning.quantity
    elif meaning.divisor is not None or meaning.unit is not None:
        quantity = Quantity.DEPTH
    elif assumed is not None:
        quantity = assumed
    else:
        raise DatoolError(
            f"map {path} does not say its quantity.",
            "Say what the numbers are: --quantity depth for metres; --quantity disparity --ambiguity scale-and-shift.",
        )
    ambiguity = Ambiguity(fields["ambiguity"]) if "ambiguity" in fields else meaning.ambiguity
    if meaning.unit is not None:
        is_pixels = meaning.unit.startswith(PIXELS) and quantity is Quantity.DISPARITY
        if is_pixels and ambiguity is not Ambiguity.NONE:
            return quantity, ambiguity or Ambiguity.SCALE, 1.0
        per_unit = lookup(UNITS[quantity], meaning.unit, f"unit of {quantity.value}")
        return quantity, ambiguity or Ambiguity.NONE, per_unit
    if ambiguity is None and quantity is Quantity.DISPARITY:
        raise DatoolError(
            f"disparity {path} has neither unit nor ambiguity.",
            "Give --ambiguity scale-and-shift (of a relative model), scale (stereo) or none (1/m); in a manifest "
            '"ambiguity", or "unit": "1/m".',
        )
    return quantity, ambiguity or Ambiguity.NONE, 1.0


def _check_own(path: Path, meaning: MapMeaning, fields: Mapping[str, str], per_unit: float) -> None:
    """Refuse numbers that would be applied to values which datool has decoded already."""
    given = [f"divisor {meaning.divisor:g}"] if meaning.divisor is not None else []
    given += [f"unit {meaning.unit}"] if per_unit != 1 else []
    if not given:
        return
    how = f"holds {fields['quantity']} as it is"
    if "scale" in fields:
        how = f"says value = pixel * {float(fields['scale']):g} + {float(fields['offset']):g}"
    raise DatoolError(
        f"{meaning.said_by} says {' and '.join(given)}, but {path} is datool's own and {how}.",
        f"Drop the {' and the '.join(name.partition(' ')[0] for name in given)}: datool reads its own maps without.",
    )
