"""Answer of an HAProxy that reaches no ingress."""

_BODY = (
    '{"detail": "Darkroom does not answer at the moment. Repeat the call in a second.", '
    '"proxy": "HAProxy, not nginx"}'
)
UNAVAILABLE = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    f"Content-Length: {len(_BODY)}\r\n\r\n{_BODY}"
)
"""Whole response, as HAProxy's ``errorfile`` has it. fal's Python client repeats a call after a 503
of a proxy, which it knows by the word nginx."""
