"""Golden cases of whole videos through SAMWISE: the real segmenter and session, with token ids fed in."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.methods.samwise import SamwiseConfig, SamwiseSegmenter
from pipeline.models.letterbox import to_square
from pipeline.models.samwise_architecture import SamwiseArchitecture, infer_architecture
from pipeline.models.samwise_checkpoint import CHECKPOINT_GLOBALS, load_samwise, samwise_tensors_from_checkpoint
from pipeline.models.samwise_expressions import ExpressionReader
from pipeline.models.samwise_session import CME_SWITCH, MEMORY_RESET, SamwiseSession
from pipeline.models.tokenizers import TokenizedText
from pipeline.segmenter import finish, work_off
from pipeline.ticks import RGB, Prompt, Tick, TickMasks
from tests.parity.comparison import Check, close, logits_close, masks_close, same
from tests.parity.samwise_modules import text_heads
from tests.parity.samwise_recorder import ClipRecord, FrameRecord, Recording, recording
from tests.parity.samwise_weights import golden_weights

FEATURE_TOLERANCE = 1e-4
ROW_TOLERANCE = 5e-4
"""Of scores, pointers and image inputs; times the scale for memory features, which jump with fused logits."""

DECISION_TOLERANCE = 5e-3
PREPROCESSING_TOLERANCE = 1e-3

FUSED_OUTLIERS = 1e-3
"""Share of fused logits that may differ: they jump wherever the memory-less logit changes sign."""

Golden = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoCase:
    """One golden video and the model it was made with."""

    name: str
    directory: Path
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    architecture: SamwiseArchitecture
    inputs: Golden

    def segmenter(self, **changes: Any) -> SamwiseSegmenter:
        """The case's own configuration, with changes."""
        flags = self.settings["flags"]
        config = SamwiseConfig(
            hsa=flags["HSA"],
            cme_decision_window=flags["cme_decision_window"],
            cme_fusion=flags["switch_mem"],
            motion_prompt=flags["motion_prompt"],
            clip_length=flags["eval_clip_window"],
            threshold=flags["threshold"],
            tail_policy="reference",
            allow_tf32=False,
            **{"frames_per_encode": 1, "expressions_per_fuse": 1, "rows_per_decode": 1, **changes},
        )
        architecture = self.architecture.model_copy(update={"cme": config.use_cme})
        ids = tuple(int(token) for token in self.inputs["token_ids"])
        reader = ExpressionReader(
            tokenizer=_FixedTokens(ids),
            max_tokens=architecture.text.max_tokens,
            normalize_text=False,
            motion_tagger=None,
            motion_pool="first",
        )
        network = load_samwise(self.tensors, architecture, name=self.name).eval()
        return SamwiseSegmenter(config, network, reader, torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class _FixedTokens:
    """A tokenizer that answers every text with the golden token ids."""

    ids: tuple[int, ...]

    @property
    def vocabulary_size(self) -> int:
        return max(self.ids) + 1

    def __call__(self, text: str) -> TokenizedText:
        return TokenizedText(text=text, ids=self.ids, spans=((0, 0),) * len(self.ids))


def read_video_case(directory: Path) -> VideoCase:
    """The case, its weights taken through a file in the official format.

    Raises:
        FileNotFoundError: one of its files is missing.
        WeightsError: the tensors are not those of a SAMWISE.
    """
    settings = json.loads((directory / "case.json").read_text())
    flags = settings["flags"]
    weights = golden_weights(directory / "manifest.json", settings["salt"])
    tensors = samwise_tensors_from_checkpoint(_through_a_legacy_file(weights))
    found = infer_architecture(tensors)
    architecture = found.model_copy(
        update={
            "text": found.text.model_copy(update={"num_heads": text_heads(found.text.width)}),
            "text_fusion_layers": tuple(flags["fusion_stages_txt"]),
            "short_side_px": flags["max_size"] - 4,
        }
    )
    return VideoCase(
        name=directory.name,
        directory=directory,
        settings=settings,
        tensors=tensors,
        architecture=SamwiseArchitecture.model_validate(architecture.model_dump()),
        inputs=_load(directory / "inputs.npz"),
    )


def check_video_case(directory: Path) -> Iterator[Check]:
    """All checks of one directory: preprocessing, backbone, rows with CME off and on, and the single-frame tail."""
    case = read_video_case(directory)
    frames = range(len(case.inputs["frames"]))
    off = case.segmenter(use_cme=False)
    yield from _check_preprocessing(case, off)
    with recording(off) as heard:
        session, masks, state = _run(off, case, frames)
    yield from _check_backbone(case, heard.clips)
    yield from _check_rows(case, "cme_off", heard.frames, masks, session.inner_size)
    yield from _check_memory_less(case, heard, masks)
    del heard
    if (directory / "single_frame.npz").exists():
        yield from _check_single_frame(case, off, state)
    del off
    on = case.segmenter(use_cme=True)
    with recording(on) as heard:
        session, masks, _ = _run(on, case, frames)
    yield from _check_rows(case, "cme_on", heard.frames, masks, session.inner_size)
    yield from _check_decisions(case, heard.frames, masks)


def _run(
    segmenter: SamwiseSegmenter, case: VideoCase, frames: Sequence[int]
) -> tuple[SamwiseSession, list[TickMasks], dict[int, Any]]:
    """A session over these frames: itself, its masks, and its state after each clip by number of frames."""
    height, width = case.inputs["frames"].shape[1:3]
    session = segmenter.open([Prompt(object_id=1, text=case.name)], (height, width))
    masks: list[TickMasks] = []
    states: dict[int, Any] = {0: session.state_dict()}
    for frame in frames:
        session.push(_tick(case, frame))
        work_off(segmenter, session)
        masks += session.take()
        if len(masks) == frame + 1:
            states[len(masks)] = session.state_dict()
    return session, masks + finish(segmenter, session), states


def _check_preprocessing(case: VideoCase, segmenter: SamwiseSegmenter) -> Iterator[Check]:
    inputs, name = case.inputs, f"{case.name} preprocessing"
    session = segmenter.open([Prompt(object_id=1, text=case.name)], inputs["frames"].shape[1:3])
    for frame in range(len(inputs["frames"])):
        session.push(_tick(case, frame))
    state = session.state_dict()
    height, width = (int(n) for n in inputs["prep_shape"][2:])
    yield same(f"{name} size", session.inner_size, (height, width))
    square = to_square(
        [frame["image"].numpy() for frame in state["pending"]],
        num_rows=len(inputs["frames"]),
        image_size=case.architecture.sam2.image_size,
        device=torch.device("cpu"),
    )
    shown = square[:, :, :height, :width]
    for key, ours in (("sample", shown[:, :, ::32, ::32]), ("mean", shown.mean((2, 3))), ("std", shown.std((2, 3)))):
        yield close(f"{name} {key}", ours, inputs[f"prep_{key}"], absolute=PREPROCESSING_TOLERANCE, per_scale=False)
    yield same(f"{name} padding", square[:, :, height:].abs().sum() + square[:, :, :, width:].abs().sum(), 0.0)


def _check_backbone(case: VideoCase, clips: Sequence[ClipRecord]) -> Iterator[Check]:
    golden = _load(case.directory / "backbone.npz")
    numbers = sorted({int(key.split("_")[0].removeprefix("clip")) for key in golden})
    yield same(f"{case.name} number of clips", len(clips), len(numbers))
    for number in numbers:
        prefix, clip = f"clip{number}_", clips[number]
        assert clip.fused is not None
        assert clip.sentence is not None
        num_frames = len(golden[f"{prefix}frame_ids"])
        ours: dict[str, Tensor] = {"cls": clip.sentence.expand(num_frames, -1)}
        for level, (vision, text, vision_delta, text_delta) in enumerate(clip.adapters):
            ours[f"adapter{level}_vis_in_sample"] = vision[:, ::16, ::8, ::8]
            ours[f"adapter{level}_vis_out_sample"] = vision_delta[:, ::16, ::8, ::8]
            ours[f"adapter{level}_txt_in"] = text.transpose(0, 1)
            ours[f"adapter{level}_txt_out"] = text_delta.transpose(0, 1)
        pyramid = (*clip.fused.features.high_res, clip.fused.features.map_BDhw)
        for level, (rows, channels) in enumerate(((4096, 4), (1024, 8), (256, 32))):
            tokens = pyramid[level].flatten(2).permute(2, 0, 1)
            ours[f"fpn{level}_sample"] = tokens[::rows, :, ::channels]
        for key in sorted(k.removeprefix(prefix) for k in golden if k.startswith(prefix) and "frame_ids" not in k):
            name = f"{case.name} {prefix}{key}"
            wanted = golden[prefix + key]
            yield close(name, ours.get(key, torch.empty(0)), wanted, absolute=FEATURE_TOLERANCE)


def _check_rows(
    case: VideoCase,
    run: str,
    frames: Sequence[FrameRecord],
    masks: Sequence[TickMasks],
    inner_size: tuple[int, int],
) -> Iterator[Check]:
    golden, name = _load(case.directory / f"{run}.npz"), f"{case.name} {run}"
    yield same(f"{name} frames given out", [tick.frame_index for tick in masks], range(len(golden["mem_ious"])))
    yield from _check_outputs(f"{name} mem", golden, "mem_", [frame.outputs[0] for frame in frames])
    pix = torch.stack([frame.pix[0][::32, ::16, ::16] for frame in frames])
    yield close(f"{name} image input", pix, golden["mem_pixfeat_sample"], absolute=ROW_TOLERANCE, per_scale=False)
    memory = torch.stack([_set(frame.memory)[::8, ::8, ::8] for frame in frames])
    yield close(f"{name} memory features", memory, golden["maskmem_sample"], absolute=ROW_TOLERANCE)
    remembered = torch.stack([_set(frame.remembered)[::32, ::32] for frame in frames])
    wanted = golden["mem_input_mask_sample"]
    yield from logits_close(f"{name} mask remembered", remembered, wanted, outliers=FUSED_OUTLIERS)
    height, width = inner_size
    shown = torch.stack([_set(frame.enlarged)[:height:24, :width:32] for frame in frames])
    yield from logits_close(f"{name} logits", shown, golden["pred_logits_sample"])
    ours = np.stack([tick.objects[0].mask for tick in masks])
    wanted_masks = np.unpackbits(golden["binary_mask_packed"], axis=-1, count=ours.shape[-1])
    yield masks_close(f"{name} masks", ours, wanted_masks)


def _check_outputs(name: str, golden: Golden, prefix: str, outputs: Sequence[Any]) -> Iterator[Check]:
    ours = {
        "ious": [output.predicted_iou_R for output in outputs],
        "obj_ptr": [output.object_pointer_RD[0] for output in outputs],
        "early_obj_ptr": [output.early_token_RD[0] for output in outputs],
        "object_score_logits": [output.object_score_R1[0] for output in outputs],
    }
    for key, values in ours.items():
        if f"{prefix}{key}" in golden:
            yield close(
                f"{name} {key}", torch.stack(values), golden[f"{prefix}{key}"], absolute=ROW_TOLERANCE, per_scale=False
            )
    low_res = torch.stack([output.low_res_logits_R1hw[0, 0] for output in outputs])
    yield from logits_close(f"{name} low-resolution logits", low_res, golden[f"{prefix}low_res_masks"])


def _check_memory_less(case: VideoCase, heard: Recording, masks: Sequence[TickMasks]) -> Iterator[Check]:
    """What the CME would have been asked in a run without it: the classifier's opinion, never acted on."""
    golden, name = _load(case.directory / "cme_off.npz"), f"{case.name} cme_off"
    window = case.settings["flags"]["cme_decision_window"]
    isolated = {place for place, tick in enumerate(masks) if MEMORY_RESET in tick.flags}
    evaluated = [frame for frame in range(len(heard.frames)) if frame > window and frame not in isolated]
    yield same(f"{name} frames evaluated", evaluated, golden["cme_eval_frames"])
    if not evaluated:
        return
    network = case.segmenter(use_cme=True).network
    assert network.cme is not None
    outputs, gaps = [], []
    with torch.inference_mode():
        for frame in (heard.frames[index] for index in evaluated):
            outputs.append(network.segment_without_memory(frame.features, frame.prompt_RSE))
            logits = network.cme(frame.outputs[0].object_pointer_RD, outputs[-1].early_token_RD)[0]
            logits = logits - network.cme.decision_class_head.bias
            gaps.append(logits[1] - logits[0])
    yield from _check_outputs(f"{name} nomem", golden, "nomem_", outputs)
    wanted = golden["cme_logit_gap_if_evaluated"]
    yield close(f"{name} decision gap", torch.stack(gaps), wanted, absolute=DECISION_TOLERANCE, per_scale=False)


def _check_decisions(case: VideoCase, frames: Sequence[FrameRecord], masks: Sequence[TickMasks]) -> Iterator[Check]:
    golden, name = _load(case.directory / "cme_on.npz"), f"{case.name} cme_on"
    evaluated = [index for index, frame in enumerate(frames) if frame.decision is not None]
    yield same(f"{name} frames evaluated", evaluated, golden["cme_eval_frames"])
    if not evaluated:
        return
    decisions = torch.stack([_set(frames[index].decision) for index in evaluated])
    yield close(
        f"{name} decision logits", decisions, golden["cme_logits"], absolute=DECISION_TOLERANCE, per_scale=False
    )
    yield same(f"{name} decisions", decisions.argmax(1), golden["cme_logits"].argmax(1))
    yield from _check_outputs(f"{name} nomem", golden, "nomem_", [frames[index].outputs[1] for index in evaluated])
    switched = [index for index, logits in zip(evaluated, golden["cme_logits"], strict=True) if logits.argmax() == 1]
    flagged = [tick.frame_index for tick in masks if f"{CME_SWITCH}:1" in tick.flags]
    yield same(f"{name} switches told", flagged, switched)
    fused = torch.stack([_set(frames[index].remembered)[::16, ::16] for index in switched] or [torch.empty(64, 64)])
    wanted = golden["fused_mask_sample"]
    yield from logits_close(f"{name} fused masks", fused[: len(switched)], wanted, outliers=FUSED_OUTLIERS)


def _check_single_frame(case: VideoCase, segmenter: SamwiseSegmenter, states: dict[int, Any]) -> Iterator[Check]:
    """The last frame of a video whose length leaves a clip of one frame: reset, whatever came before."""
    golden, name = _load(case.directory / "single_frame.npz"), f"{case.name} single_frame"
    index = int(golden["frame_index"][0])
    # The session as it was after the frames before; a fresh one where these do not end with a clip.
    session = segmenter.restore(states.get(index, states[0]))
    with recording(segmenter) as heard:
        session.push(_tick(case, index))
        finish(segmenter, session)
    yield from _check_outputs(name, golden, "", [heard.frames[0].outputs[0]])
    pix, memory = heard.frames[0].pix[0][::32, ::16, ::16], _set(heard.frames[0].memory)[::8, ::8, ::8]
    yield close(f"{name} image input", pix, golden["pixfeat_sample"], absolute=ROW_TOLERANCE, per_scale=False)
    yield close(f"{name} memory features", memory, golden["maskmem_sample"], absolute=ROW_TOLERANCE)


def _through_a_legacy_file(weights: dict[str, Tensor]) -> Any:
    """Saved as the released files are, and read back as untrusted ones are."""
    checkpoint = {"model": weights, "epoch": 0, "args": argparse.Namespace(lr=1e-5, HSA=True)}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "checkpoint.pth"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
        with torch.serialization.safe_globals(list(CHECKPOINT_GLOBALS)):
            return torch.load(path, weights_only=True)


def _tick(case: VideoCase, frame: int) -> Tick:
    return Tick(frame_index=frame, pts_us=frame * 100_000, images={RGB: case.inputs["frames"][frame]})


def _load(path: Path) -> Golden:
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def _set(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
