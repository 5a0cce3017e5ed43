"""What a rule knows besides the state: who sends, at which height, under which parameters."""

from __future__ import annotations

from dataclasses import dataclass

from abci_app.core.chain import Chain, Epoch
from planetserve.keys import NodeId, node_id
from planetserve.scoring.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Window:
    """The heights of an epoch. Commits enter in [start, commit_end), reveals in
    [commit_end, reveal_end); block end - 1 settles, block end begins the next epoch."""

    epoch: int
    start: int
    commit_end: int
    reveal_end: int
    end: int


def window_of(epoch: Epoch, parameters: Parameters) -> Window:
    """The running epoch's heights; parameters change only between epochs."""
    start = epoch.start
    end = start + parameters.epoch_blocks
    return Window(epoch.number, start, start + parameters.commit_blocks, end - 1, end)


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
        return self.chain.epoch.number

    @property
    def window(self) -> Window:
        return window_of(self.chain.epoch, self.parameters)
