"""Protocols: frozen, versioned constants that say how students are trained and scored. Defined in `evaluators/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ddbench import networks, plugins
from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.training.recipe import StudentRecipe

GROUP = "ddbench.evaluators"


@dataclass(frozen=True)
class Tier:
    """Students of one range of image sizes.

    Attributes:
        up_to: largest side in pixels; None for no limit.
        student: fields of the `StudentRecipe`.
    """

    up_to: int | None
    student: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Protocol:
    """A protocol as a constant: everything that decides a score, and nothing that may vary unseen.

    Attributes:
        name: with its version at the end, "hard-v1"; a change of any number is a new version.
        version: that version.
        summary: one line for people.
        space: "own", students train in the set's space; "teacher", the set is mapped into the reference teacher's.
        tiers: students by image size, in rising order; empty for a protocol that plays the set's own recipe.
        teacher: the reference teacher's training by image size; its network is the default student network.
        smallest: smallest side in pixels that the protocol is for.
    """

    name: str
    version: int
    summary: str
    space: Literal["own", "teacher"] = "own"
    tiers: tuple[Tier, ...] = ()
    teacher: tuple[Tier, ...] = ()
    smallest: int = 1
    accuracies: Mapping[str, float] = field(default_factory=dict)
    """Reference teacher's test accuracy by data set id, for flagging one that is off; not part of the digest."""

    @property
    def shipped(self) -> bool:
        """Tell whether students follow the recipe that travels in the set."""
        return not self.tiers

    def digest(self) -> str:
        """SHA-256 of every constant of the protocol; pinned by a test."""
        return digest(
            {
                "name": self.name,
                "version": self.version,
                "space": self.space,
                "smallest": self.smallest,
                "tiers": [[tier.up_to, dict(tier.student)] for tier in self.tiers],
                "teacher": [[tier.up_to, dict(tier.student)] for tier in self.teacher],
            }
        )

    def student(self, dataset: Dataset, network: str | None = None) -> StudentRecipe:
        """Student's training on a data set's images; `network` replaces the default network and nothing else.

        Raises:
            UsageError: the protocol does not cover the images' size, or the network is unknown.
        """
        return _resolve(self, self.tiers, dataset, network)

    def reference(self, dataset: Dataset) -> StudentRecipe | None:
        """Reference teacher's training, always with the default student network; None if there is no teacher."""
        if not self.teacher:
            return None
        return _resolve(self, self.teacher, dataset, self.student(dataset).network)


def _resolve(protocol: Protocol, tiers: tuple[Tier, ...], dataset: Dataset, network: str | None) -> StudentRecipe:
    tier = next((t for t in tiers if t.up_to is None or dataset.side <= t.up_to), None)
    if tier is None or dataset.side < protocol.smallest:
        largest = tiers[-1].up_to if tiers else None
        raise UsageError(
            f"{protocol.name} covers images of {protocol.smallest} to {largest} px, {dataset.id} has {dataset.side} px"
        )
    fields = dict(tier.student)
    name = networks.canonical(network or str(fields["network"]), side=dataset.side)
    recipe = StudentRecipe.model_validate({**fields, "network": name})
    return recipe.flipped(dataset.flip)


def protocol_names() -> tuple[str, ...]:
    """Names of all installed protocols."""
    return plugins.names(GROUP)


def find_protocol(name: str) -> Protocol:
    """Protocol registered under a name; UsageError if there is none."""
    return plugins.find_a(Protocol, GROUP, name)
