"""One Triton request that waits for its rows: it becomes one response."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from engine_process.client import EngineClient
from engine_process.messages import End, Generate, Tokens
from engine_process.triton.error_response import error_response
from engine_process.triton.tensors import Array, CompletedRow, write_response


class PendingResponse:
    """Collects the rows of one request and sends its response.

    It is created and started on Triton's thread; everything else happens on the client's thread, because using Triton's
    response senders on more than one thread crashes the server.
    """

    def __init__(self, request: Any, arrays: dict[str, Array], rows: list[Generate]) -> None:
        self._sender = request.get_response_sender()
        self._requested = set(request.requested_output_names())
        self._pad_id = int(arrays["pad_id"].reshape(-1)[0]) if "pad_id" in arrays else 0
        excludes_prompt = arrays.get("exclude_input_in_output")
        self._includes_prompt = excludes_prompt is None or not bool(excludes_prompt.reshape(-1)[0])
        self._requests = rows
        self._rows = [CompletedRow() for _ in rows]
        self._client: EngineClient | None = None
        self.is_answered = False

    def start(self, client: EngineClient) -> None:
        """Send the rows to the engine."""
        self._client = client
        for request, row in zip(self._requests, self._rows, strict=True):
            client.generate(request, _RowListener(self, row))

    def is_cancelled(self) -> bool:
        """Whether Triton says that the client cancelled the request."""
        return bool(self._sender.is_cancelled())

    def cancel(self) -> None:
        """Abort the rows and confirm the cancellation."""
        self.abort_rows()
        error = pb_utils.TritonError("the client cancelled the request", pb_utils.TritonError.CANCELLED)
        self._send(pb_utils.InferenceResponse(error=error))

    def fail(self, code: str, detail: str) -> None:
        """Abort the rows and send an error."""
        self.abort_rows()
        self._send(error_response(code, detail))

    def on_row_end(self, end: End) -> None:
        """Send the response if this was the last row, or an error if the row failed."""
        if self.is_answered:
            return
        if end.reason in ("error", "cancelled"):
            self.fail(end.code or "internal", end.text or "the engine ended the request")
        elif all(row.end is not None for row in self._rows):
            self._send(self._write())

    def _write(self) -> Any:
        try:
            arrays = write_response(
                self._rows, self._requests, pad_id=self._pad_id, includes_prompt=self._includes_prompt
            )
        except Exception as error:
            pb_utils.Logger.log_error(f"a response can't be written: {type(error).__name__}")
            return error_response("internal", "the response could not be written")
        tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in self._requested]
        return pb_utils.InferenceResponse(tensors)

    def abort_rows(self) -> None:
        """Abort the rows that have not ended."""
        if self._client is not None:
            for request, row in zip(self._requests, self._rows, strict=True):
                if row.end is None:
                    self._client.abort(request.id)

    def _send(self, response: Any) -> None:
        self.is_answered = True
        send_only(self._sender, response)


def send_only(sender: Any, response: Any) -> None:
    """Send the only response to a request; one that can't be sent must not keep the others from theirs."""
    try:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:
        pb_utils.Logger.log_error(f"a response can't be sent: {type(error).__name__}")


class _RowListener:
    """Receives the messages about one row."""

    def __init__(self, response: PendingResponse, row: CompletedRow) -> None:
        self._response, self._row = response, row

    def on_tokens(self, tokens: Tokens) -> None:
        self._row.ids += tokens.ids
        self._row.log_probs += tokens.log_probs

    def on_end(self, end: End) -> None:
        self._row.end = end
        self._response.on_row_end(end)
