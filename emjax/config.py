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
    source_size: float = 0.8
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
