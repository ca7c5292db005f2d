"""Settings that work: what `emjax` does where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax

from emjax.retrieval.gradient import OBJECT_AND_PROBE, History, Rates, reconstruct
from emjax.retrieval.ptychography import Frame, Unknowns, make_frame, start
from emjax.retrieval.regularisers import trusted, unit_modulus
from emjax.retrieval.scan_data import ScanData, ScanError
from simulators.optics import Optics
from simulators.tree import replace


@dataclass(frozen=True)
class Plan:
    """A reconstruction by the gradient of the Poisson likelihood.

    The defaults were chosen on a thin specimen (`benchmarks.ptychography`). Ten thick slices have
    not converged after so few updates: they need smaller batches and more epochs.
    """

    slices: int = 1
    thickness: float = 0.0
    """Of the specimen in Å; 0 if it is not known, then all of the detector is believed."""
    modes: int = 1
    """Of the probe."""
    epochs: int = 14
    batch: int = 32
    likelihood: str = "poisson"
    modulus: float = 0.1
    """Weight of the belief that slices do not absorb (`regularisers.unit_modulus`)."""
    positions: bool = False
    """Whether the scan's positions are corrected."""
    tilt: bool = False
    """Whether the beam's tilt against the specimen is fitted (several slices)."""
    learning: Rates = field(default_factory=Rates)

    def run(
        self,
        data: ScanData,
        optics: Optics,
        key: jax.Array,
        *,
        watch: Callable[[int, Frame, Unknowns, History], bool | None] | None = None,
    ) -> tuple[Frame, Unknowns, History]:
        """Reconstruct.

        Parameters
        ----------
        data : of `make_scan` or `read_scan`.
        optics : of the probe: energy, semiangle and what is known of the aberrations.
        key : random key.
        watch : called after each epoch with (epoch, frame, unknowns, history); True stops.

        Raises
        ------
        ScanError : settings that do not fit together, or data that cannot be.
        """
        if self.tilt and self.slices == 1:
            raise ScanError("one slice knows nothing of tilt: give slices and thickness")
        frame = make_frame(data, optics, margin=2.0 if self.positions else 0.5)
        unknowns = start(
            data, frame, optics, slices=self.slices, thickness=self.thickness, modes=self.modes
        )
        weight = trusted(frame, self.thickness / self.slices) if self.thickness else None
        free = replace(OBJECT_AND_PROBE, shifts=self.positions, tilt=self.tilt)
        found, history = reconstruct(
            data,
            frame,
            unknowns,
            key,
            epochs=self.epochs,
            batch=min(self.batch, data.n),
            likelihood=self.likelihood,
            free=free,
            regularise=unit_modulus(self.modulus) if self.modulus else None,
            weight=weight,
            learning=self.learning,
            watch=None if watch is None else lambda e, u, h: watch(e, frame, u, h),
        )
        return frame, found, history
