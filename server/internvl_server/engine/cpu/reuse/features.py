"""Encoded images by their content, so that an image is encoded once for all choices, turns and requests."""

from collections import OrderedDict

from torch import Tensor

__all__ = ["FeatureCache"]


class FeatureCache:
    """The embeddings of the images used last, as many as fit.

    Args:
        max_bytes: Limit of their memory; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Memory of all kept embeddings."""
        return self._num_bytes

    def get(self, fingerprint: bytes) -> Tensor | None:
        """The embeddings of an image, (num_image_tokens, hidden_size), if they are kept."""
        features = self._features.get(fingerprint)
        if features is not None:
            self._features.move_to_end(fingerprint)
        return features

    def add(self, fingerprint: bytes, features: Tensor) -> None:
        """Keep the embeddings of an image that `get` did not find, instead of those used longest ago."""
        if features.nbytes > self._max_bytes:
            return
        self._features[fingerprint] = features
        self._num_bytes += features.nbytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._features.popitem(last=False)
            self._num_bytes -= oldest.nbytes
