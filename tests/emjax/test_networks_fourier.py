"""The Fourier U-Net: what its filtered copies keep and what they take out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.networks import build
from emjax.networks.fourier_unet import straightened, wiener_copies
from emjax.networks.refit import refitted
from emjax.networks.scan_rows import move_rows, row_shifts


def test_copies_of_a_lattice_in_noise():
    y, x = np.mgrid[:96, :80].astype(float)
    clean = 1 + np.sin(2 * np.pi * (x * 0.07 + y * 0.03)) * np.sin(
        2 * np.pi * (y * 0.08 - x * 0.02)
    )
    noisy = clean + np.random.default_rng(0).normal(size=clean.shape)
    pair = jnp.asarray(np.stack([noisy, 5 * noisy + 3])[..., None], jnp.float32)
    one, strong = np.moveaxis(np.asarray(wiener_copies(pair, (1.0, 3.0), 0.7)), -1, 0)
    error = [np.square(image - clean).mean() for image in (noisy, one[0], strong[0])]
    print("mean square errors", [round(float(e), 3) for e in error])
    assert error[1] < 0.4 * error[0]
    assert error[2] < 0.4 * error[1]
    np.testing.assert_allclose(one[1], 5 * one[0] + 3, atol=2e-4)


def test_noise_alone_is_taken_out():
    noise = np.random.default_rng(1).normal(size=(1, 64, 64, 1)).astype(np.float32)
    left = np.asarray(wiener_copies(jnp.asarray(noise), (3.0,), 0.7)).std()
    assert left < 0.1


def test_constant_images_and_gradients():
    flat = jnp.full((1, 32, 32, 1), 2.0)
    np.testing.assert_allclose(wiener_copies(flat, (1.0,), 0.7), 2.0, atol=1e-6)
    slope = jax.grad(lambda x: jnp.square(wiener_copies(x, (1.0,), 0.7)).sum())(flat)
    assert np.isfinite(slope).all()


def _lattice(shifts, n=96):
    y, x = np.mgrid[: len(shifts), :n].astype(float)
    x = x - shifts[:, None]
    a = np.cos(2 * np.pi * (9 * x / n + 0.03 * y)) + np.cos(2 * np.pi * (6 * x / n - 0.09 * y))
    return jnp.asarray(a[None], jnp.float32)


def test_moved_rows_come_back_exactly():
    shifts = np.random.default_rng(2).normal(size=64)
    back = move_rows(_lattice(shifts), jnp.asarray(shifts[None], jnp.float32))
    np.testing.assert_allclose(back, _lattice(0 * shifts), atol=1e-4)


def test_jitter_is_found_and_rows_without_it_stay():
    rng = np.random.default_rng(3)
    shifts = 0.8 * rng.normal(size=96)
    noisy = {s: _lattice(s * shifts) + 0.5 * rng.normal(size=(1, 96, 96)) for s in (0.0, 1.0)}
    true = _lattice(0 * shifts)
    found = row_shifts(noisy[1.0], true, jnp.asarray([0.25]))[0]
    error = float(np.std(found - shifts))
    print(f"shifts of 0.8 px found to {error:.3f} px, of none {float(noisy[0.0].std()):.3f}")
    assert error < 0.1  # Cramér–Rao: 0.5 / (rms slope · sqrt(96)) = 0.09 without a prior
    assert float(np.std(row_shifts(noisy[0.0], true, jnp.asarray([0.25])))) < 0.07
    # without the truth, the filtered image is the guide
    before, after = (
        float(jnp.square(image - true).mean())
        for image in (noisy[1.0], straightened(noisy[1.0][..., None], 0.7)[..., 0])
    )
    assert after - 0.25 < 0.4 * (before - 0.25)


def test_straight_rows_follow_gain_and_offset():
    image = _lattice(np.random.default_rng(4).normal(size=64))[..., None]
    one, other = straightened(image, 0.7), straightened(7 * image + 20, 0.7)
    np.testing.assert_allclose(other, 7 * one + 20, atol=2e-3)
    assert np.isfinite(straightened(jnp.full((1, 32, 32, 1), 2.0), 0.7)).all()


def _columns(shifts, bright=1.0, n=72, spacing=12):
    """Gaussian columns on a square lattice, each displaced by its own (y, x)."""
    y, x = np.mgrid[:n, :n].astype(float)
    at = np.stack(np.meshgrid(*[np.arange(spacing / 2, n, spacing)] * 2, indexing="ij"), -1)
    image = np.zeros((n, n))
    for (cy, cx), h in zip(
        (at + shifts).reshape(-1, 2), np.ravel(bright * np.ones(36)), strict=True
    ):
        image += h * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.5**2))
    return jnp.asarray(image[None], jnp.float32)


def test_columns_are_put_where_the_image_has_them():
    rng = np.random.default_rng(5)
    true = _columns(0.5 * rng.normal(size=(6, 6, 2)), 1 + 0.1 * rng.normal(size=36))
    lattice = _columns(np.zeros((6, 6, 2)))
    noisy = true + 0.1 * rng.normal(size=true.shape)
    once = refitted(noisy, lattice, jnp.asarray([0.01]))
    twice = refitted(noisy, once, jnp.asarray([0.01]))
    error = [float(jnp.square(x - true).mean()) for x in (lattice, once, twice, noisy)]
    print("mean square errors", [f"{e:.2e}" for e in error])
    assert error[2] < 0.25 * error[0]
    assert error[2] < 0.3 * error[3]


def test_a_right_picture_hardly_changes_and_gain_and_offset_are_followed():
    rng = np.random.default_rng(6)
    true = _columns(np.zeros((6, 6, 2)))
    noisy = true + 0.1 * rng.normal(size=true.shape)
    found = refitted(noisy, true, jnp.asarray([0.01]))
    assert float(jnp.square(found - true).mean()) < 0.1 * 0.01
    other = refitted(7 * noisy + 3, 7 * true + 3, jnp.asarray([0.49]))
    np.testing.assert_allclose(other, 7 * found + 3, atol=2e-3)
    flat = jnp.full((1, 32, 32), 2.0)
    np.testing.assert_allclose(refitted(flat, flat, jnp.zeros(1)), flat, atol=1e-6)


def test_network_of_any_size():
    apply, params = build("fourier_unet", jax.random.key(0), widths=(4, 6), outputs=2)
    assert apply(params, jnp.ones((2, 30, 41, 1))).shape == (2, 30, 41, 2)
    apply, params = build("fourier_unet", jax.random.key(0), widths=(4, 6), rows=False, refit=False)
    assert apply(params, jnp.ones((2, 30, 41, 1))).shape == (2, 30, 41, 1)
    with pytest.raises(ValueError, match="positive numbers"):
        build("fourier_unet", jax.random.key(0), strengths=(0.0,))
