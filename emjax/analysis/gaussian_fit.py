"""All columns of an image fitted together with 2-D Gaussians on a smooth background.

Model:  sum_j h_j exp(-|r - r_j|^2 / (2 w_j^2)) + B(r),  where B interpolates one background value
per column. One Gauss-Newton problem for the whole image, over the pixels within `radius` of a
column: a dim column beside a bright one is fitted on its own signal, not on its neighbour's tail.
The Jacobian is sparse (a column reaches only the pixels round it), and its normal equations are
solved by conjugate gradients, preconditioned by each column's own 5 x 5 block.

Three things make it hold at a few counts per pixel, without being told the gain or the dose:

* the first pass shares one width among all columns; in the second each has its own, held near the
  shared one by a prior, so that a dim column cannot blow up into background;
* the noise is measured from the first pass's residuals as variance = a + b * model, and its
  inverse is the second pass's weight: for counts, or anything linear in counts, the result is
  then the maximum likelihood of Poisson noise (unweighted least squares is 1.33 times less
  precise without background);
* a column may move at most half way to its nearest neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from emjax.analysis.gaussian_system import System

__all__ = ["GaussianFit", "fit_gaussians"]

_MOST = 3000  # columns in one system (about 60 MB); more are fitted in overlapping parts


@dataclass(frozen=True)
class GaussianFit:
    """What `fit_gaussians` returns; every array has one entry per column, in the order given.

    Attributes
    ----------
    x, y : fitted centre, pixels.
    height : peak above background, in units of the image.
    width : Gaussian sigma, pixels.
    background : below the column's centre, in units of the image.
    error : standard error of x (and y) that the measured noise implies, pixels. Neighbours count
        as known, so it is too small, by up to 1.8 times for columns three widths apart.
    converged : the steps died out, the height is positive, and the centre stayed within half the
        distance to the nearest neighbour (and within `radius`) of the start.
    noise : (a, b) of the measured variance a + b * model.
    """

    x: np.ndarray
    y: np.ndarray
    height: np.ndarray
    width: np.ndarray
    background: np.ndarray
    error: np.ndarray
    converged: np.ndarray
    noise: tuple[float, float]


def fit_gaussians(
    image: np.ndarray,
    xy: np.ndarray,
    *,
    radius: float,
    width_spread: float = 0.15,
    iterations: int = 30,
    tolerance: float = 2e-3,
) -> GaussianFit:
    """Fit every column of an image.

    Parameters
    ----------
    image : (y, x), bright columns (negate a bright-field image), finite; counts or linear in
        counts.
    xy : (n, 2) starting centres (x, y) in pixels, good to about half a width.
    radius : of each column's window in pixels; 0.7 of the column spacing is a good choice.
    width_spread : how far widths may differ from the shared one: standard deviation of ln(width)
        in the prior. 0 keeps one width for all.
    iterations : of each of the two passes, at most.
    tolerance : the passes end when no centre moves by more than this, in pixels.

    Returns
    -------
    GaussianFit

    Raises
    ------
    ValueError : an image that is not 2-D and finite, centres more than `radius` outside of it, a
        radius below 1 pixel.
    """
    image, xy = _checked(image, xy, radius)
    if len(xy) > _MOST:
        return _in_parts(image, xy, radius, width_spread, iterations, tolerance)
    if len(xy) == 0:
        none = np.zeros(0)
        return GaussianFit(none, none, none, none, none, none, none.astype(bool), (0.0, 0.0))
    fit = System(image, xy, radius)
    fit.run(min(iterations, 8), 0.03, spread=None)
    fit.measure_noise()
    moved = fit.run(iterations, tolerance, spread=width_spread)
    p = fit.p
    shift = np.hypot(*(p[:, :2] - xy).T)
    good = (moved < 10 * tolerance) & (p[:, 2] > 2e-4 * fit.scale) & (shift < 0.999 * fit.limit)
    x, y, height = p[:, 0], p[:, 1], p[:, 2]
    width, background = np.exp(p[:, 4]), fit.background()
    return GaussianFit(x, y, height, width, background, fit.error, good, fit.noise)


def _in_parts(
    image: np.ndarray,
    xy: np.ndarray,
    radius: float,
    spread: float,
    iterations: int,
    tolerance: float,
) -> GaussianFit:
    """Halve the columns along their longer side; each half sees a rim of the other."""
    side = int(np.argmax(np.ptp(xy, axis=0)))
    middle = float(np.median(xy[:, side]))
    rim = 4 * radius
    upper = xy[:, side] > middle
    whole = {f.name: np.zeros(len(xy)) for f in fields(GaussianFit) if f.name != "noise"}
    noise = []
    for mine, seen in (
        (~upper, xy[:, side] <= middle + rim),
        (upper, xy[:, side] > middle - rim),
    ):
        if seen.all() or not mine.any():
            raise ValueError(
                f"{len(xy)} columns, half of them within {rim:.0f} pixels: radius {radius} is far "
                "larger than their spacing. Give 0.7 of the spacing in pixels."
            )
        low = np.maximum(np.floor(xy[seen].min(0) - 2 * radius).astype(int), 0)
        high = np.ceil(xy[seen].max(0) + 2 * radius).astype(int) + 1
        fit = fit_gaussians(
            image[low[1] : high[1], low[0] : high[0]],
            xy[seen] - low,
            radius=radius,
            width_spread=spread,
            iterations=iterations,
            tolerance=tolerance,
        )
        for name, values in whole.items():
            values[mine] = getattr(fit, name)[mine[seen]]
        whole["x"][mine] += low[0]
        whole["y"][mine] += low[1]
        noise.append(fit.noise)
    mean = (float(np.mean([a for a, _ in noise])), float(np.mean([b for _, b in noise])))
    converged = whole.pop("converged").astype(bool)
    return GaussianFit(**whole, converged=converged, noise=mean)


def _checked(image: np.ndarray, xy: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    image = np.asarray(image, dtype=float)
    xy = np.asarray(xy, dtype=float).reshape(-1, 2)
    if image.ndim != 2:
        raise ValueError(f"image has shape {image.shape}: one grey image (y, x) is needed.")
    if not np.isfinite(image).all():
        raise ValueError(
            f"image holds {int((~np.isfinite(image)).sum())} values that are not finite."
        )
    if not radius >= 1:
        raise ValueError(
            f"radius {radius} pixels: a window of at least 1 pixel is needed. Was it given in Å? "
            "With columns closer than 2 pixels the image is too coarse to fit."
        )
    outside = ((xy < -radius) | (xy > np.array(image.shape[::-1]) - 1 + radius)).any(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{int(outside.sum())} of {len(xy)} centres lie outside the image of shape "
            f"{image.shape}, the first is number {i} at (x, y) = ({xy[i, 0]:g}, {xy[i, 1]:g}): "
            "pixels (x, y) are needed, not (row, col) or Å."
        )
    return image, xy
