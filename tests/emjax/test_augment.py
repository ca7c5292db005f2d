"""The group of the square, batches moved alike, and views whose mean and spread are known."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.augment import (
    augmented,
    dihedral,
    dihedral_points,
    inverse_dihedral,
    monte_carlo,
    noisy_view,
    random_crop,
    random_dihedral,
    random_flips,
    random_view,
    symmetric,
)
from emjax.schedules import takes_step

KEY = jax.random.key(0)
SQUARE = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
OBLONG = np.random.default_rng(1).normal(size=(2, 4, 6, 1)).astype(np.float32)
EIGHT = range(8)


def test_the_eight_are_a_group():
    images = [np.asarray(dihedral(SQUARE, k)) for k in EIGHT]
    assert len({image.tobytes() for image in images}) == 8
    for a, b in itertools.product(EIGHT, EIGHT):
        both = np.asarray(dihedral(images[b], a))
        assert any(np.array_equal(both, image) for image in images)
    np.testing.assert_array_equal(images[1], np.rot90(SQUARE, 1, (1, 2)))
    np.testing.assert_array_equal(images[4], SQUARE[:, :, ::-1])


@pytest.mark.parametrize("x", [SQUARE, OBLONG], ids=["square", "oblong"])
def test_each_is_undone(x):
    for k in EIGHT:
        np.testing.assert_array_equal(dihedral(dihedral(x, k), inverse_dihedral(k)), x)


def test_traced_numbers():
    made = jax.jit(jax.vmap(lambda k: dihedral(SQUARE, k)))(jnp.arange(8))
    for k in EIGHT:
        np.testing.assert_array_equal(made[k], dihedral(SQUARE, k))
        assert int(inverse_dihedral(jnp.int32(k))) == inverse_dihedral(k)
    with pytest.raises(ValueError, match="4 × 6 pixels change their shape"):
        dihedral(OBLONG, jnp.int32(1))
    with pytest.raises(ValueError, match="not 8"):
        dihedral(SQUARE, 8)


@pytest.mark.parametrize("k", EIGHT)
def test_points_move_with_the_image(k):
    image = np.zeros((1, 4, 6, 1), np.float32)
    image[0, 1, 4] = 1
    moved = dihedral_points(jnp.array([[4.0, 1.0]]), k, shape=(4, 6))
    _, y, x, _ = np.argwhere(np.asarray(dihedral(image, k)))[0]
    np.testing.assert_array_equal(moved, [[x, y]])


@pytest.mark.parametrize("transform", [random_dihedral, random_flips])
def test_images_targets_and_weights_move_alike(transform):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(64, 6, 6, 1)), jnp.float32)
    batch = {"image": x, "target": 2 * x, "weight": x[..., 0], "label": jnp.arange(64), "step": 3}
    moved = jax.jit(transform)(KEY, batch)
    np.testing.assert_array_equal(moved["target"], 2 * moved["image"])
    np.testing.assert_array_equal(moved["weight"], moved["image"][..., 0])
    np.testing.assert_array_equal(moved["label"], np.arange(64))
    views = np.stack([np.asarray(dihedral(x, k)) for k in EIGHT])
    same = (views == np.asarray(moved["image"])[None]).all((2, 3, 4))
    np.testing.assert_array_equal(same.sum(0), 1)
    expected = EIGHT if transform is random_dihedral else (0, 2, 4, 6)
    assert set(np.flatnonzero(same.sum(1))) == set(expected)
    with pytest.raises(ValueError, match="no images"):
        transform(KEY, {"label": jnp.arange(3)})


def test_flips_of_oblong_images_and_volumes():
    assert random_flips(KEY, OBLONG).shape == OBLONG.shape
    volume = jnp.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4, 1)
    moved = random_dihedral(KEY, volume)
    np.testing.assert_array_equal(moved[:, 1] - moved[:, 0], 16), "z stays"


def test_windows_at_one_place():
    x = jnp.arange(2 * 9 * 8.0).reshape(2, 9, 8, 1)
    batch = random_crop(KEY, {"image": x, "mask": x[..., 0], "n": jnp.arange(2)}, (4, 3))
    assert batch["image"].shape == (2, 4, 3, 1)
    np.testing.assert_array_equal(batch["image"][..., 0], batch["mask"])
    np.testing.assert_array_equal(np.diff(batch["mask"], axis=2), 1)
    np.testing.assert_array_equal(np.diff(batch["mask"], axis=1), 8)
    with pytest.raises(ValueError, match="does not fit"):
        random_crop(KEY, x, (10, 3))
    with pytest.raises(ValueError, match="differ in size"):
        random_crop(KEY, [x, x[:, :5]], (2, 2))


def test_a_draw_with_more():
    draw = augmented(lambda key: SQUARE, random_dihedral, lambda key, x: x + 1)
    np.testing.assert_array_equal(
        draw(KEY), 1 + random_dihedral(jax.random.fold_in(KEY, 2**31), SQUARE)
    )
    staged = augmented(lambda key, step: step * SQUARE, random_flips)
    assert takes_step(staged)
    assert np.abs(staged(KEY, step=0)).max() == 0


def test_arrays_of_partials_stay_arguments_of_the_update():
    draw = jax.tree_util.Partial(lambda images, key: images, jnp.asarray(SQUARE))
    add = jax.tree_util.Partial(lambda more, key, batch: batch + more, jnp.ones((1, 1, 1, 3)))
    more = augmented(draw, random_flips, add)
    shapes = [leaf.shape for leaf in jax.tree.leaves(more)]
    assert shapes == [SQUARE.shape, (1, 1, 1, 3)]
    wanted = 1 + random_flips(jax.random.fold_in(KEY, 2**31), jnp.asarray(SQUARE))
    np.testing.assert_array_equal(jax.jit(lambda f, key: f(key))(more, KEY), wanted)
    assert not takes_step(more)


# ---------------------------------------------------------------- at the end


def lopsided(params, x):
    """Neither mirrored nor turned alike."""
    return jnp.cumsum(x, axis=2) * params + jnp.roll(x, 1, 1)


def test_the_mean_over_the_group_turns_with_the_image():
    network = symmetric(lopsided)
    mean, spread = network(0.5, SQUARE)
    assert (
        np.abs(lopsided(0.5, dihedral(SQUARE, 1)) - dihedral(lopsided(0.5, SQUARE), 1)).max() > 0.1
    )
    for k in (1, 4, 7):
        turned, same = network(0.5, dihedral(SQUARE, k))
        np.testing.assert_allclose(turned, dihedral(mean, k), atol=1e-5)
        np.testing.assert_allclose(same, dihedral(spread, k), atol=1e-5)
    views = [dihedral(lopsided(0.5, dihedral(SQUARE, k)), inverse_dihedral(k)) for k in EIGHT]
    np.testing.assert_allclose(mean, np.mean(views, 0), atol=1e-5)
    np.testing.assert_allclose(spread, np.std(views, 0), atol=1e-5)
    assert symmetric(lopsided)(0.5, OBLONG)[0].shape == OBLONG.shape
    _, none = symmetric(lambda p, x: x**2)(None, SQUARE)
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_views_with_other_noise():
    """A linear network: the spread is that of the noise, times the factor."""
    view = noisy_view(lambda key, x: x + 0.3 * jax.random.normal(key, x.shape))
    mean, spread = jax.jit(monte_carlo(lambda p, x: p * x, view, samples=400))(KEY, 2.0, SQUARE)
    np.testing.assert_allclose(mean, 2 * SQUARE, atol=5 * 0.6 / 20)
    assert float(spread.mean()) == pytest.approx(0.6, rel=0.02)
    with pytest.raises(ValueError, match="at least 2 views"):
        monte_carlo(lopsided, view, samples=1)


def test_random_views_are_brought_back():
    wanted = jax.jit(monte_carlo(lambda p, x: x**2, random_view(shift=3), samples=10))
    mean, spread = wanted(KEY, None, SQUARE)
    np.testing.assert_allclose(mean, SQUARE**2, rtol=1e-5)
    np.testing.assert_allclose(spread, 0, atol=1e-6)
    mean, _ = monte_carlo(lopsided, random_view(turns=False, shift=1), samples=3)(KEY, 0.5, OBLONG)
    assert mean.shape == OBLONG.shape
    many, _ = jax.jit(monte_carlo(lopsided, random_view(), samples=400))(KEY, 0.5, SQUARE)
    np.testing.assert_allclose(many, symmetric(lopsided)(0.5, SQUARE)[0], atol=0.3)


def test_points_beside_images_stay():
    images = jax.random.normal(KEY, (4, 6, 6, 1))
    batch = {"points": jnp.arange(24.0).reshape(4, 3, 2), "image": images}
    for change in (random_dihedral, random_flips):
        moved = change(jax.random.key(3), batch)
        np.testing.assert_array_equal(moved["points"], batch["points"])
        assert not np.array_equal(moved["image"], batch["image"])
