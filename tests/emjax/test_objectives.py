"""Each objective's defining property, with networks of a few weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.losses import noise2self_batch, noise2void_batch
from emjax.objectives import OBJECTIVES, base, build, needs
from emjax.training import init_state, make_step

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Everything runs once here: to compile takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def blur(params, x):
    """A network of ten weights a channel: a 3×3 convolution and a bend."""
    dims = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=dims)
    return y + 0.3 * jnp.tanh(y) + params["b"]


def blind(params, x):
    """The same without its centre."""
    return blur({**params, "w": params["w"].at[1, 1].set(0.0)}, x)


def weights(outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    w = 0.3 * rng.normal(size=(3, 3, 1, outputs))
    return {"w": jnp.float32(w), "b": jnp.zeros((1, 1, 1, outputs))}


def scene(key, *, copies=1, images=2, side=16, dose=(3.0, 20.0)):
    """A lattice of columns and its counts."""
    y, x = np.mgrid[:side, :side]
    clean = 0.3 + 0.7 * np.cos(x / 2.5) ** 2 * np.cos(y / 2.5) ** 2
    rate = jnp.float32(clean[None, :, :, None] * np.linspace(*dose, images)[:, None, None, None])
    counts = jax.random.poisson(key, jnp.repeat(rate, copies, -1)).astype(jnp.float32)
    return {"counts": counts, "rate": rate, "peak": rate.max((1, 2, 3)), "readout": jnp.zeros(2)}


def network_of(name):
    return blind if needs(name).network == "blind_spot" else blur


@functools.cache
def made(name):
    wanted = needs(name)
    return build(name, network_of(name)), weights(wanted.outputs)


@functools.cache
def compiled(name):
    """The loss with its gradient, and the posterior."""
    objective, _ = made(name)
    return jax.jit(jax.value_and_grad(objective.loss, has_aux=True)), jax.jit(objective.posterior)


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_learns_and_restores(name):
    objective, params = made(name)
    slope, posterior = compiled(name)
    batch = objective.keyed(functools.partial(scene, copies=objective.copies))(KEY)
    (before, metrics), change = slope(params, batch)
    assert all(np.shape(value) == () and np.isfinite(value) for value in metrics.values())
    size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(change))
    better = jax.tree.map(lambda p, g: p - 0.02 * before.clip(0.1) / size * g, params, change)
    assert slope(better, batch)[0][0] < before
    image, variance = posterior(params, batch["counts"][..., :1])
    assert image.shape == batch["rate"].shape
    assert np.isfinite(image).all()
    if variance is not None:
        assert variance.shape == image.shape
        assert (np.asarray(variance) >= 0).all()
    assert needs(name).outputs == objective.outputs

    dark = batch | {name: jnp.zeros_like(batch[name]) for name in ("counts", "rate", "peak")}
    _, change = slope(params, dark)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(change)), "no electron at all"
    assert np.isfinite(posterior(params, dark["counts"][..., :1])[0]).all()


@pytest.mark.parametrize("name", ["supervised", "noise2noise", "noise2void", "noise2self"])
def test_restored_images_follow_scale_and_offset(name):
    counts, params = scene(KEY)["counts"], made(name)[1]
    one, other = (compiled(name)[1](params, x)[0] for x in (counts, 7.5 * counts - 40.0))
    np.testing.assert_allclose(other, 7.5 * one - 40.0, rtol=1e-5, atol=2e-4)


def test_in_a_training_step():
    """Keys of the masks come with the batch; the draw is told the step."""
    objective, params = made("noise2void")

    def draw(key, step):
        batch = scene(key)
        return batch | {"counts": batch["counts"] + step}

    tx = optax.adam(1e-2)
    step = make_step(objective.loss, objective.keyed(draw), tx)
    _, history = step(init_state(params, tx), KEY, 2)
    assert np.isfinite(history["loss"]).all()
    assert history["mse"].shape == (2,)


def test_score_is_the_psnr_of_the_benchmark():
    from emjax.baselines.restoration import affine_psnr

    objective = build("supervised", lambda params, x: x, scaling="none")
    batch = scene(KEY)
    pairs = zip(np.asarray(batch["counts"]), np.asarray(batch["rate"]), strict=True)
    expected = np.mean([affine_psnr(a, t, data_range=t.max()) for a, t in pairs])
    assert float(jax.jit(objective.score)(None, batch)["psnr"]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: build("noise2viod", blur), "did you mean noise2void"),
        (lambda: build("noise2void", blur, width=3), "cannot be made with"),
        (lambda: build("supervised", blur, kind="psnrr"), "choose one of psnr, mse"),
        (lambda: build("supervised", blur, scaling="max"), "choose image, none"),
        (lambda: build("blindspot", blind, prior="beta"), "gamma or gaussian"),
        (lambda: build("pn2v_bootstrap", blur, model="table"), "mixture or histogram"),
        (
            lambda: build("noise2noise", blur).loss(weights(), scene(KEY)),
            "two recordings .* copies=2",
        ),
        (
            lambda: build("supervised", blur).loss(weights(2), scene(KEY)),
            "network of 1 output channel",
        ),
    ],
)
def test_bad_requests_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_what_a_batch_lacks_is_named():
    with pytest.raises(KeyError, match=r"objective\.keyed"):
        made("noise2void")[0].loss(weights(), scene(KEY))
    with pytest.raises(KeyError, match="'rate' in the batch, which holds counts"):
        made("supervised")[0].loss(weights(), {"counts": scene(KEY)["counts"]})
    with pytest.raises(TypeError, match="made to look at"):
        needs("supervised").restore(weights(), scene(KEY)["counts"])


# ---------------------------------------------------------------- clean targets


def test_kinds_of_supervision():
    batch, params = scene(KEY), weights()
    image = compiled("supervised")[1](params, batch["counts"])[0]
    peak = np.asarray(batch["peak"])
    each = (np.square(np.asarray(image - batch["rate"])).mean((1, 2, 3))) / peak**2
    expected = {
        "mse": each.mean(),
        "psnr": np.log(each + 1e-5).mean(),
        "huber": np.where(each < 1e-3, 1000 * each, np.sqrt(1000 * each)).mean(),
    }
    for kind, value in expected.items():
        found = jax.jit(build("supervised", blur, kind=kind).loss)(params, batch)[0]
        assert float(found) == pytest.approx(value, rel=1e-4), kind
    small = base.pixel_loss("huber", jnp.full((1, 2, 2, 1), 0.01))[0]
    assert float(small) == pytest.approx(0.1), "1000 · 1e-4, below the knee"


def test_gaussian_supervision_learns_its_own_error():
    """A network of two numbers: the best constant, and how far off it is."""
    truth = jnp.float32(RNG.normal(5.0, 2.0, (1, 32, 32, 1)))
    batch = {"counts": truth, "rate": truth, "peak": jnp.ones(1)}
    objective = build("supervised", lambda p, x: p + 0 * x, kind="gaussian", scaling="none")
    value = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, batch)[0]))
    params, rate = (
        jnp.array([4.0, 1.6]).reshape(1, 1, 1, 2),
        jnp.float32([1.5, 0.3])[None, None, None],
    )
    for _ in range(60):
        params = params - rate * value(params)[1]
    image, variance = objective.posterior(params, truth)
    assert float(image[0, 0, 0, 0]) == pytest.approx(float(truth.mean()), abs=0.02)
    assert float(variance[0, 0, 0, 0]) == pytest.approx(float(truth.var()), rel=0.03)


# ---------------------------------------------------------------- two recordings


@pytest.mark.parametrize(("bias", "same"), [(0.0, True), (0.5, False)])
def test_noisy_targets_have_the_gradient_of_clean_ones(bias, same):
    """In expectation, if their noise has mean zero; over 4000 draws of the target's noise."""
    params, clean = weights(), scene(KEY, images=1, side=6, dose=(6.0, 6.0))["rate"]
    first = jnp.float32(RNG.poisson(clean))
    options = {"kind": "mse", "unit": "peak"}
    noisy = build("noise2noise", blur, both_ways=False, **options)
    known = build("supervised", blur, **options)
    fixed = {"rate": clean, "peak": jnp.full(1, 6.0)}

    def slope(second):
        batch = fixed | {"counts": jnp.concatenate([first, second], -1)}
        return jax.grad(lambda p: noisy.loss(p, batch)[0])(params)

    seconds = jnp.float32(RNG.poisson(clean, (4000, *clean.shape)) + bias)
    slopes = jax.tree.map(np.asarray, jax.jit(jax.vmap(slope))(seconds))
    exact = jax.grad(lambda p: known.loss(p, fixed | {"counts": first})[0])(params)
    pulls = []
    for name, value in exact.items():
        error = slopes[name].std(0) / math.sqrt(4000)
        pulls.append(np.abs(slopes[name].mean(0) - value) / error)
    worst = np.concatenate([p.ravel() for p in pulls]).max()
    assert (worst < 4.5) if same else (worst > 20)


def test_both_recordings_are_targets_once():
    batch = scene(KEY, copies=2)
    params = weights()
    swapped = batch | {"counts": batch["counts"][..., ::-1]}
    half = jax.jit(build("noise2noise", blur, both_ways=False).loss)
    whole = jax.jit(build("noise2noise", blur, unit="peak").loss)
    both = float(jax.jit(build("noise2noise", blur).loss)(params, batch)[0])
    assert both == pytest.approx(float(half(params, batch)[0] + half(params, swapped)[0]) / 2)
    spoilt = batch | {"targets": batch["counts"] + 5.0}
    assert float(whole(params, spoilt)[0]) > float(whole(params, batch)[0]) + 0.05


# ---------------------------------------------------------------- blind spots


def jacobian(function, x):
    """[out, in] of a function of an image, flattened."""
    return np.asarray(
        jax.jit(jax.jacrev(lambda v: function(v.reshape(x.shape)).ravel()))(x.ravel())
    )


@pytest.mark.parametrize(("name", "scaling"), [("noise2void", "none"), ("noise2self", "image")])
def test_predictions_of_hidden_pixels_do_not_know_them(name, scaling):
    """What the network makes of a hidden pixel has no slope with that pixel's counts.

    Of Noise2Void with ``scaling="none"``: a hidden pixel may be the value behind which another
    hides, and so has its share in the mean of the image.
    """
    counts, params, seen = scene(KEY, images=1, side=8)["counts"], weights(), []

    def network(params, x):
        seen.append(blur(params, x))
        return seen[-1]

    options = {"scaling": scaling} | ({"spacing": 4} if name == "noise2void" else {})
    objective = build(name, network, **options)

    def predicted(x):
        objective.loss(params, {"counts": x}, KEY)
        return seen.pop()

    hide = {"noise2void": functools.partial(noise2void_batch, spacing=4)}
    mask = np.asarray(hide.get(name, noise2self_batch)(KEY, counts)["weight"]).ravel() > 0
    slopes = jacobian(predicted, counts)
    assert mask.sum() == 4
    np.testing.assert_array_equal(np.diag(slopes)[mask], 0.0)
    assert np.abs(np.diag(slopes)[~mask]).min() > 1e-3, "the visible ones see themselves"


def test_noise2void_loss_does_not_reward_the_identity():
    """Of a network a·x the best for independent noise is not a = 1, as it is without hiding."""
    counts = jnp.float32(RNG.normal(size=(4, 32, 32, 1)))
    objective = build("noise2void", lambda a, x: a * x, scaling="none")
    loss = jax.jit(objective.loss)
    values = [float(loss(a, {"counts": counts}, KEY)[0]) for a in (0.0, 0.5, 1.0)]
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(2 * values[0], rel=0.35), "noise of the neighbour added"


@pytest.mark.parametrize("scaling", ["image", "none"])
def test_noise2self_restores_without_looking_at_the_pixel(scaling):
    objective = build("noise2self", blur, width=3, scaling=scaling)
    counts = scene(KEY, images=1, side=6)["counts"]

    slopes = jacobian(functools.partial(objective.restore, weights()), counts)
    np.testing.assert_allclose(np.diag(slopes), 0.0, atol=1e-7)
    assert (np.abs(slopes) > 1e-3).sum() > 100
    plain = build("noise2self", blur, width=3, exact=False)
    expected = jax.jit(made("noise2void")[0].restore)(weights(), counts)
    np.testing.assert_array_equal(jax.jit(plain.restore)(weights(), counts), expected)


def test_blind_spot_prior_does_not_see_the_pixel():
    """The prior alone: the posterior sees it, as it should."""
    seen = []

    def network(params, x):
        seen.append(blind(params, x))
        return seen[-1]

    objective = build("blindspot", network, scaling="none", readout=1.0)
    counts = scene(KEY, images=1, side=6)["counts"]
    restored = functools.partial(objective.restore, weights(2))

    def prior(x):
        restored(x)
        return seen.pop()[..., :1]

    assert not np.diag(jacobian(prior, counts)).any()
    assert np.diag(jacobian(restored, counts)).min() > 1e-3
