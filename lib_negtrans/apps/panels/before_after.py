"""A before/after comparison with a divider that one drags, as plain HTML: for gr.HTML in the webui and on the page.

gradio does not run <script> in gr.HTML, so the divider is a range input laid over the pictures: the browser itself
does mouse, touch and keyboard, and one inline handler moves the split.
"""

from __future__ import annotations

import html

# Belongs to the component, so that it looks the same wherever it is put. The thumb is the divider's grip; its width is
# 2px, because a wider one would run ahead of the split near the ends.
_STYLE = """
.negtrans-compare {--split: 50%; position: relative; margin: 0 auto; overflow: hidden; border-radius: 6px;
  line-height: 0; touch-action: pan-y; background: #8884}
.negtrans-compare img {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; object-fit: contain;
  user-select: none; pointer-events: none}
.negtrans-compare img.negtrans-before {clip-path: inset(0 calc(100% - var(--split)) 0 0)}
.negtrans-compare .negtrans-divider {position: absolute; inset: 0 auto 0 var(--split); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 4px #000a; pointer-events: none}
.negtrans-compare .negtrans-divider::after {content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 34px;
  height: 34px; transform: translate(-50%, -50%); border-radius: 50%; background: #fff; color: #333;
  font: 20px/34px system-ui, sans-serif; text-align: center; box-shadow: 0 1px 5px #0008}
.negtrans-compare input[type=range] {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 0;
  opacity: 0; cursor: ew-resize; appearance: none; -webkit-appearance: none}
.negtrans-compare input[type=range]::-webkit-slider-thumb {-webkit-appearance: none; width: 2px; height: 100%}
.negtrans-compare input[type=range]::-moz-range-thumb {width: 2px; height: 100%; border: 0}
.negtrans-compare input[type=range]:focus-visible ~ .negtrans-divider::after {outline: 3px solid #3b82f6}
.negtrans-compare span {position: absolute; top: 8px; padding: 3px 8px; border-radius: 4px; background: #000a;
  color: #fff !important; font: 12px/1.4 system-ui, sans-serif; pointer-events: none}
.negtrans-compare span.negtrans-label-before {left: 8px}
.negtrans-compare span.negtrans-label-after {right: 8px}
"""

_MOVE = (
    "this.parentNode.style.setProperty('--split', this.value + '%');"
    "this.setAttribute('aria-valuetext', Math.round(this.value) + ' %')"
)


def before_after_html(
    before: str, after: str, size: tuple[int, int], labels: tuple[str, str] = ("before", "after")
) -> str:
    """Two pictures of one size (width, height) on top of each other; before and after are URLs, also data: ones.

    They are shown as wide as there is room, at most 70 % of the window high.
    """
    width, height = size
    before, after = html.escape(before, quote=True), html.escape(after, quote=True)
    first, second = (html.escape(label, quote=True) for label in labels)
    return (
        f"<style>{_STYLE}</style>"
        f"<div class='negtrans-compare' style='aspect-ratio:{width}/{height};"
        f"max-width:calc(70vh * {width} / {height})'>"
        f"<img class='negtrans-after' src='{after}' alt='{second}' draggable='false'>"
        f"<img class='negtrans-before' src='{before}' alt='{first}' draggable='false'>"
        f"<span class='negtrans-label-before'>{first}</span><span class='negtrans-label-after'>{second}</span>"
        f"<input type='range' min='0' max='100' step='0.1' value='50' oninput=\"{_MOVE}\" "
        f"aria-label='{first} / {second}' aria-valuetext='50 %'>"
        "<div class='negtrans-divider'></div></div>"
    )
