"""The page itself, with gradio (6.7 or later): its parts, and what happens when something is clicked."""

import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI
from gradio.themes import Default
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from transformers import PreTrainedTokenizerBase

from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.web.files import forget, new_folder
from llada.web.form import FIELDS, ORDER_NAMES, Form, check_given, form_of, preset, published, values_of, whole_number
from llada.web.painting import STYLE, legend, turns
from llada.web.run import Outcome, page_of, run
from llada.web.server import ADDRESS
from llada.web.task import TaskKind, Typed, task_of

HOSTS = (ADDRESS, "localhost")  # that a browser may call it; others are pages that had their name point here
WAITING = 32  # generations that wait for the one that runs
SEEDS = (-(2**63), 2**63 - 1)
ALTERNATIVES = (0, 100)
LABELS: dict[TaskKind, tuple[str, str]] = {
    "answer": ("Question", "is put in the chat layout"),
    "continue": ("Text to continue", "is given to the model as it is"),
    "fill in": ("Text with gaps", "Return the ___ of the array."),
}


class Shown(NamedTuple):
    """What the page serves."""

    model: LLaDAForMaskedLM
    tokenizer: PreTrainedTokenizerBase
    name: str  # of the model
    sampler: SamplerConfig  # that the form begins with
    preset: str  # its name
    folder: Path  # for files to download, one folder in it for each session


class Parts(NamedTuple):
    """The components of the page that are read or written."""

    kind: gr.Radio
    text: gr.Textbox
    system: gr.Textbox
    keep: gr.Checkbox
    fixed: gr.Textbox
    gap: gr.Textbox
    go: gr.Button
    stop: gr.Button
    forget: gr.Button
    conversation: gr.State
    turns: gr.HTML
    canvas: gr.HTML
    status: gr.HTML
    answer: gr.Textbox
    cost: gr.HTML
    trace: gr.DownloadButton
    picture: gr.DownloadButton
    preset: gr.Dropdown
    fields: tuple[gr.Textbox | gr.Dropdown, ...]
    others: gr.Textbox
    seed: gr.Textbox
    alternatives: gr.Textbox
    delay: gr.Slider


def make_app(shown: Shown) -> FastAPI:
    """The page as an application. Its answers name nothing outside of this machine; nothing is told to others."""
    os.environ["GRADIO_TEMP_DIR"] = str(shown.folder)  # where gradio may serve files from, read by each component
    os.environ["GRADIO_RUN_HISTORY"] = "False"  # would keep what is typed in the browser; versions may not know it
    with gr.Blocks(title=f"llada: {shown.name}", analytics_enabled=False) as blocks:
        parts = _laid_out(shown)
        _connected(shown, parts)
        _forgetting(blocks, shown.folder)
    blocks.queue(default_concurrency_limit=1, max_size=WAITING, api_open=False)
    app = FastAPI(middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))], openapi_url=None)
    gr.mount_gradio_app(
        app, blocks, "/", footer_links=[], css=f"{STYLE}\n{_STYLE}", theme=Default(), show_error=False,
        max_file_size="1b", ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, server_name=ADDRESS,
    )  # fmt: skip
    (mounted,) = (route.app for route in app.routes if isinstance(route, Mount))  # blocks.app is another one
    app.state.end_streams = lambda: mounted.stop_event.set()  # pyright: ignore
    return app


def _laid_out(shown: Shown) -> Parts:
    """The components, in their places."""
    made: dict[str, Any] = {"conversation": gr.State([])}
    gr.HTML(f"<h1>{escape(shown.name)}</h1>")
    with gr.Row():
        with gr.Column(scale=3, min_width=360):
            made |= _question() | _outcome()
        with gr.Column(scale=2, min_width=280):
            made |= _sampler(shown)
    return Parts(**made)


def _question() -> dict[str, Any]:
    label, hint = LABELS["answer"]
    found: dict[str, Any] = {
        "kind": gr.Radio(list(LABELS), value="answer", label="What to do", elem_id="kind"),
        "turns": gr.HTML(visible=False, elem_id="turns"),
        "text": gr.Textbox(label=label, info=hint, lines=3, elem_id="text"),
        "gap": gr.Textbox("8", label="Masks for each ___", visible=False, elem_id="gap"),
        "system": gr.Textbox(label="System prompt", info="what the model is told before all else", elem_id="system"),
        "fixed": gr.Textbox(
            label="Fixed words",
            info="a line each, POSITION: TEXT; position in tokens of the answer, from 0, or of its end, from -1",
            placeholder="0: The\n-1: .",
            lines=2,
            elem_id="fixed",
        ),
        "keep": gr.Checkbox(label="Keep the conversation: earlier turns are sent along", elem_id="keep"),
    }
    with gr.Row():
        found["go"] = gr.Button("Generate", variant="primary", elem_id="go")
        found["stop"] = gr.Button("Stop", elem_id="stop")
        found["forget"] = gr.Button("Forget", visible=False, elem_id="forget")
    return found


def _outcome() -> dict[str, Any]:
    found: dict[str, Any] = {
        "canvas": gr.HTML('<div class="canvas"></div>', elem_id="canvas", container=True, label="Canvas", padding=True),
        "status": gr.HTML(_line(""), elem_id="status"),
    }
    gr.HTML(legend(), elem_id="legend")
    found["answer"] = gr.Textbox(label="Outcome", lines=2, interactive=False, buttons=["copy"], elem_id="answer")
    found["cost"] = gr.HTML(_line(""), elem_id="cost")
    with gr.Row():
        found["trace"] = gr.DownloadButton("Trace (JSON)", interactive=False, elem_id="trace")
        found["picture"] = gr.DownloadButton("Trace (page)", interactive=False, elem_id="picture")
    return found


def _sampler(shown: Shown) -> dict[str, Any]:
    names = published()
    names = names if shown.preset in names else [shown.preset, *names]
    form = form_of(shown.sampler.model_dump(exclude_unset=True))
    found: dict[str, Any] = {
        "preset": gr.Dropdown(names, value=shown.preset, label="Sampler", info="fills in the form", elem_id="preset")
    }
    with gr.Row():
        fields = zip(FIELDS.items(), form.fields, strict=True)
        found["fields"] = tuple(_field(name, unset, text) for (name, unset), text in fields)
    found["others"] = gr.Textbox(
        form.others, label="Other fields", info="a line each, KEY=VALUE", lines=3, elem_id="others"
    )
    found["seed"] = gr.Textbox("0", label="Seed", max_lines=1, elem_id="seed")
    with gr.Accordion("Watching", open=False):
        found["delay"] = gr.Slider(0, 2, value=0, step=0.05, label="Seconds to wait after each step", elem_id="delay")
        found["alternatives"] = gr.Textbox(
            "0", label="Likeliest tokens of each position to keep in the trace", max_lines=1, elem_id="alternatives"
        )
    return found


def _field(name: str, unset: str, text: str) -> gr.Textbox | gr.Dropdown:
    if name == "order":
        choices = [("(default)", ""), *((order, order) for order in ORDER_NAMES)]
        return gr.Dropdown(choices, value=text, label=name, min_width=130, elem_id=name)
    return gr.Textbox(text, label=name, placeholder=unset, max_lines=1, min_width=130, elem_id=name)


def _connected(shown: Shown, parts: Parts) -> None:
    """Say what happens when something is clicked or chosen."""

    def generate(request: gr.Request, values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        try:
            yield from _generated(shown, parts, values, request.session_hash)
        except (ValueError, OSError, FloatingPointError) as error:
            raise _refused(error) from None

    def fill(name: str, others: str, *fields: str) -> tuple[str, ...]:
        try:
            form = preset(name, Form(fields, others))
        except ValueError as error:
            raise _refused(error) from None
        return (form.others, *form.fields)

    form = [parts.others, *parts.fields]
    read = {parts.kind, parts.text, parts.system, parts.keep, parts.fixed, parts.gap, parts.conversation, parts.seed}
    read |= {parts.alternatives, parts.delay, *form}
    written = [parts.canvas, parts.status, parts.answer, parts.cost, parts.trace, parts.picture, parts.conversation]
    written += [parts.turns, parts.forget, parts.text]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    running = parts.go.click(generate, read, written, **quiet)
    parts.stop.click(lambda: _line("stopped"), None, parts.status, cancels=[running], **quiet)
    parts.forget.click(
        lambda: ([], gr.update(visible=False), gr.update(visible=False)),
        None,
        [parts.conversation, parts.turns, parts.forget],
        **quiet,
    )
    parts.preset.input(fill, [parts.preset, *form], form, **quiet)
    length = parts.fields[tuple(FIELDS).index("gen_length")]
    asked = [parts.text, parts.system, parts.keep, parts.fixed, parts.gap, length]
    parts.kind.change(_asked, parts.kind, asked, **quiet)


def _asked(kind: TaskKind) -> list[dict[str, Any]]:
    """What is asked for a kind of task: text, system prompt, conversation, fixed words, masks for a gap, length."""
    label, info = LABELS[kind]
    visible = [kind == "answer", kind == "answer", kind != "fill in", kind == "fill in", kind != "fill in"]
    return [gr.update(label=label, info=info), *(gr.update(visible=each) for each in visible)]


def _generated(shown: Shown, parts: Parts, values: dict[Any, Any], session: str | None) -> Iterator[dict[Any, Any]]:
    """What changes on the page, moment by moment. Raises ValueError for what cannot be done."""
    check_given({part.label or part.elem_id: value for part, value in values.items() if part is not parts.conversation})
    asked = _typed(shown, parts, values)
    form = Form(tuple(values[field] for field in parts.fields), values[parts.others])
    task = task_of(shown.model, shown.tokenizer, asked, values_of(form, shown.sampler.background))
    seed = whole_number("seed", values[parts.seed], *SEEDS)
    alternatives = whole_number("likeliest tokens", values[parts.alternatives], *ALTERNATIVES)
    none = gr.update(value=None, interactive=False)
    yield {parts.answer: "", parts.cost: _line(""), parts.trace: none, parts.picture: none}
    for moment in run(shown.model, shown.tokenizer, task, seed, alternatives=alternatives, delay=values[parts.delay]):
        changes: dict[Any, Any] = {parts.canvas: moment.canvas, parts.status: _line(moment.status)}
        if moment.outcome is not None:
            changes |= _ended(shown, parts, moment.outcome, session)
            if asked.kind == "answer" and values[parts.keep]:
                said = [_turn("user", asked.text), _turn("assistant", moment.outcome.text)]
                changes |= _said(parts, [*asked.earlier, *said])
        yield changes


def _typed(shown: Shown, parts: Parts, values: dict[Any, Any]) -> Typed:
    """What was typed; what is hidden for a kind of task is not looked at."""
    kind, most = values[parts.kind], shown.model.config.max_position_embeddings
    return Typed(
        kind,
        values[parts.text],
        values[parts.system],
        values[parts.conversation] if values[parts.keep] else [],
        values[parts.fixed],
        whole_number("masks for each ___", values[parts.gap], 1, most) if kind == "fill in" else 1,
    )


def _ended(shown: Shown, parts: Parts, outcome: Outcome, session: str | None) -> dict[Any, Any]:
    changes: dict[Any, Any] = {parts.answer: outcome.text, parts.cost: _line(outcome.cost)}
    if outcome.trace is None:
        return changes
    here = new_folder(shown.folder, session)  # the trace before this one can no longer be asked for
    outcome.trace.save(here / "trace.json")
    (here / "trace.html").write_text(page_of(shown.tokenizer, outcome.trace, shown.name), encoding="utf-8")
    files = {parts.trace: here / "trace.json", parts.picture: here / "trace.html"}
    return changes | {part: gr.update(value=str(file), interactive=True) for part, file in files.items()}


def _said(parts: Parts, messages: list[Mapping[str, str]]) -> dict[Any, Any]:
    """The conversation has gone on."""
    return {
        parts.conversation: messages,
        parts.turns: gr.update(value=turns(messages), visible=True),
        parts.forget: gr.update(visible=True),
        parts.text: "",
    }


def _refused(error: Exception) -> gr.Error:
    """The message as a box on the page, where gradio would take it as HTML; it stays until it is closed."""
    return gr.Error(escape(str(error)).replace("\n", "<br>"), duration=None, print_exception=False)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _line(text: str) -> str:
    """A line that programs which read the page aloud notice."""
    return f'<div class="line" role="status">{escape(text)}</div>'


def _forgetting(blocks: gr.Blocks, folder: Path) -> None:
    """Have the files of a session removed when it ends."""

    def ended(request: gr.Request) -> None:
        forget(folder, request.session_hash)

    blocks.unload(ended)


_STYLE = """
.line { font-size: 13px; min-height: 1.5em; }
#status, #legend, #cost { padding: 0 4px; margin-top: -8px; }
h1 { font-size: 20px; overflow-wrap: anywhere; }
"""
