"""SAM2 for video semantic segmentation: masklets that nobody asked for refine a semantic network's labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError, PromptError, SessionError
from pipeline.models.device_precision import Precision, check_precision, inference_precision
from pipeline.models.masklet_classifier import load_classifier, refuse_other_features
from pipeline.models.masklet_features import FeatureSchema
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.motion_flow import DisFlow
from pipeline.models.proposals import ProposalConfig, grid_points
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.semantic_networks import LABELS, LabelsOfTheTick, SemanticNetwork, import_callable
from pipeline.models.vss_classes import ClassifyRules, MaskletClasses, NoLabels
from pipeline.models.vss_discovery import Discovery
from pipeline.models.vss_frames import (
    ENCODE,
    LABEL,
    PAINT,
    PROPOSE,
    START,
    TRACK,
    Emission,
    FrameRules,
    Propagator,
)
from pipeline.models.vss_painting import Painter, Report
from pipeline.models.vss_polls import NetworkVotes, Opinions
from pipeline.models.vss_session import SessionRules, VssSession, check_batch
from pipeline.models.vss_stages import VssStages
from pipeline.models.vss_stitching import StitchConfig
from pipeline.models.vss_votes import VOID, VoteRules
from pipeline.segmenter import ModelSpec, Session, State
from pipeline.ticks import RGB, Prompt

METHOD = "sam2_vss"

NETWORK = "network"
"""Folder of a model that holds its semantic network."""

CLASSIFIER = "classifier"
"""Folder of a model that holds its masklet classifier."""

EXAMPLE_MODALITIES = (RGB, LABELS)
"""What the smallest configuration reads of a tick."""

SMALL_IMAGE_PX = 256
"""Up to this size a step on a CPU costs more in overhead than in arithmetic."""

FRAMES_PER_PAINT = 4
"""Frames are painted one by one; a batch of several saves the engine's turns only."""


class Sam2VssConfig(BaseModel):
    """How video semantic segmentation runs; numbers not said to be ours are the paper's.

    Attributes:
        mode: "refine" repaints a semantic network's labels; "classify" names masklets by a classifier's checkpoint and
            needs no network. If one is given, it labels what no masklet paints.
        classifier: folder that jobs/train_semantic.py wrote, or the name under which the job has fetched one.
        network: "labels" for labels that come with the tick (modality "labels", class ids in its first channel, 255
            void); "module:function" for a callable; else a folder of a transformers checkpoint, or the name under
            which the job has fetched one.
        class_names: of "labels" and callables that do not say. A checkpoint knows its own, which must be these if
            these are given.
        window, overlap: frames of a window and how many of them the next one begins with: 32, and (ours) 1.
        emit: "causal" paints a frame with the votes so far and gives it out at once; "window" waits for all votes of
            the window.
        propagator: "sam2"; "flow" and "iou" find masks on every frame and link them, warped or as they are: cheap
            baselines.
        report: what is given out: class regions, masklets with their track ids, or both.
        image_size: side of SAM2's square in pixels; None for the architecture's.
        precision: "bf16" needs CUDA.
        frames_per_encode, frames_per_label, points_per_propose, rows_per_track: batch sizes. Each stage always runs
            at its size, filled up with dummy rows. None chooses by device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["refine", "classify"] = "refine"
    classifier: str | None = None
    network: str | None = None
    class_names: tuple[str, ...] | None = None
    window: int = Field(default=32, ge=1, le=1024)
    overlap: Literal[0, 1] = 1
    emit: Emission = "causal"
    propagator: Propagator = "sam2"
    report: Report = "regions"
    proposals: ProposalConfig = ProposalConfig()
    stitching: StitchConfig = StitchConfig()
    votes: VoteRules = VoteRules()
    classes: ClassifyRules = ClassifyRules()
    image_size: int | None = Field(default=None, ge=32)
    precision: Precision = "fp32"
    allow_tf32: bool = True
    frames_per_encode: int = Field(default=1, ge=1)
    frames_per_label: int = Field(default=1, ge=1)
    points_per_propose: int | None = Field(default=None, ge=1)
    rows_per_track: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap >= self.window:
            raise ValueError(f"window {self.window} with overlap {self.overlap}: expected a window of more frames.")
        if self.mode == "refine" and self.emit == "window" and self.votes.scope == "frame":
            raise ValueError("votes.scope 'frame' has nothing to wait for. Use emit 'causal'.")
        if self.mode == "classify" and self.emit == "window" and self.classes.fuse == "none":
            raise ValueError("classes.fuse 'none' has nothing to wait for. Use emit 'causal'.")
        if self.mode == "classify" and self.propagator != "sam2":
            raise ValueError(f"mode 'classify' reads object pointers, which propagator {self.propagator!r} lacks.")
        return self

    def buckets(self, device: torch.device, *, image_size: int) -> dict[str, int]:
        """The batch sizes on a device, by stage in the order in which a tick passes them.

        A masklet is a row, and a window has dozens of them, so that rows fill their bucket on any device; on a CPU
        with a large picture a dummy row costs as much as a real one.
        """
        rows = 16 if device.type == "cuda" or image_size <= SMALL_IMAGE_PX else 4
        points = 64 if device.type == "cuda" or image_size <= SMALL_IMAGE_PX else 16
        return {
            ENCODE: self.frames_per_encode,
            LABEL: self.frames_per_label,
            TRACK: self.rows_per_track or rows,
            PROPOSE: self.points_per_propose or points,
            START: self.rows_per_track or rows,
            PAINT: FRAMES_PER_PAINT,
        }


class Sam2VssSegmenter:
    """Weights and six stages; see `pipeline.segmenter.Segmenter` for the laws.

    A frame is encoded and labelled, its masklets are tracked; on key frames, and where something new shows, masks are
    proposed and started; then masklets vote and paint.

    Attributes:
        class_names: class id to name.
    """

    method = METHOD

    def __init__(
        self,
        config: Sam2VssConfig,
        core: Sam2Core,
        network: SemanticNetwork,
        device: torch.device,
        opinions: Opinions | None = None,
    ) -> None:
        self.config = config
        self.class_names: Mapping[int, str] = dict(enumerate(network.class_names))
        buckets = config.buckets(device, image_size=core.config.image_size)
        frames = FrameRules(
            window=config.window,
            overlap=config.overlap,
            propagator=config.propagator,
            emit=config.emit,
            buckets=buckets,
            policy=RecentFrames.of(core.config),
        )
        self._stages = VssStages(
            core=core,
            network=network,
            discovery=_discovery(config, core, frames, device),
            painter=Painter(
                num_classes=len(network.class_names),
                opinions=opinions or NetworkVotes(num_classes=len(network.class_names), rules=config.votes),
                votes=config.votes,
                report=config.report,
                rules=frames,
                device=device,
            ),
            rules=frames,
            device=device,
        )
        self._rules = SessionRules(
            frames=frames,
            modalities=tuple(dict.fromkeys((RGB, network.modality))),
            fingerprint={
                "method": METHOD,
                "config": config.model_dump(mode="json"),
                "architecture": core.config.model_dump(mode="json"),
                "classes": list(network.class_names),
                "buckets": list(buckets.values()),
            },
        )

    @property
    def buckets(self) -> Mapping[str, int]:
        """Places per batch of each stage."""
        return self._rules.frames.buckets

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> VssSession:
        """Begin a video; nothing is asked of it."""
        if prompts:
            raise PromptError(f"{len(prompts)} prompts: {METHOD!r} labels whole frames and takes none. Leave them out.")
        return VssSession(self._rules, frame_size)

    def restore(self, state: State) -> VssSession:
        """The session that gave this state. Raises SessionError if it ran under other settings."""
        came, own = state.get("fingerprint", {}), self._rules.fingerprint
        other = [key for key in own if came.get(key) != own[key]]
        if other:
            raise SessionError(
                f"this state was taken under another {' and '.join(other)} than this segmenter's. "
                "Restore it with the settings and model of the run that took it, or start the video anew."
            )
        height, width = state["frame_size"]
        session = self.open((), (height, width))
        session.load_state(state, device=self._stages.device)
        return session

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        """Do the next step of each session; atomic, since frames in flight are values and accepted at the very end."""
        own = [_own_session(session, stage) for session in sessions]
        check_batch(stage, own, room=self.buckets[stage])
        requests = [request for session in own if (request := session.next_request()) is not None]
        with inference_precision(
            self._stages.device, precision=self.config.precision, allow_tf32=self.config.allow_tf32
        ):
            flights = self._stages.run(stage, requests)
        steps = [flight.next_step(self._rules.frames) for flight in flights]
        for session, flight, step in zip(own, flights, steps, strict=True):
            session.accept(flight, step)


def build_segmenter(config: Sam2VssConfig, model: ModelSpec, device: str) -> Sam2VssSegmenter:
    """A segmenter from a SAM2 (or the SAM2 inside a SAMWISE) and a semantic network or a masklet classifier.

    Args:
        model: its folders "network" and "classifier", if it has them, are where the config's lie on this machine.
        device: "cpu", "cuda", "cuda:0", ...

    Raises:
        ConfigError: bf16 without CUDA, no network or classifier named or one that is not there, or class lists that
            do not match.
        WeightsError: weights that cannot be loaded, a network of a type that is not supported, or a classifier of
            another SAM2.
    """
    torch_device = torch.device(device)
    check_precision(config.precision, torch_device)
    core = load_tracking_core(model, image_size=config.image_size)
    opinions = _classifier_of(config, model, core, torch_device) if config.mode == "classify" else None
    if opinions is not None and config.network is None:
        network: SemanticNetwork = NoLabels(class_names=opinions.classifier.config.class_names, device=torch_device)
    else:
        network = _network_of(config, model, torch_device)
    if opinions is not None:
        _refuse_other_classes(
            network.class_names, opinions.classifier.config.class_names, f"network {config.network!r}"
        )
    if len(network.class_names) > VOID:
        raise ConfigError(
            f"network {config.network!r} has {len(network.class_names)} classes; at most {VOID} fit beside void."
        )
    return Sam2VssSegmenter(config, core.to(torch_device).eval(), network, torch_device, opinions)


def is_folder_name(network: str) -> bool:
    """Whether a network's name is that of a checkpoint's folder, rather than "labels" or module:function."""
    module, colon, function = network.partition(":")
    is_callable = bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))
    return network != LABELS and not is_callable


def mini(seed: int = 0) -> tuple[Sam2VssConfig, ModelSpec]:
    """The smallest model, for tests: 64 px, labels that come with the tick, batches with room for several videos."""
    config = Sam2VssConfig(
        network=LABELS,
        class_names=tuple(f"class {number}" for number in range(VOID)),
        window=5,
        report="both",
        votes=VoteRules(min_purity=0.0),
        proposals=ProposalConfig(
            points_per_side=2, min_predicted_iou=0.0, min_stability=0.0, max_box_iou=0.95, max_masklets=3
        ),
        frames_per_encode=2,
        frames_per_label=2,
        points_per_propose=8,
        rows_per_track=5,
    )
    return config, ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=None, seed=seed)


def example_prompts(num_objects: int, frame_size: tuple[int, int]) -> list[Prompt]:
    """None: this method asks nothing of a video."""
    return []


def _network_of(config: Sam2VssConfig, model: ModelSpec, device: torch.device) -> SemanticNetwork:
    name = config.network
    if name is None:
        raise ConfigError(
            "no semantic network: set network to a transformers checkpoint (a folder or hf:ORG/NAME), to "
            f'"module:function", or to "{LABELS}" for labels that come with the video.'
        )
    if name == LABELS:
        if not config.class_names:
            raise ConfigError(f"network {LABELS!r}: name the classes in class_names, in the order of their ids.")
        return LabelsOfTheTick(class_names=config.class_names, device=device)
    if not is_folder_name(name):
        return import_callable(name, config.class_names, device)
    from pipeline.models.semantic_checkpoints import load_network

    network = load_network(_folder_of(NETWORK, name, model), device, name=name)
    if config.class_names is not None:
        _refuse_other_classes(config.class_names, network.class_names, "class_names")
    return network


def _classifier_of(config: Sam2VssConfig, model: ModelSpec, core: Sam2Core, device: torch.device) -> MaskletClasses:
    name = config.classifier
    if name is None:
        raise ConfigError(
            "mode 'classify' needs a classifier checkpoint: set classifier to the folder model/ that "
            "jobs/train_semantic.py --what classifier wrote, or use mode 'refine' with a network."
        )
    classifier = load_classifier(_folder_of(CLASSIFIER, name, model), name=name)
    refuse_other_features(classifier.config, FeatureSchema.of(core), name=name)
    if config.class_names is not None:
        _refuse_other_classes(config.class_names, classifier.config.class_names, "class_names")
    return MaskletClasses(classifier=classifier.to(device), rules=config.classes)


def _folder_of(role: str, name: str, model: ModelSpec) -> str:
    folder = model.folders.get(role, name)
    if not Path(folder).is_dir():
        raise ConfigError(f"{role} {name!r}: no such folder on this machine, nor was one fetched under that name.")
    return folder


def _refuse_other_classes(came: Sequence[str], own: Sequence[str], what: str) -> None:
    """Raises ConfigError unless two class lists are equal, order included."""
    if tuple(came) == tuple(own):
        return
    place = next((n for n, (a, b) in enumerate(zip(came, own, strict=False)) if a != b), min(len(came), len(own)))
    first, second = (repr(names[place]) if place < len(names) else "nothing" for names in (came, own))
    raise ConfigError(
        f"{what}: {len(came)} classes, the checkpoint has {len(own)}; class {place} is {first} there and {second} in "
        "the checkpoint. Give the list that the checkpoint was trained with, in its order, or leave it out."
    )


def _discovery(config: Sam2VssConfig, core: Sam2Core, frames: FrameRules, device: torch.device) -> Discovery:
    return Discovery(
        points=tuple(grid_points(config.proposals.points_per_side)),
        proposals=config.proposals,
        stitching=config.stitching,
        rules=frames,
        grid=core.config.image_size // 4,
        image_size=core.config.image_size,
        device=device,
        flow=DisFlow() if config.propagator == "flow" else None,
    )


def _own_session(session: Session, stage: str) -> VssSession:
    if not isinstance(session, VssSession):
        raise SessionError(f"a {type(session).__name__} cannot be run by {METHOD!r}: it is of another method.")
    work = session.next_work()
    if work is None or work.stage != stage:
        wants = "nothing" if work is None else repr(work.stage)
        raise SessionError(f"stage {stage!r} asked of a session that wants {wants}. Ask its next_work first.")
    return session
