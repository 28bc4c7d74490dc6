"""SAM2 for video semantic segmentation over a corpus: class regions out. `python jobs/semantic_corpus.py --help`."""

import sys
from pathlib import Path
from typing import ClassVar, Literal

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import ValidationError

from pipeline.cluster.config import CorpusJob
from pipeline.cluster.job import main
from pipeline.decode.bundle_options import BundleOptions
from pipeline.errors import ConfigError
from pipeline.io.manifest_rows import Needs
from pipeline.methods.sam2_vss import CLASSIFIER, NETWORK, Sam2VssConfig, is_folder_name


class SemanticCorpus(CorpusJob):
    """Semantic segmentation of videos by SAM2's masklets ("Evaluating SAM2 for Video Semantic Segmentation")."""

    method_name: ClassVar[str] = "sam2_vss"
    needs: ClassVar[Needs] = "nothing"

    mode: Literal["refine", "classify"] | None = None
    """Refine a network's labels, or classify masklets; short for --sam2-vss.mode."""
    network: str | None = None
    """The semantic network: a folder, hf:ORG/NAME, a folder's URI, module:function, or "labels" for a modality of that
    name; short for --sam2-vss.network."""
    classifier: str | None = None
    """The masklet classifier of mode classify: a folder that train_semantic wrote, or its URI; short for
    --sam2-vss.classifier."""
    sam2_vss: Sam2VssConfig = Sam2VssConfig()
    """The method's own settings."""

    @property
    def method_config(self) -> Sam2VssConfig:
        told = {"mode": self.mode, "network": self.network, "classifier": self.classifier}
        given = {name: value for name, value in told.items() if value is not None}
        try:
            return Sam2VssConfig.model_validate({**self.sam2_vss.model_dump(), **given})
        except ValidationError as error:
            raise ConfigError("; ".join(str(found["msg"]) for found in error.errors())) from error

    @property
    def bundle_options(self) -> BundleOptions | None:
        """Labels that come with a video are a modality of it."""
        return BundleOptions() if self.method_config.network == "labels" else None

    @property
    def folders(self) -> dict[str, str]:
        """Folders of the network and the classifier, to be found on every worker."""
        config, found = self.method_config, {}
        if config.network is not None and is_folder_name(config.network):
            found[NETWORK] = config.network
        if config.mode == "classify" and config.classifier is not None:
            found[CLASSIFIER] = config.classifier
        return found

    @property
    def align_frames(self) -> int:
        """A range begins where a window would."""
        config = self.method_config
        return max(1, config.window - config.overlap)


if __name__ == "__main__":
    sys.exit(main(SemanticCorpus, sys.argv[1:], prog="semantic_corpus"))
