"""What phantoms (surfaces, sections, pictures of spots) are like: plain numbers, no jax.

SEM images and sections stand in for recorded pairs of images at low and high magnification, which
are not public: results on them are marked "proxy".
"""

from __future__ import annotations

from dataclasses import dataclass

from emjax.data.column_scene import ColumnScene


@dataclass(frozen=True)
class SEMScene:
    """Gold nanoparticles on carbon in a scanning electron microscope (`synthetic_sem`)."""

    particles: int = 32
    """Most particles in an image of 96 × 96 pixels; larger images have more in proportion."""
    radius: tuple[float, float] = (2.5, 11.0)
    """Radius [px of the sharp image], log-uniform."""
    roundness: float = 0.06
    """Largest amplitude of each harmonic of an outline, relative to the radius."""
    gold: tuple[float, float] = (0.45, 0.65)
    """Yield of flat gold, in units of the brightest edge."""
    edge: tuple[float, float] = (0.5, 1.5)
    """How much brighter an inclined surface becomes at the outline."""
    escape: float = 1.5
    """Escape depth of secondary electrons [px]: the width of the bright edge."""
    carbon: tuple[float, float] = (0.08, 0.2)
    """Yield of the film."""
    texture: float = 0.15
    """Largest relative unevenness of the film."""
    shadow: float = 0.35
    """Largest darkening of the film beside a particle."""


@dataclass(frozen=True)
class SectionScene:
    """A stained section of cells in transmission (`synthetic_sections`): dark on bright."""

    vesicles: int = 5
    """Most vesicles in an image of 96 × 96 pixels."""
    vesicle_radius: tuple[float, float] = (4.0, 10.0)
    """Radius [px of the sharp image]."""
    granules: int = 60
    """Most granules (ribosomes) in an image of 96 × 96 pixels."""
    granule: tuple[float, float] = (0.9, 1.5)
    """Their standard deviation [px]."""
    leaflet: float = 0.75
    """Standard deviation of one of the two dark lines of a membrane [px]."""
    gap: tuple[float, float] = (1.8, 3.2)
    """Distance between the two lines of a membrane [px]."""
    stain: tuple[float, float] = (0.35, 0.65)
    """Depth of the dark lines, in units of the bright resin."""
    grain: float = 0.04
    """Standard deviation of the resin's own fine structure."""


@dataclass(frozen=True)
class SpotScene:
    """Gaussian spots on random lattices (`synthetic_spots`); pairs are ends of a range."""

    spacing: tuple[float, float] = (7.0, 18.0)
    """Shorter lattice vector [px], log-uniform."""
    aspect: tuple[float, float] = (1.0, 1.7)
    """The longer vector over the shorter one."""
    angle: tuple[float, float] = (60.0, 90.0)
    """Between them [degrees]."""
    width: tuple[float, float] = (0.16, 0.26)
    """Standard deviation of a spot over the shorter vector."""
    second: float = 0.5
    """Chance of a second, fainter site in the cell."""
    displacement: float = 0.03
    """Largest standard deviation of a spot's displacement over the shorter vector."""
    spread: float = 0.15
    """Largest standard deviation of the logarithm of the spots' brightness."""
    vacancies: float = 0.06
    """Largest share of missing spots."""


@dataclass(frozen=True)
class DegradationConfig:
    """A recording at low magnification (`synthetic_low_resolution`); pairs are ends of a range."""

    factor: int = 2
    """Pixels of the sharp image to a pixel of the coarse one, along each axis."""
    blur: tuple[float, float] = (0.5, 0.9)
    """Standard deviation of the probe or of the point spread [px of the coarse image]."""
    dose: tuple[float, float] = (20.0, 200.0)
    """Electrons at the brightest pixel of the coarse image, log-uniform."""
    jitter: float = 0.25
    """Largest standard deviation of the lines' displacements [px of the coarse image]."""
    line_gain: float = 0.03
    """Largest standard deviation of the lines' brightness."""
    sharp_dose: float = 400.0
    """Electrons at the brightest pixel of the sharp recording, of which the ideal coarse image is
    the average."""


ONE_SETTING = ColumnScene(
    patch=64,
    pixel=(0.18, 0.22),
    energy=(1.0, 1.0),
    semiangle=(1.0, 1.0),
    dose=(20.0, 20.0),
    readout=0.0,
    jitter=0.0,
    line_gain=0.0,
    background=0.1,
    pedestal=0.1,
    amorphous=0.1,
    dark=0.0,
)
"""Identical settings of the microscope, which the method asks for."""
