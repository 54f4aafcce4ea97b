"""Which losses a stage adds up."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from datool.data.sample import Batch
from datool.errors import lookup
from datool.training.losses import gradient_matching, ssi_mae, ssi_mse


class LabelledObjective:
    """Scale-and-shift-invariant loss plus gradient matching against given labels.

    Args:
        ssi: key of `SSI`.
        gradient_weight: weight of gradient matching; 0 leaves it out.
    """

    def __init__(self, ssi: str, gradient_weight: float) -> None:
        self.ssi = lookup(SSI, ssi, "scale-and-shift-invariant loss")
        self.gradient_weight = gradient_weight

    def __call__(self, prediction: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch, each a scalar; ``loss`` is what is minimised."""
        ssi, residual = self.ssi(prediction, batch.target, batch.valid)
        gradient = gradient_matching(residual, batch.valid)
        loss = ssi + self.gradient_weight * gradient
        return {"loss": loss.mean(), "ssi": ssi.mean(), "gradient": gradient.mean()}


SSI: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "median": ssi_mae,
    "least-squares": ssi_mse,
}
