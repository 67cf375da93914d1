"""The recipe: one YAML file that says everything about a run. Unknown keys name the nearest known key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vidistill.core.errors import RecipeError
from vidistill.core.registry import Location, describe_validation, nearest

Options = dict[str, Any]


def _plain_name(value: str) -> str:
    if not value or value in (".", "..") or any(c in value for c in '/\\:*?"<>|\0'):
        raise ValueError("a name must be usable as a folder name")
    return value


Name = Annotated[str, AfterValidator(_plain_name)]


FUSED = "fused:"
"""Before the name of a teacher that fuses others: the name of its input."""
ROLES = ("alone", "distilled", "ensemble", "teacher")
"""Names that rows of the result table have already."""


class Section(BaseModel):
    """A part of the recipe with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenSection(BaseModel):
    """A part of the recipe that names a component; further keys are that component's options, checked when built."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> Options:
        """The keys that belong to the component."""
        return dict(self.model_extra or {})


class Data(OpenSection):
    """What is on disk. Further keys are options of the format's reader."""

    format: str = "folder"
    root: Path
    validation: float = Field(default=0.15, ge=0, lt=1, description="part of train carved out where no clip is `val`")
    validation_by: Literal["auto", "clip", "group"] = "auto"
    split_seed: int = 0
    split_by_class: Options | None = Field(
        default=None, description="few-shot: whole classes to `val` and `test` (lists of labels), all others train"
    )
    streams: Options | None = Field(default=None, description="put trimmed clips together as untrimmed streams")


class Prepare(Section):
    """How clips become a store."""

    workers: int = Field(default=2, ge=1)
    skip_limit: float = Field(default=0.05, ge=0, le=1, description="part of the clips that may be unusable")
    min_frames: int = Field(default=2, ge=1)
    sources: dict[str, Options] = Field(default_factory=dict, description="modality -> options of loading or deriving")


class Input(OpenSection):
    """One network input. `modality` defaults to the input's name; further keys are options of the encoding.

    With `of` it is made of several other inputs, for a network that sees them all and does without any of them.
    """

    modality: str | None = None
    of: tuple[str, ...] = ()


class Schedule(Section):
    """How long and how a network is trained."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1, description="batches a step")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="part of the steps")
    decay: Literal["cosine", "linear", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = Field(default=(0.5, 0.75), description="step decay: parts of the steps")
    gamma: float = Field(default=0.1, gt=0, le=1, description="step decay: factor")
    clip_norm: float | None = Field(default=5.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of the averaged weights")
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    workers: int = Field(default=0, ge=0, description="loader processes")
    views: int = Field(default=0, ge=0, description="distinct training views a clip, in turn; 0: a new one each time")
    views_per_epoch: int = Field(default=1, ge=1, description="views of each clip an epoch; more for untrimmed clips")
    evaluate_every: int = Field(default=5, ge=1, description="epochs between measurements on the validation part")
    checkpoint_steps: int = Field(default=200, ge=1)


class Network(OpenSection):
    """A network over one input. Further keys are options of the network."""

    input: str = ""
    network: str
    schedule: Options = Field(default_factory=dict, description="overrides of the recipe's schedule")


class MethodSection(OpenSection):
    """The method; further keys are its options."""

    name: str = "kd"
    label_weight: float = Field(default=1.0, ge=0)


class Teacher(Network):
    """A teacher; trained by the run unless `checkpoint` names a trained one (.safetensors of the same network).

    With `of` it has no input of its own: `network` names a fusion of those teachers' frames. `method` is what it learns
    beside its labels (a method without teachers, e.g. `cvae`); what that method owns is kept for the students' method.
    """

    of: tuple[Name, ...] = ()
    checkpoint: Path | None = None
    method: MethodSection | None = None


class Ensemble(Section):
    """How teachers weigh against each other."""

    weights: Literal["uniform", "held_out", "per_sample"] = "uniform"
    gamma: float = Field(default=1.0, gt=0)
    calibrate: bool = Field(default=True, description="divide each teacher's logits by its fitted temperature")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="chance that a teacher is left out of a taught view")

    def key(self) -> Options:
        """What a distilled student depends on; `dropout` only where it is set, so that keys of older students stay."""
        return self.model_dump(mode="json", exclude=None if self.dropout else {"dropout"})


class Curriculum(OpenSection):
    """The curriculum; further keys are its options."""

    name: str = "all"


class Variant(Section):
    """Another way to distil the same student, measured beside the recipe's own: the sections that differ."""

    method: MethodSection | None = None
    curriculum: Curriculum | None = None
    ensemble: Ensemble | None = None
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    schedule: Options = Field(default_factory=dict, description="overrides of the student's schedule")


class Task(OpenSection):
    """The task; further keys are its options. `heads` chooses among the data's labels, all by default."""

    name: str = "recognition"
    heads: tuple[str, ...] = ()


class Cache(Section):
    """Teacher outputs on disk."""

    enabled: bool = True
    spot_check: float = Field(default=0.001, ge=0, le=1, description="part of the rows run again at start")
    tolerance: float = Field(default=1e-4, gt=0)


class Export(Section):
    """What is shipped."""

    onnx: bool = True
    int8: bool = True
    calibration_clips: int = Field(default=64, ge=1)
    latency: bool = True


class Recipe(Section):
    """A whole run."""

    name: Name
    data: Data
    prepare: Prepare = Prepare()
    modalities: dict[str, Input]
    views: Options = Field(default_factory=dict)
    teachers: dict[Name, Teacher] = Field(default_factory=dict)
    ensemble: Ensemble = Ensemble()
    student: Network
    method: MethodSection = MethodSection()
    curriculum: Curriculum = Curriculum()
    variants: dict[Name, Variant] = Field(default_factory=dict, description="further ways to distil, for comparison")
    task: Task = Task()
    schedule: Schedule = Schedule()
    teacher_schedule: Options = Field(default_factory=dict, description="overrides of the schedule for all teachers")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    cache: Cache = Cache()
    export: Export = Export()
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    runs: Path = Field(default=Path("runs"), description="folder of all runs and prepared stores")

    def variant(self, name: str) -> Recipe:
        """The recipe as one of its variants has it."""
        variant = self.variants[name]
        sections = {"method": variant.method, "curriculum": variant.curriculum, "ensemble": variant.ensemble}
        changed: dict[str, Any] = {key: value for key, value in sections.items() if value is not None}
        if variant.schedule:
            own = {**self.student.schedule, **variant.schedule}
            changed["student"] = self.student.model_copy(update={"schedule": own})
        if variant.seeds is not None:
            changed["seeds"] = variant.seeds
        return self.model_copy(update={**changed, "variants": {}})

    def schedule_of(self, network: Network) -> Schedule:
        """The schedule of a network: the recipe's, with the teachers' and the network's own overrides."""
        shared = self.teacher_schedule if isinstance(network, Teacher) else {}
        try:
            return Schedule.model_validate({**self.schedule.model_dump(), **shared, **network.schedule})
        except ValidationError as error:
            fields = list(Schedule.model_fields)
            raise RecipeError(describe_validation(error, lambda _: fields), where="schedule") from None


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides.

    Raises:
        RecipeError: unreadable file, YAML errors with their line, unknown keys, wrong types, unknown inputs.
    """
    if not path.is_file():
        raise RecipeError(
            "no such recipe", where=str(path), todo="Give the path of a YAML file, e.g. recipes/demo.yaml"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"not valid YAML: {error}", where=str(path)) from None
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of sections", where=str(path))
    return make_recipe(tree, overrides, where=str(path))


def make_recipe(tree: Options, overrides: list[str] | None = None, where: str = "recipe") -> Recipe:
    """A checked recipe from nested dictionaries and `a.b=value` overrides."""
    for text in overrides or []:
        apply_override(tree, text)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(describe_validation(error, _fields_at), where=where) from None
    recipe = _fusions_named(recipe)
    _check_joint(recipe.modalities)
    for kind, network in [("student", recipe.student), *((f"teachers.{n}", t) for n, t in recipe.teachers.items())]:
        if network.input.startswith(FUSED):
            continue
        if network.input not in recipe.modalities:
            hint = nearest(network.input, recipe.modalities)
            raise RecipeError(f"input {network.input!r} is not among the recipe's modalities", where=kind, todo=hint)
        recipe.schedule_of(network)
    ways: tuple[Recipe | Variant, ...] = (recipe, *recipe.variants.values())
    for way in ways:
        if way.ensemble is not None and way.ensemble.dropout and len(recipe.teachers) < 2:
            raise RecipeError("dropout leaves teachers out, never all: it needs two teachers", where="ensemble.dropout")
    for name in recipe.variants:
        if name in ROLES:
            raise RecipeError(f"a variant cannot be called {name!r}", where="variants", todo="Choose another name.")
        recipe.variant(name).schedule_of(recipe.variant(name).student)
    return recipe


def _check_joint(inputs: dict[str, Input]) -> None:
    """Inputs of several are made of others that have a modality."""
    for name, section in inputs.items():
        where = f"modalities.{name}"
        if section.of and (section.modality or section.options):
            raise RecipeError("an input has a modality or is made of others, not both", where=where, todo="Keep `of`.")
        if section.of and len(set(section.of)) < max(2, len(section.of)):
            raise RecipeError("an input of several names at least two others, each once", where=f"{where}.of")
        for part in section.of:
            if part not in inputs or inputs[part].of:
                simple = [each for each, other in inputs.items() if not other.of]
                raise RecipeError(f"there is no input {part!r}", where=f"{where}.of", todo=nearest(part, simple))


def _fusions_named(recipe: Recipe) -> Recipe:
    """The recipe with an input name for every teacher that fuses others: `fused:<name>`."""
    teachers: dict[str, Teacher] = {}
    for name, teacher in recipe.teachers.items():
        where = f"teachers.{name}"
        if teacher.of and teacher.input not in ("", FUSED + name):  # a recipe that was written out names it
            raise RecipeError("a teacher has an input or fuses others, not both", where=where, todo="Leave one out.")
        for member in teacher.of:
            if member not in teachers or teachers[member].of:
                known = [each for each, other in teachers.items() if not other.of]
                hint = nearest(member, known) if known else "Name teachers that stand before it."
                raise RecipeError(f"there is no teacher {member!r} before it to fuse", where=f"{where}.of", todo=hint)
        teachers[name] = teacher.model_copy(update={"input": FUSED + name}) if teacher.of else teacher
    return recipe.model_copy(update={"teachers": teachers})


def apply_override(tree: Options, text: str) -> None:
    """Set one dotted key, e.g. `student.width=24`; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise RecipeError(f"{text!r} is not key=value", where="command line", todo="Write e.g. schedule.epochs=10")
    *parents, leaf = key.split(".")
    node: Any = tree
    for name in parents:
        node = node.setdefault(name, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise RecipeError(f"{key!r} passes through {name!r}, which is no section", where="command line")
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"the value of {text!r} is not valid YAML", where="command line") from None


def _fields_at(location: Location) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
