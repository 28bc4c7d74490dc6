"""SAMWISE over a corpus: sentences in, one masklet per sentence out. `python jobs/refer_corpus.py --help`."""

import sys
from pathlib import Path
from typing import ClassVar

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cluster.config import CorpusJob
from pipeline.cluster.job import main
from pipeline.io.manifest_rows import Needs
from pipeline.methods.samwise import SamwiseConfig


class ReferCorpus(CorpusJob):
    """Text-referring segmentation of a corpus (SAMWISE, CVPR 2025)."""

    method_name: ClassVar[str] = "samwise"
    needs: ClassVar[Needs] = "expressions"

    samwise: SamwiseConfig = SamwiseConfig()
    """The method's own settings."""

    @property
    def method_config(self) -> SamwiseConfig:
        return self.samwise

    @property
    def align_frames(self) -> int:
        """Clips are fused whole: a range begins where a clip would."""
        return self.samwise.clip_length


if __name__ == "__main__":
    sys.exit(main(ReferCorpus, sys.argv[1:], prog="refer_corpus"))
