"""Where multimodal training scenes come from, by name: generated streets, or folders of DELIVER or MCubeS."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import StreetConfig, street_config
from pipeline.synth.world import Split
from pipeline.ticks import RGB, Image
from pipeline.training.memorysam_folders import DeliverFolder, McubesFolder
from pipeline.training.memorysam_scenes import MultimodalSample, MultimodalSource

ARCHITECTURES = {"streets": "tiny-multimodal", "deliver": "memorysam-base", "mcubes": "memorysam-base-mcubes"}
"""Kind of source to the architecture with its classes."""

_EXPECTED = "expected streets[:PRESET], deliver:ROOT or mcubes:ROOT."


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetSource:
    """Scenes of the procedural streets; item i is the first frame of street i.

    Attributes:
        num_streets: an epoch of this many, which come again and again; None never repeats one.
    """

    config: StreetConfig
    seed: int
    split: Split = "train"
    num_streets: int | None = None

    @property
    def num_items(self) -> int | None:
        return self.num_streets

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        beside_rgb = tuple(name for name in modalities if name != RGB)
        try:
            config = self.config.derive(num_frames=1, modalities=beside_rgb)
        except ValueError as error:
            raise ConfigError(f"modalities {list(modalities)} of generated streets: {error}") from error
        street = sample_street(config, self.seed, self.split, item % (1 << 32))
        frame = street.frames[0]
        drawn: dict[str, Image] = {RGB: frame.rgb, **{str(name): image for name, image in frame.modalities.items()}}
        images = {name: drawn[name] for name in modalities}
        return MultimodalSample(sample_id=street.video_id, images=images, labels=frame.labels)


def kind_of(data: str) -> str:
    """The kind of source that a name begins with.

    Raises:
        ConfigError: there is none of that kind.
    """
    kind = data.partition(":")[0]
    if kind not in ARCHITECTURES:
        raise ConfigError(f"data {data!r}: {_EXPECTED}")
    return kind


def open_source(data: str, *, seed: int, num_classes: int) -> MultimodalSource:
    """A source by name: `streets[:PRESET]`, `deliver:ROOT` or `mcubes:ROOT`.

    Raises:
        ConfigError, ManifestError: no such source, preset or layout.
    """
    kind, place = kind_of(data), data.partition(":")[2]
    if kind == "streets":
        try:
            return StreetSource(config=street_config(place or "street_modal"), seed=seed)
        except ValueError as error:
            raise ConfigError(f"data {data!r}: {error}") from error
    if not place:
        raise ConfigError(f"data {data!r}: no folder is named; {_EXPECTED}")
    if kind == "deliver":
        return DeliverFolder(Path(place), split="train", num_classes=num_classes)
    return McubesFolder(Path(place), split="train", num_classes=num_classes)
