"""`hemalens data list | types | audit | fields | download | imitate | synthesize`, and `synthesize-fields`, `-tissue`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemalens.cli.help import Verb, Verbs
from hemalens.cli.lines import listed, section, wrapped
from hemalens.cli.options import FollowLinks, Json, Labels, Out, Overwrite, Quiet, Seed, Set, Strict, Talk
from hemalens.errors import visible

if TYPE_CHECKING:
    from hemalens.datasets.audit import Audit

N_NAMED = 5
"""Sources that are printed of names that look like copies."""

app = typer.Typer(cls=Verbs, help="List, audit, download, imitate and synthesize datasets.", no_args_is_help=True)


@app.command("list", cls=Verb)
def list_datasets(as_json: Json = False) -> None:
    """List the datasets that hemalens reads, with their layout, size and licence.

    \b
    Example:
    hemalens data list
    """
    from hemalens.datasets import READERS
    from hemalens.datasets.fields.readers import FIELD_READERS

    talk = Talk(quiet=False, as_json=as_json)
    shown = ("title", "size", "licence", "citation", "layout")
    lines: list[str] = []
    facts: list[dict[str, Any]] = []
    for what, readers in (("Single cells:", READERS), ("Fields with boxes:", FIELD_READERS)):
        lines.append(what)
        for name, reader in readers.items():
            lines += [f"{name}:PATH  {reader.title} ({'; '.join(filter(None, (reader.size, reader.licence)))})"]
            lines += [f"    {reader.layout}"]
        facts.append({name: {fact: getattr(reader, fact) for fact in shown} for name, reader in readers.items()})
    cells, fields = facts
    talk.result({**cells, "fields": fields}, lines)


@app.command("types", cls=Verb)
def list_types(as_json: Json = False) -> None:
    """List the cell types with their names and the other spellings that labels may have.

    \b
    Example:
    hemalens data types
    """
    from hemalens.taxonomy import cell_types

    talk = Talk(quiet=False, as_json=as_json)
    found = cell_types()
    lines = [f"{code}: {', '.join(dict.fromkeys((kind.name, *kind.aliases)))}" for code, kind in found.items()]
    talk.result({code: asdict(kind) for code, kind in found.items()}, lines)


@app.command("audit", cls=Verb)
def audit(
    *,
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A dataset, as in folder:my_cells.")],
    labels: Labels = "five_class",
    strict: Strict = False,
    follow_links: FollowLinks = False,
    groups_to: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write a CSV with a group for each set of copies, to train on."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find unreadable images, copies, contradictory labels and leaks across splits. The images stay as they are.

    \b
    Examples:
    hemalens data audit folder:my_cells
    hemalens data audit folder:my_cells --groups-to my_cells.csv
    hemalens data audit acevedo20:DATA/acevedo20 --labels eight_class --json
    """
    from hemalens.datasets import open_dataset
    from hemalens.datasets.audit import STEPS_PER_IMAGE
    from hemalens.datasets.audit import audit as run
    from hemalens.datasets.group_table import check_group_table, check_table_name, write_group_table
    from hemalens.datasets.open import spec_path
    from hemalens.outputs import claim_output
    from hemalens.progress import track

    talk = Talk(quiet, as_json)
    with ExitStack() as claimed:
        if groups_to is not None:
            check_table_name(groups_to)
            inputs = [spec_path(spec)]
            claimed.enter_context(claim_output(groups_to, overwrite=overwrite, inputs=inputs, option="--groups-to"))
        dataset = open_dataset(spec, labels=labels, strict=strict)
        if groups_to is not None:
            check_group_table(dataset, groups_to)
        with track("reading images", STEPS_PER_IMAGE * len(dataset)) as progress:
            found = run(dataset, progress=progress)
        lines = audit_lines(found)
        if groups_to is not None:
            n_groups, n_rows = write_group_table(dataset, found.related, groups_to)
            lines.append(f"{n_rows} images and {n_groups} group(s) in {groups_to}; open it as csv:{groups_to}")
    talk.result(asdict(found), lines)


@app.command("fields", cls=Verb)
def fields(
    *,
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Fields with boxes, as in yolo:my_fields.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Also find near-duplicates and turned copies, which reads every image.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Summarize fields with boxes: kinds of cells, sizes, laboratories, boxes left out, copies within and between sets.

    \b
    Examples:
    hemalens data fields yolo:my_fields
    hemalens data fields txl_pbc:DATA/txl_pbc bccd_fields:DATA/bccd --compare
    """
    from hemalens.cli.field_lines import copy_lines, summary_lines
    from hemalens.datasets.audit import STEPS_PER_IMAGE
    from hemalens.datasets.fields.open import open_fields
    from hemalens.datasets.fields.summary import compare_fields, identical_fields, summarise
    from hemalens.progress import track

    talk = Talk(quiet, as_json)
    opened = [open_fields(spec) for spec in specs]
    summaries = [summarise(dataset) for dataset in opened]
    found = None
    if compare:
        with track("reading images", STEPS_PER_IMAGE * sum(map(len, opened))) as progress:
            found = compare_fields(opened, progress=progress)
    copies = found.copies if found is not None else identical_fields(opened)
    lines = [line for summary in summaries for line in (*summary_lines(summary), "")]
    result = {"sets": [asdict(summary) for summary in summaries], "copies": copies}
    if found is not None:
        result |= {name: getattr(found, name) for name in ("near_duplicates", "turned_copies", "unreadable")}
    talk.result(result, [visible(line) for line in (*lines, *copy_lines(copies, found))])


@app.command("download", cls=Verb)
def download(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset with a download, as in bloodmnist.")],
    out: Out,
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the images in pixels: 28, 64, 128 or 224.")] = 28,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Download a published dataset and verify its MD5. No other command downloads data.

    \b
    Example:
    hemalens data download bloodmnist --size 64 --out DATA
    """
    from hemalens.datasets import READERS
    from hemalens.datasets.download import download as run

    talk = Talk(quiet)
    path = run(name, out, size_px=size, overwrite=overwrite)
    lines = [
        f"{path}: {path.stat().st_size} bytes, MD5 verified ({READERS[name].downloads[size].md5})",
        f"licence {READERS[name].licence}; cite {READERS[name].citation}",
        f"open it as {name}:{path}",
    ]
    talk.result(None, lines)


@app.command("imitate", cls=Verb)
def imitate(
    *,
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A dataset of single cells, as in folder:my_cells.")],
    out: Out,
    laboratory: Annotated[int, typer.Option(min=0, metavar="N", help="The laboratory: each number is another one.")] = 0,
    mix: Annotated[
        str, typer.Option(metavar="MIX", help="balanced, blood, absent (one type), lymphocytic or eosinophilic.")
    ] = "balanced",
    images: Annotated[int, typer.Option(min=1, metavar="N", help="How many images.")] = 200,
    labels: Labels = "five_class",
    settings: Set = None,
    seed: Seed = 0,
    strict: Strict = False,
    follow_links: FollowLinks = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show cells of a dataset as another laboratory would: stain, light, optics, camera, scale and mix of types.

    \b
    Examples:
    hemalens data imitate folder:my_cells --out another_laboratory
    hemalens data imitate folder:my_cells --out lab_3 --laboratory 3 --mix blood
    """
    from hemalens.runs.imitate import ImitateOptions
    from hemalens.runs.imitate import imitate as run

    talk = Talk(quiet, as_json)
    options = ImitateOptions(
        laboratory=laboratory, mix=mix, n_images=images, labels=labels, settings=tuple(settings or ()), strict=strict
    )
    found = run(spec, out=out, options=options, seed=seed, overwrite=overwrite, say=talk.say)
    lines = [
        f"{found['name']}: {found['n_images']} images in {out}",
        *listed("cells", [f"{label} {n}" for label, n in found["class_counts"].items()]),
        f"what was drawn: {out / 'laboratory.json'}; open it as folder:{out}",
    ]
    talk.result(found, lines)


@app.command("synthesize", cls=Verb)
def synthesize(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.")],
    n_per_class: Annotated[int, typer.Option(min=1, metavar="N", help="Cells of each type in each laboratory.")] = 60,
    laboratory: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="lab_a or lab_b, both by default; repeatable.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Synthesize cells with masks, to try hemalens without data.

    \b
    Example:
    hemalens data synthesize my_cells --n-per-class 20 --laboratory lab_a
    """
    from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, drawn_files
    from hemalens.datasets.synthetic import synthesize as run
    from hemalens.outputs import claim_folder
    from hemalens.progress import track

    talk = Talk(quiet)
    chosen = laboratory or list(LABORATORIES)
    n_images = n_per_class * len(CELL_TYPES) * len(chosen)
    with (
        claim_folder(folder, drawn_files, "synthetic images", overwrite=overwrite, option="FOLDER"),
        track("drawing", n_images) as progress,
    ):
        run(folder, n_per_class=n_per_class, seed=seed, laboratories=chosen, progress=lambda: progress(1))
    talk.result(None, [f"{n_images} images with masks in {folder}; open them as synthetic:{folder}"])


@app.command("synthesize-fields", cls=Verb)
def synthesize_fields(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.")],
    settings: Set = None,
    laboratory: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="lab_a or lab_b, both by default; repeatable.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Synthesize fields of view with white cells, red cells and platelets: slides as folders, with boxes and cell types.

    \b
    Examples:
    hemalens data synthesize-fields my_fields
    hemalens data synthesize-fields my_fields --set n_fields=20 --set overlap=0.2
    """
    from hemalens.datasets.synthetic import LABORATORIES
    from hemalens.datasets.synthetic.fields import drawn_field_files, n_drawn_fields
    from hemalens.datasets.synthetic.fields import synthesize_fields as run
    from hemalens.datasets.synthetic.smear import SmearConfig
    from hemalens.outputs import claim_folder
    from hemalens.progress import track

    talk = Talk(quiet)
    config = SmearConfig.load(overrides=settings or ())
    config.shares()
    chosen = laboratory or list(LABORATORIES)
    n_fields = n_drawn_fields(config, chosen)
    with (
        claim_folder(folder, drawn_field_files, "synthetic fields", overwrite=overwrite, option="FOLDER"),
        track("drawing", n_fields) as progress,
    ):
        run(folder, config=config, seed=seed, laboratories=chosen, progress=lambda: progress(1))
    talk.result(None, [f"{n_fields} fields with boxes in {folder}; open them as synthetic_fields:{folder}"])


@app.command("synthesize-tissue", cls=Verb)
def synthesize_tissue(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.")],
    n_per_class: Annotated[
        int, typer.Option(min=4, metavar="N", help="Training patches of each class, and regions; at least 4.")
    ] = 60,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Synthesize tissue in the layouts of cam16 and prcc, to try the methods that use these sets.

    \b
    Example:
    hemalens data synthesize-tissue my_tissue --n-per-class 20
    """
    from hemalens.datasets.synthetic import drawn_files, tissue
    from hemalens.outputs import claim_folder
    from hemalens.progress import track

    talk = Talk(quiet)
    n_images = tissue.n_drawn(n_per_class)
    with (
        claim_folder(folder, drawn_files, "synthetic images", overwrite=overwrite, option="FOLDER"),
        track("drawing", n_images) as progress,
    ):
        tissue.synthesize_tissue(folder, n_per_class=n_per_class, seed=seed, progress=lambda: progress(1))
    named = f"cam16:{folder / tissue.PATCHES} and prcc:{folder / tissue.REGIONS}"
    talk.result(None, [f"{n_images} images in {folder}; open them as {named}"])


def audit_lines(found: Audit) -> list[str]:
    """An audit as lines for the terminal, each file on a line of its own."""
    lines = [f"{found.dataset}: {found.n_images} images under {found.label_map}"]
    for note in found.notes:
        lines += wrapped(f"note: {note}")
    lines += listed("classes", [f"{name} {n}" for name, n in found.class_counts.items()])
    lines += listed("source labels", [f"{name} {n}" for name, n in found.source_label_counts.items()])
    for reason, n in found.excluded.items():
        lines += wrapped(f"excluded: {n} x {reason}")
    sizes = [f"{size} ({n})" for size, n in found.sizes.items()]
    lines += listed("sizes (px)", sizes[:4] + ([f"{len(sizes) - 4} more"] if len(sizes) > 4 else []))
    lines.append(
        f"groups: {found.n_groups}; images without a group: {found.n_without_group}; with a mask: {found.n_with_mask}"
    )
    for domain, stats in found.domains.items():
        mean, std = ("/".join(f"{v:g}" for v in stats[key]) for key in ("mean_lab", "std_lab"))
        lines.append(f"colour of {domain}: L*a*b* mean {mean}, std {std}")
    lines += section("unreadable", [[reason] for reason in found.unreadable.values()])
    for kind, names in found.exposures.items():
        lines += section("flat" if kind == "flat" else f"nearly {kind}", [[name] for name in names])
    lines += section("read with a warning", [[name, what] for name, what in found.warned.items()])
    lines += section("the same image under two labels", found.conflicts)
    lines += section("byte-identical copies", found.copies)
    near = [[a, f"{b} (differ by {d:g} gray levels)"] for a, b, d in found.near_duplicates]
    lines += section("near-duplicates", near, "~")
    turned = [[m[0][0], *(f"{name} ({how})" for name, how in m[1:])] for m in found.turned_copies]
    lines += section("turned, mirrored or shifted copies", turned, "~")
    if found.name_sources:
        n_named = sum(map(len, found.name_sources))
        lines += wrapped(f"file names: {n_named} look like copies of {len(found.name_sources)} source(s)")
        lines += [f"  {members[0]} and {len(members) - 1} more" for members in found.name_sources[:N_NAMED]]
    lines.append("test images of a random 5-fold split with a relative in training:")
    lines += [f"  {n} {what}" for what, n in found.leaks.items()]
    lines += [
        "Training drops images under two labels, keeps one of identical copies and never",
        "splits a group. Check the near-duplicates and turned copies yourself; a CSV by",
        "--groups-to FILE.csv puts each set into one group: train on csv:FILE.csv.",
    ]
    return [visible(line) for line in lines]
