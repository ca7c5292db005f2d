"""The least-squares system behind `gaussian_fit`: model, Jacobian, joint step, noise."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import KDTree

__all__ = ["System"]

_STEP = 0.4  # largest step of a centre in one iteration, in widths


class System:
    """The state of a fit. `p` (n, 5): x, y, height, background, ln(width)."""

    def __init__(self, image: np.ndarray, xy: np.ndarray, radius: float):
        n = len(xy)
        self.start = xy
        self.origin = np.clip(np.rint(xy), 0, np.array(image.shape[::-1]) - 1).astype(int)
        self.limit = np.minimum(0.5 * _nearest(xy), radius)
        self.largest = np.log(radius)  # of ln(width)

        # Windows are lists of pixel offsets, and every image is flat and padded by the windows'
        # reach.
        reach = int(np.ceil(1.7 * radius)) + 1
        v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        order = np.argsort(np.hypot(u, v).ravel(), kind="stable")[
            : int((np.hypot(u, v) <= reach).sum())
        ]
        self.u, self.v = u.ravel()[order], v.ravel()[order]
        padded = np.pad(image, reach)
        inside = np.pad(np.ones(image.shape), reach).ravel()
        self.data = padded.ravel()
        base = (self.origin[:, 1] + reach) * padded.shape[1] + self.origin[:, 0] + reach
        self.at = base[:, None] + (self.v * padded.shape[1] + self.u)[None]
        du, dv = self.u - (xy - self.origin)[:, :1], self.v - (xy - self.origin)[:, 1:]
        distance2 = du**2 + dv**2
        self.near = distance2 <= radius**2
        self.fitted = np.zeros(self.data.size)
        self.fitted[self.at[self.near]] = 1
        self.fitted *= inside
        # The background at a pixel is the mean of the values of the columns whose window holds it.
        # Sharper shares (a Gaussian of the radius) follow a bumpy background better, and lose 1.3
        # times in the precision of dense noisy columns.
        self.share = 1.0 / np.bincount(self.at.ravel(), minlength=self.data.size)[self.at]
        self.spread = _rows(self.share, self.at, self.data.size)

        self.weight = self.fitted
        self.noise = (1.0, 0.0)
        self.error = np.zeros(n)
        self.p = np.zeros((n, 5))
        self.p[:, :2] = xy
        self.damping = np.full(n, 1e-3)
        self.reach = self.u.size
        self._first_guess(radius)

    def _first_guess(self, radius: float) -> None:
        """One width for all that explains the windows best, then heights and backgrounds for it."""
        ok = (self.near * self.fitted[self.at]).astype(float)
        ok /= np.maximum(ok.sum(1), 1)[:, None]
        d = self.data[self.at]
        d0 = d - (d * ok).sum(1)[:, None]
        best = np.inf
        guess = (np.zeros(len(d)), (d * ok).sum(1), np.log(0.4 * radius))  # nothing bright anywhere
        for width in radius * np.geomspace(0.2, 0.9, 8):
            self.p[:, 4] = np.log(width)
            g = self._gaussian()[0]
            g0 = g - (g * ok).sum(1)[:, None]
            h = (g0 * d0 * ok).sum(1) / np.maximum((g0**2 * ok).sum(1), 1e-12)
            left = float((((d0 - h[:, None] * g0) ** 2) * ok).sum())
            if left < best and (h > 0).any():
                best, guess = left, (h, ((d - h[:, None] * g) * ok).sum(1), np.log(width))
        self.p[:, 2], self.p[:, 3], self.p[:, 4] = guess
        positive = guess[0][guess[0] > 0]
        self.scale = float(np.median(positive)) if positive.size else 1.0
        self.p[:, 2] = np.maximum(self.p[:, 2], 1e-2 * self.scale)

    def run(self, iterations: int, tolerance: float, *, spread: float | None) -> np.ndarray:
        """Iterate; the last step of each centre. `spread` None: one shared width."""
        shared = float(np.mean(self.p[:, 4]))
        # Beyond 3.5 widths a Gaussian is nothing: keep the Jacobian that short.
        self.reach = int((np.hypot(self.u, self.v) <= 3.5 * np.exp(shared) + 0.5).sum())
        at = self.at[:, : self.reach]
        prior = 0.0 if spread is None else 1 / max(spread, 1e-6) ** 2
        step = np.full(len(self.p), np.inf)
        for i in range(iterations):
            if spread is not None and i in (2, 5):
                self.measure_noise()
            slopes = self._slopes()
            jt = _rows(slopes, at, self.data.size)
            left = self.weight * (self.data - self._model())
            gradient = self._transposed(jt, left)
            gradient[:, 4] += prior * (shared - self.p[:, 4])
            blocks = self._blocks(slopes, self.weight[self.at])
            blocks[:, 4, 4] += prior
            delta = self._solve(jt, gradient, blocks, prior, together=spread is None)
            before, step = step, self._move(delta)
            # A centre whose steps do not shrink swings about its optimum: damp this one.
            swings = (step > 0.7 * before) & (step > tolerance)
            self.damping = np.clip(self.damping * np.where(swings, 4.0, 0.5), 1e-3, 3.0)
            if i > 5 and step.max() < tolerance:
                break
        return step

    def _transposed(self, jt: csr_array, image: np.ndarray) -> np.ndarray:
        """J^T image: (n, 5)."""
        own = (jt @ image).reshape(-1, 4)
        return np.concatenate([own[:, :3], (self.spread @ image)[:, None], own[:, 3:]], axis=1)

    def _blocks(self, slopes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """(n, 5, 5) of J^T W J: each column with itself."""
        blocks = np.empty((len(slopes), 5, 5))
        near = slopes * weight[:, None, : self.reach]
        own = np.array([0, 1, 2, 4])
        blocks[:, own[:, None], own] = near @ slopes.transpose(0, 2, 1)
        blocks[:, 3, own] = blocks[:, own, 3] = np.einsum(
            "nik,nk->ni", near, self.share[:, : self.reach]
        )
        blocks[:, 3, 3] = (self.share**2 * weight).sum(1)
        return blocks

    def _solve(
        self,
        jt: csr_array,
        gradient: np.ndarray,
        blocks: np.ndarray,
        prior: float,
        *,
        together: bool,
    ) -> np.ndarray:
        """The joint Gauss-Newton step (n, 5) by preconditioned conjugate gradients."""
        j, share = jt.T, self.spread.T
        diagonal = np.einsum("nii->ni", blocks)
        typical = np.median(diagonal, axis=0)
        damping = self.damping[:, None] * np.maximum(diagonal, 1e-3 * typical) + 1e-300
        inverse = np.linalg.inv(blocks + damping[:, :, None] * np.eye(5))
        if not together:
            self.error = np.sqrt(np.maximum(0.5 * (inverse[:, 0, 0] + inverse[:, 1, 1]), 0))
        sum_w = diagonal[:, 4].sum() / len(diagonal)

        def tie(v: np.ndarray) -> np.ndarray:  # projects on "one step of the width for all"
            if together:
                v[:, 4] = v[:, 4].mean()
            return v

        def precondition(r: np.ndarray) -> np.ndarray:
            if not together:
                return np.einsum("nij,nj->ni", inverse, r)
            z = np.einsum("nij,nj->ni", inverse[:, :4, :4], r[:, :4])
            return np.concatenate([z, r[:, 4:] / sum_w], axis=1)

        def normal(v: np.ndarray) -> np.ndarray:
            image = j @ v[:, [0, 1, 2, 4]].ravel() + share @ v[:, 3]
            out = self._transposed(jt, self.weight * image) + damping * v
            out[:, 4] += prior * v[:, 4]
            return tie(out)

        x = np.zeros_like(gradient)
        r = tie(gradient.copy())
        z = precondition(r)
        direction, rz = z, float((r * z).sum())
        first = rz
        for _ in range(25):
            if rz <= 1e-2 * first or rz <= 0:
                break
            image = normal(direction)
            alpha = rz / float((direction * image).sum())
            x = x + alpha * direction
            r = r - alpha * image
            z = precondition(r)
            rz, before = float((r * z).sum()), rz
            direction = z + (rz / before) * direction
        return x

    def _move(self, delta: np.ndarray) -> np.ndarray:
        """Take the step, shortened where it is not to be trusted; how far each centre went."""
        width = np.exp(self.p[:, 4])
        jump = np.hypot(delta[:, 0], delta[:, 1]) / (_STEP * width)
        delta[:, :2] /= np.maximum(jump, 1)[:, None]
        delta[:, 4] = np.clip(delta[:, 4], -0.2, 0.2)
        before = self.p[:, :2].copy()
        self.p += delta
        self.p[:, 2] = np.maximum(self.p[:, 2], 1e-4 * self.scale)
        self.p[:, 4] = np.clip(self.p[:, 4], np.log(0.4), self.largest)
        shift = self.p[:, :2] - self.start
        self.p[:, :2] = self.start + shift / np.maximum(np.hypot(*shift.T) / self.limit, 1)[:, None]
        return np.hypot(*(self.p[:, :2] - before).T)

    def measure_noise(self) -> None:
        """Noise variance as a + b * model from the residuals, and the weights 1 / variance."""
        model = self._model()
        use = self.fitted > 0
        m, r2 = model[use], (self.data[use] - model[use]) ** 2
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
        self.weight = self.fitted / np.maximum(a + b * model, floor)

    def background(self) -> np.ndarray:
        """(n,) background at the pixel of each column's start."""
        return (self.spread.T @ self.p[:, 3])[self.at[:, 0]]

    def _model(self) -> np.ndarray:
        """All Gaussians and the background, on the flat padded image."""
        peaks = (self._gaussian()[0] * self.p[:, 2:3]).ravel()
        total = np.bincount(self.at[:, : self.reach].ravel(), peaks, self.data.size)
        return total + self.spread.T @ self.p[:, 3]

    def _slopes(self) -> np.ndarray:
        """(n, 4, window) derivatives of the model by each column's x, y, height and ln(width)."""
        g, dx, dy = self._gaussian()
        hg = g * (self.p[:, 2] * np.exp(-2 * self.p[:, 4]))[:, None]
        return np.stack([hg * dx, hg * dy, g, hg * (dx**2 + dy**2)], axis=1)

    def _gaussian(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shift = self.p[:, :2] - self.origin
        dx = self.u[: self.reach] - shift[:, :1]
        dy = self.v[: self.reach] - shift[:, 1:]
        return np.exp((dx**2 + dy**2) * (-0.5 * np.exp(-2 * self.p[:, 4:]))), dx, dy


def _rows(values: np.ndarray, at: np.ndarray, size: int) -> csr_array:
    """Sparse rows over a flat image: values (n[, k], window) at the pixels `at` (n, window)."""
    columns = np.broadcast_to(at if values.ndim == 2 else at[:, None], values.shape)
    rows = np.arange(values.size // at.shape[1] + 1) * at.shape[1]
    index = (columns.astype(np.int32).ravel(), rows.astype(np.int32))
    return csr_array((values.ravel(), *index), shape=(len(rows) - 1, size))


def _nearest(xy: np.ndarray) -> np.ndarray:
    """Distance of each point to its nearest neighbour, infinite if alone."""
    if len(xy) < 2:
        return np.full(len(xy), np.inf)
    return np.maximum(KDTree(xy).query(xy, 2)[0][:, 1], 1e-3)
