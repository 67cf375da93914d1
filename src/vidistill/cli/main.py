"""The `vidistill` command. Every error a user can cause ends in one line and exit status 2."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vidistill.core.errors import RecipeError, VidistillError
from vidistill.core.recipe import Recipe, dump_recipe, load_recipe, make_recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Turn labelled video into a small single-modality model, taught by everything else the video can tell.",
)
output = Console(highlight=False)
INTERRUPTED = 130

RecipePath = Annotated[
    Path | None, typer.Argument(help="A recipe (YAML). Leave it out with --data.", show_default=False)
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. schedule.epochs=10", show_default=False)]
DataFolder = Annotated[Path | None, typer.Option("--data", help="A folder <class>/<clip>.mp4; needs no recipe.")]


@app.command()
def run(
    recipe: RecipePath = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    until: Annotated[str, typer.Option(help="Stop after this stage.")] = "report",
) -> None:
    """Do everything: prepare, train teachers, audit, distil, evaluate, export, report.

    Done stages are skipped; an interrupted run goes on where it stopped.

    Examples:
    vidistill run recipes/demo.yaml

    vidistill run --data clips/

    vidistill run recipes/jhmdb.yaml student.width=24 "seeds=[0,1,2]"

    torchrun --nproc-per-node 2 -m vidistill run recipes/jhmdb.yaml
    """
    from vidistill.stages.pipeline import STAGES, run_recipe

    if until not in STAGES:
        raise RecipeError(f"no stage {until!r}", where="--until", todo=f"One of: {', '.join(STAGES)}")
    chosen = choose_recipe(recipe, overrides, data)
    finished = run_recipe(chosen, until)
    if finished.main and until == "report":
        show_results(finished.folder)


@app.command()
def prepare(recipe: RecipePath = None, overrides: Overrides = None, data: DataFolder = None) -> None:
    """Check every clip, derive what is missing, and store what training reads.

    Example: vidistill prepare recipes/jhmdb.yaml prepare.workers=4
    """
    from vidistill.stages.pipeline import run_recipe

    finished = run_recipe(choose_recipe(recipe, overrides, data), "prepare")
    if finished.main:
        summary = json.loads((finished.folder / "data.json").read_text(encoding="utf-8"))
        output.print(f"{summary['prepared']} of {summary['listed']} clips in {finished.store_folder}")
        for problem in summary["problems"]:
            output.print(f"  {problem['clip']}: {problem['kind']}: {problem['message']}", markup=False)


@app.command()
def pack(
    recipe: RecipePath = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    to: Annotated[Path, typer.Option("--output", help="The folder to write <modality>.hdf5 into.")] = Path("packed"),
    modality: Annotated[list[str] | None, typer.Option(help="rgb, flow, audio; may be repeated. Default: all.")] = None,
    by: Annotated[str, typer.Option(help="clip: /<clip>; recording: /<recording>/<clip>, whole sound.")] = "clip",
    short_side: Annotated[int, typer.Option(min=16, help="Pixels; smaller videos stay as they are.")] = 256,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG.")] = 95,
    lossless: Annotated[bool, typer.Option("--lossless", help="PNG instead of JPEG.")] = False,
    flow_bound: Annotated[float, typer.Option(help="Pixels a frame that become the darkest or lightest grey.")] = 20.0,
    sound_rate: Annotated[int, typer.Option(min=1, help="Samples a second.")] = 24000,
    verify: Annotated[bool, typer.Option("--verify", help="Write nothing; check what was packed.")] = False,
) -> None:
    """Write clips as the HDF5 files of published code: encoded frames, flow with u and v in turn, raw sound.

    What is packed already is kept; an interrupted packing goes on where it stopped. Beside the files lies a
    manifest.csv over them. Of a recipe, `data` and `prepare` are used.

    Examples:
    vidistill pack --data clips/ --output packed/

    vidistill pack recipe.yaml --output epic/ --by recording prepare.sources.flow.algorithm=tvl1 prepare.workers=8

    vidistill pack --output packed/ --verify
    """
    from vidistill.cli.packing import describe, pack_recipe, verify_folder
    from vidistill.data.hdf5_write import PACKED, PackOptions

    if verify:
        output.print(verify_folder(to), markup=False, soft_wrap=True)
        return
    options = PackOptions(quality=quality, lossless=lossless, flow_bound=flow_bound)
    chosen = choose_recipe(recipe, overrides, data)
    packed = pack_recipe(
        chosen, to, modality or list(PACKED), options, by=by, short_side=short_side, sound_rate=sound_rate
    )
    output.print(describe(packed), markup=False, soft_wrap=True)


@app.command()
def episodes(
    recipe: RecipePath = None,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    to: Annotated[
        Path | None, typer.Option("--output", help="The file to write; default: here, named after the recipe.")
    ] = None,
) -> None:
    """Write the few-shot episodes of a recipe as a file, so that others test on the very same ones.

    Their recipes name it: task.episode_files.test=FILE. Clips are named by id, classes by name.

    Example: vidistill episodes recipes/fewshot/jhmdb.yaml --split test --output jhmdb.test.episodes.jsonl
    """
    from vidistill.cli.episodes import write_recipe_episodes

    output.print(write_recipe_episodes(choose_recipe(recipe, overrides, None), split, to), markup=False, soft_wrap=True)


@app.command()
def predict(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    model: Annotated[Path, typer.Option(help="An exported student (.onnx).")],
    support: Annotated[Path | None, typer.Option(help="Examples of new classes, written by enroll.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 5,
    to: Annotated[
        Path | None, typer.Option("--output", help="The JSON to write; default: here, named after the video.")
    ] = None,
) -> None:
    """Say what a video shows; prints a table and writes JSON.

    A temporal detector finds segments in a video of any length, and writes them as CSV and subtitles (.srt) too.
    A few-shot model needs --support: the classes are those of the examples.

    Examples:
    vidistill predict clip.mp4 --model runs/demo/export/student.onnx

    vidistill predict room.mp4 --model runs/graph_fir_room/export/student.onnx --output room.json

    vidistill predict clip.mp4 --model runs/hmdb/export/student.onnx --support my.support.safetensors
    """
    from vidistill.deploy.detect import write_files
    from vidistill.deploy.predict_support import open_predictor
    from vidistill.stages.run import write_json

    result = open_predictor(model, support).predict(video, top=top)
    target = to or Path(f"{video.stem}.prediction.json")
    if "segments" in result:
        table = Table("from, s", "to, s", "label", "score", title=str(video))
        for each in result["segments"]:
            start, end = each["segment"]
            table.add_row(f"{start:.2f}", f"{end:.2f}", each["label"], f"{each['score']:.3f}")
        output.print(table)
        output.print("written: " + ", ".join(map(str, write_files(result, target))), soft_wrap=True)
        return
    write_json(target, result)
    for head, ranked in result["predictions"].items():
        table = Table(head, "probability", title=str(video))
        for row in ranked:
            table.add_row(row["label"], f"{row['probability']:.3f}")
        output.print(table)
    if result.get("missing"):
        output.print(f"[yellow]note[/yellow] the file has no {', '.join(result['missing'])}: answered without")
    output.print(f"written: {target}", soft_wrap=True)


@app.command()
def enroll(
    folder: Annotated[Path, typer.Argument(help="Examples, FOLDER/<class>/<clip>.mp4; one clip a class will do.")],
    model: Annotated[Path, typer.Option(help="An exported few-shot student (.onnx).")],
    to: Annotated[
        Path | None, typer.Option("--output", help="The file to write; default: FOLDER's name.support.safetensors.")
    ] = None,
) -> None:
    """Learn new classes from a few example clips each, without training; writes a file to share.

    Example: vidistill enroll gestures/ --model runs/hmdb/export/student.onnx --output my.support.safetensors
    """
    from vidistill.deploy.enroll import Enroller

    target = to or Path(f"{folder.resolve().name}.support.safetensors")
    if target.suffix != ".safetensors":
        raise RecipeError(f"{target} does not end in .safetensors", where="--output", todo="Name it so.")
    support = Enroller(model).enroll(folder)
    support.save(target)
    table = Table("class", "examples", "clips", title=escape(str(folder)))
    for label, name in enumerate(support.classes):
        clips = [clip.name for clip in support.clips if clip.label == label]
        table.add_row(escape(name), str(len(clips)), escape(", ".join(clips)))
    output.print(table)
    if support.skipped:
        output.print(f"skipped: {len(support.skipped)}")
    for each in support.skipped:
        output.print(f"  {each.name}: {each.reason}", markup=False, soft_wrap=True)
    output.print(f"written: {target} ({target.stat().st_size / 1e6:.1f} MB)", markup=False, soft_wrap=True)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]) -> None:
    """Write a run's report.html again.

    Example: vidistill report runs/demo
    """
    from vidistill.report.page import write_report

    output.print(f"report: {write_report(run_folder)}", soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    to: Annotated[Path, typer.Option("--output", help="The page to write.")] = Path("comparison.html"),
) -> None:
    """Compare several runs on one page.

    Example: vidistill compare runs/jhmdb runs/jhmdb-dkd
    """
    from vidistill.report.compare import write_comparison

    output.print(f"comparison: {write_comparison(runs, to)}", soft_wrap=True)


@app.command()
def fuse(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, two or more.")],
    weights: Annotated[
        str | None, typer.Option(help="A factor for each run, e.g. 1,1.5. Default: all alike.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="The folder to write; default: RUN+RUN beside the first.")
    ] = None,
) -> None:
    """Fuse what the students of finished runs say of the same test clips, e.g. of RGB and of flow (two-stream).

    The runs share data, task and test split. Students that all have, under the seeds that all have, are fused; a table
    sets the fused beside the single streams. Nothing is trained.

    Examples:
    vidistill fuse runs/generative_jhmdb runs/generative_jhmdb_flow

    vidistill fuse runs/rgb runs/flow --weights 1,1.5 --output runs/two_stream
    """
    from vidistill.cli.fusing import fuse_and_show

    fuse_and_show(runs, weights, to, output)


@app.command("import")
def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint (.pt, .pth, .safetensors).")],
    recipe: Annotated[Path, typer.Option(help="The recipe whose network the weights are for.")],
    network: Annotated[str, typer.Option(help="'student' or a teacher's name.")] = "student",
    to: Annotated[Path, typer.Option("--output", help="The file to write.")] = Path("imported.safetensors"),
    rename: Annotated[list[str] | None, typer.Option(help="theirs=ours, key prefixes; empty right side drops.")] = None,
    published: Annotated[str | None, typer.Option(help="A published system: its key map, not --rename.")] = None,
) -> None:
    """Convert a published checkpoint to this project's weights (no pickled code is run).

    Examples:
    vidistill import r3d18.pth --recipe recipes/jhmdb.yaml --network rgb --rename fc.=head.action.

    vidistill import embed_200.pth --recipe recipe.yaml --network skeleton --published graph
    """
    from vidistill.cli.importing import convert

    output.print(convert(checkpoint, load_recipe(recipe), network, to, rename or [], published), soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the generated clips go.")] = Path("runs/demo-data"),
    overrides: Overrides = None,
) -> None:
    """Generate a small multi-modal set and run the whole pipeline on it; needs no download.

    Example: vidistill demo
    """
    from vidistill.cli.demo import demo_recipe
    from vidistill.stages.pipeline import run_recipe

    finished = run_recipe(demo_recipe(folder, overrides))
    if finished.main:
        show_results(finished.folder)


@app.command()
def results(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Folders of finished runs.")] = None,
    to: Annotated[Path, typer.Option("--output", help="The page to write.")] = Path("docs/results.md"),
    keep: Annotated[
        Path | None, typer.Option(help="Keep what the tables are made of here; the page shows all that is kept.")
    ] = None,
) -> None:
    """Write the result tables of runs as Markdown, with intervals and a plain verdict each.

    Examples:
    vidistill results runs/jhmdb runs/utd_mhad --output docs/results.md

    vidistill results runs/graph_utd_mhad --keep docs/results --output docs/results.md
    """
    from vidistill.report.results_page import write_results_markdown

    output.print(f"results: {write_results_markdown(runs or [], to, keep)}", soft_wrap=True)


@app.command("recipe")
def recipe_command(recipe: RecipePath = None, overrides: Overrides = None, data: DataFolder = None) -> None:
    """Check a recipe and print it with every default filled in.

    Example: vidistill recipe recipes/jhmdb.yaml
    """
    output.print(dump_recipe(choose_recipe(recipe, overrides, data)), markup=False, soft_wrap=True)


@app.command("list")
def list_command() -> None:
    """List the parts a recipe can name: formats, modalities, networks, methods, curricula, tasks."""
    from vidistill.cli.parts import registries

    for kind, names in registries().items():
        output.print(f"[bold]{kind}[/bold]: {', '.join(names)}", soft_wrap=True)


def choose_recipe(recipe: Path | None, overrides: list[str] | None, data: Path | None) -> Recipe:
    """The recipe of a command line: a file, or the default one over a folder of clips."""
    from vidistill.cli.default import default_recipe

    given = list(overrides or [])
    if recipe is not None and re.match(r"[\w.]+=", str(recipe)) and not recipe.exists():
        given, recipe = [str(recipe), *given], None
    if recipe is None and data is None:
        raise RecipeError("nothing to run", where="command line", todo="Give a recipe, or --data FOLDER")
    if recipe is not None and data is not None:
        given.append(f"data.root={json.dumps(str(data))}")
    if recipe is not None:
        return load_recipe(recipe, given)
    assert data is not None
    return make_recipe(default_recipe(data), given, where=f"default recipe for {data}")


def show_results(folder: Path) -> None:
    """Print the result table and where the report lies."""
    from vidistill.report.tables import result_table, verdict

    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    header, *rows = result_table(results)
    # A narrow terminal gets the accuracies and the size; the report has the rest.
    kept = range(len(header)) if output.width >= 150 else [0, 1, header.index("seeds"), header.index("parameters")]
    table = Table(*(header[i] for i in kept), title=f"{folder.name}: {results['clips']} test clips")
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    output.print(table)
    output.print(verdict(results).headline)
    output.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def main() -> None:
    """Entry point: one line for every error a user can cause."""
    errors = Console(stderr=True, highlight=False)
    try:
        status = app(standalone_mode=False) or 0
    except VidistillError as error:
        status = _tell(errors, str(error))
    except KeyboardInterrupt:
        status = INTERRUPTED
    except OSError as error:
        if error.errno is None:
            raise
        status = _tell(errors, f"{error.filename or 'system'}: {error.strerror}")
    except Exception as error:
        # Typer brings its own copy of click's usage errors; they are known by what they can do.
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            raise
        error.show()
        status = error.exit_code
    if status == INTERRUPTED:
        errors.print("interrupted: what was done is kept; the same command goes on from there")
    sys.exit(status)


def _tell(errors: Console, line: str) -> int:
    errors.print(f"error: {line}", style="red", markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
