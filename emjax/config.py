"""Building blocks of experiment configurations: frozen dataclasses of plain numbers.

Nothing here imports jax, so the command line answers at once. `build()` makes the simulator's
pytree from the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulators.optics import Optics


@dataclass(frozen=True)
class OpticsConfig:
    """The electron probe."""

    energy: float = 80e3
    """Beam energy [eV]."""
    semiangle: float = 27.0
    """Convergence semi-angle [mrad]."""
    defocus: float = 0.0
    """Defocus [Å]; positive focuses behind the entrance plane (defocus = -C10)."""
    C30: float = 0.0
    """Third-order spherical aberration [Å]."""
    C12: float = 0.0
    """Two-fold astigmatism [Å]."""
    phi12: float = 0.0
    """Azimuth of the two-fold astigmatism [rad]."""
    C21: float = 0.0
    """Axial coma [Å]."""
    phi21: float = 0.0
    """Azimuth of the coma [rad]."""
    C23: float = 0.0
    """Three-fold astigmatism [Å]."""
    phi23: float = 0.0
    """Azimuth of the three-fold astigmatism [rad]."""
    source_size: float = 0.7
    """Full width at half maximum of the effective source [Å]."""

    def build(self) -> Optics:
        """The simulator's `Optics` (imports jax)."""
        from simulators.optics import Optics

        return Optics(
            energy=self.energy,
            semiangle=self.semiangle,
            C10=-self.defocus,
            C30=self.C30,
            C12=self.C12,
            phi12=self.phi12,
            C21=self.C21,
            phi21=self.phi21,
            C23=self.C23,
            phi23=self.phi23,
            source_size=self.source_size,
        )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up, a cosine decay and clipped gradients."""

    learning_rate: float = 3e-3
    """Peak learning rate."""
    steps: int = 5000
    """Number of updates; the schedule ends here."""
    warmup: int = 100
    """Updates of linear warm-up."""
    final: float = 0.01
    """Last learning rate as a fraction of the peak."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest global norm of the gradient."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is evaluated and saved."""


@dataclass(frozen=True)
class SceneConfig:
    """Random annular dark-field images of the training; pairs are the ends of a range."""

    patch: int = 64
    """Pixels a side that the network sees in training."""
    sampling: float = 0.2
    """Å per pixel of the network; images are resampled to it."""
    pixel: tuple[float, float] = (0.17, 0.3)
    """Å per pixel of the simulated scan. Finer scans look like these once they are resampled."""
    energy: tuple[float, float] = (0.75, 3.75)
    """Beam energy, in units of that of the optics."""
    semiangle: tuple[float, float] = (0.75, 1.3)
    """Convergence semi-angle, likewise."""
    inner: float = 65.0
    """Inner angle of the detector [mrad]."""
    outer: float = 180.0
    """Outer angle of the detector [mrad]."""
    defocus: float = 25.0
    """Standard deviation of the defocus about that of the optics [Å]."""
    C12: float = 10.0
    """Standard deviation of the two-fold astigmatism [Å]."""
    C21: float = 200.0
    """Standard deviation of the coma [Å]."""
    C23: float = 200.0
    """Standard deviation of the three-fold astigmatism [Å]."""
    C30: float = 1e4
    """Standard deviation of the spherical aberration [Å]."""
    source_size: tuple[float, float] = (0.4, 1.5)
    """Source with vibrations, full width at half maximum in units of that of the optics."""
    contrast: tuple[float, float] = (0.6, 1.25)
    """Exponent on the elements' cross-sections in crystals, which channelling changes."""
    contrast_layer: tuple[float, float] = (0.9, 1.1)
    """The same in single layers, where only the detector's curve can."""
    gain: float = 0.12
    """Standard deviation of the logarithm of each element's own brightness, in crystals."""
    gain_layer: float = 0.06
    """The same in single layers."""
    dose: tuple[float, float] = (3.0, 500.0)
    """Electrons at the brightest pixel, log-uniform."""
    readout: float = 0.7
    """Largest read-out noise [electrons]."""
    jitter: float = 0.25
    """Largest standard deviation of the lines' displacements [Å]."""
    line_gain: float = 0.06
    """Largest standard deviation of the lines' brightness."""
    shear: float = 0.03
    """Standard deviation of drift, as a displacement gradient."""
    background: float = 0.7
    """Largest uneven background, in units of the brightest column; mostly much less."""
    pedestal: float = 0.5
    """Largest even background, likewise."""
    vacancies: float = 0.3
    """Largest chance of a vacancy on a site (log-uniform over a decade below)."""
    damage: float = 0.3
    """Chance of a damaged spot in an image, where vacancies are common."""
    substitutions: float = 0.2
    """Largest chance of a substitution on a site."""
    boundary: float = 0.15
    """Chance of a grain boundary in an image."""
    edge: float = 0.12
    """Chance of an edge to vacuum in an image."""
    generic: float = 0.2
    """Share of random crystals, whose columns are of the class "other"."""
    width: float = 0.32
    """Standard deviation of a column in the heat map [Å]."""
