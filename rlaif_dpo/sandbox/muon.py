"""Muon in float32 (Jordan et al. 2024): momentum whose update is made orthogonal. Used to train the sandbox model only.

torch.optim.Muon iterates in bfloat16, which a CPU without bfloat16 instructions computes about a hundred times slower.
"""

import torch

# The quintic Newton-Schulz iteration of the reference implementation, and its five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


class Muon:
    """Muon for weight matrices, with the interface of a torch optimizer that a training loop needs.

    The update of a matrix has about the root mean square of AdamW's (Liu et al. 2025, 2502.16982, eq. 4), so both share a
    learning rate.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        self.matrices = matrices
        self.param_groups = [{"lr": lr}]
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self) -> None:
        """One update from the matrices' gradients."""
        lr = self.param_groups[0]["lr"]
        for matrix, velocity in zip(self.matrices, self.velocity, strict=True):
            assert matrix.grad is not None
            velocity.lerp_(matrix.grad, 1 - self.momentum)
            update = orthogonal(matrix.grad.lerp(velocity, self.momentum))
            matrix.mul_(1 - lr * self.weight_decay)
            matrix.add_(update, alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (rows, columns) with its singular values brought near 1 (between about .7 and 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrix.size(0) > matrix.size(1)
    x: torch.Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
