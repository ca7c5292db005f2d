"""The Fourier U-Net: what its filtered copies keep and what they take out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.networks import build
from emjax.networks.fourier_unet import wiener_copies


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


def test_network_of_any_size():
    apply, params = build("fourier_unet", jax.random.key(0), widths=(4, 6), outputs=2)
    assert apply(params, jnp.ones((2, 30, 41, 1))).shape == (2, 30, 41, 2)
    with pytest.raises(ValueError, match="positive numbers"):
        build("fourier_unet", jax.random.key(0), strengths=(0.0,))
