"""Looks for damage in a model's weights, and gives it an identity that does not depend on its container."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from host.decode import decode_matrix
from host.errors import TritloomError
from host.model_files import ModelFiles
from host.packing import has_one_zero_in_four
from host.tensor_entry import TensorEntry
from host.trit_formats import TernaryMatrix


@dataclass(frozen=True)
class Integrity:
    """What the weights of a model look like.

    Members
    -------
    nonzero : fraction of weights that are not zero, by name of the projection.
    suspects : projections that are all zero or hold one value, and were let pass.
    sha256 : of trits and scales of ternary projections, and of the stored bytes of all other tensors.
    """

    nonzero: dict[str, float]
    suspects: tuple[str, ...]
    sha256: str

    @property
    def record(self) -> dict[str, object]:
        """For manifests and ``--json``."""
        return {"sha256": self.sha256, "nonzero_fraction": self.nonzero, "suspects": list(self.suspects)}


class Inspector:
    """Takes the projections of a model as they are decoded; each in turn, by `inspect`.

    Parameters
    ----------
    force : let suspicious projections pass.
    sparse : whether the configuration says that they are 3:4-sparse.
    """

    def __init__(self, *, force: bool = False, sparse: bool = False) -> None:
        self._force, self._sparse, self._digest = force, sparse, hashlib.sha256()
        self._nonzero: dict[str, float] = {}
        self._suspects: list[str] = []
        self._floats: list[TensorEntry] = []

    def inspect(self, key: str, entry: TensorEntry, matrix: TernaryMatrix | np.ndarray) -> None:
        """Count, check and hash one projection; that of floats is hashed as it is stored.

        Raises
        ------
        TritloomError: it is all zero or holds one value, and ``force`` was not given, or it is less sparse than said.
        """
        trits = matrix.trits if isinstance(matrix, TernaryMatrix) else matrix
        if self._sparse:
            check_sparse(entry, trits)
        self._nonzero[key] = np.count_nonzero(trits) / trits.size
        if trits.min() == trits.max():
            if not self._force:
                raise TritloomError(f"tensor {entry.name} holds nothing but {trits.flat[0]:g}, as a damaged file "
                                    "would; fetch the checkpoint again, or let it pass with --force")
            self._suspects.append(entry.name)
        if not isinstance(matrix, TernaryMatrix):
            self._floats.append(entry)
            return
        scales = np.broadcast_to(matrix.scales, (len(trits), 1)) if matrix.scales.shape[1] == 1 else matrix.scales
        self._digest.update(f"{key} {trits.shape} {scales.shape}".encode())
        self._digest.update(np.ascontiguousarray(trits))
        self._digest.update(np.ascontiguousarray(scales))

    def result(self, model: ModelFiles) -> Integrity:
        """The findings, after all projections; reads the bytes of all other tensors."""
        ternary, bounds = model.projections, [model.bounds] if model.bounds else []
        others = [*self._floats, *(entry for key, entry in model.matrices.items() if key not in ternary)]
        # Sorted by what they hold, because containers spell their names differently.
        self._digest.update(b"".join(sorted(_stored_digest(entry) for entry in (*others, *bounds, *model.gains))))
        return Integrity(self._nonzero, tuple(self._suspects), self._digest.hexdigest())


def check_sparse(entry: TensorEntry, plane: np.ndarray) -> None:
    """Refuse a trit plane of a tensor that has not exactly one zero in each four weights of a row."""
    if not has_one_zero_in_four(plane):
        raise TritloomError(f"tensor {entry.name} is not 3:4-sparse, although weight_sparsity in config.json says so; "
                            "leave that out, or fetch the checkpoint again")


def _stored_digest(entry: TensorEntry) -> bytes:
    digest = hashlib.sha256(f"{entry.dtype} {entry.shape}".encode())
    for chunk in entry.chunks():
        digest.update(chunk)
    return digest.digest()


def check_weights(model: ModelFiles, *, force: bool = False,
                  progress: Callable[[int, int], None] = lambda done, total: None) -> Integrity:
    """Decode every projection of a model, one at a time, and look for damage.

    Parameters
    ----------
    model : its headers.
    force : let projections pass that are all zero or hold one value.
    progress : called with the projections done and all of them.

    Raises
    ------
    TritloomError: a tensor is damaged or suspicious; the message names it.
    """
    inspector, keys = Inspector(force=force, sparse=model.architecture.shape.is_sparse), model.projections
    for done, key in enumerate(keys):
        progress(done, len(keys))
        inspector.inspect(key, model.matrices[key], decode_matrix(model, key))
    return inspector.result(model)
