"""Student recipe of the set itself, played as its method says: optimizer, learned step size, loss, labels, epochs."""

from ddbench.evaluation.protocol import Protocol

SHIPPED_V1 = Protocol(
    name="shipped-v1",
    version=1,
    summary="the student recipe that travels in the set; last step scored like everywhere",
)
