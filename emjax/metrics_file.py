"""``metrics.csv``: one row a step, opens in any spreadsheet, survives a killed process."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from emjax.files import write_text


class MetricsFile:
    """The rows of a CSV file, kept in memory and on disk alike.

    A row is appended and flushed at once. A new column, or more values for the step of the last
    row, rewrites the file (atomically; it is small). A last line that a killed process left
    half-written is ignored.

    Parameters
    ----------
    path
        The file; read if it exists.

    Raises
    ------
    ValueError
        The file is not a metrics table; names the line.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, float]] = []
        self._whole = False  # the file equals `rows`, so that a line may be appended
        if self.path.is_file():
            self._read()

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add values of one step; values may be anything that `float` takes."""
        if "step" in metrics:
            raise ValueError("'step' is the row's name, not a metric: choose another name")
        values = {str(name): float(value) for name, value in metrics.items()}
        new = [name for name in values if name not in self.columns]
        self.columns += new
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= values
            self._rewrite()
            return
        self.rows.append({"step": int(step), **values})
        if new or not self._whole:
            self._rewrite()
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._text(self.rows[-1:]))

    def drop_after(self, step: int) -> None:
        """Forget the rows of later steps: training goes on from `step`."""
        kept = [row for row in self.rows if row["step"] <= step]
        if len(kept) != len(self.rows):
            self.rows = kept
            self._rewrite()

    def series(self) -> dict[str, list[float]]:
        """Every column as a list; NaN where a row has no value. Steps are ints."""
        nan = float("nan")
        return {name: [row.get(name, nan) for row in self.rows] for name in self.columns}

    def _text(self, rows: list[dict[str, float]]) -> str:
        # repr of a float reads back as the same float
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for row in rows:
            writer.writerow([repr(row[name]) if name in row else "" for name in self.columns])
        return buffer.getvalue()

    def _rewrite(self) -> None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(self.columns)
        write_text(self.path, header.getvalue() + self._text(self.rows))
        self._whole = True

    def _read(self) -> None:
        text = self.path.read_text("utf-8")
        whole, _, rest = text.rpartition("\n")  # `rest` is a line that was not finished
        lines = list(csv.reader(io.StringIO(whole)))
        if not lines:
            return
        if lines[0][:1] != ["step"]:
            raise ValueError(
                f"{self.path} is not a table of metrics: its first column is "
                f"{lines[0][0] if lines[0] else ''!r}, not 'step'; move the file away"
            )
        self.columns = lines[0]
        for number, cells in enumerate(lines[1:], start=2):
            try:
                pairs = zip(self.columns, cells, strict=True)
                row = {name: float(cell) for name, cell in pairs if cell}
                row["step"] = int(row["step"])
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{self.path}, line {number} is not a row of metrics ({error}); "
                    "repair or remove that line"
                ) from error
            self.rows.append(row)
        self._whole = not rest
