"""Adjacency matrices of a skeleton, (K, V, V) float64; normalised by column if not said otherwise.

[k, parent, child] is an inward edge. Which axis is the source is the backbone's affair: ST-GCN and
AAGCN sum over the first, CTR-GCN and MS-G3D over the second, as their papers' code does.
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
    """Return D^-1/2 A D^-1/2, as the original MS-G3D normalises; no row may be zero."""
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
    towards = inward(skeleton)
    return np.stack((np.eye(len(towards)), by_column(towards), by_column(towards.T)))


def binary(skeleton: Skeleton) -> Matrix:
    """Return (1, V, V): 1 for neighbours in both directions, no self loops."""
    towards = inward(skeleton)
    return (towards + towards.T)[None]


def hops(neighbours: Matrix, furthest: int) -> Matrix:
    """Return the (V, V) numbers of edges between joints, inf where more than `furthest`."""
    step = (neighbours + np.eye(len(neighbours))) > 0
    distance = np.full(step.shape, np.inf)
    for hop in range(furthest, -1, -1):
        distance[np.linalg.matrix_power(step.astype(np.float64), hop) > 0] = hop
    return distance


def distance(skeleton: Skeleton, max_hop: int = 1) -> Matrix:
    """Return (2 max_hop + 1, V, V): the partition of ST-GCN (AAAI 2018, section 3.3, 'spatial').

    Hop 0 is one matrix; each later hop is two: sources at least as far from the centre as the joint
    that receives, and sources closer to it. As released, joints more than `max_hop` from the centre
    count as infinitely far, and so as equally far.
    """
    apart = hops(binary(skeleton)[0], max_hop)
    normalised = by_column((apart <= max_hop).astype(np.float64))
    from_centre = apart[skeleton.centre]
    closer = from_centre[:, None] < from_centre[None, :]
    matrices = [normalised * (apart == 0)]
    for hop in range(1, max_hop + 1):
        at_hop = normalised * (apart == hop)
        matrices += [at_hop * ~closer, at_hop * closer]
    return np.stack(matrices)


def exactly(neighbours: Matrix, scales: int) -> Matrix:
    """Return (scales, V, V): 1 for joints exactly k edges apart, and for k > 0 on the diagonal."""
    apart = hops(neighbours, scales - 1)
    reached = np.stack([apart == hop for hop in range(scales)]).astype(np.float64)
    reached[1:] += np.eye(len(neighbours))
    return reached


def k_hop(skeleton: Skeleton, scales: int, normalise=by_column) -> Matrix:
    """Return (scales, V, V): the disentangled neighbourhoods of MS-G3D (CVPR 2020, eq. 3)."""
    return normalise(exactly(binary(skeleton)[0], scales))


def windowed(skeleton: Skeleton, scales: int, window: int, normalise=by_column) -> Matrix:
    """Return (scales, window V, window V): `k_hop` on a window of frames (MS-G3D, eq. 5).

    Within the window a joint neighbours itself and its neighbours in every frame.
    """
    frame = binary(skeleton)[0] + np.eye(skeleton.num_joints)
    return normalise(exactly(np.tile(frame, (window, window)), scales))
