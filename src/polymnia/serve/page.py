"""The search page: Gradio's layout and controls, our own cards and uploads on the API, nothing from anywhere else.

Gradio's own uploads tell the browser where a file lies on the server, and are served by path. So the page uses none of
Gradio's routes but those of its own scripts and styles; everything else goes through the API and its limits.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp

from polymnia.serve.service import Info
from polymnia.serve.shell import Shell
from polymnia.types import UserError

if TYPE_CHECKING:
    import gradio

WEB = Path(__file__).parent / "web"
FILES = {
    **dict.fromkeys(
        ("page.js", "ask.js", "cards.js", "dom.js", "matrices.js", "query.js", "record.js"), "text/javascript"
    ),
    "page.css": "text/css",
}
FONTS = ["system-ui", "sans-serif"]
MOST_TOPICS = 500
SWITCH = (
    "An index is searched with the encoder of its vectors. To see what was learned and forgotten, search the test "
    "items of the run with its encoder of any moment."
)


def mount(app: FastAPI, info: Info) -> None:
    """Put the page at ``/``. UserError where gradio is not installed."""
    router = APIRouter(include_in_schema=False)

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(WEB / name, media_type=FILES[name], headers={"Cache-Control": "no-cache"})

    app.include_router(router)
    gr = _gradio()
    with ThreadPoolExecutor(1) as pool:  # Gradio makes an event loop where it finds none, and leaves it open
        made = pool.submit(asyncio.run, _gradio_app(gr, info)).result()
    app.mount("/", Shell(made), name="page")


async def _gradio_app(gr: gradio, info: Info) -> ASGIApp:  # type: ignore[valid-type]
    inner = FastAPI(openapi_url=None)
    return gr.mount_gradio_app(
        inner,
        blocks(gr, info),
        path="/",
        theme=theme(gr),
        head=_head(),
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        show_error=False,
    )


def _gradio() -> gradio:  # type: ignore[valid-type]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError(
            "the page needs gradio: pip install 'polymnia[serve]'; or --no-page for the API alone"
        ) from error
    return gr


def _head() -> str:
    """Our script and style, under addresses that change with them."""
    digest = hashlib.blake2b(b"".join((WEB / n).read_bytes() for n in sorted(FILES)), digest_size=6).hexdigest()
    return (
        f'<link rel="stylesheet" href="/page/page.css?{digest}">'
        f'<script type="module" src="/page/page.js?{digest}"></script>'
    )


def theme(gr: gradio) -> gradio.themes.Base:  # type: ignore[valid-type]
    """System fonts, and colours that are read on both backgrounds (WCAG AA)."""
    found = gr.themes.Default(
        primary_hue="sky", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "monospace"]
    )
    return found.set(
        button_primary_background_fill="*primary_800",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_primary_background_fill_dark="*primary_800",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color_dark="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent="*primary_800",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        checkbox_background_color_selected="*primary_800",
        checkbox_background_color_selected_dark="*primary_600",
    )


def blocks(gr: gradio, info: Info) -> gradio.Blocks:  # type: ignore[valid-type]
    """The controls. Their values are read by ``page.js``, which fills the columns that are named for it."""
    with gr.Blocks(title="polymnia", analytics_enabled=False) as page:
        gr.Markdown("# polymnia", elem_id="pm-title")
        with gr.Tabs():
            with gr.Tab("Search"):
                with gr.Row(elem_id="pm-ask"):
                    gr.Textbox(
                        label="Search in words",
                        elem_id="pm-text",
                        interactive=True,
                        max_lines=1,
                        scale=5,
                        max_length=1000,
                    )
                    gr.Button("Search", variant="primary", elem_id="pm-go", scale=1, min_width=120)
                gr.Markdown("", elem_id="pm-media", container=False)
                gr.Radio(
                    _states(info),
                    value="index",
                    label="Encoder",
                    info=SWITCH if info.states else None,
                    elem_id="pm-with",
                    interactive=True,
                )
                with gr.Accordion("Filters", open=False, elem_id="pm-filters"):
                    _filters(gr, info)
                gr.Markdown("", elem_id="pm-results", container=False)
            with gr.Tab("Scores"):
                gr.Markdown("", elem_id="pm-matrices", container=False)
    return page


def _filters(gr: gradio, info: Info) -> None:  # type: ignore[valid-type]
    found = _kinds(info)
    gr.Radio(found, value=found[0][1], label="Search for", elem_id="pm-modality", interactive=True)
    with gr.Row():
        gr.Dropdown(["any", *info.tasks], value="any", label="Task", elem_id="pm-task", interactive=True)
        topics = ["any", *info.topics[:MOST_TOPICS]]
        gr.Dropdown(topics, value="any", label="Topic", elem_id="pm-topic", interactive=True)
        for name, label in (("shortest", "At least (seconds)"), ("longest", "At most (seconds)")):
            gr.Textbox(
                label=label, placeholder="any", max_lines=1, max_length=9, elem_id=f"pm-{name}", interactive=True
            )
        gr.Dropdown(["12", "24", "48", "96"], value="12", label="Hits", elem_id="pm-k", interactive=True)


def _kinds(info: Info) -> list[tuple[str, str]]:
    """What can be searched for. Words are nearer to words than to anything else, so texts are asked for by name."""
    names = {"audio": "Sounds", "image": "Pictures", "text": "Texts"}
    shown = [m for m in info.modalities if m != "text"]
    both = [("Sounds and pictures", ",".join(shown))] if len(shown) > 1 else []
    single = [(names[m], m) for m in info.modalities]
    return [*both, *single, *([("Everything", "")] if len(info.modalities) > 1 else [])] or [("Everything", "")]


def _states(info: Info) -> list[tuple[str, str]]:
    """What can be searched with: the index, and the run's test items with each encoder."""
    named = [(f"after {s.name}" if s.task else "before learning", str(s.task)) for s in info.states]
    beside = [("side by side", "all")] if len(named) > 1 else []
    return [(f"the index (after {info.name})", "index"), *named, *beside]
