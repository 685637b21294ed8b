"""A client-streamed call under way: uploads of both clients.

The asyncio client sends through a synchronous channel too. Where a service ends a call before all is sent, because it
refuses the upload or because the line broke, grpc.aio overwrites the status that arrived with INTERNAL (grpc/grpc
#36066), and the reason of the refusal would be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lieaudit_client._steps import Send
from lieaudit_client.exceptions import ClientError

News = int | ClientError | None
"""The number of bytes sent so far; what reading a file raised; None once the call has ended."""


class Sending:
    """Sends the chunks of a step from a thread of gRPC's, and tells how far it is.

    gRPC swallows what an iterator of requests raises; here ``tell`` is given it, in the same thread.
    """

    def __init__(
        self, step: Send, method: Any, metadata: tuple[tuple[str, str], ...], tell: Callable[[News], None]
    ) -> None:
        self._tell = tell
        self._call = method.future(self._watched(step), metadata=metadata)
        self._call.add_done_callback(lambda _: tell(None))

    def result(self) -> Any:
        """Return the response of the ended call, or raise its error."""
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
                self._tell(sent)
        except ClientError as problem:
            self._tell(problem)
            raise
