"""Detail stem: what is finer than a patch of the encoder, and so lost to it: textures, corners, edges."""

# Axes: F frames, C1 channels of the stride-4 map, K fusion width, H W image, h w stride-4 grid.

from torch import Tensor, nn

HALF_WIDTH, QUARTER_WIDTH = 16, 32


class DetailStem(nn.Module):
    """A few convolutions beside the encoder, with nonlinearities at strides 2 and 4.

    Hiera's first layer is linear from 7 x 7 px patches to stride 4. At 128 px a texture repeats every four pixels or
    so; its phase changes from patch to patch, and what is left after averaging over phases is its colour alone. A
    departure from SAMWISE for models whose pictures are small.

    What it adds begins as zero, so a network can be given one late in its training.

    Args:
        fine_width: C1.
        width: K.
    """

    def __init__(self, *, fine_width: int, width: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, HALF_WIDTH, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(HALF_WIDTH, QUARTER_WIDTH, 3, stride=2, padding=1),
            nn.GELU(),
        )
        self.to_fine = nn.Conv2d(QUARTER_WIDTH, fine_width, 1)
        self.down = nn.Sequential(nn.Conv2d(QUARTER_WIDTH, width, 3, stride=2, padding=1), nn.GELU())
        self.to_middle = nn.Conv2d(width, width, 1)
        for last in (self.to_fine, self.to_middle):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images_F3HW: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to the stride-4 map, (F, C1, h, w), and to the fusion at stride 8, (F, K, h/2, w/2)."""
        seen = self.look(images_F3HW)
        fine: Tensor = self.to_fine(seen)
        middle: Tensor = self.to_middle(self.down(seen))
        return fine, middle
