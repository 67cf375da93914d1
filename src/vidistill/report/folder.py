"""Read a run folder leniently: whatever is absent or damaged is noted, never raised.

A report is most wanted when something went wrong, so a run that stopped midway, a half-written history line or a
damaged JSON file must still give a page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidistill.core.errors import DataError

DOCUMENTS = {
    "results": "results.json",
    "data": "data.json",
    "audit": "audit.json",
    "selection": "selection.json",
    "export": "export/export.json",
    "environment": "environment.json",
    "stages": "stages.json",
}


@dataclass(frozen=True)
class RunFolder:
    """One run as it lies on disk.

    Attributes:
        path: The folder.
        documents: Parsed JSON objects by the keys of `DOCUMENTS`; absent or damaged ones are left out.
        damaged: Why a document that exists could not be read, by the same keys.
        histories: Epoch records of each trained model, in epoch order, by model key (`alone-seed0`, ...).
        networks: `network.json` of each model by model key.
        recipe: Text of the resolved recipe, or None.
    """

    path: Path
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipe: str | None = None

    @property
    def name(self) -> str:
        """The folder's own name, which names the run."""
        return self.path.name or str(self.path)

    def document(self, key: str) -> dict[str, Any]:
        """The parsed document, or an empty one."""
        return self.documents.get(key, {})


def read_run(path: Path) -> RunFolder:
    """Read what a run folder holds.

    Args:
        path: The run folder.

    Raises:
        DataError: `path` is not a folder.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        raise DataError("there is no such run folder", where=str(path), todo="Give a folder that `vidistill run` made.")
    run = RunFolder(path=path, recipe=_text(path / "recipe.yaml"))
    for key, relative in DOCUMENTS.items():
        _read_document(run, key, path / relative)
    models = path / "models"
    for folder in sorted(models.iterdir()) if models.is_dir() else ():
        epochs = _history(folder / "history.jsonl")
        if epochs:
            run.histories[folder.name] = epochs
        network = _parse(_text(folder / "network.json"))
        if network is not None:
            run.networks[folder.name] = network
    return run


ARCHIVED = ("results", "data", "environment")
"""Documents that `docs/results/` keeps of a run, beside its recipe: what its table is made of."""


def write_archive(run: RunFolder, folder: Path) -> Path:
    """Keep what a run's table is made of in one small file, `<folder>/<run>.json`, beside and renamed."""
    kept = {key: run.documents[key] for key in ARCHIVED if key in run.documents}
    if "results" in kept:  # confusion matrices and such are the report's, not the table's
        kept["results"] = {
            k: v for k, v in kept["results"].items() if k not in ("confusion", "reliability", "timelines")
        }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.name}.json"
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps({"recipe": run.recipe, **kept}, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
    return path


def read_archive(path: Path) -> RunFolder:
    """What `write_archive` kept.

    Raises:
        DataError: it is no such file.
    """
    parsed = _parse(_text(path))
    if parsed is None or not isinstance(parsed.get("results"), dict):
        raise DataError("not a kept result", where=str(path), todo="Write it with: vidistill results RUN --keep FOLDER")
    documents = {key: parsed[key] for key in ARCHIVED if isinstance(parsed.get(key), dict)}
    return RunFolder(path.with_suffix(""), documents=documents, recipe=parsed.get("recipe"))


def _read_document(run: RunFolder, key: str, path: Path) -> None:
    text = _text(path)
    if text is None:
        return
    parsed = _parse(text)
    if parsed is None:
        run.damaged[key] = f"{DOCUMENTS[key]} is damaged (not a JSON object)"
    else:
        run.documents[key] = parsed


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _parse(text: str | None) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text) if text is not None else None
    except (json.JSONDecodeError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _history(path: Path) -> list[dict[str, Any]]:
    """Epoch records; the last record of an epoch wins, because a resumed run may write an epoch again."""
    epochs: dict[int, dict[str, Any]] = {}
    for line in (_text(path) or "").splitlines():
        record = _parse(line)
        if record is not None and record.get("kind", "epoch") == "epoch" and isinstance(record.get("epoch"), int):
            epochs[record["epoch"]] = record
    return [epochs[number] for number in sorted(epochs)]
