"""Folders of a manifest and files with digests: written atomically, and checked when opened; no pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import onnx
from pydantic import ValidationError

from hemalens.bundle.artifact import MANIFEST, OLDER, SCHEMA_VERSION, ArtifactManifest, FileEntry
from hemalens.bundle.self_test import measured
from hemalens.bundle.vouching import check_statement, drop_statement, with_statement
from hemalens.errors import BundleError, access_error, one_line
from hemalens.files import atomic_dir, is_regular, open_regular, parse_json, read_json, sha256_file
from hemalens.graphs.checks import is_quantised

MAX_MANIFEST_BYTES = 16_000_000
M = TypeVar("M", bound=ArtifactManifest)


def write_artifact(path: Path, manifest: ArtifactManifest, files: dict[str, bytes]) -> None:
    """Write a folder atomically; its graph gets the statement of the manifest, and the manifest its self-test.

    Raises `BundleError`, before anything is written, for an impossible manifest and a graph that does not give what it
    names, and `OutputError` when the folder cannot be written.
    """
    _validated(manifest.model_dump_json(), type(manifest), path)
    graph = parsed(files[manifest.graph_file], path)
    drop_statement(graph)
    _check_graph(path, graph, manifest)
    test = measured(graph.SerializeToString(), manifest, int8=is_quantised(graph))
    entries = {name: _entry(content) for name, content in files.items() if name != manifest.graph_file}
    stated = with_statement(graph, manifest.model_copy(update={"files": entries, "self_test": test}))
    complete = {**files, manifest.graph_file: stated}
    entries = {name: _entry(content) for name, content in complete.items()}
    final = manifest.model_copy(update={"files": entries, "self_test": test})
    with atomic_dir(path, artifact_files) as folder:
        for name, content in complete.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_text(final.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))


def parsed(content: bytes, path: Path) -> onnx.ModelProto:
    """A serialised graph, parsed; raises `BundleError`, which names the folder `path`, when it is none."""
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:
        # protobuf's error classes differ between its backends
        raise BundleError(f"the graph in {one_line(path)} cannot be parsed", got=str(error)[:120]) from error


def _check_graph(path: Path, graph: onnx.ModelProto, manifest: ArtifactManifest) -> None:
    if reason := manifest.contradiction(graph):
        raise BundleError(f"the graph in {one_line(path)} does not fit its manifest", got=reason)


def artifact_files(path: Path) -> list[str] | None:
    """The files of the bundle or segmenter in a folder; None for a folder of something else."""
    try:
        content = read_json(path / MANIFEST)
        ours = content["kind"] in ("hemalens-bundle", "hemalens-segmenter", "hemalens-detector")
        return [MANIFEST, *content["files"]] if ours else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kind_of(path: Path) -> str | None:
    """What the manifest in a folder calls itself, as "hemalens-detector"; None without one."""
    try:
        kind = read_json(path / MANIFEST)["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kind if isinstance(kind, str) else None


def open_artifact(path: Path, model: type[M]) -> M:
    """The manifest of a folder, after checking schema, sizes, digests, and that graph and manifest fit each other.

    Raises `BundleError` for a missing or damaged folder, and for another kind; `FileAccessError` without permission.
    """
    kind, needs = str(model.model_fields["kind"].default).removeprefix("hemalens-"), model.graph_file
    try:
        if not path.is_dir():
            raise BundleError(
                f"there is no {kind} folder {one_line(path)}", expected=f"a folder with {MANIFEST} and {needs}"
            )
        manifest = _read_manifest(path, model, kind)
        if needs not in manifest.files:
            raise BundleError(f"the manifest of {one_line(path)} names no {needs}")
        for name, entry in manifest.files.items():
            _check_file(path, name, entry, kind)
        with open_regular(path / needs) as file:
            graph = parsed(file.read(), path)
    except OSError as error:
        raise access_error(error) from error
    check_statement(path, graph, manifest)
    _check_graph(path, graph, manifest)
    if manifest.self_test is None:
        raise BundleError(f"the manifest of {one_line(path)} is damaged", expected="the outputs for its test image")
    return manifest


def _check_file(path: Path, name: str, entry: FileEntry, kind: str) -> None:
    file = path / name
    if Path(name).name != name or not is_regular(file):
        raise BundleError(f"{one_line(name)} of the {kind} {one_line(path)} is missing", remedy="Copy the whole folder.")
    if file.stat().st_size != entry.n_bytes or sha256_file(file) != entry.sha256:
        raise BundleError(
            f"{one_line(name)} of the {kind} {one_line(path)} is damaged",
            expected=f"{entry.n_bytes} bytes with sha256 {entry.sha256[:12]}...",
            got=f"{file.stat().st_size} bytes",
            remedy="Copy the folder again.",
        )


def _read_manifest(path: Path, model: type[M], kind: str) -> M:
    file = path / MANIFEST
    if not is_regular(file) or file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{one_line(path)} is no {kind}", expected=f"a {MANIFEST} in it")
    with open_regular(file) as handle:
        text = handle.read()
    try:
        content = parse_json(text.decode("utf-8"))
    except ValueError as error:
        raise BundleError(f"the manifest of {one_line(path)} is damaged", got=str(error)[:120]) from error
    if not isinstance(content, dict) or content.get("kind") != f"hemalens-{kind}":
        raise BundleError(f"{one_line(path)} is no hemalens {kind}", expected=f'"kind": "hemalens-{kind}" in its manifest')
    _check_version(path, kind, content.get("schema_version"))
    return _validated(text, model, path)


def _validated(text: str | bytes, model: type[M], path: Path) -> M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == OLDER:
            raise BundleError(
                f"the bundle {one_line(path)} is older than this program",
                expected=first["msg"],
                remedy="Train or adapt it again.",
            ) from error
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"the manifest of {one_line(path)} is damaged",
            expected=first["msg"].removeprefix("Value error, "),
            got=f"key {key!r}" if key else "something else",
        ) from error


def _check_version(path: Path, kind: str, version: Any) -> None:
    if not isinstance(version, int) or version == SCHEMA_VERSION:
        return
    older = version < SCHEMA_VERSION
    raise BundleError(
        f"the {kind} {one_line(path)} is {'older' if older else 'newer'} than this program",
        expected=f"schema version {SCHEMA_VERSION}",
        got=str(version),
        remedy="Train or adapt it again." if older else "Upgrade hemalens.",
    )
