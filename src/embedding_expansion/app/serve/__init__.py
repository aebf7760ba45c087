"""embex serve: the command, and the life of the server from start to shutdown."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from functools import partial
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    import uvicorn

    from embedding_expansion.app.serve.connections import Bounds
    from embedding_expansion.app.serve.guard import Guard

#: Seconds that requests in progress have to finish at shutdown.
GRACE = 5
DESCRIPTION = """Serves an index: a web page and a JSON API that search for similar images. The server listens on this
machine only. To reach it from other machines, pass --host and a token."""


def run(arguments: list[str]) -> int:
    """Serves until a signal; returns the exit status: 0 after SIGTERM, 130 after SIGINT."""
    default = Settings("")
    options = command("serve", DESCRIPTION)
    options.add_argument("index", type=str, help="the index: a folder, or postgresql://user@host/database?index=NAME")
    options.add_argument("--host", type=str, default=default.host, help="address to listen on")
    options.add_argument("--port", type=int, default=default.port, help="port to listen on; 0 picks a free port")
    options.add_argument(
        "--token",
        type=str | None,
        default=None,
        help="token that clients must send; default: the variable EMBEX_TOKEN, which ps does not show",
    )
    options.add_argument(
        "--device", type=str, default=default.device, help="device of the model: auto, cpu, cuda, cuda:1, ..."
    )
    options.add_argument("--batch_size", type=int, default=default.batch_size, help="images per batch")
    options.add_argument(
        "--queue", type=int, default=default.queue, help="images that may wait for the model; more get status 503"
    )
    options.add_argument("--max_bytes", type=int, default=default.max_bytes, help="maximum size of an upload in bytes")
    options.add_argument(
        "--max_pixels", type=int, default=default.max_pixels, help="maximum number of pixels of an image"
    )
    options.add_argument(
        "--formats",
        type=str,
        default=",".join(default.formats),
        help="accepted image formats; bmp, tiff and ppm are also possible",
    )
    options.add_argument(
        "--timeout", type=float, default=default.timeout, help="seconds for an upload, and again for its embedding"
    )
    options.add_argument(
        "--decode_timeout", type=float, default=default.decode_timeout, help="seconds for decoding an image"
    )
    options.add_argument(
        "--per_address",
        type=int | None,
        default=default.per_address,
        help="concurrent connections of one address, 0 for no limit (for example behind a proxy); default: 32 if other "
        "machines can reach the server, otherwise 0",
    )
    options.add_argument(
        "--root_path",
        "--root-path",
        type=str,
        default=default.root_path,
        help="URL prefix that a proxy puts before the server",
    )
    options.add_argument(
        "--beside",
        type=str | None,
        default=default.beside,
        help="a second index, of another model over the same images, to compare its results with those of the first",
    )
    options.add_argument(
        "--originals", type=bool, default=default.originals, help="whether to hand out the original image files"
    )
    options.add_argument(
        "--edit",
        type=bool,
        default=default.edit,
        help="let clients with the token add, relabel and remove images; needs a token",
    )
    options.add_argument(
        "--uploads",
        type=str | None,
        default=default.uploads,
        help="folder for the files of images that are added with --edit; default: uploads in the folder of the index",
    )
    given = parse(options, arguments).as_dict()
    given["formats"] = tuple(name.strip().lower() for name in given["formats"].split(","))
    given["root_path"] = given["root_path"].rstrip("/")
    token = os.environ.get("EMBEX_TOKEN") or None if given["token"] is None else given["token"]
    return serve(Settings(**given | {"token": token}))


def serve(settings: Settings) -> int:
    """Binds the address, loads the model and answers requests until a signal.

    Raises:
        InvalidInput: the address cannot be bound or needs a token, or FastAPI or uvicorn is missing.
        StoreError, RunError: the index or its model cannot be opened.
    """
    from embedding_expansion.app.serve import address

    _check_installed()
    with ExitStack() as stack:
        held = stack.enter_context(address.bind(settings.host, settings.port))
        loopback = address.is_loopback(held)
        settings.check_reach(loopback)
        previous = signal.signal(signal.SIGTERM, _stop)
        stack.callback(signal.signal, signal.SIGTERM, previous)

        from embedding_expansion.app.serve.application import application
        from embedding_expansion.app.serve.connections import Bounds
        from embedding_expansion.app.serve.service import Service

        service = stack.enter_context(Service.open(settings))
        app = application(service, settings, is_loopback=loopback)
        address.listen(held, settings.host)  # from now on, connections wait for uvicorn instead of being refused
        shown = address.url(settings.host, held) + settings.root_path
        print(f"{service.count():,} images at {shown} (press Ctrl+C to stop)", flush=True)
        if service.read_only is not None:
            notice = f"the index is read-only ({service.read_only}); changes by others appear once its files show them"
            print(f"embex serve: {notice}", file=sys.stderr, flush=True)
        server = listener(app, Bounds(per_address=settings.of_one_address(loopback)))
        interrupted = _note_interrupt(server, stack)
        server.run(sockets=[held])
    return 128 + signal.SIGINT if interrupted.is_set() else 0


def _note_interrupt(server: uvicorn.Server, stack: ExitStack) -> Event:
    """An event that Ctrl+C sets. uvicorn raises the signal again as it stops; an exception there could get lost."""
    interrupted = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        server.should_exit = True  # in case uvicorn does not handle signals yet

    previous = signal.signal(signal.SIGINT, stop)
    stack.callback(signal.signal, signal.SIGINT, previous)
    return interrupted


def listener(app: Guard, bounds: Bounds) -> uvicorn.Server:
    """The uvicorn server for the application, with limits on connections."""
    import uvicorn

    from embedding_expansion.app.serve.connections import BoundedProtocol

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=partial(BoundedProtocol, bounds=bounds),  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=GRACE,
        )
    )


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise InvalidInput(f"embex serve needs {' and '.join(missing)}; run pip install 'embedding-expansion[serve]'")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
