"""Where the five landmarks of an aligned face lie: FFHQ's template (METHOD, section 7)."""

import numpy as np

TEMPLATE_SIZE = 512
# Left eye, right eye, nose, left and right corner of the mouth, in pixels; left: of the picture.
TEMPLATE = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]
)
