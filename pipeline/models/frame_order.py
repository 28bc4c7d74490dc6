"""The order in which every session takes its frames."""

from pipeline.errors import SessionError


def check_order(frame_index: int, *, last: int | None, has_ended: bool) -> None:
    """Refuse a frame after the end, or one that does not come after the last.

    Args:
        last: index of the frame pushed before, None at the first.

    Raises:
        SessionError: names both indices.
    """
    if has_ended:
        raise SessionError(f"frame {frame_index} after the end. Open a new session for a new video.")
    if last is not None and frame_index <= last:
        raise SessionError(
            f"frame {frame_index} after frame {last}: expected a larger index. Push frames in presentation order."
        )
