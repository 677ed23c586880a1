import numpy as np
import pytest

from components.metrics.flicker import flicker


def test_flicker_is_the_mean_step_in_levels() -> None:
    grey = np.full((4, 4, 3), 100, dtype=np.uint8)
    brighter = grey + np.uint8(6)
    assert flicker([grey, grey, grey]) == 0
    assert flicker([grey, brighter, brighter]) == pytest.approx(3)  # one step of 6 in two
    assert flicker([brighter, grey]) == pytest.approx(6)  # darker counts as brighter does
    with pytest.raises(ValueError, match="1 frames: flicker needs two"):
        flicker([grey])
