"""What every test may rely on: the real images or a skip, a cache of its own, bounded hypothesis runs, no network."""

import gc
import os
import shutil
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Slow, shared cores: a time limit an example would fail tests for the machine's load, never for the code.
settings.register_profile(
    "hemalens",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# `pytest --hypothesis-profile long FILE` looks for faults with other examples at each call.
settings.register_profile("long", settings.get_profile("hemalens"), max_examples=2_000, derandomize=False, database=None)
settings.load_profile("hemalens")

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the millions of objects that importing torch and its like leaves out of every garbage collection: a sixth of
    the time. What the tests themselves leave is collected as ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images (env HEMALENS_DATA, else ../shared/data); skips where it is missing."""
    folder = Path(os.environ.get("HEMALENS_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"the real images are not in {folder}; name their folder in the variable HEMALENS_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache, and the user's cache out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEMALENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_folders_left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _own_cache: None
) -> Iterator[None]:
    """Remove the temporary folders of a module's fixtures with it, unless a test of it has failed.

    So fixtures of a wider scope take a folder below `getbasetemp()` instead of one by `mktemp`.
    """
    made: list[Path] = []
    make, n_failed = tmp_path_factory.mktemp, request.session.testsfailed

    def mktemp(basename: str, numbered: bool = True) -> Path:
        made.append(make(basename, numbered))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tmp_path_factory, "mktemp", mktemp)
        yield
    if request.session.testsfailed == n_failed:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Reports with empty figures, for tests that look at none."""
    import trained

    with trained.undrawn():
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines: what needs the network must not pass here by having one."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test connects to {address!r}; tests run without a network")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", refuse)
