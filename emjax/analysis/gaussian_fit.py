"""All columns of an image fitted together with 2-D Gaussians, each on its own constant background.

Model round column i:  b_i + sum_j h_j exp(-|r - r_j|^2 / (2 w_j^2)).  Every iteration subtracts the
present model of all columns from the image and gives each column one Gauss-Newton step on what is left
in its own window, for all columns at once (block Jacobi, damped where columns overlap). Where this
stops, every column's own gradient is zero on the *joint* model: a dim column beside a bright one is
fitted on its own signal, not on its neighbour's tail.

Three things make it hold at a few counts per pixel, without being told the gain or the dose:

* the first pass shares one width among all columns; in the second each has its own, held near the shared
  one by a prior, so that a dim column cannot blow up into background;
* the noise is measured from the first pass's residuals as variance = a + b * model, and its inverse is
  the second pass's weight: for counts, or anything linear in counts, the result is then the maximum
  likelihood of Poisson noise (unweighted least squares is 1.33 times less precise without background);
* a column may move at most half way to its nearest neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["GaussianFit", "fit_gaussians"]

_CHUNK = 4096  # columns whose windows are in memory at once
_STEP = 0.4  # largest step of one iteration, in widths


@dataclass(frozen=True)
class GaussianFit:
    """What `fit_gaussians` returns; every array has one entry per column, in the order given.

    Attributes
    ----------
    x, y : fitted centre, pixels.
    height : peak above background, in units of the image.
    width : Gaussian sigma, pixels.
    background : constant below the column, in units of the image.
    error : standard error of x (and y) that the measured noise implies, pixels.
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
    iterations: int = 40,
    tolerance: float = 2e-3,
) -> GaussianFit:
    """Fit every column of an image.

    Parameters
    ----------
    image : (y, x), bright columns (negate a bright-field image), finite; counts or linear in counts.
    xy : (n, 2) starting centres (x, y) in pixels, good to about half a width.
    radius : of each column's window in pixels; 0.6 of the column spacing is a good choice.
    width_spread : how far widths may differ from the shared one: standard deviation of ln(width) in the
        prior. 0 keeps one width for all.
    iterations : of each of the two passes, at most.
    tolerance : the passes end when no centre moves by more than this, in pixels.

    Returns
    -------
    GaussianFit

    Raises
    ------
    ValueError : an image that is not 2-D and finite, centres outside of it, a radius below 1 pixel.
    """
    image, xy = _checked(image, xy, radius)
    if len(xy) == 0:
        none = np.zeros(0)
        return GaussianFit(none, none, none, none, none, none, none.astype(bool), (0.0, 0.0))
    fit = _Fit(image, xy, radius)
    fit.run(iterations, tolerance, spread=None)
    fit.measure_noise()
    moved = fit.run(iterations, tolerance, spread=width_spread)
    p = fit.p
    shift = np.hypot(*(p[:, :2] - xy).T)
    good = (moved < 10 * tolerance) & (p[:, 2] > 0) & (shift < 0.999 * fit.limit)
    return GaussianFit(
        *p[:, :3].T, np.exp(p[:, 4]), p[:, 3], fit.error, good & np.isfinite(p).all(1), fit.noise
    )


class _Fit:
    """The state of a fit. `p` (n, 5): x, y, height, background, ln(width)."""

    def __init__(self, image: np.ndarray, xy: np.ndarray, radius: float):
        n = len(xy)
        self.start = xy
        centre = np.rint(xy).astype(int)
        nearest, pairs = _neighbours(xy)
        self.limit = np.minimum(0.5 * nearest, radius)
        self.pairs = pairs

        # Windows are lists of pixel offsets sorted by distance: the first `inner` are fitted, all of
        # them carry a column's tail into its neighbours' windows.
        reach = int(np.ceil(1.6 * radius)) + 1
        v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        rr = np.hypot(u, v).ravel()
        order = np.argsort(rr, kind="stable")
        order = order[rr[order] <= reach]
        self.inner = int((rr <= radius).sum())
        self.u, self.v = u.ravel()[order], v.ravel()[order]
        pad = reach + 1
        self.data = np.pad(image, pad)
        self.inside = np.pad(np.ones(image.shape, bool), pad)
        columns = self.data.shape[1]
        self.base = (centre[:, 1] + pad) * columns + centre[:, 0] + pad
        self.offset = self.v * columns + self.u
        self.origin = centre

        self.weight: np.ndarray | None = None
        self.noise = (1.0, 0.0)
        self.error = np.zeros(n)
        self.p = np.zeros((n, 5))
        self.p[:, :2] = xy
        self._first_guess(radius)

    def _first_guess(self, radius: float) -> None:
        """One width for all that explains the windows best, then heights and backgrounds for it."""
        some = slice(None, None, max(1, len(self.p) // 300))
        best = np.inf
        for width in radius * np.geomspace(0.2, 1.0, 9):
            h, b, left = self._linear(width, some)
            if (h > 0).any() and left < best:
                best, self.p[:, 4] = left, np.log(width)
        self.p[:, 2], self.p[:, 3], _ = self._linear(float(np.exp(self.p[0, 4])), slice(None))
        positive = self.p[:, 2][self.p[:, 2] > 0]
        self.scale = float(np.median(positive)) if positive.size else 1.0
        self.p[:, 2] = np.maximum(self.p[:, 2], 1e-3 * self.scale)

    def _linear(self, width: float, some: slice) -> tuple[np.ndarray, np.ndarray, float]:
        """Height and background of each column for a given width, neighbours not yet known."""
        self.p[:, 4] = np.log(width)
        at = self._index(some, self.inner)
        g, d = self._gaussian(some, self.inner)[0], self.data.ravel()[at]
        ok = self.inside.ravel()[at]
        count = np.maximum(ok.sum(1), 1)
        g0 = g - ((g * ok).sum(1) / count)[:, None]
        d0 = d - ((d * ok).sum(1) / count)[:, None]
        h = (g0 * d0 * ok).sum(1) / np.maximum((g0**2 * ok).sum(1), 1e-12)
        b = ((d - h[:, None] * g) * ok).sum(1) / count
        return h, b, float((((d0 - h[:, None] * g0) * ok) ** 2).sum())

    def run(self, iterations: int, tolerance: float, *, spread: float | None) -> np.ndarray:
        """Iterate; the last step of each centre. `spread` None: one shared width."""
        shared = float(np.mean(self.p[:, 4]))
        step = np.full(len(self.p), np.inf)
        for i in range(iterations):
            if spread is not None and i in (3, 8):
                self.measure_noise()
            total = self._total()
            relax = self._relaxation()
            gradient, curvature = self._normal(total)
            if spread is not None:
                prior = 1 / max(spread, 1e-6) ** 2
                gradient[:, 4] += prior * (shared - self.p[:, 4])
                curvature[:, 4, 4] += prior
            delta = self._steps(gradient, curvature, together=spread is None)
            # The scale keeps the direction when a centre wants to jump.
            width = np.exp(self.p[:, 4])
            jump = np.hypot(delta[:, 0], delta[:, 1]) / (_STEP * width)
            delta[:, :2] /= np.maximum(jump, 1)[:, None]
            delta[:, 4] = np.clip(delta[:, 4], -0.2, 0.2)
            before = self.p[:, :2].copy()
            self.p += relax[:, None] * delta
            self.p[:, 2] = np.maximum(self.p[:, 2], 1e-4 * self.scale)
            self._hold_back()
            step = np.hypot(*(self.p[:, :2] - before).T)
            if i > 9 and step.max() < tolerance:
                break
        return step

    def _steps(self, gradient: np.ndarray, curvature: np.ndarray, *, together: bool) -> np.ndarray:
        """Gauss-Newton steps (n, 5), the width's shared by all or each column's own."""
        diagonal = np.einsum("nii->ni", curvature)
        scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(0) + 1e-300))
        a = curvature * scale[:, :, None] * scale[:, None, :] + 1e-6 * np.eye(5)
        c = gradient * scale
        if not together:
            inverse = np.linalg.inv(a)
            self.error = np.sqrt(np.maximum((inverse[:, 0, 0] * scale[:, 0] ** 2), 0))
            return np.einsum("nij,nj->ni", inverse, c) * scale
        # Eliminate each column's own four unknowns from the one equation of the width (Schur).
        solved = np.linalg.solve(a[:, :4, :4], np.stack([c[:, :4], a[:, :4, 4]], axis=-1))
        own, slope = solved[..., 0], solved[..., 1]
        s = scale[:, 4]
        up = ((c[:, 4] - (a[:, 4, :4] * own).sum(1)) / s).sum()
        down = ((a[:, 4, 4] - (a[:, 4, :4] * slope).sum(1)) / s**2).sum()
        w = np.clip(up / max(down, 1e-300), -0.2, 0.2)
        first = (own - slope * (w / s)[:, None]) * scale[:, :4]
        return np.concatenate([first, np.full((len(c), 1), w)], axis=1)

    def measure_noise(self) -> None:
        """Noise variance as a + b * model from the present residuals, and the weights 1 / variance."""
        total = self._total()
        at = self._index(slice(None), self.inner)
        background = np.bincount(
            at.ravel(), np.repeat(self.p[:, 3], self.inner), minlength=self.data.size
        )
        hits = np.bincount(at.ravel(), minlength=self.data.size)
        model = total + background / np.maximum(hits, 1)
        use = (hits > 0) & self.inside.ravel()
        m, r2 = model[use], (self.data.ravel()[use] - model[use]) ** 2
        r2 *= m.size / max(m.size - 4 * len(self.p), 0.25 * m.size)  # what the fit has absorbed
        bins = int(np.clip(m.size // 40, 1, 24))
        group = np.array_split(np.argsort(m), bins)
        mean, variance = (np.array([v[i].mean() for i in group]) for v in (m, r2))
        floor = max(0.05 * float(np.median(variance)), (1e-6 * self.scale) ** 2)
        a, b = float(variance.mean()), 0.0
        if bins >= 3:
            error = np.maximum(variance, floor)  # a variance is known to a fixed fraction of itself
            for _ in range(3):
                design = np.stack([np.ones(bins), mean], axis=1) / error[:, None]
                a, b = np.linalg.lstsq(design, variance / error, rcond=None)[0]
                error = np.maximum(a + b * mean, floor)
            if b < 0:
                a, b = float(variance.mean()), 0.0
        self.noise = (float(a), float(b))
        self.weight = self.inside.ravel() / np.maximum(a + b * model, floor)

    def _normal(self, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (n, 5) and Gauss-Newton matrix (n, 5, 5) of every column on the joint residual."""
        n = len(self.p)
        gradient, curvature = np.zeros((n, 5)), np.zeros((n, 5, 5))
        weight = self.inside.ravel().astype(float) if self.weight is None else self.weight
        for i in range(0, n, _CHUNK):
            part = slice(i, i + _CHUNK)
            at = self._index(part, self.inner)
            g, dx, dy = self._gaussian(part, self.inner)
            _, _, h, b, lnw = self.p[part].T[:, :, None]
            over = np.exp(-2 * lnw)
            hg = h * g * over
            slopes = np.stack([hg * dx, hg * dy, g, np.ones_like(g), hg * (dx**2 + dy**2)], axis=1)
            weighted = slopes * weight[at][:, None]
            left = self.data.ravel()[at] - total[at] - b
            gradient[part] = np.einsum("nik,nk->ni", weighted, left)
            curvature[part] = weighted @ slopes.transpose(0, 2, 1)
        return gradient, curvature

    def _total(self) -> np.ndarray:
        """All Gaussians (no background) on the padded image, flat."""
        total = np.zeros(self.data.size)
        for i in range(0, len(self.p), _CHUNK):
            part = slice(i, i + _CHUNK)
            at = self._index(part, None)
            g = self._gaussian(part, None)[0] * self.p[part, 2, None]
            total += np.bincount(at.ravel(), g.ravel(), minlength=total.size)
        return total

    def _gaussian(self, part: slice, count: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shift = self.p[part, :2] - self.origin[part]
        dx = self.u[None, :count] - shift[:, :1]
        dy = self.v[None, :count] - shift[:, 1:]
        return np.exp((dx**2 + dy**2) * (-0.5 * np.exp(-2 * self.p[part, 4:]))), dx, dy

    def _index(self, part: slice, count: int | None) -> np.ndarray:
        return self.base[part, None] + self.offset[None, :count]

    def _relaxation(self) -> np.ndarray:
        """Steps shrink with the summed overlap of a column's neighbours, so that Jacobi converges."""
        i, j = self.pairs.T
        d2 = ((self.p[i, :2] - self.p[j, :2]) ** 2).sum(1)
        w2 = np.exp(2 * self.p[i, 4]) + np.exp(2 * self.p[j, 4])
        overlap = np.exp(-d2 / (2 * w2))
        n = len(self.p)
        rho = np.bincount(i, overlap, minlength=n) + np.bincount(j, overlap, minlength=n)
        return np.minimum(1.0, 1.5 / (1 + rho))

    def _hold_back(self) -> None:
        shift = self.p[:, :2] - self.start
        far = np.hypot(*shift.T) / self.limit
        self.p[:, :2] = self.start + shift / np.maximum(far, 1)[:, None]
        low, high = np.log(0.4), np.log(1.5 * max(1.0, float(self.u.max()) / 1.6))
        self.p[:, 4] = np.clip(self.p[:, 4], low, high)


def _neighbours(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest neighbour (infinite if alone) and the pairs that may overlap."""
    if len(xy) < 2:
        return np.full(len(xy), np.inf), np.zeros((0, 2), int)
    tree = cKDTree(xy)
    nearest = np.maximum(tree.query(xy, 2)[0][:, 1], 1e-3)
    return nearest, tree.query_pairs(2.2 * float(np.median(nearest)), output_type="ndarray")


def _checked(image: np.ndarray, xy: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    image = np.asarray(image, dtype=float)
    xy = np.asarray(xy, dtype=float).reshape(-1, 2)
    if image.ndim != 2:
        raise ValueError(f"image has shape {image.shape}: one grey image (y, x) is needed.")
    if not np.isfinite(image).all():
        raise ValueError(f"image holds {int((~np.isfinite(image)).sum())} values that are not finite.")
    if not radius >= 1:
        raise ValueError(
            f"radius {radius} pixels: a window of at least 1 pixel is needed. Is the column spacing in "
            "pixels rather than in Å? Below 2 pixels a column the image is too coarse to fit."
        )
    outside = ((xy < -0.5) | (xy > np.array(image.shape[::-1]) - 0.5)).any(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{int(outside.sum())} of {len(xy)} centres lie outside the image of shape {image.shape}, the "
            f"first is number {i} at (x, y) = {tuple(xy[i])}: pixels (x, y) are needed, not (row, col) or Å."
        )
    return image, xy
