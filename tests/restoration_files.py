"""Small folders of scenes for the tests of the restoration benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LEVELS = {"d2": 2, "d10": 10, "d50": 50, "d2j": 2, "d10j": 10, "d50j": 50}


def scene_arrays(seed: int = 0, size: int = 96, spacing: float = 13.0) -> dict[str, np.ndarray]:
    """Displaced bright Gaussians with heights of 0.6 or 1 on a background; no jitter drawn."""
    rng = np.random.default_rng(seed)
    grid = np.arange(-1, size / spacing + 1) * spacing + rng.uniform(0, spacing, 2)[:, None]
    sites = np.stack(np.meshgrid(*grid, indexing="ij"), -1).reshape(-1, 2)
    coords = sites + rng.normal(0, 0.5, sites.shape)
    coords = coords[((coords > -0.5) & (coords < size - 0.5)).all(1)]
    heights = rng.choice([0.6, 1.0], len(coords))
    y, x = np.arange(size)[:, None], np.arange(size)[None]
    clean = 0.04 + sum(
        h * np.exp(-0.5 * ((y - r) ** 2 + (x - c) ** 2) / 3.0**2)
        for h, (r, c) in zip(heights, coords, strict=True)
    )
    clean = clean / clean.max()
    counts = {k: rng.poisson(d * clean).astype(np.float32) for k, d in LEVELS.items()}
    for level in ("d2j", "d10j", "d50j"):
        counts[level] += rng.normal(0, 0.25, clean.shape).astype(np.float32)
    return {
        "clean": clean.astype(np.float32),
        "coords": coords.astype(np.float32),
        "Z": np.full(len(coords), 14),
        "px": np.float64(0.12),
        "polarity": np.int64(1),
        "mode": np.array("haadf"),
        **counts,
    }


def write_scene(path: Path, seed: int = 0, leave_out: tuple[str, ...] = (), **changes) -> Path:
    arrays = {**scene_arrays(seed), **changes}
    with path.open("wb") as file:
        np.savez(file, **{k: v for k, v in arrays.items() if k not in leave_out})
    return path
