-- compatible since 1
-- W3C trace context of a request's submit: `traceparent`, and after a space `tracestate`. Null: none.

ALTER TABLE requests ADD COLUMN trace text;
