"""A client-streamed call under way: uploads of both clients.

The asyncio client sends through a synchronous channel too. Where a service ends a call before all is sent, because it
refuses the upload or because the line broke, grpc.aio overwrites the status that arrived with INTERNAL (grpc/grpc
#36066), and the reason of the refusal would be lost.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

from lieaudit_client._steps import Send
from lieaudit_client.exceptions import ClientError


class Sending:
    """Sends the chunks of a step from a thread of gRPC's, and tells how far it is.

    gRPC swallows what an iterator of requests raises; here it comes back through the same queue as the progress.
    """

    def __init__(self, step: Send, method: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._news: queue.SimpleQueue[int | ClientError | None] = queue.SimpleQueue()
        self._call = method.future(self._watched(step), metadata=metadata)
        self._call.add_done_callback(lambda _: self._news.put(None))

    def news(self) -> int | None:
        """Wait for the next number of bytes sent; None once the call has ended. Raises what reading a file raised."""
        item = self._news.get()
        if isinstance(item, ClientError):
            raise item
        return item

    def result(self) -> Any:
        """Give the response, or raise the call's error."""
        return self._call.result()

    def cancel(self) -> None:
        """End the call, if it has not ended."""
        self._call.cancel()

    def _watched(self, step: Send) -> Iterator[Any]:
        sent = step.start
        try:
            for request in step.requests:
                yield request
                sent += len(request.chunk)
                self._news.put(sent)
        except ClientError as problem:
            self._news.put(problem)
            raise
