"""The class-specific contrastive loss of ProtoGCN (Liu et al., CVPR 2025, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClassContrast(nn.Module):
    """Cross entropy of the cosines between embeddings h (N, D) and a remembered mean per class.

    The memory m_c, a buffer (K, D) initialized from N(0, 1), is the moving average of the samples
    that the network recognizes: those whose most probable class is their label, with a probability
    above `threshold`. With H_c their mean in this batch,

        m_c <- momentum m_c + (1 - momentum) H_c     for each class that has any,
        loss = mean_i -log softmax_c(cos(h_i, m_c) / temperature)[y_i]     over all samples.

    The gradient flows through h and the new part of m. The memory is updated in training mode only.
    """

    memory: Tensor

    def __init__(
        self,
        num_class: int,
        width: int = 256,
        temperature: float = 0.125,
        momentum: float = 0.9,
        threshold: float = 0.0,
    ):
        super().__init__()
        self.temperature, self.momentum, self.threshold = temperature, momentum, threshold
        self.register_buffer("memory", torch.randn(num_class, width))

    def forward(self, embedding: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of embeddings (N, D), logits (N, K) and labels (N,) int64."""
        memory = self.memory
        embedding = embedding.to(memory.dtype)
        if self.training:
            memory = self.updated(embedding, logits.detach(), labels)
            self.memory = memory.detach()
        cosines = F.normalize(embedding) @ F.normalize(memory).t()
        return F.cross_entropy(cosines / self.temperature, labels)

    def updated(self, embedding: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the memory (K, D) after this batch."""
        probability, predicted = logits.softmax(-1).max(-1)
        recognized = (predicted == labels) & (probability > self.threshold)
        members = F.one_hot(labels, len(self.memory)) * recognized[:, None]  # (N, K)
        count = members.sum(0)[:, None]
        mean = members.t().to(embedding.dtype) @ embedding / count.clamp_min(1)
        moved = self.momentum * self.memory + (1 - self.momentum) * mean
        return torch.where(count > 0, moved, self.memory)
