"""Looking at a page: texts of ours that are cut off, too faint to read or left in English, and screenshots."""

from __future__ import annotations

import os
import re

CONTRAST = 3.0  # WCAG's least, for large texts and parts of controls

# every text of ours that can be seen: (its element, its rectangle, the box that should hold it)
_TEXTS = """
    function* texts() {
        const seen = new Set();
        for (const holder of document.querySelectorAll("[id^='negtrans_']")) {
            const walker = document.createTreeWalker(holder, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) {
                const [text, parent] = [walker.currentNode, walker.currentNode.parentElement];
                if (seen.has(text) || !text.data.trim() || !parent.offsetParent) continue;
                seen.add(text);
                const range = document.createRange();
                range.selectNodeContents(text);
                const box = range.getBoundingClientRect();
                if (box.width) yield [text.data.trim(), parent, box];
            }
        }
    }
"""


def cut_off(page) -> list[str]:
    """Texts that stand out of their button, label or component, and values that their field does not hold."""
    return page.evaluate(
        """() => {"""
        + _TEXTS
        + """
            const found = [];
            for (const [text, parent, box] of texts()) {
                const holder = parent.closest("button, label, td, [id^='negtrans_']").getBoundingClientRect();
                if (box.right > holder.right + 1 || box.left < holder.left - 1) found.push(text);
            }
            for (const field of document.querySelectorAll("[id^='negtrans_'] input")) {
                const shown = field.offsetParent && ["text", "number"].includes(field.type);
                if (shown && field.scrollWidth > field.clientWidth + 1) found.push(field.value);
            }
            return found;
        }"""
    )


def faint(page) -> list[str]:
    """Texts with less contrast to what is behind them; where that is a picture or a gradient is not looked at."""
    return page.evaluate(
        """least => {"""
        + _TEXTS
        + """
            const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
            const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
            const light = (colour) => colour.map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const found = [];
            for (const [text, parent] of texts()) {
                const layers = [];
                let [opacity, plain] = [1, true];
                for (let one = parent; one; one = one.parentElement) {
                    const style = getComputedStyle(one);
                    opacity *= Number(style.opacity);
                    plain &&= style.backgroundImage === "none";
                    const layer = numbers(style.backgroundColor);
                    if (layer[3] !== 0) layers.push(layer);
                    if (layer.length === 3) break;
                }
                if (!plain) continue;
                const behind = layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
                const own = numbers(getComputedStyle(parent).color);
                const colour = over([...own.slice(0, 3), (own[3] ?? 1) * opacity], behind);
                const [a, b] = [light(colour), light(behind)].sort((x, y) => y - x);
                const ratio = (a + 0.05) / (b + 0.05);
                if (ratio < least) found.push(`${ratio.toFixed(1)}: ${text}`);
            }
            return found;
        }""",
        CONTRAST,
    )


def english(page, place: str) -> list[str]:
    """Where two English words follow each other in an element of a Japanese page, outside quotations."""
    return re.findall(r"[A-Za-z]{3,} [a-z]{3,}.*", re.sub("'[^']*'", "", page.inner_text(place)))


def screenshot(page, name):
    """The whole page as a file, where NEGTRANS_SCREENSHOTS names a folder."""
    if folder := os.environ.get("NEGTRANS_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
