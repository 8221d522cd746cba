"""Adjacency matrices of a skeleton, (G, V, V) float64, column-normalized unless noted otherwise.

[g, parent, child] is an inward edge. All backbones here sum over the first V, the source;
weights of code that sums over the second are transposed by `model/names.py`.
"""

from __future__ import annotations

import numpy as np

from graph import Skeleton

Matrix = np.ndarray


def by_column(matrix: Matrix) -> Matrix:
    """Divide each column by its sum; a column of zeros stays zero."""
    total = matrix.sum(-2, keepdims=True)
    return matrix / np.where(total == 0, 1, total)


def symmetric(matrix: Matrix) -> Matrix:
    """Return D^-1/2 A D^-1/2, the normalization of the original MS-G3D; no row may be zero."""
    degree = matrix.sum(-1)
    return matrix / np.sqrt(degree[..., :, None] * degree[..., None, :])


def inward(skeleton: Skeleton) -> Matrix:
    """Return (V, V): 1 at [parent, child] of each edge."""
    matrix = np.zeros((skeleton.num_joints, skeleton.num_joints))
    child, parent = np.array(skeleton.edges).T
    matrix[parent, child] = 1
    return matrix


def spatial(skeleton: Skeleton) -> Matrix:
    """Return (3, V, V): self, inward and outward edges (2s-AGCN, section 3)."""
    matrix = inward(skeleton)
    return np.stack((np.eye(len(matrix)), by_column(matrix), by_column(matrix.T)))


def binary(skeleton: Skeleton) -> Matrix:
    """Return (1, V, V): 1 for neighbors in both directions, no self loops."""
    matrix = inward(skeleton)
    return (matrix + matrix.T)[None]


def hops(neighbors: Matrix, max_hop: int) -> Matrix:
    """Return (V, V): the number of edges between two joints, inf if more than `max_hop`."""
    step = (neighbors + np.eye(len(neighbors))) > 0
    distance = np.full(step.shape, np.inf)
    for hop in range(max_hop, -1, -1):
        distance[np.linalg.matrix_power(step.astype(np.float64), hop) > 0] = hop
    return distance


def distance(skeleton: Skeleton, max_hop: int = 1) -> Matrix:
    """Return (2 max_hop + 1, V, V): the partition of ST-GCN (AAAI 2018, section 3.3, 'spatial').

    Hop 0 is one matrix. Each further hop is two: sources at least as far from the center as the
    target joint, and sources closer to it. As in the released code, joints more than `max_hop` from
    the center count as infinitely far, and therefore as equally far.
    """
    distances = hops(binary(skeleton)[0], max_hop)
    normalized = by_column((distances <= max_hop).astype(np.float64))
    to_center = distances[skeleton.center]
    closer = to_center[:, None] < to_center[None, :]
    matrices = [normalized * (distances == 0)]
    for hop in range(1, max_hop + 1):
        at_hop = normalized * (distances == hop)
        matrices += [at_hop * ~closer, at_hop * closer]
    return np.stack(matrices)


def exact_hops(neighbors: Matrix, scales: int) -> Matrix:
    """Return (scales, V, V): 1 for joints exactly k edges apart, and for k > 0 on the diagonal."""
    distances = hops(neighbors, scales - 1)
    matrices = np.stack([distances == hop for hop in range(scales)]).astype(np.float64)
    matrices[1:] += np.eye(len(neighbors))
    return matrices


def k_hop(skeleton: Skeleton, scales: int, normalize=by_column) -> Matrix:
    """Return (scales, V, V): the disentangled neighborhoods of MS-G3D (CVPR 2020, eq. 3)."""
    return normalize(exact_hops(binary(skeleton)[0], scales))


def windowed(skeleton: Skeleton, scales: int, window: int, normalize=by_column) -> Matrix:
    """Return (scales, window V, window V): `k_hop` on a window of frames (MS-G3D, eq. 5).

    The neighbors of a joint are the joint itself and its neighbors, in every frame of the window.
    """
    frame = binary(skeleton)[0] + np.eye(skeleton.num_joints)
    return normalize(exact_hops(np.tile(frame, (window, window)), scales))
