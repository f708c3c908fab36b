"""The node's face over HTTP: an ASGI application for people, scripts and monitoring.

    app = make_app(node, settings)          # serve it by itself, or mount it:
    Starlette(routes=[Mount("/raft", app)])

Needs the extra ``http``: ``pip install 'raftcore[http]'``. The page "HTTP" of the reference lists what it answers.
"""

from raftcore.http.app import make_app

__all__ = ["make_app"]
