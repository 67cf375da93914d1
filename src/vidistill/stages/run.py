"""A run: a recipe bound to a folder, and the parts that several stages need, made once from the recipe."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

import vidistill
from vidistill.core import recipe as schema
from vidistill.core.errors import RecipeError, StoreError
from vidistill.core.progress import console, progress
from vidistill.core.recipe import FUSED, Recipe, dump_recipe
from vidistill.core.registry import check_options, nearest
from vidistill.core.seeds import integer_seed
from vidistill.curricula import build_curriculum
from vidistill.curricula.interruption import Interruption
from vidistill.data.batches import SEVERAL, Input, ViewDataset
from vidistill.data.class_splits import by_class, check_disjoint
from vidistill.data.formats import FORMATS, MADE
from vidistill.data.joint import Joint
from vidistill.data.manifest import Manifest, carve_validation, check
from vidistill.data.prepare import ModalitySource, prepare, store_hash
from vidistill.data.steps import Steps
from vidistill.data.store import ClipStore, Store
from vidistill.data.streams import StreamPlan, Streams
from vidistill.data.views import ViewPolicy
from vidistill.modalities import MODALITIES, SignalAbsent
from vidistill.modalities.base import content_digest
from vidistill.models import NETWORKS, Network, build_network
from vidistill.models.multimodal import MULTIMODAL
from vidistill.tasks import TASKS, Task

VIEW_SEED = 0
"""Views are shared by all seeds of a run, so that one cache of teacher outputs serves them all."""


class Run:
    """A recipe and its folder. Parts are made when first asked for."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator | None = None) -> None:
        self.recipe = recipe
        self.folder = recipe.runs / recipe.name
        self._stored: dict[str, Input] = {}
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.accelerator = accelerator or Accelerator(
            cpu=not torch.cuda.is_available(),  # or torchrun without a GPU would start processes that do not meet
            log_with=list(recipe.track) or None,
            project_dir=str(self.folder),
        )

    def variant(self, name: str) -> Run:
        """The same run as one of the recipe's variants has it: same folder, same prepared clips."""
        run = Run(self.recipe.variant(name), self.accelerator)
        for part in ("manifest", "prepared", "store", "task", "policy"):
            setattr(run, part, getattr(self, part))
        return run

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.accelerator.is_main_process)

    def say(self, text: str) -> None:
        """A line for the user, from the main process."""
        if self.main:
            console.print(text)

    @cached_property
    def manifest(self) -> Manifest:
        """The clips, with a validation part carved from train where the data has none."""
        data = self.recipe.data
        reader = FORMATS.get(data.format, where="data.format")
        if not data.root.exists() and data.format not in MADE:
            raise RecipeError(f"no such folder: {data.root}", where="data.root", todo="Set data.root=/path/to/the/set")
        with self.accelerator.main_process_first():  # it may make the set
            manifest = reader(data.root, **check_options(reader, data.options, "data", skip=1))
        if data.split_by_class is not None:
            manifest = by_class(manifest, **check_options(by_class, data.split_by_class, "data.split_by_class", skip=1))
        disjoint = self.recipe.task.name == "fewshot"
        if disjoint:
            check_disjoint(manifest, (self.recipe.task.heads or manifest.heads)[0])
        for warning in check(manifest, self.recipe.task.heads, new_classes=disjoint):
            self.say(f"[yellow]note[/yellow] {warning}")
        if data.validation > 0 and not disjoint:
            manifest = carve_validation(manifest, data.validation, data.split_seed, data.validation_by)
        return manifest

    @cached_property
    def modality_sources(self) -> dict[str, ModalitySource]:
        """How each modality that some input reads is loaded or derived."""
        wanted = {item.modality or name for name, item in self.recipe.modalities.items() if not item.of}
        for name in self.recipe.prepare.sources:
            if name not in wanted and name not in MODALITIES:
                hint = nearest(name, wanted)
                raise RecipeError(f"unknown modality {name!r}", where="prepare.sources", todo=hint)
        sources = {name: self._source(name) for name in sorted(wanted)}
        if "rgb" not in sources and any(source.derive for source in sources.values()):
            sources["rgb"] = self._source("rgb", store=False)
        return sources

    def _source(self, name: str, store: bool = True) -> ModalitySource:
        modality = MODALITIES.get(name, where="modalities")
        options, derived = self.source_options(name)
        derive = functools.partial(modality.derive, options=options) if derived else None
        load = functools.partial(modality.load, options=options)
        return ModalitySource(name, load, derive, options.provenance(), store, absent=(SignalAbsent,))

    def source_options(self, name: str) -> tuple[Any, bool]:
        """A modality's prepare options, and whether clips without a source of it get it derived (key `derive`)."""
        modality = MODALITIES.get(name, where="modalities")
        place = f"prepare.sources.{name}"
        section = dict(self.recipe.prepare.sources.get(name, {}))
        derived = section.pop("derive", modality.derived_unasked)
        if derived and not modality.derivable:
            raise RecipeError("this modality cannot be derived from RGB", where=f"{place}.derive", todo="Remove it")
        return modality.Source(**check_options(modality.Source, section, place)), bool(derived)

    @cached_property
    def store_folder(self) -> Path:
        """Where the prepared data lies; named by what decides it and shared by all runs of the `runs` folder."""
        key = store_hash(self.manifest, self.modality_sources, min_frames=self.recipe.prepare.min_frames)
        return self.recipe.runs / "prepared" / f"{self.recipe.data.format}-{key[:12]}"

    @cached_property
    def store(self) -> ClipStore:
        """The prepared clips, or the streams that they are put together as; prepared now where they are not yet."""
        plan = self.recipe.data.streams
        if plan is None:
            return self.prepared
        return Streams(self.prepared, StreamPlan(**check_options(StreamPlan, plan, "data.streams")))

    @cached_property
    def prepared(self) -> Store:
        """The prepared clips themselves."""
        section = self.recipe.prepare
        if self.main:
            with progress("prepare", len(self.manifest.clips)) as counter:
                prepare(
                    self.manifest,
                    self.store_folder,
                    self.modality_sources,
                    workers=section.workers,
                    skip_limit=section.skip_limit,
                    min_frames=section.min_frames,
                    progress=lambda done, total: counter.advance(done - counter.done),
                )
        self.accelerator.wait_for_everyone()
        return Store.open(self.store_folder)

    @cached_property
    def policy(self) -> ViewPolicy:
        """How views are drawn."""
        return ViewPolicy(**check_options(ViewPolicy, self.recipe.views, "views"))

    @cached_property
    def task(self) -> Task:
        """The task over the store's classes."""
        heads = self.recipe.task.heads or tuple(self.store.classes)
        for head in heads:
            if head not in self.store.classes:
                hint = nearest(head, self.store.classes)
                raise RecipeError(f"the data has no label {head!r}", where="task.heads", todo=hint)
        classes = {head: len(self.store.classes[head]) for head in heads}
        part = TASKS.get(self.recipe.task.name, where="task")
        return part(classes, **check_options(part, self.recipe.task.options, "task", skip=1))

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Names of the task's classes by head, in the order of the logits."""
        return self.task.names(self.store.classes)

    @property
    def shown_views(self) -> int:
        """How many distinct training views of a clip students are shown."""
        schedule = self.recipe.schedule_of(self.recipe.student)
        shown = schedule.epochs * schedule.views_per_epoch
        return min(schedule.views or shown, shown)

    @cached_property
    def surveys(self) -> tuple[Interruption, ...]:
        """How the views of the curriculum's surveys are interrupted; their numbers follow those of the shown views."""
        section = self.recipe.curriculum
        epochs = self.recipe.schedule_of(self.recipe.student).epochs
        return build_curriculum(section.name, np.arange(1), 0, epochs, section.options).surveys

    def input(self, name: str) -> Input:
        """One network input of the recipe."""
        if name.startswith(FUSED):
            return self._fused(name)
        section = self.recipe.modalities[name]
        if section.of:
            return self._joint(name, section.of)
        modality = section.modality or name
        kind = MODALITIES.get(modality, where=f"modalities.{name}")
        encoding = kind(**check_options(kind, section.options, f"modalities.{name}")).with_frames(self.policy.frames)
        known = modality in self.store.modalities
        have = np.flatnonzero(self.store.present(modality)) if known else np.zeros(0, np.int64)
        if not len(have):
            raise RecipeError(
                f"no clip has the modality {modality!r}", where=f"modalities.{name}", todo="Leave this input out"
            )
        encoding = encoding.fitted(self.store.signal(int(have[0]), modality))
        return Input(name, modality, encoding if self.policy.steps == 1 else Steps(encoding, self.policy.steps))

    def _joint(self, name: str, parts: Sequence[str]) -> Input:
        """The input made of several others."""
        if self.policy.steps > 1:
            raise RecipeError("windows of untrimmed clips are seen by one input", where=f"modalities.{name}.of")
        inputs = tuple(self.input(part) for part in parts)
        return Input(name, SEVERAL.join(item.modality for item in inputs), Joint(inputs))

    def _fused(self, name: str) -> Input:
        """The input of a teacher that fuses others; made once, since it opens their stored frames."""
        from vidistill.stages.fusion import fused_input  # it needs runs itself

        if name not in self._stored:
            self._stored[name] = fused_input(self, name)
        return self._stored[name]

    def dataset(
        self, inputs: Iterable[str], train: bool, presence: Iterable[str] = (), without: Sequence[str] = ()
    ) -> ViewDataset:
        """Training or test views with these inputs; of `presence` only whether clips have them.

        Modalities of `without` are taken for missing in all clips.
        """
        named = {name: self.input(name).modality for name in presence}
        seed = VIEW_SEED if train else None
        labeller = self.task.labeller(self.store, self.policy)
        wanted = [self.input(n) for n in dict.fromkeys(inputs)]
        interruptions = {self.shown_views + k: each for k, each in enumerate(self.surveys)} if train else {}
        return ViewDataset(self.store, wanted, self.policy, seed, named, labeller, interruptions, without)

    def network(self, section: schema.Network, seed: int, where: str) -> Network:
        """A new network of the recipe; the same seed gives the same initial weights."""
        if isinstance(section, schema.Teacher) and section.of:
            from vidistill.stages.fusion import fused_network  # it needs runs itself

            torch.manual_seed(integer_seed(seed, "network"))
            return fused_network(self, section, where)  # type: ignore[return-value]
        encoding, options = self.input(section.input).encoding, section.options
        if isinstance(encoding, Joint):
            if section.network != MULTIMODAL:
                raise RecipeError(
                    f"network {section.network!r} sees one input, {section.input!r} is made of several",
                    where=where,
                    todo=f"Choose network: {MULTIMODAL}",
                )
            options = {**options, "shapes": encoding.shapes}
        torch.manual_seed(integer_seed(seed, "network"))
        return build_network(section.network, encoding.shape, self.task.classes, options, where=where)

    def key_of(self, section: schema.Network, schedule: schema.Schedule) -> dict[str, Any]:
        """What a network trained by this recipe depends on, short of its seed."""
        heads = self.recipe.task.heads
        return {
            "store": self.store.hash,
            "input": self.describe_input(section.input),
            "network": [section.network, self.network_options(section)],
            "views": self.policy.key(),
            "schedule": training_key(schedule),
            "task": {"name": self.recipe.task.name, **self._task_options(), **({"heads": heads} if heads else {})},
        }

    def _task_options(self) -> dict[str, Any]:
        """The task's options, with the content of files of episodes in place of their names."""
        options = self.recipe.task.options
        if not options.get("episode_files"):
            return options
        return {**options, "episode_files": {k: content_digest(Path(v)) for k, v in options["episode_files"].items()}}

    def network_options(self, section: schema.Network) -> dict[str, Any]:
        """A network's options with its defaults filled in, as JSON."""
        if isinstance(section, schema.Teacher) and section.of:
            return {"of": list(section.of), **section.options}
        builder = NETWORKS.get(section.network)
        options = check_options(builder, section.options, f"network {section.network!r}", skip=2)
        described: dict[str, Any] = json.loads(json.dumps(options, default=str))
        return with_digests(described)

    def describe_input(self, name: str) -> dict[str, Any]:
        """An input as JSON: its modality and every option of its encoding."""
        if name.startswith(FUSED):
            of = self.recipe.teachers[name.removeprefix(FUSED)].of
            return {"of": {member: self.describe_input(self.recipe.teachers[member].input) for member in of}}
        item = self.input(name)
        if isinstance(item.encoding, Joint):
            parts = {part.name: self.describe_input(part.name) for part in item.encoding.inputs}
            return {"of": parts, "shapes": {name: list(shape) for name, shape in item.encoding.shapes.items()}}
        encoding = item.encoding.encoding if isinstance(item.encoding, Steps) else item.encoding
        options = {f.name: getattr(encoding, f.name) for f in fields(encoding)}
        return {"modality": item.modality, **json.loads(json.dumps(options))}


def with_digests(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the content of every weights file they name, so that new weights under an old name are noticed."""
    found = {key: with_digests(value) if isinstance(value, dict) else value for key, value in options.items()}
    weights = options.get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        found["weights_digest"] = content_digest(Path(weights))
    return found


def training_key(schedule: schema.Schedule) -> dict[str, Any]:
    """The part of a schedule that changes weights: not how often they are measured or saved, nor who loads clips."""
    return schedule.model_dump(mode="json", exclude={"evaluate_every", "checkpoint_steps", "workers"})


def environment() -> dict[str, Any]:
    """What the numbers of a run rest on besides the recipe."""
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "vidistill": vidistill.__version__,
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside and rename."""
    write_text(path, json.dumps(content, indent=1, default=_plain))


def write_text(path: Path, text: str) -> None:
    """Write text beside and rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write ({error.strerror})", where=str(path), todo="Free disk space") from error


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content, or None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def start(run: Run) -> None:
    """Make the run's folder and note recipe and environment."""
    if run.main:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / "recipe.yaml", dump_recipe(run.recipe))
        write_json(run.folder / "environment.json", environment())
    run.accelerator.wait_for_everyone()
