"""The one tree of errors that PlanetServe raises.

    PlanetServeError
    ├── UsageError              the caller asked for something that cannot be done        exit 2
    ├── ConfigurationError      a file or setting of ours is missing or wrong             exit 2
    │   ├── KeyFileError        a key file is missing, malformed or readable by others
    │   └── KeyInUseError       another process holds the key
    ├── NetworkNotFound         no network file, or nothing answers at its addresses      exit 3
    │   └── NotEnoughRoutes     the chain lists too few relays or no such model node
    ├── TransactionRejected     the ledger answered with a result code other than 0       exit 1
    ├── OutcomeUnknown          a transaction was sent and may be in a block, or may come exit 1
    ├── ProofRefused            the chain's answer does not match what we trust           exit 4
    │   ├── WrongProof          a record or result is not what the header commits to
    │   ├── ForgedHeader        the chain's validators did not sign the header
    │   ├── OldHeader           the newest header shown, or the one we trust, is too old
    │   ├── UnconfirmedHeader   no other server that answers has the header
    │   └── ForkDetected        two headers of one height are both signed by the validators
    ├── RemoteProtocolError     a peer sent bytes that its protocol forbids               exit 1
    ├── RequestFailed           the request did not produce an answer                     exit 1
    │   ├── PathsUnavailable    fewer than k paths could be built or stayed alive
    │   ├── NodeUnreachable     the model node did not accept the request
    │   └── EngineError         the model node accepted and its engine refused or failed
    └── AnswerCutShort          part of the answer arrived, the rest never will           exit 5

Our own faults (`UsageError`, `ConfigurationError`) and a peer's (`RemoteProtocolError`) are
different classes. No message of this tree may carry a prompt, a path id or a pair of peers.
"""

from __future__ import annotations


class PlanetServeError(Exception):
    """Root of the tree; `exit_code` is what a command line ends with, `safe_to_retry` says
    whether sending the same request again can do harm or be charged twice."""

    exit_code = 1
    safe_to_retry = False


class UsageError(PlanetServeError):
    exit_code = 2


class ConfigurationError(PlanetServeError):
    exit_code = 2


class KeyFileError(ConfigurationError):
    pass


class KeyInUseError(ConfigurationError):
    pass


class NetworkNotFound(PlanetServeError):
    exit_code = 3
    safe_to_retry = True


class NotEnoughRoutes(NetworkNotFound):
    pass


class TransactionRejected(PlanetServeError):
    """A result code other than zero; `code` is stable, see `abci_app.core.codes`. `proven` says
    whether it is in a block, or what every server that answered said before any block."""

    def __init__(self, code: int, log: str, *, proven: bool = True) -> None:
        said = "" if proven else ", as every server that answered says, which proves nothing"
        super().__init__(f"the ledger refused the transaction with code {code}{said}: {log}")
        self.code = code
        self.log = log
        self.proven = proven


class OutcomeUnknown(PlanetServeError):
    """A transaction that some server took or may have taken, and that no server has proven to be
    in a block. `hash` is its SHA-256, by which it is found later."""

    def __init__(self, message: str, transaction_hash: bytes) -> None:
        super().__init__(message)
        self.hash = transaction_hash


class ProofRefused(PlanetServeError):
    exit_code = 4


class WrongProof(ProofRefused):
    pass


class ForgedHeader(ProofRefused):
    pass


class OldHeader(ProofRefused):
    pass


class UnconfirmedHeader(ProofRefused):
    pass


class ForkDetected(ProofRefused):
    pass


class RemoteProtocolError(PlanetServeError):
    pass


class RequestFailed(PlanetServeError):
    safe_to_retry = True


class PathsUnavailable(RequestFailed):
    pass


class NodeUnreachable(RequestFailed):
    pass


class EngineError(RequestFailed):
    """`code` is one of the words of `planetserve.messages.ERROR_CODES`."""

    safe_to_retry = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AnswerCutShort(PlanetServeError):
    """`text` is what had arrived."""

    exit_code = 5
    safe_to_retry = True

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text
