"""Count the cells of many slides on Ray: a worker counts a whole slide; tables and report are those of one machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hemalens.bulk.cluster import check_cluster, connected
from hemalens.bulk.folder import Work, open_work
from hemalens.bulk.options import DEFAULTS, BulkOptions
from hemalens.bulk.pool import run_units
from hemalens.bulk.slide import COUNTED, SlidePlaces, read_found, slide_text, write_slide
from hemalens.bundle.artifact import MANIFEST as BUNDLE_MANIFEST
from hemalens.bundle.bundle import Bundle, BundleLike
from hemalens.bundle.detector import Detector
from hemalens.config import checked
from hemalens.errors import HemalensError, one_line, public
from hemalens.files import PathLike, as_path, output_errors, sha256_file, sha256_text
from hemalens.outputs import check_outside
from hemalens.progress import Say, track
from hemalens.runs.count import Counter, CountSummary, check_options, inputs_of, open_both, read_rules
from hemalens.runs.counting.options import DEFAULTS as COUNT_DEFAULTS
from hemalens.runs.counting.options import CountOptions
from hemalens.runs.counting.results import Rules, counts_of
from hemalens.runs.counting.rows import cell_writer
from hemalens.runs.counting.slides import Slide, open_slides


@public
def count_on_ray(
    bundle: BundleLike,
    fields: PathLike,
    *,
    out: PathLike,
    detector: PathLike | None = None,
    options: CountOptions = COUNT_DEFAULTS,
    overwrite: bool = False,
    say: Say = lambda text: None,
    bulk: BulkOptions = DEFAULTS,
) -> CountSummary:
    """Count the cells in `fields` on Ray, and write what `count` writes into the folder `out`, with manifest.json.

    A slide is counted by one worker. The other arguments are those of `count`; `bulk` says where Ray runs. A stopped run
    resumes when it is called again: finished slides are kept. Raises `MissingExtraError` without Ray.
    """
    options = check_options(options)
    bulk = checked(bulk, BulkOptions).check()
    source, out = as_path(fields, "the fields"), as_path(out, "out").absolute()
    check_outside(out, source, "--out")
    rules = read_rules(options)
    check_cluster(bulk)
    opened, finder = open_both(bundle, detector, rules)
    slides = open_slides(source, options, say=say)
    own = _plain(options)
    request = {
        "job": "count",
        "bundle": sha256_file(opened.path / BUNDLE_MANIFEST),
        "images": sha256_text(*map(slide_text, slides), *(_stamp(slide) for slide in slides)),
        "options": {**own, **_digests(own), "detector": sha256_file(finder.path / BUNDLE_MANIFEST)},
    }
    given = inputs_of(bundle, source, detector, options)
    with open_work(out, request, overwrite=overwrite, inputs=given) as work:
        task: dict[str, Any] = {"job": "count", "key": work.key, "count": own}
        task |= {"cwd": os.getcwd(), "folder": str(work.folder), "bundle": str(opened.path.absolute())}
        task["detector"] = None if detector is None else str(finder.path.absolute())
        run = _Run(work, slides)
        run.compute(task, bulk)
        summary = run.complete(opened, finder, options, rules, source)
        known = {"source": str(source), "method": opened.manifest.method, "n_slides": len(slides)}
        known |= {"trust": list(summary.trust.lines), "notes": list(summary.notes)}
        work.finish(known, sorted(os.listdir(work.folder / COUNTED)), within=COUNTED)
    return summary


def _plain(options: CountOptions) -> dict[str, Any]:
    """The options as plain values, files by their whole path."""
    own = {**asdict(options), "settings": list(options.settings)}
    own.pop("n_workers")
    for name in ("rules_file", "confusion"):
        own[name] = None if own[name] is None else os.path.abspath(own[name])
    return own


def _digests(own: dict[str, Any]) -> dict[str, Any]:
    """The files of the options by their content."""
    files = {name: own[name] for name in ("rules_file", "confusion")}
    return {name: None if path is None else sha256_file(_file(Path(path))) for name, path in files.items()}


def _file(path: Path) -> Path:
    return path / "report.json" if path.is_dir() else path


def _stamp(slide: Slide) -> str:
    """Size and time of each field."""
    found = []
    for each in slide.fields:
        try:
            state = os.stat(each.record.path)
            found.append(f"{state.st_size} {state.st_mtime_ns}")
        except OSError:
            found.append("")  # an unreadable field, whose row has the error
    return " ".join(found)


class _Run:
    """A count at work: which slides are missing, and how the finished ones become tables and a report."""

    def __init__(self, work: Work, slides: Sequence[Slide]) -> None:
        self._work, self._slides, self._places = work, slides, SlidePlaces(work.folder)

    def compute(self, task: dict[str, Any], bulk: BulkOptions) -> None:
        """Find the cells of the missing slides on Ray."""
        slides, places = self._slides, self._places
        missing = [n for n, slide in enumerate(slides) if read_found(places.found(n), self._work.key, slide) is None]
        if not missing:
            return
        for number in missing:
            write_slide(places.listed(number), slides[number])
        with track("counting cells", sum(len(slide.fields) for slide in slides)) as progress, connected(bulk) as ray:
            progress(sum(len(slide.fields) for number, slide in enumerate(slides) if number not in set(missing)))
            run_units(ray, task, missing, n_actors=bulk.n_actors, advance=progress)

    def complete(
        self, bundle: Bundle, detector: Detector, options: CountOptions, rules: Rules, source: Path
    ) -> CountSummary:
        """Write tables and report of all slides, in their order, as one machine does."""
        folder = self._places.counted
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
            for name in os.listdir(folder):
                if not (folder / name).is_dir():
                    os.unlink(folder / name)  # of an end that was stopped
        counter = Counter(bundle, detector, options, rules, folder)
        with cell_writer(folder, parquet=options.parquet) as write:
            for number, slide in enumerate(self._slides):
                found = read_found(self._places.found(number), self._work.key, slide)
                if found is None:
                    raise HemalensError(
                        f"slide {one_line(slide.name)} is not in {one_line(folder)}, though a worker has counted it",
                        expected="a disk that all machines of the cluster share",
                        remedy="Name a shared folder with --out.",
                    )
                fields, shown, kept = found
                counter.monitor.take(kept)
                counter.add(counts_of(slide, fields, rules, bundle.manifest.labels), fields, shown, write)
        return counter.finish(source)
