"""The words an embedded tiny model knows unless its card lists others; a word's place is its id, so append only."""

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3; the first three as in RoBERTa."""

WORDS: tuple[str, ...] = (
    *("the", "a", "all", "both", "two", "three", "that", "is", "are", "to", "of", "in", "and"),
    *("object", "objects"),
    *("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"),
    *("disc", "square", "triangle", "star", "ring", "cross", "bar"),
    *("discs", "squares", "triangles", "stars", "rings", "crosses", "bars"),
    *("plain", "striped", "dotted", "checkered", "small", "large", "big"),
    *("moving", "moves", "move", "going", "goes", "go", "heading", "slowly", "fast"),
    *("left", "right", "up", "down", "rising", "falling"),
    *("standing", "stays", "still", "resting"),
    *("circle", "circling", "clockwise", "counterclockwise", "zigzag", "zigzagging"),
    *("bouncing", "hopping", "spinning", "rotating", "growing", "shrinking", "getting", "larger", "smaller"),
    *("starts", "begins", "stops", "turns", "back"),
    *("enters", "appears", "last", "late", "leaves", "disappears", "reappears", "returns", "comes"),
    *("above", "below", "under", "behind", "front"),
)
"""ShapesRef's words, equal to `pipeline.synth.vocabulary`, which this layer does not import; a test compares them."""
