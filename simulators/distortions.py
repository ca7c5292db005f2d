"""What displaces the beam, in time: drift, jitter of single pixels, and the lag after a fly-back.

Each `sample(key, times)` takes the seconds at which pixels are recorded, in that order
(`scan.scan_times`), and gives displacements (x, y) in Å, so that the same drift acts on a raster, a
serpentine, a spiral or a series of frames. Displacements add; add them to the positions, or give
them to `displaced_image`. Processes that jump from time to time have a `log_likelihood` as well:
the prior of positions that are fitted.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete
from simulators.tree import pytree


@pytree
class Drift:
    """Linear drift and a random walk of the specimen under the beam.

    Attributes
    ----------
    velocity : (x, y)
        Å per second.
    walk : (x, y)
        Å per √second: standard deviation of the walk after one second.
    """

    velocity: Any = (0.0, 0.0)
    walk: Any = (0.0, 0.0)

    def sample(self, key: jax.Array, times: Any) -> jax.Array:
        """Displacements [..., 2] in Å at increasing times [...] in s; 0 at the first."""
        steps = _steps(times)
        white = jax.random.normal(key, (*steps.shape, 2))
        jumps = jnp.sqrt(steps)[:, None] * white * _pair(self.walk)
        path = jnp.cumsum(jumps + steps[:, None] * _pair(self.velocity), axis=0)
        return path.reshape(*np.shape(times), 2)

    def log_likelihood(self, shift: jax.Array, times: Any) -> jax.Array:
        """Log density of a path [..., 2] that starts at its first point; a scalar.

        Raises
        ------
        ValueError
            A known walk of 0: a path that cannot differ from the drift has no density.
        """
        if is_concrete(self.walk) and not np.all(np.asarray(self.walk) > 0):
            raise ValueError(
                f"a path has no density with walk = {self.walk}: give the random walk a positive "
                "size along x and y, or fit velocity alone by least squares"
            )
        steps = _steps(times)[1:, None]
        jumps = jnp.diff(shift.reshape(-1, 2), axis=0) - steps * _pair(self.velocity)
        variance = steps * _pair(self.walk) ** 2
        return (-0.5 * jumps**2 / variance - 0.5 * jnp.log(2 * jnp.pi * variance)).sum()


@pytree
class Jitter:
    """Random displacement of every pixel, with a memory (an Ornstein–Uhlenbeck process).

    Attributes
    ----------
    size : (x, y)
        Standard deviation in Å.
    memory : float
        Seconds after which the correlation is 1/e; 0: every pixel by itself. Far longer than a
        pixel and far shorter than a line, it roughens columns; longer than a line, it tears them.
    """

    size: Any = (0.0, 0.0)
    memory: Any = 0.0

    def sample(self, key: jax.Array, times: Any) -> jax.Array:
        """Displacements [..., 2] in Å at increasing times [...] in s."""
        keep, fresh = self._keep(times)
        white = jax.random.normal(key, (*keep.shape, 2)) * fresh[:, None]

        def join(a: tuple, b: tuple) -> tuple:
            return a[0] * b[0], b[0][:, None] * a[1] + b[1]

        _, path = jax.lax.associative_scan(join, (keep, white))
        return (path * _pair(self.size)).reshape(*np.shape(times), 2)

    def log_likelihood(self, shift: jax.Array, times: Any) -> jax.Array:
        """Log density of the displacements [..., 2]; a scalar."""
        keep, fresh = self._keep(times)
        path = shift.reshape(-1, 2) / _pair(self.size)
        before = jnp.concatenate([jnp.zeros((1, 2), path.dtype), path[:-1]])
        z = (path - keep[:, None] * before) / fresh[:, None]
        scale = fresh[:, None] * _pair(self.size)
        return (-0.5 * z**2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)).sum()

    def _keep(self, times: Any) -> tuple[jax.Array, jax.Array]:
        """What remains of the displacement before, and the deviation of what is new."""
        steps = _steps(times)
        age = steps / jnp.maximum(self.memory, 1e-30)
        first = np.arange(steps.shape[0]) == 0
        keep = jnp.where(first, 0.0, jnp.exp(-age))
        # 1 - keep², without cancellation for steps much shorter than the memory
        new = jnp.where(first, 1.0, -jnp.expm1(-2 * jnp.where(first, 1.0, age)))
        return keep, jnp.sqrt(new)


@pytree
class Flyback:
    """The beam lags behind at the start of a line, and the line starts bright or dark.

    Attributes
    ----------
    shift : (x, y)
        Mean displacement in Å of the first pixel; it decays exponentially.
    brightness : float
        Relative extra brightness of the first pixel; it decays likewise.
    decay : float
        Seconds to 1/e.
    spread : float
        Relative standard deviation of both from line to line.
    """

    shift: Any = (0.0, 0.0)
    brightness: Any = 0.0
    decay: Any = 1.0
    spread: Any = 0.0

    def sample(self, key: jax.Array, times: Any) -> tuple[jax.Array, jax.Array]:
        """Displacements [..., ny, nx, 2] in Å and brightness [..., ny, nx] (about 1).

        Parameters
        ----------
        times : float [..., ny, nx]
            Seconds of the pixels; a line begins with its first.
        """
        if np.ndim(times) < 2:
            raise ValueError(f"fly-back needs lines: times [..., ny, nx], got {np.shape(times)}")
        since = jnp.asarray(times - times[..., :1])
        strength = 1 + self.spread * jax.random.normal(key, since.shape[:-1])
        tail = strength[..., None] * jnp.exp(-since / self.decay)
        shift = jnp.stack([tail * part for part in self.shift], axis=-1)
        return shift, jnp.maximum(1 + self.brightness * tail, 0.0)


def displaced_image(image: jax.Array, shift: jax.Array, sampling: Any) -> jax.Array:
    """An image [ny, nx] (periodic) read at displaced pixels; differentiable in both.

    By cubic convolution (Keys, IEEE Trans. Acoust. 29, 1153 (1981)): exact for parabolas, good for
    images with three or more pixels per finest detail. For line displacements of a simulated
    image `linear.sample_lines` and `series.read_raster` are exact.

    Parameters
    ----------
    shift : float [ny, nx, 2]
        Displacement (x, y) in Å: pixel (i, j) shows what is at its place plus this.
    sampling : float or (y, x)
        Å per pixel.
    """
    ny, nx = image.shape
    if shift.shape != (ny, nx, 2):
        raise ValueError(f"an image of {image.shape} needs shifts [{ny}, {nx}, 2]: {shift.shape}")
    dy, dx = np.broadcast_to(sampling, (2,)) if np.ndim(sampling) < 2 else sampling
    y = jnp.arange(ny, dtype=image.dtype)[:, None] + shift[..., 1] / dy
    x = jnp.arange(nx, dtype=image.dtype)[None, :] + shift[..., 0] / dx
    (rows, wy), (columns, wx) = _cubic(y, ny), _cubic(x, nx)
    near = image[rows[..., :, None], columns[..., None, :]]
    return jnp.einsum("yxij,yxi,yxj->yx", near, wy, wx, precision="highest")


def _cubic(at: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Four neighbours [..., 4] (wrapped) of places in pixels, and their weights."""
    base = jnp.floor(jax.lax.stop_gradient(at))
    t = (at - base)[..., None]
    index = (base.astype(int)[..., None] + np.arange(-1, 3)[(None,) * at.ndim]) % n
    powers = jnp.concatenate([jnp.ones_like(t), t, t**2, t**3], axis=-1)
    keys = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    return index, powers @ jnp.asarray(keys, at.dtype)


def _steps(times: Any) -> jax.Array:
    """Seconds since the time before, of all times in order; 0 for the first."""
    concrete = isinstance(times, np.ndarray)
    flat = (np if concrete else jnp).ravel(times)
    if concrete and (np.diff(flat) <= 0).any():
        raise ValueError("times must increase: give them in the order of recording (scan_times)")
    steps = (np if concrete else jnp).diff(flat, prepend=flat[:1])
    return jnp.asarray(steps, jnp.zeros(()).dtype)


def _pair(values: Any) -> jax.Array:
    """(x, y) as a row."""
    return jnp.stack([jnp.asarray(v, jnp.zeros(()).dtype) for v in values])[None]
