"""The joint Gaussian fit: exact without noise, at the Cramer-Rao bound with it, and hard cases."""

import time

import numpy as np
import pytest
from column_images import inner, lattice, render, shape_of

from emjax.analysis.gaussian_fit import fit_gaussians
from emjax.analysis.precision import position_bound


def errors(fit, xy):
    return np.stack([fit.x, fit.y], axis=-1) - xy


def test_exact_without_noise_at_any_gain_and_offset():
    rng = np.random.default_rng(0)
    xy = lattice(6, 8, rng)
    height = rng.uniform(0.5, 2, len(xy))
    image = render(xy, height, 2.0, 0.3, shape_of(xy, 8))
    for gain, offset in ((1, 0), (1e-7, 0), (1e6, -3e8)):
        fit = fit_gaussians(gain * image + offset, xy + rng.normal(0, 0.4, xy.shape), radius=5.6)
        assert fit.converged.all()
        assert np.abs(errors(fit, xy)).max() < 0.01
        assert fit.height / gain == pytest.approx(height, rel=0.02)
        assert fit.width == pytest.approx(np.full(len(xy), 2.0), rel=0.02)
        assert fit.background == pytest.approx(np.full(len(xy), 0.3 * gain + offset), rel=0.1)


@pytest.mark.parametrize(
    ("spacing", "dose", "most"),
    [(20, 5, 1.3), (20, 1000, 1.15), (8, 20, 1.3), (8, 1000, 1.2), (6, 1000, 1.2)],
)
def test_close_to_the_cramer_rao_bound(spacing, dose, most):
    """Columns of width 2 px; every other one has a quarter of the height."""
    rng = np.random.default_rng(1)
    xy = lattice(8, spacing, rng)
    shape = shape_of(xy, spacing)
    height = np.where(np.arange(len(xy)) % 2, dose, dose / 4)
    rate = render(xy, height, 2.0, 0.1 * dose, shape)
    bound = position_bound(xy, height, 2.0, 0.1 * dose, shape)
    seen = inner(xy, shape, 1.9 * min(spacing, 8))
    bright = seen & (height == dose)
    found = []
    for _ in range(6):
        image = 3.0 * rng.poisson(rate) + 7  # neither gain nor offset is told
        fit = fit_gaussians(image, xy + rng.normal(0, 0.4, xy.shape), radius=min(0.7 * spacing, 7))
        found.append(errors(fit, xy))
        assert fit.converged[bright].all()
    found = np.array(found)

    def ratio(which):
        return np.sqrt((found[:, which] ** 2).mean() / (bound[which] ** 2).mean())

    assert 0.8 < ratio(bright) < most
    if dose >= 20:  # below, a dim column has one count at its peak
        assert ratio(seen & ~bright) < most
        assert fit.noise[1] == pytest.approx(3.0, rel=0.3)  # the gain, from the residuals alone
    # what the fit says about its own precision
    told = np.median(fit.error[bright]) / bound[bright].mean()
    assert 0.5 < told < 1.1 if spacing < 10 else 0.8 < told < 1.2


def test_weighting_is_worth_a_quarter_where_there_is_no_background():
    """Unweighted least squares has 4/3 of the bound's error there; see the module's docstring."""
    rng = np.random.default_rng(2)
    xy = lattice(12, 20, rng, wobble=2)
    shape = shape_of(xy, 20)
    image = rng.poisson(render(xy, np.full(len(xy), 50.0), 2.0, 0.02, shape))
    error = errors(fit_gaussians(image, xy, radius=8), xy)
    assert np.sqrt((error**2).mean()) < 1.1 / np.sqrt(2 * np.pi * 50)


def test_the_bound_of_one_column_is_the_closed_form():
    bound = position_bound(np.array([[20.3, 19.8]]), 30.0, 2.0, 0.0, (41, 41))
    assert bound == pytest.approx(np.full((1, 2), 1 / np.sqrt(2 * np.pi * 30)), rel=1e-3)
    near = position_bound(np.array([[18.0, 20], [23, 20]]), 30.0, 2.0, 0.0, (41, 41))
    assert near[0, 0] > 1.1 * bound[0, 0]  # along the line of the two
    assert near[0, 1] == pytest.approx(bound[0, 1], rel=0.2)
    with pytest.raises(ValueError, match="must be positive"):
        position_bound([[1, 1]], 0.0, 2.0, 0.0, (9, 9))


def test_a_dim_column_beside_bright_ones():
    """Height 5 beside six of height 100, three widths away: measured on its own signal."""
    rng = np.random.default_rng(3)
    xy = lattice(7, 7, rng, wobble=0.3)
    height = np.full(len(xy), 100.0)
    height[24] = 5.0  # the middle
    image = render(xy, height, 2.0, 1.0, shape_of(xy, 7))
    fit = fit_gaussians(image, xy + rng.normal(0, 0.3, xy.shape), radius=4.9)
    assert np.hypot(*errors(fit, xy)[24]) < 0.15
    assert fit.height[24] == pytest.approx(5, rel=0.15)
    noisy = [fit_gaussians(rng.poisson(image), xy, radius=4.9).height[24] for _ in range(20)]
    assert np.mean(noisy) == pytest.approx(5, abs=2.5)


@pytest.mark.parametrize("kind", ["slope", "step", "blob"])
def test_uneven_background(kind):
    rng = np.random.default_rng(4)
    xy = lattice(12, 8, rng)
    shape = shape_of(xy, 8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    extra = {
        "slope": 20.0 * x / shape[1],
        "step": 10.0 * (x > 50),
        "blob": 15 * np.exp(-((x - 40) ** 2 + (y - 40) ** 2) / 1000),
    }[kind]
    image = rng.poisson(render(xy, np.full(len(xy), 20.0), 2.0, 1, shape) + extra)
    fit = fit_gaussians(image, xy + rng.normal(0, 0.3, xy.shape), radius=5.6)
    seen = inner(xy, shape, 12)
    assert fit.converged[seen].mean() > 0.95
    assert np.sqrt((errors(fit, xy)[seen] ** 2).mean()) < 0.35
    assert np.median(fit.height[seen]) == pytest.approx(20, rel=0.15)


def test_missed_and_invented_columns_do_not_spoil_the_others():
    rng = np.random.default_rng(5)
    xy = lattice(9, 8, rng)
    shape = shape_of(xy, 8)
    image = rng.poisson(render(xy, np.full(len(xy), 40.0), 2.0, 2, shape))
    kept = rng.uniform(size=len(xy)) > 0.1
    invented = rng.uniform(4, np.array(shape[::-1]) - 5, (5, 2))
    fit = fit_gaussians(image, np.concatenate([xy[kept], invented]), radius=5.6)
    error = np.hypot(*(np.stack([fit.x, fit.y], -1)[: kept.sum()] - xy[kept]).T)
    assert np.median(error) < 0.2
    assert np.mean(error < 0.5) > 0.9


def test_wrong_starts_are_reported_not_followed():
    """Starts in the empty half: no column there, so whatever is fitted must not claim success far
    from its start, and must stay finite."""
    rng = np.random.default_rng(6)
    xy = lattice(4, 10, rng)
    image = np.zeros((60, 120))
    image[:, :60] = render(xy, np.full(len(xy), 30.0), 2.0, 0, (60, 60))
    image = rng.poisson(image + 0.5)
    empty = xy + np.array([60, 0])
    fit = fit_gaussians(image, np.concatenate([xy, empty]), radius=6)
    assert fit.converged[:16].all()
    assert np.hypot(*(errors(fit, np.concatenate([xy, empty]))[16:]).T).max() <= 6
    assert fit.height[16:].max() < 5
    for values in (fit.x, fit.y, fit.height, fit.width, fit.background, fit.error):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("image", [np.zeros((30, 30)), np.full((30, 30), 5.0), -np.eye(30)])
def test_images_without_columns(image):
    fit = fit_gaussians(image, np.array([[10.0, 12], [20, 15]]), radius=4)
    assert np.isfinite(fit.x).all()
    assert not fit.converged.any() or np.abs(fit.height[fit.converged]).max() < 1


def test_one_column_the_border_and_none():
    rng = np.random.default_rng(7)
    xy = np.array([[0.4, 11.0]])  # half of it is outside
    image = rng.poisson(render(xy, np.array([400.0]), 2.0, 1.0, (24, 24)))
    fit = fit_gaussians(image, xy + 0.5, radius=6)
    assert fit.converged.all()
    assert np.abs(errors(fit, xy)).max() < 0.3
    assert fit_gaussians(image, np.zeros((0, 2)), radius=6).x.shape == (0,)


def test_many_columns_go_in_overlapping_parts(monkeypatch):
    from emjax.analysis import gaussian_fit

    rng = np.random.default_rng(8)
    xy = lattice(12, 8, rng)
    image = rng.poisson(render(xy, np.full(len(xy), 100.0), 2.0, 5, shape_of(xy, 8)))
    whole = fit_gaussians(image, xy, radius=5.6)
    monkeypatch.setattr(gaussian_fit, "_MOST", 100)
    parts = fit_gaussians(image, xy, radius=5.6)
    # each part has its own shared width and noise: equal well within the error of 0.06 pixels
    assert np.std(parts.x - whole.x) < 0.02
    assert np.std(parts.y - whole.y) < 0.02
    assert parts.height == pytest.approx(whole.height, rel=0.15)
    assert parts.converged.all()


def test_a_thousand_columns_in_about_a_second():
    rng = np.random.default_rng(9)
    xy = lattice(32, 8, rng)
    image = rng.poisson(render(xy, np.full(len(xy), 20.0), 2.0, 2, shape_of(xy, 8)))
    start = time.process_time()
    fit = fit_gaussians(image, xy + rng.normal(0, 0.4, xy.shape), radius=5.6)
    assert time.process_time() - start < 3  # 0.5 s measured; the rest is for a busy machine
    assert fit.converged.mean() > 0.99


@pytest.mark.parametrize(
    ("image", "xy", "radius", "message"),
    [
        (np.zeros(9), [[1, 1]], 3, r"shape \(9,\): one grey image"),
        (np.full((9, 9), np.nan), [[1, 1]], 3, "81 values that are not finite"),
        (np.zeros((9, 9)), [[1, 1]], 0.4, "Was it given in Å"),
        (np.zeros((9, 9)), [[1, 1], [40, 2]], 3, r"1 of 2 centres .* number 1 at .*\(40, 2\)"),
    ],
)
def test_errors_say_what_is_wrong(image, xy, radius, message):
    with pytest.raises(ValueError, match=message):
        fit_gaussians(image, np.array(xy), radius=radius)


def test_a_radius_far_above_the_spacing_is_refused_for_many_columns(monkeypatch):
    from emjax.analysis import gaussian_fit

    monkeypatch.setattr(gaussian_fit, "_MOST", 20)
    xy = lattice(6, 8, np.random.default_rng(0))
    with pytest.raises(ValueError, match="far larger than their spacing"):
        fit_gaussians(np.ones((80, 80)), xy, radius=30)
