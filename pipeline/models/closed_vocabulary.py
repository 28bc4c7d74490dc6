"""The words an embedded tiny model knows unless its card lists others; a word's place is its id, so append only."""

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3; the first three as in RoBERTa."""

WORDS = (
    *("a", "the", "all", "two", "that", "is", "are", "and", "to", "of"),
    *("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"),
    *("disc", "discs", "square", "squares", "triangle", "triangles", "star", "stars"),
    *("ring", "rings", "cross", "crosses", "bar", "bars", "object", "objects", "shape", "shapes"),
    *("small", "large", "plain", "striped", "dotted", "checkered"),
    *("still", "staying", "moving", "moves", "going", "drifting", "sliding", "heading"),
    *("left", "right", "up", "down", "upwards", "downwards", "diagonally", "slowly", "fast"),
    *("circling", "clockwise", "counterclockwise", "spinning", "turning", "zigzagging", "bouncing"),
    *("growing", "approaching", "stopping", "stops", "starting", "starts", "following", "orbiting", "crossing"),
    *("enters", "entering", "leaves", "leaving", "appears", "disappears", "returns", "first", "last", "back"),
    *("behind", "above", "below", "beside", "near", "in", "on", "at", "with", "then"),
)
