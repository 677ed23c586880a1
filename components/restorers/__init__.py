"""An aligned LQ face in, a restored one out: the seam that every restorer fills, and ours."""
