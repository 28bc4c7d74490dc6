"""The closed vocabulary of ShapesRef: every word that its grammar can say, in an order that never changes."""

VOCABULARY: tuple[str, ...] = (
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
"""Lower-case words; append new ones at the end only, since trained models count on the order."""
