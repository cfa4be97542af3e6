"""asynq's messages as bytes; :mod:`aioasynq.proto.codec` is the way in."""
