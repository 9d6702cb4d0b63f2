"""Critics: models that answer the questions of a rubric, here or behind a server."""
