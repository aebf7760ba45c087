"""PCA whitening: projects rows onto their principal axes and scales every axis to the same variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from embedding_expansion.checks import as_limit, as_number
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_array
from embedding_expansion.retrieval.inputs import embedding_rows, unit_rows

# An axis with less than this share of the largest variance holds only rounding errors, which whitening would amplify.
LEAST_VARIANCE = 1e-6
# Rows that are summed at a time.
PIECE = 8192


@dataclass(frozen=True, eq=False)
class PCAWhitening:
    """A fitted whitening, x -> normalise((normalise(x) - mean) projection).

    Fit it on one set, without labels, and apply it to queries and gallery alike.

    Attributes:
        mean: (d,), the mean of the L2-normalised rows.
        projection: (d, m), one principal axis per column, in descending order of variance, each divided by the square
            root of its variance; the entry of the largest magnitude of an axis is positive.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3)) * [9.0, 3.0, 1.0]
        >>> whitening = PCAWhitening.fit(rows, dimensions=2)
        >>> whitening.apply(rows).shape
        torch.Size([50, 2])

    Source: H. Jegou and O. Chum, "Negative Evidences and Co-occurences in Image Retrieval: the Benefit of PCA and
        Whitening", ECCV 2012, section 2.
    Differs from the source: `shrinkage` is added.
    """

    mean: Float[Tensor, " d"]
    projection: Float[Tensor, "d m"]

    @classmethod
    @torch.no_grad()
    @validates
    def fit(
        cls, embeddings: Tensor | np.ndarray, dimensions: int | None = None, *, shrinkage: float = 0.0
    ) -> PCAWhitening:
        """Computes the mean and the axes of a set, in float64 whatever type the rows have.

        Let v_1 >= v_2 >= ... be the variances along the axes, and v their mean over the axes that are kept. Axis i is
        divided by the square root of (1 - shrinkage) v_i + shrinkage v.

        Args:
            embeddings: (n, d), rows of any norm, best of classes that are not measured.
            dimensions: how many axes to keep; None for all with a variance above 0, at most n - 1 and d.
            shrinkage: 0 whitens fully, 1 is PCA without whitening. Values between amplify axes of small variance less,
                which few rows determine badly.

        Raises:
            InvalidInput: an empty or non-finite matrix, rows that do not vary, more dimensions than axes with a
                variance above 0, or a shrinkage outside 0..1.
            InvalidType: embeddings that are not a floating-point matrix, or a number of the wrong type.
        """
        rows, shrinkage = unit_rows(embedding_rows(embeddings)), as_number(shrinkage, "shrinkage", 0, 1)
        mean, covariance = _moments(rows)
        variances, axes = torch.linalg.eigh(covariance)
        variances, axes = variances.flip(0), axes.flip(1)
        # Equal rows still vary by rounding.
        least = max(LEAST_VARIANCE * float(variances[0]), torch.finfo(rows.dtype).eps ** 2)
        varying = min(int((variances > least).sum()), len(rows) - 1)
        if varying == 0:
            raise InvalidInput(f"the {len(rows)} rows of embeddings do not vary; fit the whitening on different images")
        kept = as_limit(dimensions, "dimensions") or varying
        if kept > varying:
            raise InvalidInput(
                f"dimensions is {kept}, but the {len(rows)} rows of embeddings vary along {varying} axes only; pass at "
                f"most {varying}, or fit on more rows"
            )
        variances, axes = variances[:kept], axes[:, :kept]
        peaks = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        scale = ((1 - shrinkage) * variances + shrinkage * variances.mean()).rsqrt()
        return cls(mean.to(rows.dtype), (axes * peaks.sign() * scale).to(rows.dtype).contiguous())

    @torch.no_grad()
    @validates
    def apply(self, embeddings: Tensor | np.ndarray) -> Tensor:
        """Whitens rows.

        Args:
            embeddings: (n, d), rows of any norm, on any device.

        Returns:
            (n, m), L2-normalised, on the device of the rows; float64 if both rows and whitening are float64, otherwise
            float32. A row at the mean becomes a row of zeros.

        Raises:
            InvalidInput: an empty or non-finite matrix, or one with another number of columns.
            InvalidType: embeddings that are not a floating-point matrix.
        """
        rows = unit_rows(embedding_rows(embeddings))
        if rows.shape[1] != len(self.mean):
            raise InvalidInput(
                f"embeddings has {rows.shape[1]} columns but the whitening was fitted on {len(self.mean)}; embed with "
                "the model that it was fitted for"
            )
        dtype = torch.float64 if rows.dtype == self.mean.dtype == torch.float64 else torch.float32
        mean, projection = self.mean.to(rows.device, dtype), self.projection.to(rows.device, dtype)
        with torch.autocast(rows.device.type, enabled=False):
            return unit_rows((rows.to(dtype) - mean) @ projection)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The mean and the projection as NumPy arrays; save them with `np.savez(path, **whitening.to_arrays())`."""
        return {"mean": self.mean.cpu().numpy(), "projection": self.projection.cpu().numpy()}

    @classmethod
    @validates
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PCAWhitening:
        """Restores a whitening from the arrays of `to_arrays`, or from an open .npz file with them.

        Raises:
            InvalidInput: an array is missing, or the two do not fit each other.
            InvalidType: the arrays do not hold floating-point numbers.
        """
        for name in ("mean", "projection"):
            if name not in arrays:
                raise InvalidInput(f"the arrays of a whitening lack {name!r}; pass what to_arrays() returned")
        mean = as_array(arrays["mean"], "mean")
        projection = embedding_rows(as_array(arrays["projection"], "projection"), "projection")
        if mean.shape != (len(projection),):
            raise InvalidInput(
                f"mean has the shape {mean.shape} but projection {tuple(projection.shape)}; pass what to_arrays() "
                "returned"
            )
        return cls(embedding_rows(mean[None], "mean")[0].to(projection.dtype), projection)


def _moments(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """The mean and the covariance (divided by n) in float64, computed a piece of the rows at a time."""
    mean = torch.stack([piece.double().sum(0) for piece in torch.split(rows, PIECE)]).sum(0) / len(rows)
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for piece in torch.split(rows, PIECE):
        centred = piece.double() - mean
        covariance.addmm_(centred.T, centred)
    return mean, covariance / len(rows)
