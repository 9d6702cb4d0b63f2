"""The language server: `serve(analyser)`. Only `server.py` and what it imports load pygls."""
