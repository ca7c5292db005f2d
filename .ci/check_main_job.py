"""After the README's run command: is its report there, and do its network and ours predict?

Called by `.ci/run` in a checkout whose `.venv` has just run `locate_atoms --preset smoke`.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SAMPLING = 0.15  # Å per pixel
BOND = 1.42  # Å, graphene
SIZE = 256  # pixels


def honeycomb() -> tuple[np.ndarray, int]:
    """A clean picture of graphene (uint8 [SIZE, SIZE]) and the number of its columns inside."""
    y, x = np.mgrid[:SIZE, :SIZE] * SAMPLING
    image = np.zeros((SIZE, SIZE))
    width, count = BOND * 3**0.5, 0
    for row in range(-1, int(SIZE * SAMPLING / (1.5 * BOND)) + 2):
        for column in range(-2, int(SIZE * SAMPLING / width) + 2):
            ax = width * (column + 0.5 * (row % 2))
            for ay in (1.5 * BOND * row, 1.5 * BOND * row + BOND):
                image += np.exp(-((y - ay) ** 2 + (x - ax) ** 2) / (2 * 0.36**2))
                count += min(ay, ax) >= 0 and max(ay, ax) <= (SIZE - 1) * SAMPLING
    counts = np.random.default_rng(0).poisson(40 * image / image.max() + 2)
    return (255 * counts / counts.max()).astype(np.uint8), count


def predict(network: str, image: Path, out: Path) -> int:
    """Columns that `emjax predict` finds."""
    command = ["emjax", "predict", network, str(image), "--sampling", str(SAMPLING)]
    print("$", *command, "--out", out, flush=True)
    command[0] = str(Path(sys.executable).with_name("emjax"))
    subprocess.run([*command, "--out", str(out)], check=True)
    folder = out / image.stem
    for name in ("columns.csv", "overlay.png", "heat.png"):
        assert (folder / name).stat().st_size > 0, f"{folder / name} is empty"
    with (folder / "columns.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    missing = {"x_A", "y_A", "x_px", "y_px", "species", "confidence"} - set(reader.fieldnames or [])
    assert not missing, f"columns.csv lacks {missing}"
    return len(rows)


def main() -> None:
    runs = sorted(Path("runs").glob("locate_atoms*"))
    assert len(runs) == 1, f"expected one run folder, found {runs}"
    for name in ("report.html", "metrics.csv", "config.json", "env.json", "model.h5"):
        assert (runs[0] / name).stat().st_size > 0, f"{runs[0] / name} is empty"
    report = (runs[0] / "report.html").read_text("utf-8")
    assert "</html>" in report, "report.html is cut off"
    assert "data:image/png;base64," in report, "report.html has no pictures"

    image = Path("runs/graphene.png")
    picture, count = honeycomb()
    Image.fromarray(picture).save(image)
    print(f"network of the smoke run: {predict(str(runs[0]), image, Path('runs/smoke'))} columns")
    found = predict("locate_atoms", image, Path("runs/shipped"))
    print(f"network in the package: {found} columns of {count}")
    assert abs(found - count) < 0.1 * count, "the shipped network misses an easy picture"


if __name__ == "__main__":
    main()
