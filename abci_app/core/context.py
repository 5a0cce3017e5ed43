"""What a rule knows besides the state: who sends, at which height, under which parameters."""

from __future__ import annotations

from dataclasses import dataclass

from abci_app.core.parameters import Chain, Parameters
from planetserve.keys import NodeId, node_id


@dataclass(frozen=True, slots=True)
class Window:
    """The heights of an epoch. Commits enter in [start, commit_end), reveals in
    [commit_end, reveal_end); block end - 1 settles, block end begins the next epoch."""

    epoch: int
    start: int
    commit_end: int
    reveal_end: int
    end: int


def epoch_of(height: int, parameters: Parameters) -> int:
    """Heights begin at 1 and epochs at 0."""
    return (height - 1) // parameters.epoch_blocks


def window_of(epoch: int, parameters: Parameters) -> Window:
    start = epoch * parameters.epoch_blocks + 1
    end = start + parameters.epoch_blocks
    return Window(epoch, start, start + parameters.commit_blocks, end - 1, end)


@dataclass(frozen=True, slots=True)
class Context:
    """One transaction's surroundings; `key` is the sender's public key."""

    chain: Chain
    height: int
    key: bytes

    @property
    def parameters(self) -> Parameters:
        return self.chain.parameters

    @property
    def sender(self) -> NodeId:
        return node_id(self.key)

    @property
    def epoch(self) -> int:
        return epoch_of(self.height, self.parameters)

    @property
    def window(self) -> Window:
        return window_of(self.epoch, self.parameters)
