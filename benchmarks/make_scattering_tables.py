"""Write simulators/tables/{lobato,kirkland,peng}.json.

The coefficients are published data: Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014), table of the
supplement; Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), appendix C; Peng,
Micron 30, 625 (1999), high-angle set. They are read once through abTEM's public `parameters` and
written as our own JSON. Kirkland's second edition (2010) revised the coefficients of the first by
up to 2 % (10 % for a few elements); these are the second edition's. Run it again only to check; the
tables are committed, and tests compare the three with each other and with the Mott-Bethe limit.

    python -m benchmarks.make_scattering_tables --check
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

TABLES = Path(__file__).parents[1] / "simulators" / "tables"

SOURCES = {
    "lobato": "Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014); rows a [Å], b [Å²]; "
    "f = Σ a (2 + b k²) / (1 + b k²)²",
    "kirkland": "Kirkland, Advanced Computing in Electron Microscopy (2010), appendix C; rows "
    "a [1/Å], b [1/Å²], c [Å], d [Å²]; f = Σ a / (k² + b) + c exp(-d k²)",
    "peng": "Peng, Micron 30, 625 (1999), high-angle set; rows a [Å], b [Å²]; "
    "f = Σ a exp(-b k² / 4)",
}


def read_tables() -> dict[str, dict[str, list[list[float]]]]:
    """Coefficients per table and element symbol, from abTEM's public API."""
    from abtem.parametrizations import (
        KirklandParametrization,
        LobatoParametrization,
        PengParametrization,
    )

    found = {
        "lobato": LobatoParametrization(),
        "kirkland": KirklandParametrization(),
        "peng": PengParametrization(),
    }
    return {
        name: {s: np.asarray(p, float).tolist() for s, p in table.parameters.items()}
        for name, table in found.items()
    }


def main() -> None:
    """Write the tables, or compare the committed ones with what is read now."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    for name, table in read_tables().items():
        path = TABLES / f"{name}.json"
        text = {"source": SOURCES[name], "elements": table}
        if args.check:
            same = json.loads(path.read_text()) == text
            print(f"{name}: {len(table)} elements, {'equal' if same else 'DIFFERENT'}")
        else:
            rows = ",\n".join(f"{json.dumps(s)}: {json.dumps(p)}" for s, p in table.items())
            path.write_text(
                '{"source": '
                + json.dumps(SOURCES[name], ensure_ascii=False)
                + ',\n"elements": {\n'
                + rows
                + "\n}}\n"
            )
            print(f"{path.name}: {len(table)} elements")


if __name__ == "__main__":
    main()
