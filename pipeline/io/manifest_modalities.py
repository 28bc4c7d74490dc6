"""The columns of a manifest row that tell of modalities: their URIs, their order, and the part that is read."""

from collections.abc import Iterator

from pipeline.errors import ConfigError
from pipeline.io.manifest_columns import MIN_SIDE_PX, ManifestRow
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.uris import KNOWN_SCHEMES, absolute_uri, split_uri

RGB = "rgb"

STACKED = "|"
"""Between the URIs of one modality whose channels lie in several files, as sine and cosine of MCubeS's angle do."""


def stacked_uris(uri: str) -> tuple[str, ...]:
    """The URIs that one modality is stacked of, mostly one."""
    return tuple(uri.split(STACKED))


def absolute_uris(row: ManifestRow, base: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Every modality's URI made absolute, the video's as "rgb", and what is wrong with them, as column and reason."""
    uris: dict[str, str] = {}
    breaches: list[tuple[str, str]] = []
    if RGB in row.modalities:
        breaches.append((f"modalities.{RGB}", "rgb is the video itself; name the other modalities, as depth or event."))
    for name, uri in {**row.modalities, RGB: row.video_uri}.items():
        column = "video_uri" if name == RGB else f"modalities.{name}"
        try:
            parts = [absolute_uri(part, base=base) for part in ([uri] if name == RGB else stacked_uris(uri))]
        except ConfigError as error:
            breaches.append((column, str(error)))
            continue
        uris[name] = STACKED.join(parts)
        for scheme in {split_uri(part)[0] for part in parts} - KNOWN_SCHEMES:
            breaches.append((column, f"{uri!r}: unknown scheme. {did_you_mean(scheme, sorted(KNOWN_SCHEMES))}"))
    return uris, breaches


def modality_breaches(row: ManifestRow) -> Iterator[tuple[str, str]]:
    """What is wrong with order and crop, as column and reason."""
    known = (RGB, *row.modalities)
    for place, name in enumerate(row.modality_order):
        if name not in known:
            yield f"modality_order[{place}]", f"{name!r} is no modality of the row. {did_you_mean(name, known)}"
        elif name in row.modality_order[:place]:
            yield f"modality_order[{place}]", f"{name!r} is there twice."
    if row.crop is None:
        return
    x0, y0, x1, y1 = row.crop
    if x1 - x0 < MIN_SIDE_PX or y1 - y0 < MIN_SIDE_PX:
        yield "crop", f"{list(row.crop)}: expected [x0, y0, x1, y1], at least {MIN_SIDE_PX} pixels wide and high."
    if not order_of(row):
        yield "crop", "given for plain video. Expected modalities or modality_order beside it; crop the video instead."


def order_of(row: ManifestRow) -> tuple[str, ...]:
    """What a method sees, in this order; empty where the row is plain video."""
    return row.modality_order or ((RGB, *row.modalities) if row.modalities else ())
