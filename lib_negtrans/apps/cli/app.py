"""`python -m lib_negtrans app`: both panels on one local page, for who has no webui."""

from __future__ import annotations

import argparse
import os
import threading
import webbrowser

from lib_negtrans.jobs.training import TrainingManager
from lib_negtrans.jobs.translation import TranslationRunner
from lib_negtrans.jobs.workplace import LocalWorkplace

from .common_options import load_host, output_folder
from .reporting import EXIT_DONE, CallError, Reporter

PORT = 7870


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help=f"default: {PORT}, or the next free one")
    parser.add_argument(
        "--embeddings", default="embeddings", metavar="DIR",
        help="folder of the negative embeddings; trained ones are put there (default: embeddings)",
    )  # fmt: skip
    parser.add_argument(
        "--runs", default="runs", metavar="DIR", help="folder for checkpoints and previews (default: runs)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Serve the page until Ctrl-C. Raises CallError."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        from lib_negtrans.apps.page.page import FILES, build_page
        from lib_negtrans.apps.page.server import LOOPBACK, free_socket, make_app, serve
    except ImportError as error:
        raise CallError(
            f"The page needs gradio 6 ({error}): pip install -r requirements.lock, or see README."
        ) from error

    if args.port is not None and not 0 <= args.port <= 65535:
        raise CallError(f"--port must lie between 0 and 65535, not {args.port}.")
    embeddings, runs = output_folder("--embeddings", args.embeddings), output_folder("--runs", args.runs)
    host = load_host(args)
    listener = free_socket(args.host, args.port, PORT)

    workplace = LocalWorkplace(host, embeddings, runs)
    manager, runner = TrainingManager(workplace), TranslationRunner(workplace)
    app = make_app(build_page(workplace, manager, runner), runner, args.host, FILES)
    shown_host = f"[{args.host}]" if ":" in args.host else args.host
    url = f"http://{shown_host}:{listener.getsockname()[1]}/"

    def ready() -> None:
        report.event("serving", f"The page is at {url} (press Ctrl-C to end it).", url=url)
        if args.host not in LOOPBACK:
            report.problem(
                f"note: everyone who can reach {args.host} can use this page, because it asks for no password."
            )
        if not args.no_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    serve(app, listener, ready)
    runner.request_stop()
    manager.cancel()
    if manager.preparation.request_stop():
        manager.preparation.wait()
    if manager.request_stop():
        report.event("stopping", "Saving the training under way ..")
        manager.wait()
        report.event("stopped", manager.snapshot().log[-1] if manager.snapshot().log else "Saved.")
    return EXIT_DONE
