"""Finds the parity folder, makes one test a known component, and lists unknown ones at the end of the run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # checks import `components` and `fill` by name

import components  # noqa: E402

components.load_checks()


def parity_folder(config: pytest.Config) -> Path:
    """The folder given by --parity-dir, or the components kept beside the tests."""
    return Path(config.getoption("--parity-dir", default=None) or components.DATA)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "component" in metafunc.fixturenames:
        folder = parity_folder(metafunc.config)
        if not folder.is_dir():
            raise pytest.UsageError(f"--parity-dir: no folder {folder}")
        known, unknown = components.sort_components(folder)
        if not known and not unknown:
            raise pytest.UsageError(f"--parity-dir: no components in {folder} (looked for <system>/<name>.json)")
        metafunc.parametrize("component", known, indirect=True)


@pytest.fixture
def component(request: pytest.FixtureRequest) -> components.Component:
    return components.Component(parity_folder(request.config), request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    folder = parity_folder(config)
    if folder.is_dir():
        known, unknown = components.sort_components(folder)
        terminalreporter.section("parity", sep="-")
        terminalreporter.write_line(f"{len(known)} components have a test, {len(unknown)} have none ({folder})")
        for name in unknown:
            terminalreporter.write_line(f"no test knows: {name}")
