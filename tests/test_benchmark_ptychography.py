"""The benchmark's row of a small scan, and of the shared ones where they are."""

from __future__ import annotations

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ptychography import measure, row
from emjax.retrieval.plans import Plan
from emjax.retrieval.ptychography import make_frame, rates, start
from emjax.retrieval.scan_data import ScanError, make_scan, read_scan
from simulators.electron import wavelength
from simulators.optics import Optics
from simulators.tree import replace

N, SAMPLING, ENERGY, FULL = 32, 0.3, 80e3, 64


def _write(path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:8, :8] * 0.9
    positions = np.stack([y.ravel(), x.ravel()], 1) + FULL // 2 * SAMPLING - 3.1
    phase = np.zeros((FULL, FULL))
    yy, xx = np.mgrid[:FULL, :FULL]
    for cy, cx in rng.uniform(FULL / 4, 3 * FULL / 4, (12, 2)):
        phase += 0.4 * np.exp(-((yy - cy) ** 2 + (xx - cx) ** 2) / 8)
    angle = 1e3 * wavelength(ENERGY) / (N * SAMPLING)
    empty = np.full((64, N, N), 2e4 / N**2, np.float32)
    optics = Optics(energy=ENERGY, semiangle=22.0, C10=80.0)
    data = make_scan(empty, positions[:, ::-1], energy=ENERGY, angle_step=angle)
    frame = make_frame(data, optics)
    unknowns = start(data, frame, optics)
    part = tuple(slice(o, o + n) for o, n in zip(frame.origin, frame.shape, strict=True))
    t = np.exp(1j * phase[part])
    unknowns = replace(unknowns, transmission=jnp.asarray(np.stack([t.real, t.imag])[:, None]))
    rate = rates(unknowns, frame, jnp.asarray(data.positions))
    counts = np.fft.fftshift(rng.poisson(np.asarray(rate)), axes=(1, 2)).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file["counts"] = counts.reshape(8, 8, N, N)
        file["pos_nominal"] = file["pos_true"] = positions
        file["phase"] = phase
        file["phase_slices"] = phase[None]
        told = {"energy": ENERGY, "dk_mrad": angle, "semiangle": 22.0, "C10": 80.0}
        file.attrs.update({**told, "dz_slices": 4.0})


def test_a_small_scan_from_file_to_row(tmp_path):
    path = tmp_path / "scan.h5"
    _write(path)
    data, told = read_scan(path)
    result = measure(data, told, Plan(thickness=4.0, epochs=12, batch=9))
    print(row("scan", result))
    assert result["score"]["psnr"] > 26
    assert result["reached"]["22"][0] <= 10
    assert 0 < result["cpu_per_1000"] < 100
    assert result["positions"][0] == pytest.approx(0, abs=1e-4)
    assert row("scan", result).count("|") == 14
    with h5py.File(path, "r+") as file:
        del file.attrs["energy"]
    with pytest.raises(ScanError, match="lacks energy"):
        read_scan(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ScanError, match="not an HDF5 file"):
        read_scan(path)


def test_one_slice_knows_no_tilt():
    with pytest.raises(ScanError, match="tilt"):
        Plan(tilt=True).run(None, None, jax.random.key(0))


def test_shared_scan(shared):
    path = shared / "data" / "ptycho" / "mos2_24x24.h5"
    data, told = read_scan(path)
    result = measure(data, told, Plan(thickness=12.3))
    print(row("mos2_24x24", result))
    assert result["score"]["psnr"] > 28
    assert result["score"]["ssim"] > 0.88
