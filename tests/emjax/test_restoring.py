"""Restorers from model files: equivariant to the last digits, whole images and tiles, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.models import build_network, save_model
from emjax.restoration.restorer import TASK, RestorationError, Restorer, load_restorer


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A small random network of two channels."""
    args = {"inputs": 1, "outputs": 2, "widths": [6, 8]}
    _, params = build_network("unet", args, key=jax.random.key(0))
    file = tmp_path_factory.mktemp("model") / "model.h5"
    save_model(
        file,
        network="unet",
        network_args=args,
        params=params,
        meta={
            "task": TASK,
            "objective": "supervised",
            "objective_args": {"sure": True},
            "spread": 2.0,
        },
        example=jax.random.normal(jax.random.key(1), (1, 32, 32, 1)),
    )
    return file


@pytest.fixture(scope="module")
def restorer(path):
    return load_restorer(path)


COUNTS = np.random.default_rng(0).poisson(9.0, (48, 40)).astype(np.float32)


def test_scale_and_offset_equivariance(restorer):
    image, sigma = restorer(COUNTS)
    assert image.shape == sigma.shape == COUNTS.shape
    assert (sigma > 0).all()
    assert restorer.sure
    for gain, offset in ((1000.0, 0.0), (0.01, 3.0), (7.0, -200.0)):
        other, spread = restorer(gain * COUNTS.astype(np.float64) + offset)
        error = abs(other - (gain * image.astype(np.float64) + offset)).max() / np.ptp(gain * image)
        print(f"gain {gain:g}, offset {offset:g}: {error:.1e}")
        assert error < 1e-5
        np.testing.assert_allclose(spread, gain * sigma, rtol=1e-4)


def test_the_stored_factor_scales_the_spread(path, restorer):
    model = type(restorer.model)(
        restorer.model.apply, restorer.model.params, {**restorer.meta, "spread": 1.0}
    )
    np.testing.assert_allclose(restorer(COUNTS).sigma, 2 * Restorer(model)(COUNTS).sigma, rtol=1e-6)


def test_tiles_of_a_large_image(restorer):
    image = np.random.default_rng(1).poisson(4.0, (370, 420)).astype(np.float32)
    whole = restorer(image).image
    tiled = Restorer(restorer.model, tile=352)(image).image
    assert abs(tiled - whole).max() < 1e-3 * np.ptp(whole)


def test_a_flat_image_stays(restorer):
    image, sigma = restorer(np.full((32, 32), 5.0))
    np.testing.assert_array_equal(image, 5.0)
    np.testing.assert_array_equal(sigma, 0.0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 64)), "at least 16 pixels"),
        (np.zeros((2, 32, 32)), r"one image \(y, x\)"),
        (np.zeros((32, 32), complex), "complex"),
        (np.where(np.arange(1024).reshape(32, 32) == 70, np.nan, 1.0), "row 2, column 6"),
    ],
)
def test_images_that_cannot_be_restored(restorer, image, message):
    with pytest.raises(RestorationError, match=message):
        restorer(image)


def test_models_that_do_not_restore(tmp_path):
    args = {"inputs": 1, "outputs": 1, "widths": [4]}
    _, params = build_network("unet", args, key=jax.random.key(0))

    def file(name, **meta):
        made = tmp_path / f"{name}.h5"
        save_model(
            made,
            network="unet",
            network_args=args,
            params=params,
            meta=meta,
            example=jnp.ones((1, 8, 8, 1)),
        )
        return made

    with pytest.raises(RestorationError, match="'columns', not a restorer"):
        load_restorer(file("columns", task="columns"))
    with pytest.raises(RestorationError, match="no objective 'magic'"):
        load_restorer(file("magic", task=TASK, objective="magic"))
