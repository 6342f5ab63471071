"""The chat page (Gradio): each reply as the student reads it, with its labels next to it."""

import os
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing of a conversation leaves this machine

import gradio

from pedalign.chat.dialogue import Talk
from pedalign.core.artifacts import write_records
from pedalign.core.errors import UserError
from pedalign.reporting.transcripts import labelled

HOST = "127.0.0.1"
_ANNOUNCED = "() => document.getElementById('talk').setAttribute('aria-live', 'polite')"
_ARRIVED = """() => {
  document.querySelector('#talk .replies')?.scrollIntoView({block: 'nearest'});
  const question = document.querySelector('#question textarea, #question input');
  question.scrollIntoView({block: 'nearest'});
  question.focus({preventScroll: true});
}"""
_STYLE = """
.turn { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .5rem .8rem; margin: .5rem 0; }
.turn h3 { font-size: .85rem; margin: 0 0 .2rem; } .body { display: flex; flex-wrap: wrap; gap: .4rem 2rem; }
.said { flex: 3 1 20rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.student { background: var(--background-fill-secondary); }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1rem; }
.labels { flex: 2 1 14rem; font-size: .8rem; margin: 0; padding: 0; list-style: none; }
.labels li { margin: 0 !important; }
.taken { border-color: var(--primary-600); box-shadow: inset 4px 0 0 var(--primary-600); }
.taken h3 span { font-weight: 400; } .defect { font-weight: 600; color: #a8321f; } .dark .defect { color: #f2a091; }
footer { display: none !important; }
"""


def page(talk: Talk, folder: Path, problems: Sequence[str] = ()) -> gradio.Blocks:
    """The page. Each visitor has a conversation of their own; `folder` is for exported conversations. `problems`:
    examples of what the tutor was trained on."""
    names = [tutor.name for tutor in talk.tutors]
    with gradio.Blocks(title="Talk to a tutor", analytics_enabled=False) as blocks:
        gradio.HTML(f"<h1>Talk to {escape(' and '.join(names))}</h1>")
        own = gradio.State(lambda: Talk(talk.tutors))
        said = gradio.HTML(elem_id="talk")
        taken = gradio.Radio(
            [(name, at) for at, name in enumerate(names)], value=len(names) - 1,
            label="The conversation goes on with the reply of", visible=len(names) > 1,
        )  # fmt: skip
        example = f"such as: {problems[0]}" if problems else "a problem first"
        question = gradio.Textbox(label="You, as the student", placeholder=example, elem_id="question")
        if problems:
            gradio.Examples([[one] for one in problems], question, label="It was trained on problems such as")
        asking = gradio.State("")  # the question that is being answered
        with gradio.Row():
            ask = gradio.Button("Ask", variant="primary")
            new = gradio.Button("New conversation")
            export = gradio.DownloadButton("Export the conversation", interactive=False)

        waits = [question, taken, ask, new]  # disabled while tutors answer
        shown = [own, said, export]

        def taken_down(text: str) -> tuple[Any, ...]:
            waiting = [gradio.update(interactive=False) for _ in (taken, ask, new, export)]
            return text.strip(), gradio.update(value="", interactive=False), *waiting

        def asked(now: Talk, text: str, number: int) -> tuple[Any, ...]:
            """Ask the tutors; if that fails, put the question back into its box."""
            now.taken = number
            try:
                if text:
                    now.ask(text)
                    text = ""
            except UserError as error:
                gradio.Warning(f"{error.problem}; {error.remedy}")
            return *chosen(now, number), text

        def chosen(now: Talk, number: int) -> tuple[Talk, str, Any]:
            now.taken = number
            return now, _told(now), _export(now, folder)

        def ready() -> list[Any]:
            return [gradio.update(interactive=True) for _ in waits]

        def begun() -> tuple[Talk, str, Any]:
            return Talk(talk.tutors), "", gradio.DownloadButton(value=None, interactive=False)

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gradio.on(
            [ask.click, question.submit], taken_down, question, [asking, question, taken, ask, new, export], **private
        ).then(asked, [own, asking, taken], [*shown, question], api_visibility="private").then(
            ready, outputs=waits, **private
        ).then(None, js=_ARRIVED)
        taken.input(chosen, [own, taken], shown, **private)
        new.click(begun, outputs=shown, **private)
        blocks.load(None, js=_ANNOUNCED)
    return blocks


def _export(talk: Talk, folder: Path) -> Any:
    """The button that saves the conversation as a conversation file."""
    if not talk.replies:
        return gradio.DownloadButton(value=None, interactive=False)
    record = talk.record()
    path = Path(tempfile.mkdtemp(dir=folder), f"{record['id']}.json")  # two visitors may export in the same second
    write_records(path, [record])
    return gradio.DownloadButton(value=str(path), interactive=True)


def _told(talk: Talk) -> str:
    """HTML of what was said before, and of the tutors' replies side by side; all texts are escaped."""
    parts, spoke = [], iter(talk.spoke)
    for message in talk.messages:
        if message["role"] == "user":
            parts.append(_turn("student", "You", message["content"]))
        else:
            parts.append(_reply(next(spoke), labelled(message["content"], talk.rubric), talk, False))
    replies = [
        _reply(tutor.name, reply, talk, at == talk.taken and len(talk.tutors) > 1)
        for at, (tutor, reply) in enumerate(zip(talk.tutors, talk.labelled(), strict=bool(talk.replies)))
    ]
    return f"{''.join(parts)}<div class='replies'>{''.join(replies)}</div>"


def _turn(kind: str, who: str, text: str, more: str = "") -> str:
    body = f"<div class='body'><div class='said'>{escape(text)}</div>{more}</div>"
    return f"<div class='turn {kind}'><h3>{who}</h3>{body}</div>"


def _reply(name: str, reply: dict[str, Any], talk: Talk, taken: bool) -> str:
    lines = [f"<li>{escape(line)}</li>" for line in talk.label_lines(reply)]
    if reply["defect"]:
        lines = [f"<li class='defect'>can't be read: {escape(reply['defect'])}</li>"]
    who = f"{escape(name)} <span>(the conversation goes on with this reply)</span>" if taken else escape(name)
    return _turn(f"tutor{' taken' if taken else ''}", who, reply["text"], f"<ul class='labels'>{''.join(lines)}</ul>")


def serve(talk: Talk, port: int, folder: Path, problems: Sequence[str] = ()) -> None:
    """Serve the page until the process ends; `folder` is for its files. Raises UserError if the port is in use."""
    # The default theme loads fonts from the internet, and white on its primary colour is hard to read.
    theme = gradio.themes.Default(primary_hue="blue", font="sans-serif", font_mono="monospace").set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    blocks = page(talk, folder, problems)
    try:
        blocks.launch(
            server_name=HOST, server_port=port, share=False, quiet=True, css=_STYLE, footer_links=[], theme=theme,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: {error}", "name another port, or end what listens there") from None
    print(f"http://{HOST}:{port}: open it in a browser on this machine; Ctrl-C ends it", flush=True)
    blocks.block_thread()
