"""The client library: one core, asynchronous, and a synchronous face of it."""

from planetserve.client.answer import Answer
from planetserve.client.asynchronous import AnswerStream, AsyncClient
from planetserve.client.conversation import Conversation
from planetserve.client.synchronous import Client

__all__ = ["Answer", "AnswerStream", "AsyncClient", "Client", "Conversation"]
