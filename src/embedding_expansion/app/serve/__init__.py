"""embex serve."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from functools import partial
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    import uvicorn

    from embedding_expansion.app.serve.connections import Bounds
    from embedding_expansion.app.serve.guard import Guard

#: Seconds that answers in progress have to come to their end once the server is told to stop.
GRACE = 5
DESCRIPTION = """Serves an index: a page in the browser and a JSON API that find the images like an image. Listens on
this machine only, unless --host says otherwise, which needs a token."""


def run(arguments: list[str]) -> int:
    """Serves until it is told to stop: SIGTERM is the exit status 0, SIGINT 130."""
    default = Settings("")
    options = jsonargparse.ArgumentParser(
        prog="embex serve", exit_on_error=False, allow_abbrev=False, description=DESCRIPTION
    )
    options.add_argument("index", type=str, help="folder of an index, or postgresql://user@host/database?index=NAME")
    options.add_argument("--host", type=str, default=default.host, help="address to listen on")
    options.add_argument("--port", type=int, default=default.port, help="port to listen on; 0: a free one")
    options.add_argument(
        "--token", type=str | None, default=None, help="what clients must know; default: EMBEX_TOKEN, which ps hides"
    )
    options.add_argument("--device", type=str, default=default.device, help="auto, cpu, cuda, cuda:1, ...")
    options.add_argument("--batch_size", type=int, default=default.batch_size, help="images through the model at once")
    options.add_argument("--queue", type=int, default=default.queue, help="images that may wait; 503 beyond")
    options.add_argument("--max_bytes", type=int, default=default.max_bytes, help="most bytes of an upload")
    options.add_argument("--max_pixels", type=int, default=default.max_pixels, help="most pixels of an image")
    options.add_argument(
        "--formats", type=str, default=",".join(default.formats), help="of images; bmp, tiff and ppm may be added"
    )
    options.add_argument("--timeout", type=float, default=default.timeout, help="seconds for an upload, and an answer")
    options.add_argument(
        "--decode_timeout", type=float, default=default.decode_timeout, help="seconds for the decoding of an image"
    )
    options.add_argument(
        "--per_address",
        type=int | None,
        default=default.per_address,
        help="requests of one address at once, 0 for any number, as behind a proxy; default: 32 where other machines "
        "reach the server, else 0",
    )
    options.add_argument(
        "--root_path", "--root-path", type=str, default=default.root_path, help="prefix that a proxy puts before it"
    )
    given = parse(options, arguments).as_dict()
    given["formats"] = tuple(name.strip().lower() for name in given["formats"].split(","))
    given["root_path"] = given["root_path"].rstrip("/")
    token = os.environ.get("EMBEX_TOKEN") or None if given["token"] is None else given["token"]
    return serve(Settings(**given | {"token": token}))


def serve(settings: Settings) -> int:
    """Listens, loads the model, and answers until a signal.

    Raises:
        InvalidInput: the address cannot be had, or needs a token; FastAPI or uvicorn is missing.
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
        address.listen(held, settings.host)  # from here on a connection waits for uvicorn, and is not refused
        shown = address.url(settings.host, held) + settings.root_path
        print(f"{service.count():,} images at {shown} (Ctrl+C ends it)", flush=True)
        if service.read_only is not None:
            said = f"the index may only be read, {service.read_only}; what others write is seen as far as its files"
            print(f"embex serve: {said} show it here", file=sys.stderr, flush=True)
        server = listener(app, Bounds(per_address=settings.of_one_address(loopback)))
        interrupted = _note_interrupt(server, stack)
        server.run(sockets=[held])
    return 128 + signal.SIGINT if interrupted.is_set() else 0


def _note_interrupt(server: uvicorn.Server, stack: ExitStack) -> Event:
    """Set by Ctrl+C, which uvicorn hands on at its end: an exception that is raised then can be lost in a finaliser."""
    interrupted = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        server.should_exit = True  # where uvicorn does not listen for signals yet

    previous = signal.signal(signal.SIGINT, stop)
    stack.callback(signal.signal, signal.SIGINT, previous)
    return interrupted


def listener(app: Guard, bounds: Bounds) -> uvicorn.Server:
    """What listens for the application, and keeps connections within bounds."""
    import uvicorn

    from embedding_expansion.app.serve.connections import BoundedProtocol

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=partial(BoundedProtocol, bounds=bounds),  # type: ignore[arg-type]  # it is called, and no more
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
        raise InvalidInput(f"embex serve needs {' and '.join(missing)}; pip install 'embedding-expansion[serve]'")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
