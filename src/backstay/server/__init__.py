"""HTTP/1.1 as Uvicorn speaks it, with bounds: on time, on size, and on what a request may look like.

backstay run
uvicorn shop.main:app --http backstay.server:HttpProtocol --no-server-header
"""

from backstay.server.protocol import HttpProtocol

__all__ = ["HttpProtocol"]
