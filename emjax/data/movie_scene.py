"""What movies of atom columns are like: plain numbers, no jax."""

from __future__ import annotations

from dataclasses import dataclass

from emjax.data.column_scene import ColumnScene


@dataclass(frozen=True)
class MovieScene(ColumnScene):
    """Movies of a drifting crystal in which atoms hop and get lost (`synthetic_movies`).

    Of a `ColumnScene` this uses the probe, the crystals with their disorder, the looks, and
    ``dose``, electrons per frame at the brightest pixel. Frames have no errors of a line scan.
    """

    frames: int = 5
    """Frames of a movie."""
    pixel: tuple[float, float] = (0.12, 0.25)
    generic: float = 0.3
    dose: tuple[float, float] = (1.0, 20.0)
    readout: float = 0.3
    dark: float = 0.15
    displacement: float = 0.12
    drift: float = 0.4
    """Largest even drift [px per frame]; a random direction."""
    walk: float = 0.3
    """Largest standard deviation of the drift's random steps [px per frame]."""
    flicker: float = 0.03
    """Standard deviation of the frames' brightness, relative."""
    hoppers: int = 3
    """Atoms that hop between neighbouring columns."""
    hop: float = 0.12
    """Chance of a hop between two frames."""
    lost: int = 3
    """Columns that may lose their atoms for good; half of them do, in a movie of any length."""
