// What the server says in sentences, in the page's language. The translation panel: chips that put an option back, marks
// on the folded groups that hold changed ones, and in the webui a sentence where the canvas would stretch the render, and
// the render beside its translation. The same file serves the webui and the standalone page.
(function () {
    "use strict";

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const words = (text) => (window.localization && window.localization[text]) || undefined;

    function filled(template, values) {
        return template.replace(/\{(\w+)\}/g, (place, name) => (name in values ? said(String(values[name])) : place));
    }

    let dictionary = null;
    let templates = []; // its entries with places for values; those that say most come first
    const known = new Map(); // of the lines of a log only the last one is new

    function read() {
        dictionary = window.localization;
        known.clear();
        templates = Object.keys(dictionary).filter((key) => /\{\w+\}/.test(key)).map((key) => {
            const [parts, places] = [key.split(/\{\w+\}/), key.match(/\{\w+\}/g).map((place) => place.slice(1, -1))];
            const pattern = new RegExp(`^${parts.map((part) => part.replace(/\W/g, "\\$&")).join("(.*?)")}$`);
            return {key, places, pattern, length: parts.join("").length};
        }).sort((one, other) => other.length - one.length);
    }

    // a text with values in it, sentence by sentence; what is not in the dictionary stays as it is
    function said(text) {
        if (known.size > 5000) known.clear();
        if (!known.has(text)) {
            known.set(text, words(text) || parted(text, ". ") || matched(text) || parted(text, ": ") || parted(text, ", ") || text);
        }
        return known.get(text);
    }

    function matched(text) {
        for (const {key, places, pattern} of templates) {
            const found = text.match(pattern);
            if (found) return filled(words(key), Object.fromEntries(places.map((name, i) => [name, found[i + 1]])));
        }
        return undefined;
    }

    function parted(text, mark) {
        const at = text.indexOf(mark);
        const kept = mark === ", " ? 0 : 1; // a sentence has its full stop
        return at < 0 ? undefined : said(text.slice(0, at + kept)) + mark.slice(kept) + said(text.slice(at + mark.length));
    }

    const PANELS = ["summary", "message", "error", "training", "prepare", "dataset"].map((name) => `.negtrans-${name}`);
    const SPOKEN = [...PANELS, "[id^=negtrans_] .caption-label"].join();

    function sentences() {
        if (!window.localization) return;
        if (dictionary !== window.localization) read();
        for (const panel of root().querySelectorAll(SPOKEN)) {
            const nodes = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
            while (nodes.nextNode()) {
                const text = nodes.currentNode.data.split("\n").map(said).join("\n");
                if (nodes.currentNode.data !== text) nodes.currentNode.data = text;
            }
        }
    }

    function marks() {
        for (const summary of root().querySelectorAll(".negtrans-summary[data-changed]")) {
            const holder = summary.closest("[id$='_summary']");
            if (!holder) continue;
            const changed = summary.dataset.changed.split(" ");
            const prefix = holder.id.slice(0, -"summary".length) + "group_";
            for (const group of root().querySelectorAll(`[id^='${prefix}']`)) {
                const label = group.querySelector(".label-wrap");
                if (!label) continue;
                const mark = label.querySelector(".negtrans-mark");
                if (!changed.includes(group.id.slice(prefix.length))) {
                    if (mark) mark.remove();
                } else if (!mark) {
                    const made = document.createElement("span");
                    made.className = "negtrans-mark";
                    made.textContent = words("changed") || "changed";
                    label.firstElementChild.after(made);
                }
            }
        }
    }

    function type(field, value) {
        field.value = value;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    let clicks = 0;

    function click(event) {
        const chip = event.target.closest && event.target.closest("[data-negtrans-reset]");
        if (chip) {
            const holder = chip.closest("[id$='_summary']");
            const field = root().querySelector(`#${holder.id.slice(0, -"summary".length)}reset textarea`);
            clicks += 1; // the same option twice is two changes
            if (field) type(field, `${chip.dataset.negtransReset}#${clicks}`);
        }
        const size = event.target.closest && event.target.closest("[data-negtrans-size]");
        if (size) {
            const sides = size.dataset.negtransSize.split("x");
            ["width", "height"].forEach((side, i) => {
                const field = root().querySelector(`#img2img_${side} input[type=number]`);
                if (field) type(field, sides[i]);
            });
        }
    }

    const shown = (element) => Boolean(element) && element.offsetParent !== null;

    function renderShown() {
        return [...root().querySelectorAll("#mode_img2img img")].find((image) => shown(image) && image.naturalWidth > 16);
    }

    // how the webui fits a render into the canvas, as CSS calls it: by the choice of "Resize mode"
    function fit() {
        const mode = [...root().querySelectorAll("#resize_mode input")].findIndex((choice) => choice.checked);
        return {1: "cover", 2: "contain"}[mode] || "fill"; // the last one resizes the latent
    }

    // as large as it is, as far as the sliders go, in the eighths of pixels that the model's latents need
    function sizeFor(width, height) {
        const scale = Math.min(1, 2048 / Math.max(width, height));
        return [width, height].map((side) => Math.max(64, Math.round((side * scale) / 8) * 8));
    }

    function canvas() {
        const note = root().querySelector("#negtrans_img2img_canvas .negtrans-canvas");
        if (!note) return;
        const fields = ["width", "height"].map((side) => root().querySelector(`#img2img_${side} input[type=number]`));
        const image = renderShown();
        let key = "";
        // where the canvas cannot be seen, the render is resized by a factor, or its tab is not open
        if (image && fit() === "fill" && fields.every(shown)) {
            const [width, height] = fields.map((field) => Number(field.value));
            const wanted = sizeFor(image.naturalWidth, image.naturalHeight);
            const apart = Math.abs(Math.log((width / height) / (image.naturalWidth / image.naturalHeight)));
            const steps = Math.abs(Math.log((width / height) / (wanted[0] / wanted[1])));
            if (width && height && Math.min(apart, steps) > 0.03) {
                key = `${image.naturalWidth}x${image.naturalHeight} ${width}x${height} ${wanted.join("x")}`;
            }
        }
        if ((note.dataset.key || "") === key) return;
        note.dataset.key = key;
        note.replaceChildren();
        if (!key) return;
        const [render, own, size] = key.split(" ");
        const sentence = document.createElement("span");
        const button = document.createElement("button");
        const text = (template, values) => filled(words(template) || template, values);
        sentence.textContent = text(note.dataset.stretches, {render, canvas: own});
        button.type = "button";
        button.dataset.negtransSize = size;
        button.textContent = text(note.dataset.set, {size});
        note.append(sentence, button);
    }

    let pending = null; // the render of the job under way, and how it is fitted
    let done = {text: "", info: {}, render: null}; // what the webui says of the pictures in its gallery, and their render

    function remember() {
        if (!shown(root().querySelector("#mode_img2img"))) return; // again by itself, while another tab is looked at
        // in the inpaint tabs it lies hidden under a canvas; what is drawn in the sketch tabs cannot be had
        const fields = [...root().querySelectorAll("#img2img_image, #img2maskimg, #img_inpaint_base")].filter(shown);
        const images = fields.flatMap((field) => [...field.querySelectorAll("img")]);
        const image = images.find((one) => one.naturalWidth > 16);
        pending = image ? {src: image.src, fit: fit()} : null;
    }

    // the URL of the chosen translation; of the first one where a grid of them is chosen, or nothing
    function translation(title) {
        const items = ["small", "lg"].map((size) => root().querySelectorAll(`#img2img_gallery .thumbnail-${size}`));
        const pictures = [...(items[0].length ? items[0] : items[1])];
        const selected = pictures.findIndex((picture) => picture.classList.contains("selected"));
        const index = Math.max(selected, done.info.index_of_first_image || 0);
        const text = (done.info.infotexts || [])[index];
        return text && text.includes(`Script: ${title}`) && pictures[index] ? pictures[index].querySelector("img").src : "";
    }

    function compare() {
        const panel = root().querySelector("#negtrans_img2img_compare details");
        const said = root().querySelector("#generation_info_img2img textarea");
        if (!panel || !said) return;
        if (said.value !== done.text) {
            done = {text: said.value, info: {}, render: pending};
            done.info = JSON.parse(said.value || "{}"); // empty after a job that failed
        }
        const result = done.render && translation(panel.dataset.title);
        panel.hidden = !result;
        if (!result || !panel.open) return;
        const [before, after] = ["before", "after"].map((name) => panel.querySelector(`img.negtrans-${name}`));
        for (const [image, src] of [[before, done.render.src], [after, result]]) if (image.src !== src) image.src = src;
        before.style.objectFit = done.render.fit;
        before.style.background = window.opts?.img2img_background_color || ""; // what is under a transparent render
        if (!after.naturalWidth) return;
        const size = `${after.naturalWidth} / ${after.naturalHeight}`;
        before.parentElement.style.aspectRatio = size;
        before.parentElement.style.maxWidth = `calc(70vh * ${size})`;
    }

    // a card of our own negative embeddings: the webui adds its name to the prompt that this says
    window.negtransNegative = function (name) {
        if (typeof activePromptTextarea !== "object") return name;
        for (const tab of ["txt2img", "img2img"]) {
            const negative = root().querySelector(`#${tab}_neg_prompt textarea`);
            const former = activePromptTextarea[tab];
            if (!negative) continue;
            activePromptTextarea[tab] = negative;
            setTimeout(() => (activePromptTextarea[tab] = former), 0);
        }
        return name;
    };

    function guarded(work) {
        return (...given) => {
            try {
                work(...given);
            } catch (error) {
                console.error("negtrans:", error); // the page itself must go on
            }
        };
    }

    if (window.negtransTranslate) return;
    window.negtransTranslate = true;
    let waiting = false;
    const update = guarded(() => { waiting = false; sentences(); marks(); });
    // once before the next frame is drawn, however much changed: the page changes a lot while it is built
    const later = () => {
        if (!waiting) requestAnimationFrame(update);
        waiting = true;
    };
    document.addEventListener("click", guarded(click), true);
    new MutationObserver(later).observe(document.documentElement, {childList: true, subtree: true, characterData: true});
    setInterval(guarded(() => { canvas(); compare(); }), 300);
    if (typeof submit_img2img === "function") {
        const submit = submit_img2img; // however a job is started: by the button, by keys, again and again
        window.submit_img2img = (...given) => {
            guarded(remember)();
            return submit(...given);
        };
    }
    update();
})();
