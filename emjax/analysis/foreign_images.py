"""Pictures of anything but atom columns: random fields, discs, particles, membranes, diffraction.

What `out_of_distribution` learns the wrong kinds of images from. None is a recording, so that real
recordings of other kinds can show how well it does. The recipes are the usual models of natural
images (power-law spectra; dead leaves: Lee, Mumford & Huang, IJCV 2001) and of what else electron
microscopes show.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

Random = np.random.Generator


def foreign_image(rng: Random, side: int) -> np.ndarray:
    """One picture [side, side], float64, with the noise of counting, of a camera, or next to none.

    >>> foreign_image(np.random.default_rng(0), 64).shape
    (64, 64)
    """
    kind = KINDS[rng.integers(len(KINDS))]
    image = gaussian_filter(kind(rng, side), rng.choice([0.0, 0.6, 1.2]))
    image = image - image.min()
    image /= max(image.max(), 1e-12)
    look = rng.random()
    if look < 0.25:
        image = 1 - image
    elif look < 0.5:
        image = (image + rng.random()) / 2
    noise, fresh = rng.random(), rng.normal(size=image.shape)
    if kind is protein or noise < 0.25:
        blur, level = rng.choice([0.0, 0.5, 0.8]), rng.uniform(0.15, 3)
        return image + image.std() / level * gaussian_filter(fresh, blur)
    if noise < 0.85:
        dose = np.exp(rng.uniform(np.log(4), np.log(400)))
        return rng.poisson(image * dose) + rng.uniform(0, 0.5) * fresh
    return np.round(255 * image)


def power_law(rng: Random, side: int, exponent: float, blur: float = 0.0) -> np.ndarray:
    """A Gaussian random field [side, side] with power ∝ 1/q^exponent; mean 0, variance 1."""
    q = _frequency(side)
    q[0, 0] = 1 / side
    field = _filtered(
        rng.normal(size=(side, side)), q ** (-exponent / 2) * np.exp(-((q * blur) ** 2))
    )
    return (field - field.mean()) / field.std()


def texture(rng: Random, side: int) -> np.ndarray:
    """Clouds, surfaces, carbon."""
    field = power_law(rng, side, rng.uniform(1, 4), rng.uniform(0, 4))
    return np.exp(rng.uniform(-1, 1) * field)


def leaves(rng: Random, side: int) -> np.ndarray:
    """Things in front of each other."""
    return _leaves(rng, side, 0.0) + _fine(rng, side)


def particles(rng: Random, side: int) -> np.ndarray:
    """The same with bright rims, as secondary electrons show them."""
    return _leaves(rng, side, rng.uniform(0.2, 1.5)) + _fine(rng, side)


def membranes(rng: Random, side: int) -> np.ndarray:
    """Dark lines around cells."""
    field = power_law(rng, side, rng.uniform(2, 4), rng.uniform(1, 4))
    lines = rng.uniform(0.3, 1) * np.exp(-((field / rng.uniform(0.05, 0.5)) ** 2))
    return 1 - lines + rng.uniform(0, 0.2) * power_law(rng, side, 1.0)


def phases(rng: Random, side: int) -> np.ndarray:
    """Regions of two materials."""
    field = power_law(rng, side, rng.uniform(2, 4), rng.uniform(0, 3))
    return np.tanh(field * rng.uniform(1, 8)) + 1.5 * _fine(rng, side)


def protein(rng: Random, side: int) -> np.ndarray:
    """Weak objects under the oscillating transfer function of a defocused microscope."""
    q = _frequency(side)
    transfer = np.sin(0.1 + rng.uniform(50, 600) * q**2) * np.exp(-((rng.uniform(2, 6) * q) ** 2))
    return _filtered(power_law(rng, side, rng.uniform(0, 2), 2.0), transfer)


def diffraction(rng: Random, side: int) -> np.ndarray:
    """Discs on a lattice around a bright one, or rings."""
    grid = np.mgrid[:side, :side]
    y, x = grid - (rng.uniform(0.3, 0.7, 2) * side)[:, None, None]
    fall = side * rng.uniform(0.05, 0.3)
    distance = np.hypot(y, x)
    image = np.exp(-distance / fall)
    if rng.random() < 0.3:
        for _ in range(5):
            ring, width = rng.uniform(0.05, 0.7) * side, rng.uniform(1, 20)
            image += 0.3 * rng.random() * np.exp(-((distance - ring) ** 2) / width)
        return image ** rng.uniform(0.3, 1)
    gap, turn = side * rng.uniform(0.06, 0.25), rng.uniform(0, np.pi)
    radius, soft = rng.uniform(1, 0.6 * gap), rng.uniform(0.6, 3)
    cell = gap * np.array([[1, 0], [rng.uniform(-0.5, 0.5), rng.uniform(0.7, 1.4)]])
    c, s = np.cos(turn), np.sin(turn)
    steps = np.mgrid[-6:7, -6:7].reshape(2, -1).T
    for cy, cx in steps @ cell @ np.array([[c, s], [-s, c]]):
        height = np.exp(-np.hypot(cy, cx) / fall) * rng.gamma(1)
        if height > 1e-3:
            image += height * np.clip((radius - np.hypot(y - cy, x - cx)) / soft + 0.5, 0, 1)
    return image ** rng.uniform(0.3, 1)


KINDS: tuple[Callable[[Random, int], np.ndarray], ...] = (
    *(texture, leaves, particles, diffraction, membranes, phases, protein),
)


def _leaves(rng: Random, side: int, rim: float) -> np.ndarray:
    """Ellipses and bricks of all sizes, each of one grey, each before the last."""
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    least, tail = rng.uniform(2, 10), rng.uniform(1, 3)
    for _ in range(int(rng.integers(10, 200))):
        size = min(least * (1 + rng.pareto(tail)), side)
        cy, cx = rng.uniform(-size, side + size, 2)
        flat, turn = rng.uniform(0.4, 1), rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / flat
        away = np.hypot(u, v) if rng.random() < 0.6 else np.maximum(np.abs(u), np.abs(v))
        mine = away < size
        image[mine] = rng.random() + rim * np.exp((away[mine] - size) / 3)
    return image


def _fine(rng: Random, side: int) -> np.ndarray:
    return rng.uniform(0, 0.2) * power_law(rng, side, rng.uniform(0.5, 2))


def _frequency(side: int) -> np.ndarray:
    q = np.fft.fftfreq(side)
    return np.hypot(q[:, None], q[None])


def _filtered(image: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    return np.fft.ifft2(np.fft.fft2(image) * transfer).real
