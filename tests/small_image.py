"""As much of an image as a loader looks at."""

from dataclasses import dataclass

import numpy as np

from host.image import Space as ImageSpace


@dataclass(frozen=True)
class SmallImage:
    """As much of an image as loading looks at."""

    image_id: int = 77
    geometry: int = 0x1234
    stream_words: int = 300
    prompt_words: int = 200
    weights: ImageSpace = ImageSpace.SDRAM

    def load_words(self) -> list[tuple[ImageSpace, int, np.ndarray]]:
        return [(ImageSpace.PROGRAM, 0, np.arange(12, dtype=np.uint32)),
                (self.weights, 0, np.arange(1000, 1300, dtype=np.uint32) * 0x9E37),
                (ImageSpace.ROTARY, 64, np.arange(1, dtype=np.uint32))]
