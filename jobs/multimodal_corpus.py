"""MemorySAM over a corpus: bundles of modalities in, class regions out. `python jobs/multimodal_corpus.py --help`."""

import sys
from pathlib import Path
from typing import Annotated, ClassVar

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pipeline.cluster.config import CorpusJob
from pipeline.cluster.job import main
from pipeline.decode.bundle_options import BundleOptions
from pipeline.io.manifest_rows import Needs
from pipeline.methods.memorysam import MemorySamConfig


class MultimodalCorpus(CorpusJob):
    """Semantic segmentation of scenes and videos in several modalities (MemorySAM, arXiv 2503.06700)."""

    method_name: ClassVar[str] = "memorysam"
    needs: ClassVar[Needs] = "nothing"

    model: str = "tiny-multimodal"
    """Name in the weights registry, a path, or a URI. The default is the small model's sizes."""
    pack_frames: Annotated[int, Field(ge=1)] | None = 64
    """Pack single scenes and short videos into one unit up to this many frames."""
    memorysam: MemorySamConfig = MemorySamConfig()
    """The method's own settings."""
    bundle: BundleOptions = BundleOptions()
    """How modalities are aligned, and what to do where one is missing, late, or of another size."""

    @property
    def method_config(self) -> MemorySamConfig:
        return self.memorysam

    @property
    def bundle_options(self) -> BundleOptions:
        return self.bundle


if __name__ == "__main__":
    sys.exit(main(MultimodalCorpus, sys.argv[1:], prog="multimodal_corpus"))
