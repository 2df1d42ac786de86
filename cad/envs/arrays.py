"""Types of the arrays that environments take and give."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
NoiseArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
