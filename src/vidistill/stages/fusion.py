"""Teachers that fuse other teachers' frames: their networks, and the stored frames they are trained and tested on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidistill.core import recipe as schema
from vidistill.core.errors import RecipeError
from vidistill.core.recipe import FUSED
from vidistill.data.batches import Input
from vidistill.models.episode_network import FRAMES, EpisodeNetwork
from vidistill.models.fusion_network import StackedFusion, build_fusion
from vidistill.stages.networks import folder_of, load_trained
from vidistill.stages.run import Run
from vidistill.stages.teachers import cached
from vidistill.teachers.live import LiveTeacher
from vidistill.teachers.stored import Member, StoredFrames
from vidistill.training.evaluate_episodes import encode_clips, save_frames


def fused_input(run: Run, name: str) -> Input:
    """The input of the fusing teacher `name` (its section's `input`): its members' stored frames."""
    teacher = run.recipe.teachers[name.removeprefix(FUSED)]
    members = [_member(run, member) for member in teacher.of]
    shapes = {member: _network(run, member).feature_shapes()[FRAMES] for member in teacher.of}
    lengths = {shape[0] for shape in shapes.values()}
    if len(lengths) > 1:
        raise RecipeError(
            f"members give different numbers of frames: { {m: s[0] for m, s in shapes.items()} }",
            where=f"teachers.{name.removeprefix(FUSED)}.of",
            todo="Give all networks the same number, e.g. sequence_embedder's `frames`.",
        )
    modality = "+".join(run.input(run.recipe.teachers[member].input).modality for member in teacher.of)
    return Input(name, modality, StoredFrames(members, lengths.pop(), FRAMES))


def fused_network(run: Run, section: schema.Teacher, where: str) -> StackedFusion:
    """A new fusion over the members of a teacher."""
    shapes = {member: _network(run, member).feature_shapes()[FRAMES] for member in section.of}
    options = dict(section.options)
    comparison, dim = options.pop("comparison", None), options.pop("dim", None)
    widths = {member: shape[1] for member, shape in shapes.items()}
    length = next(iter(shapes.values()))[0]
    fusion = build_fusion(section.network, widths, length, dim, run.task.classes, comparison, options, where)
    return StackedFusion(fusion, widths, length)


def _network(run: Run, member: str) -> EpisodeNetwork:
    section = run.recipe.teachers[member]
    network = run.network(section, 0, f"teachers.{member}")
    if not isinstance(network, EpisodeNetwork):
        raise RecipeError(
            f"teacher {member!r} gives no frames to fuse", where="teachers", todo="Use frame_embedder or such."
        )
    return network


def _member(run: Run, name: str) -> Member:
    """A member with its stored frames; they are made now where they are not yet."""
    section = run.recipe.teachers[name]
    network = load_trained(run, f"teacher-{name}", section)
    network.to(run.accelerator.device)
    cache = cached(run, name, LiveTeacher(name, network, section.input))
    tested = {**tested_frames(run, name, network, "val"), **tested_frames(run, name, network, "test")}
    return Member(name, network.feature_shapes()[FRAMES][1], cache, run.shown_views + len(run.surveys), tested)


def tested_frames(run: Run, name: str, network: Any, split: str) -> dict[int, NDArray[np.float32]]:
    """Frames (L, D) of a split's clips under their test view, by store index; kept beside the network."""
    section = run.recipe.teachers[name]
    path = folder_of(run, f"teacher-{name}") / f"frames-{split}.npz"
    if not path.is_file():
        indices = run.store.indices(split)
        clips = indices[run.store.present(run.input(section.input).modality)[indices]]
        if not len(clips):
            return {}
        dataset = run.dataset([section.input], False)
        frames = encode_clips(network, dataset, clips, section.input, run.accelerator)
        if run.main:
            save_frames(path, frames, clips)
        run.accelerator.wait_for_everyone()
    with np.load(path, allow_pickle=False) as file:
        return dict(zip(file["clips"].tolist(), file[FRAMES], strict=True))
