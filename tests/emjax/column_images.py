"""Images of Gaussian columns for the tests of the fit, the finder and the baseline."""

import numpy as np


def lattice(rows, spacing, rng, *, wobble=0.4):
    """(rows^2, 2) hexagonal lattice off the pixel grid, one spacing from the border."""
    r, c = np.mgrid[:rows, :rows]
    xy = np.stack([(c + 0.5 * (r % 2)) * spacing, r * spacing * 0.75**0.5], axis=-1)
    return xy.reshape(-1, 2) + spacing + rng.uniform(-wobble, wobble, (rows**2, 2))


def shape_of(xy, spacing):
    """(y, x) of an image that leaves one spacing beyond the last column."""
    return tuple(int(v) for v in xy.max(0)[::-1] + spacing)


def inner(xy, shape, margin):
    """Which columns are further from the border than `margin`."""
    return ((xy > margin) & (xy < np.array(shape[::-1]) - 1 - margin)).all(axis=1)


def render(xy, height, width, background, shape):
    """Expected counts (y, x)."""
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[:, None]
    gx = np.exp(-((x - xy[:, 0]) ** 2) / (2 * width**2))
    gy = np.exp(-((y - xy[:, 1]) ** 2) / (2 * width**2))
    return background + (gy * height) @ gx.T
