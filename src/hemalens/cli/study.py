"""`hemalens study list`, and `hemalens study NAME` for each of the published studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.help import Verb, Verbs
from hemalens.cli.options import FollowLinks, Json, Overwrite, Quiet, Seed, Set, Talk, role_specs
from hemalens.cli.report_tables import show_report
from hemalens.errors import InputError
from hemalens.studies import STUDIES, Description, describe_study

if TYPE_CHECKING:
    from hemalens.studies.catalogue import Index, RoleData

app = typer.Typer(
    cls=Verbs,
    help="Reproduce a published study, with the published numbers in its tables; or list the studies.",
    no_args_is_help=True,
)
Data = Annotated[
    list[str] | None, typer.Option("--data", metavar="ROLE=SPEC", help="A dataset for a role of the study; repeatable.")
]


@app.command("list", cls=Verb)
def list_studies(
    data: Data = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Look for the data in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """List the studies: the data that each needs, which of them are found, and the main published result.

    \b
    Example:
    hemalens study list --root DATA
    """
    from hemalens.studies.catalogue import study_index

    index = study_index(root, _by_role(data))
    if as_json:
        Talk(quiet=False, as_json=True).result(asdict(index), [])
    else:
        print_index(index, searched=bool(root or data))


def _by_role(data: Sequence[str] | None) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for role, spec in role_specs(data or [], "--data"):
        roles.setdefault(role, []).append(spec)
    return roles


def print_index(index: Index, *, searched: bool) -> None:
    """The studies and their data, 80 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False, highlight=False)
    for entry in index.studies:
        console.print(Text(f"{entry.name}: {entry.summary}", style="bold"))
        console.print(Text(f"published: {entry.main_result}"))
        console.print(Text(entry.citation))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("role")
        table.add_column("published data", max_width=24)
        table.add_column("found" if searched else "what", overflow="fold")
        for role in entry.roles:
            table.add_row(Text(_needed(role)), Text(_published(role)), Text(_found(role) if searched else role.what))
        console.print(table)
        for setting, what in entry.needs.items():
            console.print(Text(f"needs --set {setting}: {what}"))
        if entry.command:
            console.print(Text(f"{entry.command}\n"), soft_wrap=True)
    for found in index.others:
        console.print(Text(f"also found: {found.spec} ({_images(found.n_images, synthetic=found.synthetic)})"))
    if not searched:
        console.print("Use --root DIR to find these data in a folder.")


def _needed(role: RoleData) -> str:
    words = [] if role.required else ["optional"]
    if role.repeatable:
        words.append("repeatable")
    return f"{role.name}\n({', '.join(words)})" if words else role.name


def _published(role: RoleData) -> str:
    return f"{role.published}\n({_images(role.n_published)})"


def _found(role: RoleData) -> str:
    lines = [f"{found.spec} ({_images(found.n_images, synthetic=found.synthetic)})" for found in role.found]
    return "\n".join([*lines, *(f"refused: {reason}" for reason in role.refused)]) or "not found"


def _images(n: int, *, synthetic: bool = False) -> str:
    return f"{n:,} images, synthetic" if synthetic else f"{n:,} images"


def _runner(name: str) -> Callable[..., None]:
    def run(
        *,
        data: Data = None,
        out: Annotated[Path | None, typer.Option("--out", "-o", metavar="PATH", help="Where the results go.")] = None,
        published_only: Annotated[
            bool, typer.Option("--published-only", help="Only the rows of the paper, none of ours.")
        ] = False,
        settings: Set = None,
        follow_links: FollowLinks = False,
        seed: Seed = 0,
        overwrite: Overwrite = False,
        quiet: Quiet = False,
        as_json: Json = False,
    ) -> None:
        from hemalens.studies import run_study

        if not data or out is None:
            missing = [option for option, value in (("--data ROLE=SPEC", data), ("--out DIR", out)) if not value]
            remedy = f"`hemalens study {name} --help` lists the roles, `hemalens study list --root DIR` finds data."
            raise InputError(f"the study {name} needs {' and '.join(missing)}", remedy=remedy)
        talk = Talk(quiet, as_json)
        report = run_study(
            name,
            data=_by_role(data),
            out=out,
            settings=settings or [],
            published_only=published_only,
            seed=seed,
            overwrite=overwrite,
            say=talk.say,
        )
        show_report(talk, report, out)

    return run


def _summary(study: Description) -> str:
    """The summary of a study as a sentence."""
    return f"{study.summary[0].upper()}{study.summary[1:]}."


def _help(study: Description) -> str:
    """The help of a study, with a paragraph for each role and each required setting, and the command."""
    roles = []
    for role in study.roles:
        words = f"{', optional' if not role.required else ''}{', repeatable' if role.repeatable else ''}"
        roles.append(f"- {role.name}{words}: {role.what}; published: {role.published.title}.")
    data = " ".join(f"--data {role.name}={role.published.reader}:DATA" for role in study.roles if role.required)
    needs = [f"- --set {setting}: {what}." for setting, what in study.needs.items()]
    required = "".join(f" --set {setting}" for setting in study.needs)
    example = f"hemalens study {study.name} {data}{required} --out runs/{study.name}"
    blocks = [["Roles of the data:", *roles], *([["Required settings:", *needs]] if needs else []), ["Example:", example]]
    parts = ["\b\n" + "\n".join(block) for block in blocks]
    return "\n\n".join([f"{_summary(study)} The same command resumes a stopped run.", *parts])


for _name in STUDIES:
    _study = describe_study(_name)
    app.command(_name, cls=Verb, help=_help(_study), short_help=_summary(_study))(_runner(_name))
