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
        new MutationObserver((changes) => {
            for (const change of changes) {
                if (change.type === "characterData") translate(change.target, words);
                change.addedNodes.forEach((node) => translate(node, words));
            }
        }).observe(document.body, {childList: true, subtree: true, characterData: true});
        translate(document.body, words);
    }).catch((error) => console.warn("negtrans: the page stays in English:", error));
})();
