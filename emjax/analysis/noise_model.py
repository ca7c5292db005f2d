"""The noise of one microscope as numbers with errors; builds the noise models of `simulators`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from emjax.data.synthetic_noise import PoissonGaussian, PoissonReadout, ScanDistortion


class CalibrationError(ValueError):
    """Images from which no noise model can be had; the message says why and what to do."""


@dataclass(frozen=True)
class Estimate:
    """A number with its one-sigma error, and how it was found."""

    value: float
    error: float
    how: str = ""

    def __str__(self) -> str:
        digits = max(0, 1 - math.floor(math.log10(self.error))) if 0 < self.error < 1e6 else 3
        return f"{self.value:.{min(digits, 6)}f} ± {self.error:.{min(digits, 6)}f}"


@dataclass(frozen=True)
class NoiseCalibration:
    """What `calibrate_noise` found.

    Attributes
    ----------
    gain : Estimate
        Grey values per detected electron.
    offset : Estimate
        Grey value of no electrons.
    readout : Estimate
        Standard deviation of the read-out noise in electrons (rounding to whole grey values in it).
    jitter : Estimate or None
        Standard deviation of a line's displacement along the scan, in pixels; None: not measurable.
    correlation : Estimate or None
        Of the jitter of neighbouring lines.
    row_gain : Estimate or None
        Standard deviation of the lines' relative brightness.
    electrons : float
        Mean number of detected electrons per pixel in these images.
    bits : int or None
        Of the converter, where the images reach its limit 2^bits - 1.
    repeated : bool
        Whether differences of repeats were used.
    images : tuple of str
        Where the images came from.
    warnings : tuple of str
        What makes the numbers doubtful.
    """

    gain: Estimate
    offset: Estimate
    readout: Estimate
    jitter: Estimate | None
    correlation: Estimate | None
    row_gain: Estimate | None
    electrons: float
    bits: int | None = None
    repeated: bool = False
    images: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def noise(self) -> PoissonReadout | PoissonGaussian:
        """Noise model of `simulators.noise`: electrons per pixel to grey values of these images."""
        from emjax.data.synthetic_noise import calibrated_noise

        return calibrated_noise(self)

    def scan(self, sampling: float) -> ScanDistortion:
        """Errors of the scan for images of `sampling` Å per pixel, as `simulators.scan` draws them.

        What could not be measured is 0; so is the jitter across the lines, which is not measured.
        """
        from emjax.data.synthetic_noise import calibrated_scan

        return calibrated_scan(self, sampling)

    def draw(
        self, key: jax.Array, sampling: float, *, spread: float = 1.0
    ) -> tuple[PoissonReadout, ScanDistortion]:
        """Noise and scan models, parameters drawn within the errors, for training; in `jit` too.

        Parameters
        ----------
        key : jax.Array
        sampling : float
            Å per pixel.
        spread : float
            In one-sigma errors: 1 draws what the calibration leaves open, more draws wider.
        """
        from emjax.data.synthetic_noise import draw_calibrated

        return draw_calibrated(key, self, sampling, spread)

    def to_electrons(self, image: Any) -> Any:
        """Grey values to detected electrons."""
        return (image - self.offset.value) / self.gain.value

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @staticmethod
    def load(path: str | Path) -> NoiseCalibration:
        """Read what `save` wrote.

        Raises
        ------
        CalibrationError
            Not such a file.
        """
        try:
            stored = json.loads(Path(path).read_text())
            known = {f.name for f in fields(NoiseCalibration)}
            values = {
                k: Estimate(**v) if isinstance(v, dict) else tuple(v) if isinstance(v, list) else v
                for k, v in stored.items()
                if k in known
            }
            return NoiseCalibration(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise CalibrationError(
                f"{path} is no noise calibration ({error}): make one with emjax calibrate-noise "
                f"IMAGE --out {path}"
            ) from error
