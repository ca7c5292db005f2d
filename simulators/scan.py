"""Scan positions, and how a real scan departs from them: drift, line jitter, row gain.

A scan is slow from line to line and fast along a line, so its errors are one displacement (x, y)
per line. `linear.sample_lines` puts them into an image exactly. Errors within a line, which need
the time of every pixel, are in distortions.py.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module
from simulators.tree import pytree


def raster(
    shape: tuple[int, int],
    sampling: float | tuple[float, float],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
) -> np.ndarray:
    """Positions (x, y) [ny, nx, 2] in Å of a rectangular scan.

    Parameters
    ----------
    shape : (ny, nx)
    sampling : float or (y, x)
        Å per pixel.
    origin : (x, y)
        Position of pixel (0, 0) in Å.
    rotation : float
        Of the scan about its origin, rad, from +x towards +y.
    """
    if min(shape) < 1:
        raise ValueError(f"a scan needs at least one pixel in y and x, got {shape}")
    dy, dx = np.broadcast_to(sampling, (2,))
    if dy <= 0 or dx <= 0:
        raise ValueError(f"sampling must be positive Å per pixel, got {sampling}")
    y, x = np.meshgrid(np.arange(shape[0]) * dy, np.arange(shape[1]) * dx, indexing="ij")
    c, s = np.cos(rotation), np.sin(rotation)
    return np.stack([origin[0] + c * x - s * y, origin[1] + s * x + c * y], axis=-1)


def serpentine(
    shape: tuple[int, int],
    sampling: float | tuple[float, float],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
) -> np.ndarray:
    """Positions (x, y) [ny, nx, 2] in Å in the order of recording: every second line runs back.

    Needs no fly-back. `unfold(data)` puts the recorded values into the order of `raster`.
    """
    return unfold(raster(shape, sampling, origin=origin, rotation=rotation), axis=-3)


def unfold(data: Any, axis: int = -2) -> Any:
    """Turn every second line of a serpentine scan around (lines along `axis`, pixels follow).

    It is its own inverse: recorded order to image, image to recorded order.
    """
    xp = array_module(data)
    lines = xp.moveaxis(data, (axis, axis + 1), (0, 1))
    back = (np.arange(lines.shape[0]) % 2 == 1).reshape(-1, *(1,) * (lines.ndim - 1))
    return xp.moveaxis(xp.where(back, lines[:, ::-1], lines), (0, 1), (axis, axis + 1))


def spiral(
    n: int, spacing: float, *, centre: tuple[float, float] = (0.0, 0.0), rotation: float = 0.0
) -> np.ndarray:
    """Positions (x, y) [n, 2] in Å of an Archimedean spiral at constant speed, outwards.

    Turns lie `spacing` Å apart and so do the points along the path (outside the first turn), which
    gives a constant dose and no fly-back (Sang et al., Adv. Struct. Chem. Imaging 2, 6 (2016)).
    """
    if n < 1 or not spacing > 0:
        raise ValueError(f"a spiral needs points and a spacing in Å, got n = {n}, {spacing} Å")
    # arc length of r = aθ: a (θ √(1 + θ²) + asinh θ)/2, inverted by Newton's method
    length = 2 * np.pi * np.arange(n, dtype=float)
    angle = np.sqrt(2 * length)
    for _ in range(8):
        root = np.sqrt(1 + angle**2)
        angle = angle - ((angle * root + np.arcsinh(angle)) / 2 - length) / root
    radius = spacing / (2 * np.pi) * angle
    turn = angle + rotation
    return np.stack([centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn)], axis=-1)


def with_flyback(positions: Any, n: int) -> np.ndarray:
    """Positions [ny, nx + n, 2] of lines [ny, nx, 2] with `n` pixels on the way to the next line.

    The beam goes straight and evenly to the first pixel of the next line; after the last line to
    where the next line would begin. It is on during this time: these positions receive dose.
    """
    positions = np.asarray(positions, float)
    if positions.ndim != 3 or positions.shape[-1] != 2:
        raise ValueError(f"lines of positions are [ny, nx, 2], got shape {positions.shape}")
    if n < 0:
        raise ValueError(f"the fly-back takes 0 pixels or more, got {n}")
    start, end = positions[:, 0], positions[:, -1]
    step = start[-1] - start[-2] if len(start) > 1 else np.zeros(2)
    following = np.concatenate([start[1:], start[-1:] + step])
    part = (np.arange(1, n + 1) / (n + 1))[None, :, None]
    back = end[:, None] + part * (following - end)[:, None]
    return np.concatenate([positions, back], axis=1)


def scan_times(
    shape: tuple[int, int], dwell: float = 1.0, flyback: float = 0.0, frames: int | None = None
) -> np.ndarray:
    """Seconds [ny, nx] (or [frames, ny, nx]) at which each pixel, in order of recording, begins.

    Parameters
    ----------
    dwell : float
        Seconds per pixel.
    flyback : float
        Seconds from the end of a line to the start of the next.
    """
    if not dwell > 0 or flyback < 0:
        raise ValueError(
            f"a dwell time is positive and a fly-back time not negative, got {dwell} and {flyback}"
        )
    ny, nx = shape
    line = nx * dwell + flyback
    times = np.arange(ny)[:, None] * line + np.arange(nx)[None, :] * dwell
    if frames is None:
        return times
    return np.arange(frames)[:, None, None] * (ny * line) + times


@pytree
class ScanDistortion:
    """Statistics of a scan's errors.

    Attributes
    ----------
    jitter : (x, y)
        Standard deviation of a line's displacement in Å.
    correlation : float
        Between neighbouring lines (an autoregressive process of first order), 0 to below 1.
    drift : (x, y)
        Å over the whole frame, linear in time.
    gain : float
        Standard deviation of the brightness of a line (beam current), relative.
    """

    jitter: Any = (0.0, 0.0)
    correlation: Any = 0.0
    drift: Any = (0.0, 0.0)
    gain: Any = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.correlation, (int, float)) and not 0 <= self.correlation < 1:
            raise ValueError(
                f"correlation = {self.correlation:g} between lines must lie from 0 to below 1"
            )

    def sample(self, key: jax.Array, lines: int) -> tuple[jax.Array, jax.Array]:
        """Displacements (x, y) [lines, 2] in Å and brightness [lines] of one frame."""
        shift_key, gain_key = jax.random.split(key)
        white = jax.random.normal(shift_key, (lines, 2))
        rho = jnp.asarray(self.correlation, white.dtype)

        # the process as one triangular matrix: no loop over the lines
        lag = np.arange(lines)[:, None] - np.arange(lines)[None, :]
        decay = jnp.where(lag > 0, rho ** np.maximum(lag, 1), 1.0 * (lag == 0))
        fresh = jnp.where(np.arange(lines)[None, :] > 0, jnp.sqrt(1 - rho**2), 1.0)
        walk = (decay * fresh).astype(white.dtype) @ white
        time = jnp.linspace(-0.5, 0.5, lines)[:, None]
        shift = walk * jnp.stack([*map(jnp.asarray, self.jitter)])[None]
        shift = shift + time * jnp.stack([*map(jnp.asarray, self.drift)])[None]
        return shift, 1 + self.gain * jax.random.normal(gain_key, (lines,))


def displaced(xy: jax.Array, shift: jax.Array, sampling: Any, width: float = 0.3) -> jax.Array:
    """Where points of the specimen appear in a scan with line displacements.

    The blob around a point spans several lines; its place is shifted by the mean of their
    displacements, backwards (a line that was recorded further to the right shows everything
    further to the left). In x the lines count by a Gaussian of their distance; in y by the same
    times the squared distance, for moving a line across the top of a blob changes nothing.

    Parameters
    ----------
    xy : float [n, 2]
        Points (x, y) in Å from pixel (0, 0) of the undistorted scan.
    shift : float [lines, 2]
        Displacement (x, y) of the lines in Å.
    sampling : float
        Å between lines.
    width : float
        Standard deviation of the Gaussian [Å]. That of the blob gives its centre of mass; 1/√2 of
        that (0.3 Å for columns of 0.42 Å) gives the place that a least-squares fit finds. Both
        exact for a Gaussian blob, to first order in the displacements.
    """
    xp = array_module(xy, shift, sampling)
    lines = xp.arange(shift.shape[0]) * sampling
    gap = (xy[:, 1:] - lines[None]) / width
    far = xp.square(gap) - xp.square(gap).min(axis=1, keepdims=True)
    bright = xp.exp(-0.5 * far)  # outside the scan: its nearest lines
    flanks = bright * (xp.square(gap) + 1e-6)
    weights = (w / w.sum(axis=1, keepdims=True) for w in (bright, flanks))
    return xy - xp.stack([w @ shift[:, i] for i, w in enumerate(weights)], axis=1)
