"""aioasynq in other frameworks: a module for each, which needs that framework and nothing else does."""
