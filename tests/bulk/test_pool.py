"""Runs on Ray itself: the same rows, failures as lines, lost workers and nodes, a killed driver."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from command import Command
from hemalens import predict
from hemalens.bulk.folder import version
from hemalens.bulk.options import BulkOptions
from hemalens.bulk.pool import MOST_STARTS, Actor, run_units
from hemalens.bulk.predict import predict_on_ray
from hemalens.bundle.bundle import Bundle
from hemalens.errors import HemalensError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
"""Ray warns of its own settings when it is first imported."""

pytest.importorskip("ray")

COPIES = 12
"""Copies of the foreign images for the slow tests: 552 rows."""


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _expected(bundle: Bundle, source: Path, folder: Path) -> pd.DataFrame:
    predict(bundle, source, out=folder / "one.parquet")
    return pd.read_parquet(folder / "one.parquet")


@pytest.mark.usefixtures("ray_here")
def test_ray_gives_the_rows_of_one_machine(bundle: Bundle, foreign: Path, tmp_path: Path, hemalens: Command) -> None:
    command = ("predict", bundle.path, foreign, "--out", tmp_path / "out", "--engine", "ray", "--shard-size", "7")
    ended = hemalens(*command, "--n-actors", "2")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith(f"46 rows in {tmp_path / 'out'}: ")
    assert "unreadable: 1, first: " in ended.out
    found = pd.read_parquet(tmp_path / "out" / "rows")
    pd.testing.assert_frame_equal(found, _expected(bundle, foreign, tmp_path), rtol=1e-5)
    again = hemalens(*command)
    assert again.code == 2
    assert "holds this run, finished" in again.error


@pytest.mark.usefixtures("ray_here")
def test_a_failure_on_an_actor_is_one_line(
    bundle: Bundle, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is gone by the time the actors open it."""
    broken = tmp_path / "bundle"
    shutil.copytree(bundle.path, broken)
    monkeypatch.setattr("hemalens.bulk.predict.write_list", lambda *given: shutil.rmtree(broken))
    with pytest.raises(InputError, match=r"has no folder .*bundle.*; expected a disk that all machines share"):
        predict_on_ray(broken, foreign, out=tmp_path / "out", options=BulkOptions(shard_size=7, n_actors=1))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_worker_that_is_killed_loses_nothing(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    from hemalens.bulk import predict as verb

    many = _many(foreign, tmp_path / "many", 4)
    killed: list[int] = []
    run_units = verb.run_units

    def killing(*given: object, advance: Callable[[int], None], **more: object) -> None:
        def told(n: int) -> None:
            advance(n)
            if not killed:
                killed.extend(_actors()[:1])
                os.kill(killed[0], signal.SIGKILL)

        run_units(*given, advance=told, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "run_units", killing)
        predict_on_ray(bundle, many, out=tmp_path / "out", options=BulkOptions(shard_size=3))
    assert len(killed) == 1
    found = pd.read_parquet(tmp_path / "out" / "rows")
    pd.testing.assert_frame_equal(found, _expected(bundle, many, tmp_path), rtol=1e-5)


def _actors() -> list[int]:
    """Process numbers of this process's actors, at work or not: below its raylet, by the names that Ray gives them."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
            except (OSError, IndexError):
                continue

    def ours(number: int) -> bool:
        while number > 1 and number != os.getpid():
            number = parents.get(number, 0)
        return number == os.getpid()

    return sorted(number for number, name in names.items() if name.startswith("ray::MapWorker") and ours(number))


def _many(source: Path, folder: Path, copies: int) -> Path:
    for number in range(copies):
        shutil.copytree(source, folder / f"{number:02d}")
    return folder


def test_a_unit_that_ends_its_worker_again_and_again_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from hemalens.bulk import pool

    class Dying:
        def __init__(self, task: object) -> None: ...

        def run(self, number: int) -> int:
            raise KeyboardInterrupt  # what ends a worker is no exception that it could report

    monkeypatch.setitem(pool.WORKERS, "predict", Dying)
    actor = Actor({"job": "predict", "folder": str(tmp_path), "version": version()})
    for _ in range(MOST_STARTS):
        with pytest.raises(KeyboardInterrupt):
            actor(pa.table({"unit": [3]}))
    (row,) = actor(pa.table({"unit": [3]})).to_pylist()
    assert row["failure"] == f"unit 3 has ended its worker {MOST_STARTS} times, as without memory"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ObjectStoreFullError", "no room left in its object store, or on the disk behind it. Free memory"),
        ("OutOfDiskError", "no room left in its object store"),
        ("RaySystemError", "the run on Ray has failed; got RaySystemError: .* Run the same command again"),
    ],
)
def test_what_goes_wrong_in_ray_is_one_line(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class NoRay:
        """A Ray whose data raises this error."""

        exceptions = ray.exceptions

        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 1.0}

    class Failing:
        def map_batches(self, *given: object, **more: object) -> Failing:
            return self

        def iter_batches(self, **more: object) -> object:
            raise getattr(ray.exceptions, name)("a first line\nand the last one")

    monkeypatch.setattr("ray.data.from_arrow", lambda blocks: Failing())
    task = {"job": "predict", "folder": str(tmp_path)}
    with pytest.raises(HemalensError, match=says) as raised:
        run_units(NoRay, task, [0], n_actors=None, advance=lambda n: None)
    assert "\n" not in str(raised.value)


def test_a_cluster_without_processors_is_named(tmp_path: Path) -> None:
    from types import SimpleNamespace

    idle = SimpleNamespace(cluster_resources=dict)
    with pytest.raises(InputError, match="no processor for actors"):
        run_units(idle, {"job": "predict", "folder": str(tmp_path)}, [0], n_actors=None, advance=lambda n: None)


def test_another_version_on_a_node_is_named(tmp_path: Path) -> None:
    import pyarrow as pa

    (row,) = Actor({"job": "predict", "folder": str(tmp_path), "version": "0.0.1"})(pa.table({"unit": [0]})).to_pylist()
    assert "expected 0.0.1" in row["failure"]


RUN = """
import sys
from pathlib import Path
from hemalens.bulk.folder import version
from hemalens.bulk.options import BulkOptions
from hemalens.bulk.predict import predict_on_ray
predict_on_ray(sys.argv[1], sys.argv[2], out=sys.argv[3], options=BulkOptions(shard_size=6, n_actors=2))
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_whole_shards_and_resumes(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    many = _many(foreign, tmp_path / "many", COPIES)
    out = tmp_path / "out"
    rows = out / ".new" / "rows"
    command = [sys.executable, "-c", RUN, str(bundle.path), str(many), str(out)]
    with subprocess.Popen(command) as driver:
        deadline = time.monotonic() + 120
        while len(list(rows.glob("part-*.parquet")) if rows.exists() else []) < 5:
            assert time.monotonic() < deadline
            assert driver.poll() is None, "the run has ended before it could be killed"
            time.sleep(0.02)
        driver.kill()
    time.sleep(2)  # its actors end with it
    kept = {path.name: path.stat().st_mtime_ns for path in rows.glob("part-*.parquet")}
    assert 5 <= len(kept) < COPIES * 46 // 6
    assert not (out / "manifest.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.bulk.predict.revise", lambda *given, **more: None)
        predict_on_ray(bundle, many, out=out, options=BulkOptions(shard_size=6, n_actors=2))
    assert {name: (out / "rows" / name).stat().st_mtime_ns for name in kept} == kept
    paths = list(pd.read_parquet(out / "rows")["path"])
    assert paths == [str(path) for path in sorted(many.rglob("*.png"))]


NODES = """
import json, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from hemalens.bulk import predict as verb
from hemalens.bulk.cluster import silent
from hemalens.bulk.folder import version
from hemalens.bulk.options import BulkOptions

node = {"num_cpus": 1, "object_store_memory": 80_000_000}
with silent():
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    run_units, done = verb.run_units, []

    def killing(*given, advance, **more):
        def told(n):
            advance(n)
            done.append(n)
            if len(done) == 12:
                cluster.remove_node(second, allow_graceful=False)
        run_units(*given, advance=told, **more)

    verb.run_units = killing
    verb.predict_on_ray(
        sys.argv[1], sys.argv[2], out=sys.argv[3], options=BulkOptions(cluster.address, shard_size=6, n_actors=2)
    )
    cluster.shutdown()
print(json.dumps(len(done)))
"""


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    many = _many(foreign, tmp_path / "many", COPIES)
    command = [sys.executable, "-c", NODES, str(bundle.path), str(many), str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == COPIES * 46 // 6
    found = pd.read_parquet(tmp_path / "out" / "rows")
    pd.testing.assert_frame_equal(found, _expected(bundle, many, tmp_path), rtol=1e-5)
