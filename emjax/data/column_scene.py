"""What the training images of restorers are like: plain numbers, no jax."""

from __future__ import annotations

from dataclasses import dataclass

from emjax.config import SceneConfig


@dataclass(frozen=True)
class ColumnScene(SceneConfig):
    """Random images of atom columns and of matter without any (`synthetic_columns`).

    A network that sees nothing but lattices learns to make them: it pulls displaced columns onto
    the lattice and fills vacancies. So most of this is what a lattice does not have.
    """

    patch: int = 128
    pixel: tuple[float, float] = (0.07, 0.25)
    generic: float = 0.75
    dose: tuple[float, float] = (1.0, 120.0)
    readout: float = 0.5
    """Largest read-out noise [electrons]; half of the images have none."""
    jitter: float = 0.3
    jitter_px: float = 1.6
    """The same in pixels, if that is less; a third of the images have none."""
    source_size: tuple[float, float] = (0.4, 1.7)
    energy: tuple[float, float] = (0.75, 3.75)
    shear: float = 0.02
    edge: float = 0.15
    displacement: float = 0.28
    """Largest standard deviation of the columns' static displacements [Å]; a quarter of the images
    have none, the others less by any amount."""
    waves: float = 0.25
    """Largest amplitude of smooth displacements [Å]."""
    roughness: float = 0.3
    """Largest standard deviation of the logarithm of single columns' brightness."""
    dopants: float = 0.05
    """Largest share of columns with a quite different brightness (log-uniform, two decades)."""
    wedge: float = 0.15
    """Chance that the crystal thins out to an edge."""
    amorphous: float = 0.25
    """Chance of atoms without order, on a part of the image or on all of it."""
    lattice: float = 0.95
    """Chance of a crystal."""
    dark: float = 0.3
    """Chance that the columns are dark, as in annular bright-field images."""
    depth: tuple[float, float] = (0.08, 0.7)
    """Their depth below the brightest pixel."""
    curve: tuple[float, float] = (0.75, 1.4)
    """Exponent on the image: channelling sharpens columns, thick specimens broaden them."""
