"""Posterior sampling through a simulator's forward model, where the posterior is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from emjax.diffusion import amplitudes, sample
from simulators.grid import Grid
from simulators.linear import blur

N, NOISE, SOURCE = 8, 0.15, 1.2
GRID = Grid((N, N), (0.5, 0.5))
K = np.fft.fftfreq(N)
POWER = np.exp(-np.hypot(K[:, None], K[None]) / 0.15)
POWER = jnp.asarray(POWER / POWER.mean(), jnp.float32)
"""Of a stationary prior with variance 1, whose pictures are sums of independent waves."""


def exact(params, x):
    """The mean of the pictures hidden in a noisy one: a Wiener filter for this prior."""
    alpha, sigma = amplitudes(x[0, 0, 0, -1])
    gain = alpha * POWER / (alpha**2 * POWER + sigma**2)
    return jnp.fft.ifft2(jnp.fft.fft2(x[..., 0]) * gain[None]).real[..., None]


def test_samples_given_an_image_blurred_by_the_source():
    rng = np.random.default_rng(0)
    truth = np.fft.ifft2(np.fft.fft2(rng.normal(size=(N, N))) * np.sqrt(POWER)).real
    seen = np.asarray(blur(truth.astype(np.float32), GRID, SOURCE)) + NOISE * rng.normal(
        size=(N, N)
    )
    data = jnp.asarray(seen, jnp.float32)
    forward = jax.vmap(lambda picture: blur(picture, GRID, SOURCE))

    def log_likelihood(clean):
        return -0.5 * jnp.square((forward(clean[..., 0]) - data[None]) / NOISE).sum((1, 2))

    shape = (400, N, N, 1)
    found = sample(
        jax.random.key(1),
        exact,
        {},
        shape,
        predicts="clean",
        steps=30,
        log_likelihood=log_likelihood,
        solves=8,
    )
    found = np.asarray(found, np.float64)[..., 0]
    impulse = np.zeros((N, N), np.float32)
    impulse[0, 0] = 1
    transfer = np.fft.fft2(np.asarray(blur(impulse, GRID, SOURCE))).real
    total = transfer**2 * POWER + NOISE**2
    mean = np.fft.ifft2(np.fft.fft2(seen) * transfer * POWER / total).real
    variance = float((POWER * NOISE**2 / total).mean())
    error = abs(found.mean(0) - mean).max()
    print(f"mean within {error:.3f}, variance {found.var(0).mean():.3f} of {variance:.3f}")
    assert abs(mean).max() > 1, "the image matters"
    assert error < 0.12  # 4 standard errors of 400 samples, of 64 pixels
    np.testing.assert_allclose(found.var(0).mean(), variance, rtol=0.1)
