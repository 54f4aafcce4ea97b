"""What pictures may show beyond the first scene set, and how often."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from datool.errors import DatoolError


@dataclass(frozen=True)
class Look:
    """How often each effect occurs: a probability, of scenes where nothing else is said. 0 leaves an effect out.

    Every effect draws from a stream of its own, so that neither the scene nor the other effects move when one is
    switched off. Those down to ``panes``, ``night`` and ``lamps`` change the scene or the camera, hence depth; the
    others change the image only, and glass and mirrors are labelled as the surface itself.

    Args:
        layouts: the scene is one of those that came after the first set: roads, homes, close-ups, skies, aerial views.
        tilt: the camera looks up or down, or is rolled.
        lens: a narrow or a wide lens.
        overhang: things hang or float before the upper part of the picture.
        terrain: open land rolls in hills, in place of a plane.
        foliage: crowns and bushes are made of leaves, and grass stands in tufts.
        fences: wire mesh and bars, in the open, in rooms (as grilles) and on tables (as racks).
        cables: cables that sag between poles.
        panes: a framed pane of glass stands about.
        night: outdoors lamps, headlights and lit windows are the light; windows of rooms are dark.
        lamps: more lights in a room, with their fixtures.
        glass: each thing and bottle is of clear glass.
        mirrors: each picture on a wall is a mirror; each thing, by half of it, is of polished metal.
        polish: the floor or the wet road mirrors.
        detail: each surface has a finer and rougher grain.
        wear: surfaces have stains, veins or cobbles.
        photos: each surface carries a photo, where a folder of photos is given.
        fog: thick fog, or smoke in a room.
        focus: a shallow depth of field.
        motion: the camera moved while the shutter was open.
        tone: contrast, colours and edges are made stronger, as a camera does.
    Raises:
        DatoolError: a value outside [0, 1].
    """

    layouts: float = 0.8
    tilt: float = 0.25
    lens: float = 0.25
    overhang: float = 0.15
    terrain: float = 0.65
    foliage: float = 0.85
    fences: float = 0.15
    cables: float = 0.35
    panes: float = 0.06
    night: float = 0.1
    lamps: float = 0.5
    glass: float = 0.12
    mirrors: float = 0.12
    polish: float = 0.3
    detail: float = 0.5
    wear: float = 0.3
    photos: float = 0.4
    fog: float = 0.06
    focus: float = 0.18
    motion: float = 0.08
    tone: float = 0.9

    def __post_init__(self) -> None:
        for field, value in zip(fields(self), astuple(self), strict=True):
            if not 0 <= value <= 1:
                raise DatoolError(f"cannot render with {field.name} = {value}: expected a probability, 0 to 1.")

    @classmethod
    def plain(cls) -> Look:
        """Return the first scene set, on which the bundled models were trained: no effect at all."""
        return cls(**{field.name: 0.0 for field in fields(cls)})
