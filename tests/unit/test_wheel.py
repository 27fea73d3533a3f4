"""What is shipped: the wheel as hatchling builds it, without a network."""

from __future__ import annotations

import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory], cwd=ROOT, check=True)
    (path,) = directory.glob("*.whl")
    return ZipFile(path)


def _dist_info(wheel: ZipFile) -> str:
    (name,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    return name


def test_its_only_top_level_packages_are_the_library_and_the_monitor(wheel: ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()} - {_dist_info(wheel)}
    assert tops == {"loopwatch", "loopwatch_monitor"}


@pytest.mark.parametrize("package", ["loopwatch", "loopwatch_monitor"])
def test_it_is_typed(wheel: ZipFile, package: str) -> None:
    assert f"{package}/py.typed" in wheel.namelist()


@pytest.mark.parametrize(
    ("package", "source"), [("loopwatch", "loopwatch"), ("loopwatch_monitor", "monitor/loopwatch_monitor")]
)
def test_nothing_of_the_sources_is_missing(wheel: ZipFile, package: str, source: str) -> None:
    files = {path.relative_to(ROOT / source).as_posix() for path in (ROOT / source).rglob("*") if path.is_file()}
    shipped = {name.removeprefix(f"{package}/") for name in wheel.namelist() if name.startswith(f"{package}/")}
    assert shipped == {name for name in files if "__pycache__" not in name}


def test_it_needs_nothing_and_names_its_extras(wheel: ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(f"{_dist_info(wheel)}/METADATA").decode())
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required == []
    assert set(metadata.get_all("Provides-Extra", [])) >= {"sqlalchemy", "redis", "httpx", "celery", "monitor"}


def test_it_holds_the_license_and_the_commands(wheel: ZipFile) -> None:
    info = _dist_info(wheel)
    license_text = wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "Apache License" in license_text
    assert "Version 2.0, January 2004" in license_text
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "loopwatch = loopwatch.cli:main" in entry_points
    assert "monitor = loopwatch_monitor.command:main" in entry_points
