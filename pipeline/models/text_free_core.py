"""The SAM2 inside a SAMWISE with grounded fusion, for tracking: it sees frames as the fusion does before any text."""

from torch import Tensor

from pipeline.models.image_encoding import BetweenStages, ImageFeatures, StageState
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.samwise_network import SamwiseNetwork


class TextFreeCore(Sam2Core):
    """SAM2's calls over the network's own modules; only what encodes a frame differs.

    The grounding map, made of one frame alone, is added to Hiera's second stage, so tracking and referring share
    features. A departure from SAMWISE, whose adapters need a text.

    Args:
        network: with grounded fusion.
    """

    def __init__(self, network: SamwiseNetwork) -> None:
        super().__init__(network.core.config, network.core.model)
        if network.grounding is None:
            raise ValueError("a network with adapters sees nothing without a text; use its `core`.")
        self.network = network

    def encode_image(self, images_B3HW: Tensor, *, between_stages: BetweenStages | None = None) -> ImageFeatures:
        """Features of single frames; see `Sam2Core.encode_image`."""
        fine, middle, _ = self.network.relate(self.network.encode_prefix(images_B3HW), num_frames=1).maps
        return self.to_features(self.continue_stages(StageState(maps=(fine, middle)), between_stages))
