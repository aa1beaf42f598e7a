"""Manifest and graph vouch for each other: what a manifest says also lies in its graph, and is compared on opening."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from hemalens.bundle.artifact import MANIFEST, ArtifactManifest
from hemalens.errors import BundleError, one_line
from hemalens.files import parse_json, sha256_text

KEY = "hemalens"
"""The entry of a graph's metadata that holds the statement."""
MOST_SHOWN = 80
"""Characters of a value in an error."""
REMEDY = "Copy the whole folder again, or make it again; a manifest cannot be edited."


def statement(manifest: ArtifactManifest) -> dict[str, Any]:
    """What a graph keeps of its manifest.

    "stated" holds the fields that say what the outputs mean, and the digests of the other files; "digests" has one of each
    remaining field.
    """
    fields = json.loads(manifest.model_dump_json())
    files = {name: entry["sha256"] for name, entry in fields.pop("files").items() if name != manifest.graph_file}
    stated = {name: fields.pop(name) for name in manifest.stated}
    known = {name: value for name, value in fields.items() if value is not None or name not in manifest.unstated}
    digests = {name: sha256_text(json.dumps(value, sort_keys=True)) for name, value in known.items()}
    return {"stated": {**stated, "files": files}, "digests": digests}


def with_statement(graph: onnx.ModelProto, manifest: ArtifactManifest) -> bytes:
    """The graph with the statement of its manifest, serialised."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    drop_statement(model)
    model.metadata_props.add(key=KEY, value=json.dumps(statement(manifest), sort_keys=True))
    return bytes(model.SerializeToString())


def drop_statement(model: onnx.ModelProto) -> None:
    """Remove the statement from a graph, in place: a graph made from it belongs to another manifest."""
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)


def check_statement(path: Path, graph: onnx.ModelProto, manifest: ArtifactManifest) -> None:
    """Raise `BundleError` unless the statement in the graph is that of the manifest; the error names the first field."""
    found = _read(path, graph)
    for part, expected in statement(manifest).items():
        given = found[part]
        for name in sorted(expected.keys() | given.keys()):
            if name not in expected or name not in given or expected[name] != given[name]:
                kept, read = _shown(*_differing(given.get(name, "nothing"), expected.get(name, "nothing")))
                raise BundleError(
                    f"the {MANIFEST} of {one_line(path)} does not fit its graph",
                    expected=f"{name}: {kept}, as in the graph",
                    got=read,
                    remedy=REMEDY,
                )


def _read(path: Path, graph: onnx.ModelProto) -> dict[str, dict[str, Any]]:
    """The statement in a graph; raises `BundleError` where there is none, or more than one."""
    values = [entry.value for entry in graph.metadata_props if entry.key == KEY]
    try:
        (text,) = values
        found = parse_json(text)
        if set(found) == {"stated", "digests"} and all(isinstance(part, dict) for part in found.values()):
            return dict(found)
    except (ValueError, TypeError):
        pass
    raise BundleError(
        f"the graph in {one_line(path)} does not name its manifest",
        expected=f"what the manifest says, in its metadata {KEY!r}",
        got="nothing" if not values else "something else",
        remedy=REMEDY,
    )


def _differing(first: Any, second: Any) -> tuple[Any, Any]:
    """Two values, of mappings only what differs."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return first, second
    names = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    only = [{name: each[name] for name in sorted(names) if name in each} for each in (first, second)]
    return only[0] or "nothing", only[1] or "nothing"


def _shown(*values: Any) -> list[str]:
    """Values on one line each, of long ones the place where they differ."""
    texts = [_text(value) for value in values]
    same = next((i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    start = max(0, same - MOST_SHOWN // 4) if max(map(len, texts)) > MOST_SHOWN else 0
    shown = [text[start : start + MOST_SHOWN] for text in texts]
    return [
        f"{'...' if start else ''}{part}{'...' if len(text) > start + MOST_SHOWN else ''}"
        for part, text in zip(shown, texts, strict=True)
    ]


def _text(value: Any) -> str:
    """The codes of a list of classes, with their entries behind; otherwise the JSON of a value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if isinstance(value, list) and value and all(isinstance(part, dict) and "code" in part for part in value):
        return f"{', '.join(str(part['code']) for part in value)}: {text}"
    return text
