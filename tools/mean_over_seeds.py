"""Mean of several runs of `hemalens study bc-sam`: `python tools/mean_over_seeds.py RUN... > bc_sam.csv`.

Each RUN is the folder of a run with another seed, the first one with all rows. Standard output is a table of means over
the runs that have a row. Standard error counts, for each kind of autoencoder, in how many comparisons in the other
laboratory it is better or worse than the pooled features by the 95 % interval of the run.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from hemalens.evaluation.results import ComparisonTable, Report
from hemalens.report import read_report

ACCURACY, BALANCED, GAIN = "Accuracy in %, trained on", "Balanced accuracy (95", "Does the autoencoder help?"
PAIRS = ("1 -> 1", "1 -> 2", "2 -> 1", "2 -> 2")
Key = tuple[str, str, str, str]
"""(representation, images that its autoencoder saw, head, pair)."""


def values(report: Report, title: str) -> Iterator[tuple[Key, list[float]]]:
    """The numbers in each cell of the table whose title begins so."""
    table: ComparisonTable = next(table for table in report.tables if table.title.startswith(title))
    for row in table.rows:
        name, _, head = str(row[0]).rpartition(", ")
        saw = str(row[1]).replace("–", "")
        if not name or name.startswith("published"):
            continue
        for pair in PAIRS:
            text = row[table.columns.index(pair)]
            if text is not None:
                numbers = re.findall(r"[-+]?\d+\.\d+", str(text).replace("–", " "))
                yield (name, saw, head, pair), [float(number) for number in numbers]


def mean_table(reports: Sequence[Report], names: tuple[str, str]) -> list[dict[str, str | int]]:
    """One row a key: accuracy and balanced accuracy, means over the reports, and the range of the latter."""
    accuracy: dict[Key, list[float]] = {}
    balanced: dict[Key, list[float]] = {}
    for report in reports:
        for found, title in ((accuracy, ACCURACY), (balanced, BALANCED)):
            for key, numbers in values(report, title):
                found.setdefault(key, []).append(numbers[0])
    laboratory = {"1": names[0], "2": names[1]}
    return [
        {
            "representation": key[0],
            "autoencoder_saw": key[1],
            "head": key[2],
            "train": laboratory[key[3][0]],
            "test": laboratory[key[3][-1]],
            "seeds": len(scores),
            "accuracy": f"{sum(accuracy[key]) / len(accuracy[key]) / 100:.3f}",
            "balanced_accuracy": f"{sum(scores) / len(scores):.3f}",
            "lowest": f"{min(scores):.3f}",
            "highest": f"{max(scores):.3f}",
        }
        for key, scores in balanced.items()
    ]


def verdicts(reports: Sequence[Report]) -> Counter[tuple[str, str, str]]:
    """(representation, images seen, verdict) -> number of comparisons in the other laboratory, over all reports."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for report in reports:
        for (name, saw, _, pair), (_, low, high) in values(report, GAIN):
            if pair[0] != pair[-1]:
                verdict = "better" if low > 0 else "worse" if high < 0 else "neither"
                counts[name, saw, verdict] += 1
    return counts


def main(folders: Sequence[str]) -> None:
    """Print the table and the counts."""
    reports = [read_report(Path(folder) / "report.json") for folder in folders]
    rows = mean_table(reports, ("Acevedo", "Zheng"))
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for (name, saw, verdict), n in sorted(verdicts(reports).items()):
        print(f"{name}, {saw}: {n} {verdict}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
