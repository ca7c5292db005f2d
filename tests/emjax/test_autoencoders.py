"""Autoencoders against PCA, cascades block by block, the evidence bound, angles that are latent."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.networks import count, pure
from emjax.networks.autoencoder import AutoEncoder, Cascade, pretrain_blocks
from emjax.networks.parts import parts
from emjax.networks.rvae import RVAE, direction_angle, rvae_kl
from emjax.networks.vae import VAE, draw_latent, normal_kl, normal_log_likelihood, vae_loss


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """To compile these networks takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def shape_of(module, shape, **args):
    """Of the output for an input of this shape; nothing is computed."""

    def run(key, x):
        apply, params = pure(module, key, **args)
        return apply(params, x)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(run, jax.random.key(0), x).shape


def trained(loss, params, batches, rate=1e-2):
    """Params after Adam on these batches, and the losses."""
    tx = optax.adam(rate)

    @jax.jit
    def update(params, state, batch):
        value, slopes = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(slopes, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for batch in batches:
        params, state, value = update(params, state, batch)
        values.append(value)
    return params, np.array(values)


# ---------------------------------------------------------------- autoencoders


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (16, 16)])
def test_any_size_is_kept(size):
    shape, args = (2, *size, 2), {"inputs": 2, "outputs": 3}
    assert shape_of(AutoEncoder, shape, **args) == (2, *size, 3)
    assert shape_of(AutoEncoder, shape, **args, size=(7, 9)) == (2, *size, 3)
    assert shape_of(Cascade, shape, **args) == (2, *size, 3)
    assert shape_of(VAE, shape, **args, size=(7, 9)) == (2, *size, 3)
    assert shape_of(RVAE, shape, **args, size=(7, 9)) == (2, *size, 3)


def test_volumes():
    args = {"widths": (4, 6), "ndim": 3}
    assert shape_of(AutoEncoder, (1, 5, 6, 7, 1), **args) == (1, 5, 6, 7, 1)
    assert shape_of(VAE, (1, 5, 6, 7, 1), **args, size=(4, 4, 4)) == (1, 5, 6, 7, 1)


def test_both_halves_are_functions_of_the_same_weights():
    args = {"widths": (4, 6), "code": 3}
    functions, params = parts(AutoEncoder, jax.random.key(1), "encode", "decode", **args)
    apply, same = pure(AutoEncoder, jax.random.key(1), **args)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    x = jax.random.normal(jax.random.key(2), (2, 8, 6, 1))
    code = jax.jit(functions["encode"])(params, x)
    assert code.shape == (2, 4, 3, 3)
    whole = jax.jit(apply)(params, x)
    np.testing.assert_allclose(jax.jit(functions["decode"])(params, code), whole, atol=1e-6)
    with pytest.raises(ValueError, match="AutoEncoder has no method 'encoder_of'"):
        parts(AutoEncoder, jax.random.key(1), "encoder_of", **args)


def spots(key, count, side=12):
    """Gaussian spots anywhere: two numbers tell all, and no two directions in space do."""
    place = jax.random.uniform(key, (count, 2, 1, 1), minval=3.0, maxval=side - 4.0)
    y, x = jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="ij")
    square = (y[None] - place[:, 0]) ** 2 + (x[None] - place[:, 1]) ** 2
    return jnp.exp(-square / 4)[..., None]


def test_a_code_holds_more_than_as_many_principal_components():
    code = 2
    apply, params = pure(AutoEncoder, jax.random.key(0), widths=(8, 16), code=code, size=(12, 12))
    batches = list(spots(jax.random.key(7), 24 * 150).reshape(150, 24, 12, 12, 1))
    params, _ = trained(lambda p, x: jnp.square(apply(p, x) - x).mean(), params, batches, 5e-3)
    x = spots(jax.random.key(1000), 200)
    error = np.square(jax.jit(apply)(params, x) - x).mean()
    flat = np.asarray(x).reshape(len(x), -1)
    values = np.linalg.svd(flat - flat.mean(0), compute_uv=False)
    pca = np.square(values[code:]).sum() / flat.size  # the best possible, on these very images
    assert error < 0.5 * pca


# ---------------------------------------------------------------- cascades


def test_a_block_begins_by_adding_nothing():
    functions, params = parts(
        Cascade, jax.random.key(0), "through", widths=(4, 4), blocks=3, code=4
    )
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    one = jax.jit(functions["through"], static_argnums=2)(params, x, 1)
    np.testing.assert_allclose(jax.jit(functions["apply"])(params, x), one, atol=1e-6)
    assert np.abs(one - x).max() > 0.1, "but the first block is no identity"
    with pytest.raises(ValueError, match="at least one block"):
        pure(Cascade, jax.random.key(0), blocks=0)


def test_blocks_are_trained_one_after_the_other():
    functions, params = parts(
        Cascade, jax.random.key(0), "through", widths=(4, 8), blocks=2, code=8
    )
    clean = spots(jax.random.key(1), 16)
    noisy = clean + 0.3 * jax.random.normal(jax.random.key(2), clean.shape)
    keys, errors = [], []

    def train(key, apply, block):
        keys.append(key)
        loss = lambda block, _: jnp.square(apply(block, noisy) - clean).mean()  # noqa: E731
        block, values = trained(loss, block, range(40))
        errors.append((float(values[0]), float(values[-1])))
        return block

    result = pretrain_blocks(jax.random.key(3), functions["through"], params, train)
    assert errors[0][1] < 0.7 * errors[0][0]
    assert errors[1][0] == pytest.approx(errors[0][1], rel=0.1), "it goes on where the first ended"
    assert errors[1][1] < errors[1][0]
    assert not np.array_equal(jax.random.key_data(keys[0]), jax.random.key_data(keys[1]))
    last = jnp.square(jax.jit(functions["apply"])(result, noisy) - clean).mean()
    assert last <= errors[1][1] * 1.05
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), result, params)
    assert moved["blocks"]["0"]["encoder"]["enter"]["kernel"], "the parameters given stay"


# ---------------------------------------------------------------- the evidence bound


def test_divergence_of_normal_distributions():
    z = np.linspace(-20, 20, 40_001)
    for mean, log_variance, scale in [(0.0, 0.0, 1.0), (1.5, -1.0, 1.0), (-0.3, 1.2, 0.7)]:
        ln_q = -((z - mean) ** 2) / (2 * np.exp(log_variance)) - log_variance / 2
        ln_p = -(z**2) / (2 * scale**2) - np.log(scale)
        weight = np.exp(ln_q) / np.exp(ln_q).sum()
        expected = (weight * (ln_q - ln_p)).sum()
        value = normal_kl(jnp.array([[mean]]), jnp.array([[log_variance]]), scale)
        np.testing.assert_allclose(value, [expected], atol=1e-4)


def test_the_bound_is_the_evidence_for_the_exact_posterior():
    """x = W z + noise: p(x), p(z | x) are normal (probabilistic PCA)."""
    rng, noise = np.random.default_rng(0), 0.5
    w, x = rng.normal(size=(3, 2)), rng.normal(size=3)
    total = w @ w.T + noise**2 * np.eye(3)
    evidence = -0.5 * (x @ np.linalg.solve(total, x) + np.linalg.slogdet(2 * np.pi * total)[1])
    precision = np.eye(2) + w.T @ w / noise**2
    # independent latent values: turn them to the axes of the posterior
    values, turn = np.linalg.eigh(precision)
    w = w @ turn
    mean = np.linalg.solve(np.diag(values), w.T @ x / noise**2)
    n = 20_000
    images = jnp.broadcast_to(jnp.array(x, jnp.float32), (n, 1, 1, 3))
    batch = {"image": images, "key": jax.random.key(1)}

    def bound(mean, **more):
        q = (
            jnp.broadcast_to(jnp.array(mean, jnp.float32), (n, 2)),
            jnp.broadcast_to(-jnp.log(jnp.array(values, jnp.float32)), (n, 2)),
        )
        decode = lambda p, z: (z @ jnp.array(w.T, jnp.float32))[:, None, None]  # noqa: E731
        loss, metrics = vae_loss(lambda p, x: q, decode, noise=noise, **more)({}, batch)
        np.testing.assert_allclose(loss, -metrics["elbo"] / 3, rtol=1e-5)
        return float(metrics["elbo"]), float(metrics["kl"])

    elbo, kl = bound(mean)
    assert elbo == pytest.approx(evidence, abs=0.03)
    assert bound(mean + np.array([0.1, 0.0]))[0] < elbo - 0.5 * 0.1**2 * values[0] * 0.7
    assert bound(mean, beta=3.0)[0] == pytest.approx(elbo - 2 * kl, abs=1e-2)
    poisson = lambda x, y: jnp.full(len(x), -7.0)  # noqa: E731
    assert bound(mean, log_likelihood=poisson)[0] == pytest.approx(-7 - kl, abs=1e-3)


def test_log_likelihood_and_samples():
    x = jnp.zeros((2, 3, 4, 1))
    value = normal_log_likelihood(x, x + 0.2, 0.1)
    np.testing.assert_allclose(value, -12 * (0.5 * 4 + math.log(0.1 * math.sqrt(2 * math.pi))))
    z = draw_latent(jax.random.key(0), jnp.full((20_000, 1), 3.0), jnp.full((20_000, 1), 1.0))
    assert float(z.mean()) == pytest.approx(3.0, abs=0.04)
    assert float(z.var()) == pytest.approx(math.e, rel=0.04)


def test_a_vae_learns():
    functions, params = parts(
        VAE, jax.random.key(0), "encode", "decode", widths=(8, 8), latent=2, size=(12, 12)
    )
    loss = vae_loss(functions["encode"], functions["decode"], noise=0.2)
    images = spots(jax.random.key(1), 16 * 40).reshape(40, 16, 12, 12, 1)
    batches = [{"image": x, "key": jax.random.key(i)} for i, x in enumerate(images)]
    _, values = trained(lambda p, b: loss(p, b)[0], params, batches)
    assert np.isfinite(values).all()
    assert values[-10:].mean() < values[:3].mean() - 0.05, "nats a pixel"


def test_vae_settings():
    with pytest.raises(ValueError, match=r"noise \(0\) must be positive"):
        vae_loss(None, None, noise=0)
    with pytest.raises(ValueError, match=r"size \(4,\) must be 2 numbers"):
        pure(VAE, jax.random.key(0), size=(4,))
    with pytest.raises(ValueError, match=r"widths \(\(\)\) and a code"):
        pure(AutoEncoder, jax.random.key(0), widths=())
    functions, params = parts(VAE, jax.random.key(0), "encode", "decode", size=(8, 8))
    batch = {"image": jnp.zeros((1, 9, 9, 1)), "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=r"decoder's images have shape \(1, 8, 8, 1\)"):
        jax.eval_shape(vae_loss(functions["encode"], functions["decode"]), params, batch)
    with pytest.raises(ValueError, match="this VAE takes arrays"):
        shape_of(VAE, (1, 8, 8, 2))


# ---------------------------------------------------------------- rotations and shifts


@functools.cache
def painter():
    args = {"latent": 2, "size": (10, 10), "hidden": (16, 16)}
    functions, params = parts(RVAE, jax.random.key(3), "encode", "decode", **args)
    z = jnp.array([[0.0, 0.0, 0.0, 0.7, -1.0]])
    run = jax.jit(functions["decode"], static_argnums=2)
    return lambda z, shape=(10, 10): np.asarray(run(params, z, shape))[0], z


def test_the_decoder_turns_and_moves_the_object():
    decode, z = painter()
    still = decode(z)
    assert still.std() > 0.01
    for quarter in (1, 2, 3):
        turned = decode(z.at[0, 0].set(quarter * jnp.pi / 2))
        np.testing.assert_allclose(turned, np.rot90(still, -quarter), atol=1e-5)
        assert np.abs(turned - still).max() > 0.01
    pixel = 2 / 10
    moved = decode(z.at[0, 1:3].set(jnp.array([3 * pixel, -pixel])))
    np.testing.assert_allclose(moved[3:, :-1], still[:-3, 1:], atol=1e-5)


def test_pictures_of_any_size_show_the_same_object():
    decode, z = painter()
    z = z.at[0, 0].set(0.3)
    np.testing.assert_allclose(
        decode(z, shape=(30, 30))[1::3, 1::3], decode(z, shape=(10, 10)), atol=1e-5
    )
    wide = decode(z, shape=(4, 10))
    np.testing.assert_allclose(wide, decode(z, shape=(10, 10))[3:7], atol=1e-5)


def test_angles_of_directions():
    v = jnp.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.3, -0.3], [0.0, 0.0]])
    np.testing.assert_allclose(direction_angle(v), [0, np.pi / 2, np.pi, -np.pi / 4, 0], atol=1e-6)
    slope = jax.jit(jax.grad(lambda v: direction_angle(v).sum()))(v)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[:2], [[0, 1], [-0.5, 0]], atol=1e-6)


def test_priors_of_angle_and_shift():
    mean = jnp.array([[2.0, 0.0, 0.0, 0.0]])
    log_variance = jnp.log(jnp.array([[0.05, 0.1, 0.1, 1.0]]) ** 2)
    expected = math.log(2 * math.pi) - 0.5 * math.log(2 * math.pi * math.e * 0.05**2)
    np.testing.assert_allclose(rvae_kl()(mean, log_variance), [expected], rtol=1e-5)
    far = mean.at[0, 0].set(-3.0)
    np.testing.assert_array_equal(rvae_kl()(far, log_variance), rvae_kl()(mean, log_variance))
    narrow = rvae_kl(angle=0.5)
    assert narrow(far, log_variance) > narrow(mean, log_variance)
    shifted = mean.at[0, 1].set(0.2)
    difference = rvae_kl()(shifted, log_variance) - rvae_kl()(mean, log_variance)
    np.testing.assert_allclose(difference, [0.5 * (0.2 / 0.1) ** 2], rtol=1e-4)
    assert rvae_kl()(mean, log_variance.at[0, 0].set(5.0))[0] == 0
    with pytest.raises(ValueError, match="are positive"):
        rvae_kl(shift=0)


def test_number_of_weights_of_an_rvae():
    params = jax.eval_shape(
        lambda key: pure(RVAE, key, size=(24, 24), hidden=(128, 128), frequencies=0)[1],
        jax.random.key(0),
    )
    encoder = (24**2 + 1) * 128 + 129 * 128 + 129 * (4 + 2 + 3 + 2)
    decoder = 3 * 128 + 2 * 128 + 129 * 128 + 129
    assert count(params) == encoder + decoder


def rods(key, n, side=12):
    """A bright end and a dark end at any angle; the angles."""
    angle = jax.random.uniform(key, (n,), minval=-jnp.pi, maxval=jnp.pi)
    y, x = jnp.meshgrid(*(jnp.arange(side) - (side - 1) / 2,) * 2, indexing="ij")
    c, s = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    u, v = c * x[None] + s * y[None], c * y[None] - s * x[None]
    image = jnp.exp(-((u - 2.5) ** 2 + v**2) / 4) - 0.6 * jnp.exp(-((u + 2.5) ** 2 + v**2) / 4)
    return image[..., None], angle


def test_the_latent_angle_is_the_objects():
    functions, params = parts(
        RVAE, jax.random.key(0), "encode", "decode", latent=1, size=(12, 12), hidden=(48, 48)
    )
    loss = vae_loss(functions["encode"], functions["decode"], noise=0.2, kl=rvae_kl())
    images = rods(jax.random.key(1), 32 * 220)[0].reshape(220, 32, 12, 12, 1)
    batches = [{"image": x, "key": jax.random.key(i)} for i, x in enumerate(np.asarray(images))]
    params, values = trained(lambda p, b: loss(p, b)[0], params, batches, 5e-3)
    assert values[-20:].mean() < values[:5].mean()
    x, angle = rods(jax.random.key(5000), 200)
    found = jax.jit(functions["encode"])(params, x)[0][:, 0]
    difference = np.exp(1j * np.asarray(found - angle))
    difference /= difference.mean()  # where an object's angle is 0, nobody has told
    error = np.degrees(np.sqrt(np.mean(np.angle(difference) ** 2)))
    assert error < 10, "degrees, over the whole circle"
