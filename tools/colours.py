"""The colours of every picture: the palette of Okabe & Ito, told apart with any colour vision."""

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
# The palette's yellow is left out: it is too pale for lines on white.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "os^Dvp*X"  # say the same again; one more than colours, so that no pair comes again before the 57th line
