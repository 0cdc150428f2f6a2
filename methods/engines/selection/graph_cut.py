"""Graph cut: choosing samples that are central and unlike each other, in time O(n) for each choice.

gain(x) = lambda sum_(j in D) s(j, x) - 2 sum_(j in S) s(j, x), S what is chosen, D all (Iyer and Bilmes 2013); the largest
gain is chosen, then s(chosen, x) is taken from the gains twice: nothing is summed anew, and no n x n matrix is made.
Dataset Quantization (arXiv 2308.10524) chooses bins of samples by it, one after the other.

s(i, j) = (1 + cos(g_i, g_j)) / 2 of features, or of the loss's gradients by the last layer, g = [delta ; delta outer h]:
then g_i . g_j = (delta_i . delta_j) (1 + h_i . h_j), so that only delta [n, K] and h [n, d] are kept. The cosine with a
vector of zeros is 0.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddbench.errors import UsageError


class Similarity(Protocol):
    """Similarities s(i, j) of n samples, in [0, 1]."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def row(self, place: int) -> Tensor:
        """s(place, j) of all j, [n]."""
        ...

    def total(self) -> Tensor:
        """sum_i s(i, j) of all j, [n]."""
        ...

    def take(self, places: Tensor) -> "Similarity":
        """Similarities of some samples among each other."""
        ...


@dataclass(frozen=True, eq=False)
class Cosine:
    """By the cosine of features; `units` [n, d] have length 1, or 0."""

    units: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Cosine":
        """Similarity of features [n, d]."""
        return cls(_over(features, features.norm(dim=1)))

    def __len__(self) -> int:
        return len(self.units)

    def row(self, place: int) -> Tensor:
        """See `Similarity`."""
        return 0.5 + 0.5 * (self.units @ self.units[place])

    def total(self) -> Tensor:
        """See `Similarity`: a cosine is linear in either unit vector."""
        return 0.5 * len(self) + 0.5 * (self.units @ self.units.sum(0))

    def take(self, places: Tensor) -> "Cosine":
        """See `Similarity`."""
        return Cosine(self.units[places])


@dataclass(frozen=True, eq=False)
class LastLayer:
    """By the cosine of last-layer gradients; `units` [n, K] are delta / || g ||, `features` [n, d] are h."""

    units: Tensor
    features: Tensor

    @classmethod
    def of(cls, delta: Tensor, features: Tensor) -> "LastLayer":
        """Similarity of the loss's gradients by the logits, delta [n, K], and the last layer's inputs, h [n, d]."""
        return cls(_over(delta, delta.norm(dim=1) * (1 + features.square().sum(1)).sqrt()), features)

    def __len__(self) -> int:
        return len(self.units)

    def row(self, place: int) -> Tensor:
        """See `Similarity`."""
        return 0.5 + 0.5 * (self.units @ self.units[place]) * (1 + self.features @ self.features[place])

    def total(self) -> Tensor:
        """See `Similarity`: the sum over i goes into one vector [K] and one matrix [K, d]."""
        outer = self.units.T @ self.features
        sums = self.units @ self.units.sum(0) + ((self.units @ outer) * self.features).sum(1)
        return 0.5 * len(self) + 0.5 * sums

    def take(self, places: Tensor) -> "LastLayer":
        """See `Similarity`."""
        return LastLayer(self.units[places], self.features[places])


def _over(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Vectors [n, k] over lengths [n]; zeros where the length is 0."""
    return torch.where(lengths[:, None] > 0, vectors / lengths[:, None].clamp_min(torch.finfo(vectors.dtype).tiny), 0.0)


def loss_gradient(logits: Tensor, labels: Tensor, softmax: Literal["single", "double"]) -> Tensor:
    """Gradient, delta [n, K], of each sample's cross-entropy by its logits [n, K]; labels int64 [n].

    "double": cross-entropy of the probabilities as if they were logits, as DQ's code has it: with p = softmax(z) and
    q = softmax(p), delta = p (q - y) - p (p . (q - y)). Nothing cancels, so that confident samples keep a direction.
    """
    p = logits.softmax(1)
    y = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits)
    if softmax == "single":
        others = p * (1 - y)
        return others - y * others.sum(1, keepdim=True)
    inner = p.softmax(1) - y
    inner = inner - inner.gather(1, p.argmax(1, keepdim=True))  # a shift of all changes nothing but the rounding
    return p * inner - p * (p * inner).sum(1, keepdim=True)


def graph_cut(similarity: Similarity, count: int, weight: float = 1.0) -> Tensor:
    """Choose samples greedily by their gain; of equal ones the first.

    Args:
        similarity: of n samples.
        count: how many to choose, 0..n.
        weight: lambda, of being like all.

    Returns:
        Places, int64 [count], in the order chosen.

    Raises:
        UsageError: more than there are.
    """
    if not 0 <= count <= len(similarity):
        raise UsageError(f"cannot choose {count} of {len(similarity)} samples")
    gain = weight * similarity.total().double()
    chosen: list[int] = []
    while len(chosen) < count:
        newest = int(gain.argmax())
        chosen.append(newest)
        gain -= 2 * similarity.row(newest)
        gain[newest] = -torch.inf  # never again: nothing takes from it
    return torch.tensor(chosen, dtype=torch.int64)


def graph_cut_bins(similarity: Similarity, number: int, weight: float = 1.0) -> list[Tensor]:
    """All samples in `number` bins: each is a graph cut of what the bins before left; the last one is what is left.

    Sizes differ by one at most, larger bins first. UsageError where there are fewer samples than bins.
    """
    count = len(similarity)
    if count < number:
        raise UsageError(f"{count} samples do not fill {number} bins")
    left, bins = torch.arange(count), []
    for at in range(number - 1):
        size = count // number + (at < count % number)
        chosen = graph_cut(similarity.take(left), size, weight)
        bins.append(left[chosen])
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[chosen] = False
        left = left[keep]
    return [*bins, left]
