"""Cui et al., "Parametric Contrastive Learning", ICCV 2021, arXiv 2107.12028."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from longtail.bcl import head
from longtail.classifiers import Samples
from longtail.losses import log_prior
from longtail.method import Method, Parts
from longtail.ranges import Count, Factor, NotNegative, Positive
from longtail.ranks import gather_over_ranks
from model.backbone import linear_classifier


def parametric_contrast(
    logits: Tensor, labels: Tensor, similarity: Tensor, alike: Tensor, others: Tensor, alpha: float
) -> Tensor:
    """Return the parametric contrastive losses (A,) of anchors.

    With the logits v_ik of the classes, the similarities s_ij to the keys j, and the positive keys
    P(i), those of the anchor's class,

        q_i(x) = e^x / (sum_k e^{v_ik} + sum_j e^{s_ij}),
        L_i = -( log q_i(v_iy) + alpha sum_{p in P(i)} log q_i(s_ip) ) / (1 + alpha |P(i)|).

    Args:
        logits: (A, K), with the class prior
        labels: (A, K), one-hot
        similarity: (A, B)
        alike: (A, B), 1 for the keys in P(i), else 0
        others: (A, B) bool, the keys in the sum over j: not the anchor itself
        alpha: weight of a key, relative to the class
    """
    every = torch.cat([logits, similarity.masked_fill(~others, -torch.inf)], 1)
    total = every.logsumexp(1, keepdim=True)
    positive = (labels * (logits - total)).sum(1) + alpha * (alike * (similarity - total)).sum(1)
    return -positive / (1 + alpha * alike.sum(1))


class PaCo(Method):
    """`parametric_contrast` of the first view of a sample with the second, and with a queue.

    v are the logits of the first view plus log(n_k / n); s are the cosines of projections, divided
    by `temperature`. The keys are the projections of the first views themselves, those of the
    second views, and the latest `queue` of these from earlier steps. Second views are projected by
    a copy of the network and of its projection whose weights are the moving average, with factor
    `momentum`, of those trained. The keys are those of a micro-batch of all ranks.

    The values are the authors' for CIFAR-100-LT of imbalance factor 100. Unlike in their code, the
    copy normalizes with its running statistics (they shuffle the samples between GPUs), and the
    queue is empty at first (there: random vectors of random classes).
    """

    views = 2
    refuses = ("mixing", "loss", "class_weights", "classifier")

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        size: Count = 32,
        queue: Count = 1024,
        temperature: Positive = 0.05,
        alpha: NotNegative = 0.01,
        momentum: Factor = 0.999,
    ) -> None:
        super().__init__(parts, model)
        self.projection = head(linear_classifier(model).in_features, size)
        self.temperature, self.alpha, self.momentum = temperature, alpha, momentum
        self.prior = nn.Buffer(log_prior(parts.class_counts), persistent=False)
        self.queue = nn.Buffer(torch.zeros(queue, size))
        self.queue_labels = nn.Buffer(torch.zeros(queue, self.num_class))  # 0: empty
        # Its weights are state, which a resumed run loads, and not trained.
        self.average = nn.ModuleList([copy.deepcopy(model), copy.deepcopy(self.projection)])
        self.average.requires_grad_(False).eval()

    def prepare(self, model: nn.Module, samples: Samples) -> None:
        super().prepare(model, samples)
        for average, trained in self.averaged(model):
            average.copy_(trained)

    def averaged(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Return pairs: each number of the averaged network and projection, and what it follows."""
        kept, own = self.average.state_dict(), nn.ModuleList([model, self.projection]).state_dict()
        return [(kept[name], value) for name, value in own.items() if value.is_floating_point()]

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        averages, trained = zip(*self.averaged(model))
        torch._foreach_lerp_(averages, trained, 1 - self.momentum)

    def loss(self, net: nn.Module, clips: Tensor, targets: Tensor, count: int) -> Tensor:
        output, labels = net(clips[:, 0]), targets[:, 1]
        queries = normalize(self.projection(output.features))
        second = self.project_second(clips[:, 1])
        losses = self.contrasted(output.logits + self.prior, queries, second, labels)
        return losses.sum() / count + self.auxiliary(output, labels, count)

    @torch.no_grad()
    def project_second(self, clips: Tensor) -> Tensor:
        """Return the averaged network's projections (n, D), unit vectors, of clips."""
        network, projection = self.average
        network.eval()
        projection.eval()
        return normalize(projection(network(clips, outputs=True).features.float()))

    def contrasted(self, logits: Tensor, queries: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (n,) of queries (n, D) with labels (n, K). The keys are the queries and
        the second views (n, D) of all ranks, and the queue, to which the second views are added."""
        width = queries.shape[1]
        both, first = gather_over_ranks(torch.cat([queries, second, labels], 1))
        all_queries, all_second, all_labels = both.split([width, width, self.num_class], 1)
        all_second, all_labels = all_second.detach(), all_labels.detach()
        keys = torch.cat([all_queries, all_second, self.queue])
        key_labels = torch.cat([all_labels, all_labels, self.queue_labels])
        own = torch.arange(first, first + len(queries), device=queries.device)[:, None]
        others = key_labels.any(1).repeat(len(queries), 1).scatter(1, own, False)
        alike = (labels @ key_labels.t()).scatter(1, own, 0)
        similarity = queries @ keys.t() / self.temperature
        if self.training:
            # in front of the queue; the last ones drop out
            for kept, new in ((self.queue, all_second), (self.queue_labels, all_labels)):
                kept.copy_(torch.cat([new, kept])[: len(kept)])
        return parametric_contrast(logits, labels, similarity, alike, others, self.alpha)
