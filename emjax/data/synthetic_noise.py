"""Noise and scan models of `simulators` with the numbers of a calibration (`NoiseCalibration`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from simulators.noise import PoissonGaussian, PoissonReadout
from simulators.scan import ScanDistortion

if TYPE_CHECKING:
    from emjax.analysis.noise_model import NoiseCalibration

NAMES = ("gain", "offset", "readout", "jitter", "correlation", "row_gain")


def calibrated_noise(calibration: NoiseCalibration) -> PoissonReadout | PoissonGaussian:
    """Electrons per pixel to grey values; with the converter's limits where they were met."""
    values = (calibration.readout.value, calibration.gain.value, calibration.offset.value)
    if calibration.bits is None:
        return PoissonReadout(*values)
    return PoissonGaussian(*values, bits=calibration.bits)


def calibrated_scan(calibration: NoiseCalibration, sampling: float) -> ScanDistortion:
    """Errors of the scan at `sampling` Å per pixel. What could not be measured is 0."""
    found = (calibration.jitter, calibration.correlation, calibration.row_gain)
    jitter, correlation, gain = (0.0 if e is None else e.value for e in found)
    return ScanDistortion(
        jitter=(jitter * sampling, 0.0), correlation=min(correlation, 0.99), gain=gain
    )


def draw_calibrated(
    key: jax.Array, calibration: NoiseCalibration, sampling: float, spread: float = 1.0
) -> tuple[PoissonReadout, ScanDistortion]:
    """Both, with parameters drawn within `spread` one-sigma errors of each (cut at 3); in `jit`."""
    z = spread * jnp.clip(jax.random.normal(key, (len(NAMES),)), -3, 3)
    found = {}
    for i, name in enumerate(NAMES):
        estimate = getattr(calibration, name)
        found[name] = 0.0 if estimate is None else estimate.value + estimate.error * z[i]
    noise = PoissonReadout(
        jnp.maximum(found["readout"], 0.0),
        jnp.maximum(found["gain"], 0.2 * calibration.gain.value),
        found["offset"],
    )
    return noise, ScanDistortion(
        jitter=(jnp.maximum(found["jitter"], 0.0) * sampling, 0.0),
        correlation=jnp.clip(found["correlation"], 0.0, 0.99),
        gain=jnp.maximum(found["row_gain"], 0.0),
    )
