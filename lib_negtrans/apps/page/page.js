// Asks for the translation's state while its tab can be seen, twice a second while one is under way. gradio ignores a
// click while it waits for the answer to the last one.
(function () {
    "use strict";

    const BUSY_MS = 500;
    const IDLE_MS = 5000;
    let asked = 0;

    setInterval(() => {
        const status = document.querySelector("#negtrans_page_progress");
        const button = document.querySelector("#negtrans_page_poll");
        // offsetParent is null while another tab is chosen
        if (!status || !button || status.offsetParent === null || document.hidden) return;
        const busy = status.querySelector("[data-busy='1']");
        const now = Date.now();
        if (now - asked < (busy ? BUSY_MS : IDLE_MS)) return;
        asked = now;
        button.click();
    }, 250);
})();

// The page in Japanese, where the browser asks for it (or ?lang=ja): the same dictionary that the webui loads for its
// panels, applied in the webui's way, to texts and placeholders that are whole. ?lang=en leaves the page as it is.
(function () {
    "use strict";

    const wanted = new URLSearchParams(location.search).get("lang") || navigator.language || "";
    if (!wanted.toLowerCase().startsWith("ja")) return;

    function translate(node, words) {
        if (node.nodeType === Node.TEXT_NODE) {
            const parent = node.parentElement && node.parentElement.nodeName;
            const text = words[node.data.trim()];
            if (text !== undefined && !["SCRIPT", "STYLE", "TEXTAREA"].includes(parent)) node.data = text;
            return;
        }
        if (node.placeholder && words[node.placeholder] !== undefined) node.placeholder = words[node.placeholder];
        node.childNodes.forEach((child) => translate(child, words));
    }

    fetch("/negtrans/scripts/ja_JP.json").then((answer) => (answer.ok ? answer.json() : {})).then((words) => {
        document.documentElement.lang = "ja";
        window.localization = words; // as the webui has it, for the panel's sentences
        new MutationObserver((changes) => {
            for (const change of changes) {
                if (change.type === "characterData") translate(change.target, words);
                change.addedNodes.forEach((node) => translate(node, words));
            }
        }).observe(document.body, {childList: true, subtree: true, characterData: true});
        translate(document.body, words);
    }).catch((error) => console.warn("negtrans: the page stays in English:", error));
})();
