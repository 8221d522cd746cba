"""The class-specific contrastive loss of ProtoGCN (Liu et al., CVPR 2025, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.auxiliary import AuxiliaryLoss
from longtail.ranges import Count, Factor, NotNegative, Positive, Share
from longtail.ranks import sum_over_ranks
from model.backbone import Backbone


class ClassContrast(AuxiliaryLoss):
    """Cross entropy of the cosines between embeddings h (N, D) and a remembered mean per class.

    The memory m_c, a buffer (K, D) initialized from N(0, 1), is the moving average of the samples
    that the network recognizes: those whose most probable class is their label, with a probability
    above `threshold`. With H_c their mean in this batch,

        m_c <- momentum m_c + (1 - momentum) H_c     for each class that has any,
        loss = weight mean_i -log softmax_c(cos(h_i, m_c) / temperature)[y_i]   over all samples.

    The gradient flows through h and the new part of m. The memory is updated in training mode only.
    A mixed sample counts in H for the class of its largest share, by that share, and has a soft
    label in the loss. The batch is a micro-batch of all ranks: they have the same memory. (The
    released code has one for each process.)
    """

    takes = "embedding"

    def __init__(
        self,
        model: Backbone,
        width: Count = 256,
        weight: NotNegative = 0.2,
        temperature: Positive = 0.125,
        momentum: Factor = 0.9,
        threshold: Share = 0.0,
    ):
        super().__init__(model)
        self.weight, self.temperature = weight, temperature
        self.momentum, self.threshold = momentum, threshold
        self.memory = nn.Buffer(torch.randn(self.num_class, width))

    def forward(self, embedding: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        memory: Tensor = self.memory
        embedding, labels = embedding.to(memory.dtype), labels.to(memory.dtype)
        if self.training:
            memory = self.updated(embedding, logits.detach(), labels)
            self.memory.copy_(memory.detach())  # in place, as a captured step needs it
        cosines = F.normalize(embedding) @ F.normalize(memory).t()
        return self.weight * F.cross_entropy(cosines / self.temperature, labels)

    def updated(self, embedding: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the memory (K, D) after this batch."""
        probability, predicted = logits.softmax(-1).max(-1)
        share, label = labels.max(-1)
        recognized = (predicted == label) & (probability > self.threshold)
        members = F.one_hot(label, self.num_class) * (share * recognized)[:, None]  # (N, K)
        sums = torch.cat([members.sum(0)[:, None], members.t() @ embedding], 1)
        count, total = sum_over_ranks(sums).split([1, embedding.shape[1]], 1)
        mean = total / torch.where(count > 0, count, 1)
        moved = self.momentum * self.memory + (1 - self.momentum) * mean
        return torch.where(count > 0, moved, self.memory)
