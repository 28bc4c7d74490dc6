"""MoSAM over a corpus: objects shown once, one masklet per object out. `python jobs/track_corpus.py --help`."""

import sys
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field, model_validator

from pipeline.cluster.config import CorpusJob
from pipeline.cluster.job import main
from pipeline.io.detections import DetectionOptions
from pipeline.io.manifest_rows import Needs
from pipeline.methods.mosam import MosamConfig


class TrackCorpus(CorpusJob):
    """Promptable tracking of a corpus (MoSAM, arXiv 2505.00739; SAM2's own tracking is one of its settings)."""

    method_name: ClassVar[str] = "mosam"
    needs: ClassVar[Needs] = "prompts"

    detections: str | None = None
    """Boxes that join the manifest's prompts, .csv or .parquet: video_id, frame, object_id, x0, y0, x1, y1[, score]."""
    detections_use: Literal["first", "all"] = "first"
    """Prompt each detected object where it is first seen, or wherever it was detected."""
    detections_min_score: Annotated[float, Field(ge=0)] = 0.0
    """Leave out detections whose score is lower."""
    mosam: MosamConfig = MosamConfig()
    """The method's own settings."""

    @property
    def method_config(self) -> MosamConfig:
        return self.mosam

    @property
    def detection_options(self) -> DetectionOptions | None:
        if self.detections is None:
            return None
        return DetectionOptions(uri=self.detections, use=self.detections_use, min_score=self.detections_min_score)

    @model_validator(mode="after")
    def _videos_stay_whole(self) -> Self:
        if self.unit_frames is not None:
            raise ValueError(
                "unit_frames: a range of a video begins with an empty memory, and most ranges would lack their "
                "objects' prompts. Leave it out, or give the manifest a row with its own prompts for each range"
            )
        return self


if __name__ == "__main__":
    sys.exit(main(TrackCorpus, sys.argv[1:], prog="track_corpus"))
