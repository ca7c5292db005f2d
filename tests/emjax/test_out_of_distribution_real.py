"""The wrong kind of real recording is told from the training of the restorers (slow: two minutes).

The reference is that of `experiments/denoise_stem.py`: simulated images of columns, of which a part
has little noise. Recordings took no part in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emjax.analysis.out_of_distribution import SMALLEST, Reference, fit_reference, judge
from emjax.metrics.confusion import roc_auc

pytestmark = pytest.mark.slow

NOT_IMAGES = ("label", "model", "single")


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    import jax

    from emjax.data.column_scene import ColumnScene
    from emjax.data.synthetic_columns import make_scenes
    from simulators.specimens import MATERIALS

    draw = jax.jit(make_scenes(ColumnScene(), MATERIALS, 16))
    batches = [jax.tree.map(np.asarray, draw(jax.random.key(i))) for i in range(30)]
    return {name: np.concatenate([b[name] for b in batches]) for name in ("counts", "rate")}


@pytest.fixture(scope="module")
def reference(drawn) -> Reference:
    rng = np.random.default_rng(0)
    noisy = list(drawn["counts"][:320, ..., 0])
    good = [
        rng.poisson(rate / rate.max() * np.exp(rng.uniform(np.log(120), np.log(3000))))
        for rate in drawn["rate"][:320:2, ..., 0]
    ]
    return fit_reference([*noisy, *good])


@pytest.fixture(scope="module")
def simulated(drawn, reference) -> np.ndarray:
    return np.array([judge(reference, image).score for image in drawn["counts"][320:, ..., 0]])


def pictures(folder: Path, pattern: str) -> list[np.ndarray]:
    """Every image of a folder: PNG files, and arrays but for what goes with them.

    Single frames of frozen protein ("single") are left out: what is nearly nothing but noise cannot
    be told from a faint film of anything.
    """
    from PIL import Image

    found = []
    for path in sorted(folder.glob(pattern)):
        if path.suffix == ".png":
            found.append(np.asarray(Image.open(path).convert("L"), float))
            continue
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files if k not in NOT_IMAGES}
        for array in arrays.values():
            if array.ndim in (2, 3, 4) and min(array.shape[-2:]) >= SMALLEST:
                found += list(np.asarray(array, float).reshape(-1, *array.shape[-2:])[:20])
    assert found, f"no image in {folder}"
    return found


@pytest.mark.parametrize(
    ("place", "pattern", "least"),
    [
        ("sem_tio2", "*sem.png", 0.95),
        ("cryoem_apoferritin", "*.npz", 0.95),
        ("diffraction", "*.npz", 0.9),  # spots on a lattice are much like columns
        ("connectomics_isbi2012", "*.npz", 0.95),
        ("particles_emps", "images/*", 0.95),
        ("stem_catalyst_3class", "*.npz", 0.95),
    ],
)
def test_other_recordings(shared, reference, simulated, place, pattern, least):
    images = pictures(shared / "data" / "real" / place, pattern)
    scores = np.array([judge(reference, image).score for image in images])
    truth = np.r_[np.zeros(len(simulated)), np.ones(len(scores))]
    assert roc_auc(np.r_[simulated, scores], truth) >= least


def test_atom_columns_pass(shared, reference):
    images = []
    for place in ("real/stem_crystals", "real/stem_graphene", "real/stem_tmd", "restoration"):
        images += pictures(shared / "data" / place, "*.npz")
    images += pictures(shared / "data" / "real" / "stem_crystals", "*.png")
    foreign = [judge(reference, image).foreign for image in images if image.std() > 0]
    assert len(foreign) > 100
    assert np.mean(foreign) <= 0.05
