"""The page on which one talks to tutors: the reply as the student reads it, its labels beside it (Gradio)."""

import os
import tempfile
from html import escape
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing of a conversation leaves this machine

import gradio

from pedalign.artifacts import write_records
from pedalign.errors import UserError
from pedalign.talk import Talk
from pedalign.transcripts import labelled

HOST = "127.0.0.1"
_STYLE = """
.turn { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .5rem .8rem; margin: .5rem 0; }
.turn h3 { font-size: .85rem; margin: 0 0 .2rem; } .body { display: flex; flex-wrap: wrap; gap: .4rem 2rem; }
.said { flex: 3 1 20rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.student { background: var(--background-fill-secondary); }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1rem; }
.labels { flex: 2 1 14rem; font-size: .8rem; margin: 0; padding: 0; list-style: none; }
.labels li { margin: 0 !important; }
.taken { border-width: 2px; }
footer { display: none !important; }
"""


def page(talk: Talk, folder: Path) -> gradio.Blocks:
    """The page; each visitor has a conversation of their own. Those that can be exported lie in `folder`."""
    names = [tutor.name for tutor in talk.tutors]
    with gradio.Blocks(title="Talk to a tutor", analytics_enabled=False) as blocks:
        gradio.HTML(f"<h1>Talk to {escape(' and '.join(names))}</h1>")
        own = gradio.State(lambda: Talk(talk.tutors))
        said = gradio.HTML(elem_id="talk")
        taken = gradio.Radio(
            names, value=names[-1], type="index", label="The conversation goes on with the reply of",
            visible=len(names) > 1,
        )  # fmt: skip
        question = gradio.Textbox(label="You, as the student", placeholder="Q. How does an enzyme speed up a reaction?")
        with gradio.Row():
            ask = gradio.Button("Ask", variant="primary")
            new = gradio.Button("New conversation")
            export = gradio.DownloadButton("Export the conversation", interactive=False)

        shown = [own, said, question, export]

        def asked(now: Talk, text: str, number: int) -> tuple[Talk, str, str, Any]:
            if text.strip():
                now.ask(text.strip())
            return chosen(now, "", number)

        def chosen(now: Talk, text: str, number: int) -> tuple[Talk, str, str, Any]:
            now.taken = number
            return now, _told(now), text, _export(now, folder)

        def begun() -> tuple[Talk, str, str, Any]:
            return Talk(talk.tutors), "", "", gradio.DownloadButton(value=None, interactive=False)

        gradio.on([ask.click, question.submit], asked, [own, question, taken], shown, api_visibility="private")
        taken.change(chosen, [own, question, taken], shown, api_visibility="private")
        new.click(begun, outputs=shown, api_visibility="private")
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
    """What was said before, and the tutors' replies side by side; all of it as text, whatever it spells."""
    parts = []
    for message in talk.messages:
        if message["role"] == "user":
            parts.append(_turn("student", "You", message["content"]))
        else:
            parts.append(_reply("Tutor", labelled(message["content"], talk.rubric), talk, ""))
    replies = [
        _reply(tutor.name, reply, talk, " taken" if at == talk.taken else "")
        for at, (tutor, reply) in enumerate(zip(talk.tutors, talk.labelled(), strict=bool(talk.replies)))
    ]
    return f"{''.join(parts)}<div class='replies'>{''.join(replies)}</div>"


def _turn(kind: str, who: str, text: str, more: str = "") -> str:
    body = f"<div class='body'><div class='said'>{escape(text)}</div>{more}</div>"
    return f"<div class='turn {kind}'><h3>{escape(who)}</h3>{body}</div>"


def _reply(name: str, reply: dict[str, Any], talk: Talk, kind: str) -> str:
    lines = [f"can't be read: {reply['defect']}"] if reply["defect"] else talk.label_lines(reply)
    labels = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return _turn(f"tutor{kind}", name, reply["text"], f"<ul class='labels'>{labels}</ul>")


def serve(talk: Talk, port: int, folder: Path) -> None:
    """Show the page until the process is ended; `folder` is for its files. Raises UserError where the port is taken."""
    # The theme's own fonts would come from the net, and white on its own colour is hard to read.
    theme = gradio.themes.Default(primary_hue="blue", font="sans-serif", font_mono="monospace").set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    blocks = page(talk, folder)
    try:
        blocks.launch(
            server_name=HOST, server_port=port, share=False, quiet=True, css=_STYLE, footer_links=[], theme=theme,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: {error}", "name another port, or end what listens there") from None
    print(f"http://{HOST}:{port} is open in this machine's browsers; Ctrl-C ends it", flush=True)
    blocks.block_thread()
