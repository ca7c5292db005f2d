"""What a restorer of partial scans is asked: five comparisons, each with its bar.

I1 errors against blurred truths for few measured pixels (Ede & Beanland, Sci. Rep. 2020); I2 few
pixels for long against all pixels briefly, at one total dose; I3 a fifth of the pixels of lattices,
against compressive sensing; I4 whether single defects off the beam's path are found (they leave no
trace in what was measured, so no method can) or invented; I5 dead pixels and lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.data.lattice_phantoms import Lattice, random_lattice
from emjax.data.scan_masks import ScanPlan, adaptive, make_plan
from emjax.evaluation import inpainting as ev
from emjax.evaluation.inpainting import Bar, Candidate, Line, Measured, Restorer
from emjax.metrics.statistics import bootstrap_interval

if TYPE_CHECKING:
    from emjax.runs import Run

COVERAGES = (1 / 7, 1 / 17.9, 1 / 87)
"""Of the spirals; the last two are the published ones, as they really were."""
ERRORS = {1: 0.038, 2: 0.062}
"""Published errors at the second and the third."""
DOSE = 200.0
"""Electrons at the brightest pixel in a dwell time, where a row does not name another."""
DOSES = (2.0, 10.0, 50.0)
"""The same averaged over all pixels, measured or not (I2)."""
SEEDS = {"validation": 21, "test": 22}
"""Of the held-out pictures and their noise: the same for every run."""
ON, OFF = 1.0, 3.0
"""A column is on the path if a measured pixel lies within ON of its standard deviations, and off it
if none lies within OFF of them."""


@dataclass(frozen=True)
class Judged:
    """How much is judged."""

    scenes: int
    """Test pictures of each condition."""
    validation: int
    """Pictures for tuning."""
    side: int
    """Pixels a side."""
    slow: int = 24
    """Test pictures of slow classical methods."""
    quick: bool = False
    """Classical methods are hardly tuned, and few are asked."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training."""

    lines: Sequence[Line]
    bars: Sequence[Bar]
    defects: dict[str, Any]
    """I4: rates of each method with intervals."""
    examples: dict[str, dict[str, np.ndarray]]
    """Pictures by condition and name."""
    quick: bool
    scenes: int = 0

    @property
    def headline(self) -> float:
        """Error of the network at the first spiral."""
        return float(next(x for x in self.lines if x.method == "network").values.mean())


@dataclass
class _Found:
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    examples: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def judge(
    restorer: Restorer, draw: Callable[[Any], Any], how: Judged, run: Run | None = None
) -> Judgement:
    """Measure rows I1 to I5.

    Parameters
    ----------
    restorer : the network, see `emjax.evaluation.inpainting`.
    draw : ``key -> batch`` with ``rate`` of specimens that the training has not seen.
    how : how much.
    run : for messages.
    """
    say = (lambda text: None) if run is None else run.print
    found = _Found()
    lattices = {
        name: np.stack([_lattice(seed, i, how.side).image for i in range(n)])
        for (name, seed), n in zip(SEEDS.items(), (how.validation, how.scenes), strict=True)
    }
    lattices = {k: v / v.max((1, 2), keepdims=True) for k, v in lattices.items()}
    validation, test = lattices["validation"], lattices["test"]
    if not how.quick:  # to compile the draw takes longer than all the rest of a quick run
        test = ev.held_out(draw, how.scenes, SEEDS["test"])
        validation = ev.held_out(draw, how.validation, SEEDS["validation"])
    for number, row in enumerate((_blurred_truth, _equal_dose), start=1):
        say(f"row I{number}: {len(test)} pictures …")
        row(found, restorer, validation, test, how)
    say("rows I3, I5: lattices …")
    for row in (_compressive, _dead):
        row(found, restorer, lattices["validation"], lattices["test"], how)
    say("row I4: defects on and off the path …")
    defects = defect_rates(
        {"network": restorer, **{c.name: _of(c) for c in _fillers(how, ("linear", "dct_tv"))}}, how
    )
    for name, rates in defects.items():
        bar = Bar("I4", f"{name}: on-path less off-path detection", rates["difference"], 0.4, True)
        found.bars.append(bar)
    return Judgement(found.lines, found.bars, defects, found.examples, how.quick, how.scenes)


def plans_of(name: str, side: int, coverage: float, count: int, seed: int) -> list[ScanPlan]:
    """As many different plans."""
    return [make_plan(name, (side, side), coverage, seed=1000 * seed + i) for i in range(count)]


def adaptive_scans(seed: int, clean: np.ndarray, coverage: float, dose: float) -> Measured:
    """Half of the pixels on a jittered grid, the others where that one's picture changes."""
    first = plans_of("jittered_grid", clean.shape[1], coverage / 2, len(clean), seed)
    seen = ev.measure(seed, clean, first, dose)
    second = [
        adaptive(plan, values, coverage, seed=i)
        for i, (plan, values) in enumerate(zip(first, seen.values, strict=True))
    ]
    whole = ev.measure(seed + 1, clean, second, dose)
    values = np.where(seen.dwell > 0, seen.values, whole.values)
    return Measured(clean, values, whole.dwell, dose)


def _scans(name: str, clean: np.ndarray, coverage: float, seed: int, dose: float) -> Measured:
    if name == "adaptive":
        return adaptive_scans(seed, clean, coverage, dose)
    return ev.measure(seed, clean, plans_of(name, clean.shape[1], coverage, len(clean), seed), dose)


def _fillers(how: Judged, few: Sequence[str], *, smooth: bool = False) -> list[Candidate]:
    every = ("nearest", "linear", "natural_neighbour", "cubic", "biharmonic", "exemplar", "dct_tv")
    names = few if how.quick or smooth else every
    return ev.fillers(names, quick=how.quick, smooth=smooth)


def _blurred_truth(
    found: _Found, restorer: Restorer, validation: np.ndarray, test: np.ndarray, how: Judged
) -> None:
    """I1."""
    conditions = [("spiral", c) for c in COVERAGES]
    if not how.quick:
        conditions += [(n, 1 / 17.9) for n in ("jittered_grid", "random_lines", "adaptive")]
    for number, (name, coverage) in enumerate(conditions):
        tuning, scans = (
            _scans(name, clean, coverage, SEEDS[part], DOSE)
            for part, clean in (("validation", validation), ("test", test))
        )
        condition = f"{name} 1/{1 / coverage:.3g}"
        line, pictures = ev.network_line("I1", condition, restorer, scans, ev.rms_blurred, ev.ERROR)
        candidates = _fillers(how, ("nearest", "linear"))
        others = ev.classical_lines(
            *("I1", condition, candidates, tuning, scans, ev.rms_blurred, ev.ERROR),
            slow=how.slow,
        )
        found.lines += [line, *others]
        best = ev.best_classical(others)
        if number in ERRORS:
            text = f"{condition}: error of the network"
            found.bars.append(Bar("I1", text, line.interval, ERRORS[number], False))
        if number == 0:
            text = f"{condition}: error over that of {best.method}, the best interpolation"
            found.bars.append(Bar("I1", text, ev.paired(line, best, ev.ratio), 0.85, False))
        found.examples[condition] = _shown(scans, pictures, candidates)


def _equal_dose(
    found: _Found, restorer: Restorer, validation: np.ndarray, test: np.ndarray, how: Judged
) -> None:
    """I2: the doses are means over the whole picture, so that every plan costs the same."""
    plans = (("dense", 1.0), ("spiral", 1 / 4), ("jittered_grid", 1 / 16))
    for dose in DOSES[1:2] if how.quick else DOSES:
        for name, coverage in plans:
            tuning, scans = (
                ev.measure(
                    SEEDS[part],
                    clean,
                    [
                        plan.at_dose()
                        for plan in plans_of(name, how.side, coverage, len(clean), SEEDS[part])
                    ],
                    dose,
                )
                for part, clean in (("validation", validation), ("test", test))
            )
            condition = f"{dose:g} electrons, {name} 1/{1 / coverage:.3g}"
            candidates = (
                ev.denoisers(("gaussian", "wiener_fourier", "tv_chambolle"), quick=how.quick)
                if name == "dense"
                else _fillers(how, ("linear", "natural_neighbour", "dct_tv"), smooth=True)
            )
            line, _ = ev.network_line("I2", condition, restorer, scans, ev.psnr, "dB")
            others = ev.classical_lines(
                *("I2", condition, candidates[:1] if how.quick else candidates),
                *(tuning, scans, ev.psnr, "dB"),
                slow=how.slow,
            )
            found.lines += [line, *others]


def _compressive(
    found: _Found, restorer: Restorer, validation: np.ndarray, test: np.ndarray, how: Judged
) -> None:
    """I3."""
    tuning, scans = (
        _scans("random_pixels", clean, 0.2, SEEDS[part], DOSE)
        for part, clean in (("validation", validation), ("test", test))
    )
    condition = "lattices, random pixels 1/5"
    line, pictures = ev.network_line("I3", condition, restorer, scans, ev.psnr, "dB")
    candidates = _fillers(how, ("linear", "natural_neighbour", "dct_tv"), smooth=True)
    others = ev.classical_lines(
        "I3", condition, candidates, tuning, scans, ev.psnr, "dB", slow=how.slow
    )
    found.lines += [line, *others]
    linear = ev.best_classical([x for x in others if x.method.startswith("linear")])
    sparse = ev.best_classical([x for x in others if x.method == "dct_tv"])
    for text, a, b, wanted in (
        ("DCT-TV less linear interpolation [dB]", sparse, linear, 2.0),
        ("network less DCT-TV [dB]", line, sparse, 1.0),
    ):
        found.bars.append(Bar("I3", text, ev.paired(a, b, ev.difference), wanted, True))
    found.examples[condition] = _shown(scans, pictures, candidates[-1:])


def _dead(
    found: _Found, restorer: Restorer, validation: np.ndarray, test: np.ndarray, how: Judged
) -> None:
    """I5."""
    tuning, scans = (
        _scans("dead", clean, 0.93, SEEDS[part], DOSE)
        for part, clean in (("validation", validation), ("test", test))
    )
    condition = "lattices, dead pixels and lines"
    line, pictures = ev.network_line("I5", condition, restorer, scans, ev.hole_psnr, "dB in holes")
    sizes = {} if how.quick else {"size": (3, 5, 7, 9)}
    candidates = [
        *ev.fillers(("biharmonic",), quick=how.quick),
        *ev.fillers(() if how.quick else ("linear", "cubic", "exemplar", "dct_tv"), quick=False),
        Candidate("median", ev.median, sizes),
    ]
    others = ev.classical_lines(
        "I5", condition, candidates, tuning, scans, ev.hole_psnr, "dB in holes", slow=how.slow
    )
    found.lines += [line, *others]
    smooth = next(x for x in others if x.method == "biharmonic")
    value = ev.paired(line, smooth, ev.difference)
    found.bars.append(Bar("I5", "network less biharmonic [dB in holes]", value, 2.0, True))
    found.examples[condition] = _shown(scans, pictures, candidates[:1])


def defect_rates(restorers: dict[str, Restorer], how: Judged) -> dict[str, Any]:
    """I4: how often missing columns are seen on and off the path, and present ones missed.

    In spirals of 1/17.9. A column counts as missing where the restored picture is darker around it
    than half-way between the true picture with and without it. `detection` is the rate among
    missing columns less that among present ones, which is 0 for a method that guesses.

    Returns
    -------
    dict : by restorer ``on``, ``off`` (recall), ``hallucinated_on``, ``hallucinated_off`` (present
        columns that the picture lacks), ``detection_on``, ``detection_off`` and ``difference`` of
        these two, each as (value, low, high) over pictures.
    """
    plans = plans_of("spiral", how.side, 1 / 17.9, how.scenes, SEEDS["test"])
    lattices, missing, places = [], [], []
    for i, plan in enumerate(plans):
        lattice = _lattice(SEEDS["test"] + 1, i, how.side)
        place = where_on_path(lattice, plan)
        rng = np.random.default_rng(i)
        sites = np.concatenate(
            [rng.permutation(np.flatnonzero(place == p))[:k] for p, k in (("on", 3), ("off", 3))]
        )
        lattices.append(lattice)
        missing.append(sites.astype(int))
        places.append(place)
    clean = np.stack([x.with_vacancies(m).image for x, m in zip(lattices, missing, strict=True)])
    scans = ev.measure(SEEDS["test"], clean, plans, 500.0)
    result = {}
    for name, restorer in restorers.items():
        pictures = np.asarray(restorer(scans.values, scans.dwell)) / scans.dose
        counts = []
        for lattice, sites, place, picture in zip(lattices, missing, places, pictures, strict=True):
            gone = np.isin(np.arange(len(place)), sites)
            # half of the height is what a column adds to its own mean; half of that is half-way
            dark = lattice.brightness(picture) < lattice.brightness(lattice.image) - (
                0.25 * lattice.height
            )
            groups = [(place == p) & (gone == g) for p in ("on", "off") for g in (True, False)]
            counts.append([n for g in groups for n in ((g & dark).sum(), g.sum())])
        result[name] = _rates(np.array(counts))
    return result


def where_on_path(lattice: Lattice, plan: ScanPlan) -> np.ndarray:
    """ "on", "off" or "" for each column: neither, or too near to the picture's border."""
    from scipy.spatial import KDTree

    distance, _ = KDTree(np.argwhere(plan.mask)[:, ::-1]).query(lattice.xy)
    distance = distance / lattice.sigma
    edge = 2 * lattice.sigma
    inside = ((lattice.xy >= edge) & (lattice.xy <= lattice.side - 1 - edge)).all(1)
    place = np.where(distance <= ON, "on", np.where(distance >= OFF, "off", ""))
    return np.where(inside, place, "")


def _rates(counts: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Of counts [pictures, 8]: dark and all of on/off path, missing/present."""

    def share(index: np.ndarray, column: int) -> float:
        dark, all_ = counts[index.astype(int)][:, 2 * column : 2 * column + 2].sum(0)
        return dark / max(all_, 1)

    parts: dict[str, Callable[[np.ndarray], float]] = {
        "on": lambda i: share(i, 0),
        "off": lambda i: share(i, 2),
        "hallucinated_on": lambda i: share(i, 1),
        "hallucinated_off": lambda i: share(i, 3),
        "detection_on": lambda i: share(i, 0) - share(i, 1),
        "detection_off": lambda i: share(i, 2) - share(i, 3),
        "difference": lambda i: share(i, 0) - share(i, 1) - share(i, 2) + share(i, 3),
    }
    pictures = np.arange(len(counts), dtype=float)
    return {k: bootstrap_interval(pictures, statistic=f, n=1000) for k, f in parts.items()}


def _of(candidate: Candidate) -> Restorer:
    def restorer(values: np.ndarray, dwell: np.ndarray) -> np.ndarray:
        return np.stack([candidate.function(v, d > 0) for v, d in zip(values, dwell, strict=True)])

    return restorer


def _lattice(seed: int, index: int, side: int) -> Lattice:
    return random_lattice(np.random.default_rng([seed, index]), side)


def _shown(
    scans: Measured, pictures: np.ndarray, candidates: Sequence[Candidate]
) -> dict[str, np.ndarray]:
    """The first picture: what was measured, the truth, and what became of it."""
    values, mask = scans.values[0] / scans.dose, scans.dwell[0] > 0
    shown = {"measured": np.where(mask, values, 0.0), "truth": scans.clean[0]}
    for candidate in candidates[-1:]:
        shown[candidate.name] = _of(candidate)(scans.values[:1], scans.dwell[:1])[0] / scans.dose
    return {**shown, "network": pictures[0]}
