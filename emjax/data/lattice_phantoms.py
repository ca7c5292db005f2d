"""Lattices of Gaussian columns, with the place and the brightness of every column.

For questions about single columns, such as whether a missing one is noticed: all that is asked for
is known, and nothing else is in the picture. NumPy, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Lattice:
    """A picture of columns.

    Attributes
    ----------
    xy : (n, 2)
        Columns (x, y) in pixels, those a little outside of the picture included.
    height : (n,)
        Their brightness; the brightest that a lattice may have is 1.
    sigma : float
        Standard deviation of a column [pixels].
    background : float
        Brightness between them.
    side : int
        Pixels a side.
    """

    xy: np.ndarray
    height: np.ndarray
    sigma: float
    background: float
    side: int

    @property
    def image(self) -> np.ndarray:
        """Clean picture (y, x); brighter than 0."""
        at = np.arange(self.side)
        x, y = (np.exp(-0.5 * ((at - c[:, None]) / self.sigma) ** 2) for c in self.xy.T)
        return self.background + (y * self.height[:, None]).T @ x

    def with_vacancies(self, sites: np.ndarray) -> Lattice:
        """The same lattice without the columns of these numbers."""
        height = self.height.copy()
        height[sites] = 0.0
        return replace(self, height=height)

    def brightness(self, image: np.ndarray) -> np.ndarray:
        """Mean (n,) of a picture around every column, weighted by the column's own shape.

        A column that stands alone adds half of its height to its own.
        """
        at = np.arange(self.side)
        x, y = (np.exp(-0.5 * ((at - c[:, None]) / self.sigma) ** 2) for c in self.xy.T)
        return np.einsum("ni,ij,nj->n", y, image, x) / (y.sum(1) * x.sum(1))


def random_lattice(
    rng: np.random.Generator, side: int, spacing: tuple[float, float] = (9.0, 13.0)
) -> Lattice:
    """A lattice of any angle, turn and place, with one or two columns in its cell.

    Parameters
    ----------
    rng : of NumPy.
    side : pixels a side.
    spacing : range of the shortest lattice vector [pixels].

    Raises
    ------
    ValueError : a spacing below 4 pixels, or a picture smaller than one cell.
    """
    if not 4 <= spacing[0] <= spacing[1] or side < spacing[1]:
        raise ValueError(f"a lattice of {spacing} pixels does not fit a picture of {side}")
    a = rng.uniform(*spacing)
    turn, angle = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(60, 90))
    vectors = np.array(
        [
            [np.cos(turn), np.sin(turn)],
            [np.cos(turn + angle), np.sin(turn + angle)],
        ]
    ) * [[a], [a * rng.uniform(1.0, 1.4)]]
    n = int(2 * side / a) + 2
    cells = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 2)
    sites = cells @ vectors + side / 2 + rng.uniform(-a, a, 2)
    low, high = 1.0, rng.uniform(0.5, 0.9)
    if rng.uniform() < 0.5:  # two kinds of columns, in rows
        height = np.where(cells[:, 0] % 2 == 0, low, high)
    else:
        height = np.full(len(sites), low)
    sigma = 0.16 * a
    near = ((sites > -4 * sigma) & (sites < side + 4 * sigma)).all(1)
    return Lattice(sites[near], height[near], sigma, rng.uniform(0.05, 0.3), side)
