"""Sources of bulk runs: tars, Parquet with bytes and addresses give the answers that folders give."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from bulk_in_process import InProcess
from hemalens import predict
from hemalens.bulk.listing import list_images
from hemalens.bulk.options import BulkOptions
from hemalens.bulk.predict import predict_on_ray
from hemalens.bundle.bundle import Bundle
from hemalens.errors import DatasetError, MissingExtraError


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def _tar(folder: Path, out: Path) -> Path:
    """The images of a folder as a tar in the layout of webdataset: each with its label in a file beside it."""
    out.mkdir()
    with tarfile.open(out / "cells-000.tar", "w") as tar:
        for file in _files(folder):
            for name, content in ((file.name, file.read_bytes()), (f"{file.stem}.cls", b"0")):
                member = tarfile.TarInfo(f"{file.parent.name}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out / "cells-000.tar"


def _parquet(folder: Path, out: Path, *, column: str = "image_bytes", paths: bool = True) -> Path:
    """The images of a folder in two files of several row groups."""
    out.mkdir()
    files = _files(folder)
    for number, part in enumerate((files[:20], files[20:])):
        columns = {column: [file.read_bytes() for file in part], "other": list(range(len(part)))}
        columns |= {"path": [str(file) for file in part]} if paths else {}
        parquet.write_table(pa.table(columns), out / f"{number}.parquet", row_group_size=6)
    return out


def _address(folder: Path, out: Path) -> str:
    return f"file://{folder}"


@pytest.mark.parametrize("pack", [_tar, _parquet, _address])
def test_packed_images_have_the_rows_of_files(
    pack: Callable[[Path, Path], object], bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path
) -> None:
    source = str(pack(foreign, tmp_path / "packed"))
    predict_on_ray(bundle, source, out=tmp_path / "out", options=BulkOptions(shard_size=9))
    found = pd.read_parquet(tmp_path / "out" / "rows")
    predict(bundle, foreign, out=tmp_path / "one.parquet")
    expected = pd.read_parquet(tmp_path / "one.parquet")
    names = {
        "_tar": [f"{source}/{file.parent.name}/{file.name}" for file in _files(foreign)],
        "_parquet": list(expected["path"]),
        "_address": [f"file://{path}" for path in expected["path"]],
    }
    assert list(found["path"]) == names[pack.__name__]
    assert found["error"].notna().sum() == 1
    pd.testing.assert_frame_equal(
        found.drop(columns=["path", "error"]), expected.drop(columns=["path", "error"]), rtol=1e-5
    )


def test_rows_of_parquet_without_paths_are_numbered(foreign: Path, tmp_path: Path) -> None:
    folder = _parquet(foreign, tmp_path / "packed", column="bytes", paths=False)
    names = [bytes(name).decode() for name in list_images(str(folder)).table["name"].to_pylist()]
    assert names[:2] == [f"{folder}/0.parquet/0", f"{folder}/0.parquet/1"]
    assert names[20] == f"{folder}/1.parquet/0"
    assert len(names) == 46


def test_members_that_are_no_images_are_left_out(foreign: Path, tmp_path: Path) -> None:
    listed = list_images(str(_tar(foreign, tmp_path / "packed").parent))
    assert len(listed) == len(_files(foreign)) == 46


def test_a_folder_of_images_wins_over_tars_beside_them(foreign: Path, tmp_path: Path) -> None:
    tar = _tar(foreign, tmp_path / "packed")
    (tar.parent / "a.png").write_bytes(_files(foreign)[0].read_bytes())
    listed = list_images(str(tar.parent))
    assert len(listed) == 1
    assert "left out 1 .tar or .parquet file(s) beside the images" in listed.notes[0]


def test_bytes_that_are_missing_or_damaged_are_rows(bundle: Bundle, in_process: InProcess, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"bytes": [b"torn", None]}), tmp_path / "cells.parquet")
    found = predict_on_ray(bundle, tmp_path / "cells.parquet", out=tmp_path / "out")
    errors = list(pd.read_parquet(tmp_path / "out" / "rows")["error"])
    assert found.n_unreadable == 2
    assert "cells.parquet/0' is not a readable image" in errors[0]
    assert "no bytes" in errors[1]


def test_an_image_that_vanishes_is_a_row(
    bundle: Bundle, foreign: Path, in_process: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    cells = tmp_path / "cells"
    shutil.copytree(foreign, cells)
    listed = list_images(f"file://{cells}")
    (cells / "monocyte" / "monocyte 0.png").unlink()
    monkeypatch.setattr("hemalens.bulk.predict.list_images", lambda source: listed)
    predict_on_ray(bundle, f"file://{cells}", out=tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out" / "rows").set_index("path")
    assert "does not exist" in rows.loc[f"file://{cells}/monocyte/monocyte 0.png", "error"]


def test_the_digest_follows_names_contents_and_order(foreign: Path, tmp_path: Path) -> None:
    listed = list_images(str(foreign))
    assert listed.digest() == list_images(str(foreign)).digest()
    backwards = type(listed)(listed.table.take(list(range(len(listed)))[::-1]), listed.source)
    assert backwards.digest() != listed.digest()
    assert type(listed)(listed.table.slice(0, 45), listed.source).digest() != listed.digest()


def test_what_cannot_be_listed_is_one_line(tmp_path: Path) -> None:
    cases = {
        "torn.tar": (b"x" * 700, "damaged"),
        "torn.parquet": (b"PAR1 and nothing", "damaged"),
        "cells.tar.gz": (b"", "compressed tar"),
        "empty.tar": (b"\0" * 1024, "no image"),
    }
    for name, (content, says) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=says):
            list_images(str(tmp_path / name))
    parquet.write_table(pa.table({"path": ["a.png"], "label": ["x"]}), tmp_path / "table.parquet")
    with pytest.raises(DatasetError, match=r"no column of image bytes; expected image_bytes or bytes; got path, label"):
        list_images(str(tmp_path / "table.parquet"))
    parquet.write_table(pa.table({"bytes": ["text"]}), tmp_path / "texts.parquet")
    with pytest.raises(DatasetError, match="holds no bytes"):
        list_images(str(tmp_path / "texts.parquet"))
    with pytest.raises(DatasetError, match="no image"):
        list_images(f"file://{tmp_path / 'gone'}")
    with pytest.raises(DatasetError, match="cannot read the address"):
        list_images("nonsense://cells")
    with pytest.raises(MissingExtraError, match="not installed"):
        list_images("gs://bucket/cells")


def test_an_address_in_memory_is_listed_and_read() -> None:
    import fsspec

    from hemalens.bulk.remote import read_bytes

    files = fsspec.filesystem("memory")
    for name in ("/cells/b.png", "/cells/a.png", "/cells/.hidden/c.png", "/cells/list.txt"):
        files.pipe(name, b"0123456789")
    try:
        listed = list_images("memory://cells").table
        assert listed["name"].to_pylist() == [b"memory:///cells/a.png", b"memory:///cells/b.png"]
        assert listed["size"].to_pylist() == [10, 10]
        assert read_bytes("memory:///cells/a.png", "a", offset=2, size=3) == b"234"
        assert read_bytes("memory:///cells/a.png", "a", offset=None, size=10) == b"0123456789"
    finally:
        files.rm("/cells", recursive=True)
