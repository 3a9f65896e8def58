"""Serving the page on this machine alone."""

import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dash import Dash
from flask import Flask, Response, abort, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from s2e_lens.app.answers import Answering
from s2e_lens.app.callbacks import register
from s2e_lens.app.context import Context
from s2e_lens.app.layout import page
from s2e_lens.app.pictures import BUNDLE
from s2e_lens.app.sweeps import Sweeps
from s2e_lens.app.takeaway import Sources
from s2e_lens.app.workspace import ModelLock, Workspace
from s2e_lens.behaviors import Behavior
from s2e_lens.errors import S2EError
from s2e_lens.models import LensModel, load_model
from s2e_lens.results import Directions, Edit
from s2e_lens.visualizers.embedding import circuitsvis_js

HOST = "127.0.0.1"
PORT = 8050
OURS = {HOST, "localhost"}
"""Names under which the page is asked for; another one means that a foreign name was pointed at this machine."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""The browser itself refuses whatever would leave the machine."""


class ServeError(S2EError):
    """The page cannot be served."""


def create_app(context: Context) -> Dash:
    """The Dash app of an explorer, which nothing serves yet."""
    app = Dash(
        "s2e_lens.app",
        assets_folder=str(Path(__file__).parent / "assets"),
        title="s2e_lens explorer",
        update_title="",
        serve_locally=True,
        add_log_handler=False,
        on_error=_told,
    )
    app.layout = lambda: page(context.workspace, sweeps=[str(each) for each in context.sweeps.folders])
    register(app, context)
    guard(app.server)

    @app.server.get(BUNDLE)
    def bundle() -> Response:
        return Response(circuitsvis_js(), mimetype="text/javascript", headers={"Cache-Control": "max-age=3600"})

    return app


def _told(error: Exception) -> None:
    """What nobody foresaw goes into the log and is named in the page; the page lives on."""
    from dash import html, set_props

    logging.getLogger("s2e_lens.app").error("a callback failed", exc_info=error)
    set_props("problem", {"children": [html.P(f"Something went wrong here: {type(error).__name__}. The terminal says more.")]})


def guard(server: Flask) -> None:
    """Answer only pages of our own: a foreign page can send requests here, and point a name of its own at 127.0.0.1."""

    @server.before_request
    def refuse() -> None:
        if (urlsplit(f"//{request.host}").hostname or "") not in OURS:
            abort(403, "this explorer answers to 127.0.0.1 and localhost only")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            abort(403, "this explorer answers its own page only")

    @server.after_request
    def restrict(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


class _Quiet(WSGIRequestHandler):
    """Requests are not written to the terminal, and not to a notebook."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass


def _listening(port: int) -> socket.socket:
    """A socket on this machine; port 0 takes a free one.

    Raises:
        ServeError: if the port is taken.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        raise ServeError(
            f"port {port} of {HOST} cannot be used ({error}). Choose another one with --port, or 0 for any."
        ) from error
    return found


class Explorer:
    """A page that is being served: open ``url`` in a browser, ``stop()`` it when done. In a notebook it shows itself.

    While the page is open, hold ``with explorer.lock():`` around your own use of the model: only one may run it at a time.
    """

    def __init__(self, context: Context, *, port: int = 0, height: int = 900):
        """Begin to serve, in threads of its own.

        Raises:
            ServeError: if the port is taken.
        """
        self.context, self.height = context, height
        app = create_app(context)
        listening = _listening(port)
        self.port = int(listening.getsockname()[1])
        self._server: BaseWSGIServer = make_server(
            HOST, self.port, app.server, threaded=True, request_handler=_Quiet, fd=listening.fileno()
        )
        listening.close()  # the server has a copy
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="s2e-explorer-server")
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/"

    @property
    def lock(self) -> ModelLock:
        """Held by whoever runs the model."""
        return self.context.workspace.lock

    def wait(self) -> None:
        """Serve until interrupted."""
        self._thread.join()

    def stop(self) -> None:
        """Stop serving; answers that are being written are given up."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.context.answering.close()
        self.context.workspace.close()

    def __repr__(self) -> str:
        return f"Explorer({self.url!r})"

    def _repr_html_(self) -> str:
        frame = f'<iframe src="{self.url}" width="100%" height="{self.height}" style="border:1px solid #ccc"></iframe>'
        return f'{frame}<p><a href="{self.url}" target="_blank">{self.url}</a></p>'


def explore(
    model: Any = "demo",
    directions: Directions | None = None,
    *,
    behavior: str | Path | Behavior | Sequence[str | Path | Behavior] = (),
    edit: Edit | None = None,
    sweeps: Sequence[str | Path] = (),
    port: int = 0,
    height: int = 900,
    sources: Sources | None = None,
) -> Explorer:
    """Open the explorer next to a notebook: a page on 127.0.0.1, served by threads of this process.

    Args:
        model: a model, or what :func:`s2e_lens.load_model` takes.
        directions: steering vectors of this model; without them, a behaviour's are extracted when the page asks.
        behavior: a behaviour, or several, besides those that come with the package; the first one is shown first.
        edit: an edit of this model, to look at as it is.
        sweeps: folders of finished sweeps.
        port: 0 takes a free one.
        height: of the frame in a notebook, in pixels.
        sources: where the inputs came from, for the code that the page shows.

    Returns:
        a handle with ``url``, ``stop()`` and ``lock``; as a notebook cell's last value it shows the page.

    Raises:
        MismatchError: if directions or edit were made on other weights.
        ServeError: if the port is taken.
        StorageError: if a folder holds no sweep.
    """
    chosen = [behavior] if isinstance(behavior, str | Path | Behavior) else list(behavior)
    given = sources or Sources()
    lens: LensModel = load_model(model, **given.options) if not isinstance(model, LensModel) else model
    workspace = Workspace(
        lens, behaviors=chosen, directions=directions, edit=edit, loader=lambda name: load_model(name, **given.options)
    )
    context = Context(workspace, Answering(workspace.lock), Sweeps.of(sweeps), given)
    return Explorer(context, port=port, height=height)
