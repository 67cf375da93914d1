"""Parity components: numbers made by published code, in files `<system>/<name>.json` and `.npz`.

The json says what the numbers are, the tolerance and the shapes of the published state dict; the npz holds arrays
`in_*` and `out_*`. A check is a function of one component, filed under a pattern of names by `@checks("system/kind*")`
in a file of `checks/`. A component that no pattern matches is unknown: it is listed and gets no test.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
DATA = HERE / "data"


class Component:
    """One component: its json as `meta`, its arrays by `component["in_x"]`, and comparison of our outputs with it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            self.arrays: dict[str, NDArray[Any]] = {key: arrays[key] for key in arrays.files}
        self.compared: set[str] = set()

    def __getitem__(self, key: str) -> NDArray[Any]:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def outputs(self, pattern: str = ".*") -> list[re.Match[str]]:
        """The matches of `out_<pattern>` among array names, in the file's order."""
        matches = (re.fullmatch(f"out_(?:{pattern})", key) for key in self.arrays)
        return [match for match in matches if match]

    @property
    def text(self) -> str:
        """All that the json says in words: parameters are read from there."""
        return " ".join(str(self.meta.get(key, "")) for key in ("what", "call", "notes"))

    def number(self, pattern: str, default: float | None = None) -> float:
        """The first group of `pattern` in the json's words, as a number."""
        found = re.search(pattern, self.text)
        if found is None and default is None:
            raise AssertionError(f"{self.name}: the json does not say {pattern!r}")
        return float(found[1]) if found else float(default or 0.0)

    @property
    def tolerance(self) -> tuple[float, float]:
        """(rtol, atol) as the json gives them: a number is both, "exact" is zero."""
        stated = self.meta["tolerance"]
        if isinstance(stated, int | float):
            return float(stated), float(stated)
        if isinstance(stated, dict):
            return float(stated.get("rtol", 0.0)), float(stated.get("atol", 0.0))
        found = {kind: float(value) for kind, value in re.findall(r"\b([ar]tol) ([\d.]+(?:e-?\d+)?)", stated)}
        return found.get("rtol", 0.0), found.get("atol", 0.0)

    def compare(self, key: str, ours: Any, *, rtol: float | None = None, atol: float | None = None) -> None:
        """Fail unless `ours` is the array `key` within the tolerance."""
        self.compared.add(key)
        stated = self.tolerance
        ours = np.asarray(ours.detach().cpu().numpy() if hasattr(ours, "detach") else ours)
        expected = self.arrays[key]
        if ours.size == expected.size == 1:
            ours = ours.reshape(expected.shape)  # scalars are stored as () and as (1,)
        np.testing.assert_allclose(
            ours,
            expected,
            rtol=stated[0] if rtol is None else rtol,
            atol=stated[1] if atol is None else atol,
            err_msg=f"{self.name}: {key}",
        )

    def settle(self, key: str) -> None:
        """Say that an output was looked at by other means than `compare`."""
        self.compared.add(key)

    def left(self) -> list[str]:
        """Outputs that nothing was compared with."""
        return [key for key in self.arrays if key.startswith("out_") and key not in self.compared]


Check = Callable[[Component], None]
CHECKS: dict[str, Check] = {}


def checks(*patterns: str) -> Callable[[Check], Check]:
    """Decorator: file a check under patterns of component names, e.g. "adaptive/loss_kd*"."""

    def decorate(check: Check) -> Check:
        for pattern in patterns:
            if pattern in CHECKS:
                raise ValueError(f"two parity checks for {pattern!r}")
            CHECKS[pattern] = check
        return check

    return decorate


def find_check(name: str) -> Check | None:
    """The check of a component: that of the longest pattern that matches its name."""
    patterns = [pattern for pattern in CHECKS if fnmatch.fnmatchcase(name, pattern)]
    return CHECKS[max(patterns, key=len)] if patterns else None


def component_names(folder: Path) -> list[str]:
    """All components in a folder, `<system>/<name>`, sorted. Other files beside them are no components."""
    files = [file for file in folder.glob("*/*.json") if file.with_suffix(".npz").exists() or not _is_side_file(file)]
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def _is_side_file(file: Path) -> bool:
    """A json that only accompanies a component, and describes no arrays of its own."""
    content = json.loads(file.read_text())
    return not (isinstance(content, dict) and "tolerance" in content)


def sort_components(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the components in a folder that a check knows, and of those that none knows."""
    names = component_names(folder)
    known = [name for name in names if find_check(name)]
    return known, [name for name in names if name not in known]


def load_checks() -> Iterable[ModuleType]:
    """Import every file of `checks/`; each files its checks. Again is harmless."""
    modules = []
    for file in sorted((HERE / "checks").glob("*.py")):
        name = f"parity_checks_{file.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        modules.append(sys.modules[name])
    return modules
