"""Requests that are not answered, in the words of the OpenAI interface."""

from typing import Any


class RequestError(Exception):
    """Why a request is not answered: a status of HTTP, and what the caller is told."""

    def __init__(self, status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(_unicode(message if len(message) <= _LONGEST else message[:_LONGEST] + " ..."))
        self.status, self.param, self.headers = status, None if param is None else _unicode(param), headers

    @property
    def body(self) -> dict[str, Any]:
        """As JSON: `{"error": {"message", "type", "param", "code"}}`."""
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.status}}


def _unicode(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON may hold and no answer can, spelled out."""
    return text.encode(errors="backslashreplace").decode()


_LONGEST = 2000  # characters of a message, which may repeat what was sent
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
